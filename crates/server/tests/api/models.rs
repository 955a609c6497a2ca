//! Several models behind one server.

use std::time::Duration;

use axum::Router;
use kvist_base::Bytes;
use kvist_engine::plan::{Limits, MemoryLimit};
use kvist_engine::{EngineOptions, Fleet, FleetModel};
use kvist_server::{ServerConfig, router};
use kvist_testkit::tiny::TinyModel;
use serde_json::{Value, json};

use crate::support::{Client, TempModel, config, machine, options};

const COMPLETIONS: &str = "/v1/completions";

/// A server over two models, `tiny` and `other`, also called `second`.
struct Two {
    fleet: Fleet,
    router: Router,
    _files: [TempModel; 2],
}

impl Client for Two {
    fn router(&self) -> Router {
        self.router.clone()
    }
}

impl Two {
    fn new(config: ServerConfig, memory: Bytes) -> Self {
        let files = ["llama3", "qwen2"]
            .map(|family| TempModel::of(&TinyModel::load(family), |weight| weight));
        let names = [&["tiny"][..], &["other", "second"]];
        let model = |(file, names): (&TempModel, &[&str])| FleetModel {
            names: names.iter().map(|&name| name.to_owned()).collect(),
            path: file.path().to_owned(),
        };
        let models = files.iter().zip(names).map(model).collect();
        let options = EngineOptions {
            limits: Limits {
                memory: MemoryLimit::Absolute(memory),
                ..options().limits
            },
            ..options()
        };
        let fleet = Fleet::plan(models, &machine(), &options).unwrap();
        let router = router(fleet.clone(), config);
        Self {
            fleet,
            router,
            _files: files,
        }
    }

    /// With room for both.
    fn roomy() -> Self {
        Self::new(ServerConfig::default(), Bytes::MIB * 256)
    }

    /// With room for either.
    fn tight() -> Self {
        let least = |member: &kvist_engine::FleetMember| member.plan.budget_min();
        let least = Self::roomy().fleet.members().iter().map(least).max();
        Self::new(ServerConfig::default(), least.unwrap() + Bytes::KIB * 512)
    }

    async fn states(&self) -> Vec<String> {
        let memory = self.get("/v1/memory").await.json();
        let models = memory["models"].as_array().unwrap().iter();
        models
            .map(|model| model["state"].as_str().unwrap().to_owned())
            .collect()
    }
}

fn completion(model: &str) -> Value {
    json!({"prompt": "banana", "max_tokens": 3, "model": model})
}

#[tokio::test]
async fn requests_go_to_the_model_they_name() {
    let server = Two::roomy();
    assert_eq!(server.states().await, ["unloaded", "unloaded"]);
    assert_eq!(server.get("/ready").await.status, 200);
    for (asked, answered) in [("tiny", "tiny"), ("other", "other"), ("second", "other")] {
        let answer = server.ask(COMPLETIONS, &completion(asked)).await;
        assert_eq!(answer["model"], answered);
    }
    let unnamed = json!({"messages": [{"role": "user", "content": "a"}], "max_tokens": 1});
    let answer = server.ask("/v1/chat/completions", &unnamed).await;
    assert_eq!(answer["model"], "tiny", "the first is the default");
    let accepted = |model: usize| server.fleet.engines()[model].1.metrics().accepted;
    assert_eq!((accepted(0), accepted(1)), (2, 2));
    assert_eq!(server.states().await, ["ready", "ready"]);

    let reply = server.post(COMPLETIONS, &completion("third")).await;
    let (status, _, code, param) = reply.error();
    assert_eq!((status, code.as_str()), (404, "model_not_found"));
    assert_eq!(param.as_deref(), Some("model"));
    let message = reply.message();
    assert!(message.contains("tiny, other, second"), "{message}");
}

#[tokio::test]
async fn every_model_is_listed_loaded_or_not_and_the_loaded_are_measured() {
    let server = Two::roomy();
    let list = server.get("/v1/models").await.json();
    let cards = list["data"].as_array().unwrap().iter();
    let ids: Vec<_> = cards
        .map(|card| (card["id"].clone(), card["root"].clone()))
        .collect();
    let expected = [("tiny", "llama3"), ("other", "qwen2"), ("second", "qwen2")];
    assert_eq!(ids, expected.map(|(id, root)| (json!(id), json!(root))));
    assert_eq!(
        server.get("/v1/models/second").await.json()["root"],
        "qwen2"
    );

    let running =
        |name: &str| format!("vllm:num_requests_running{{model_name=\"{name}\",engine=\"0\"}} 0");
    server.ask(COMPLETIONS, &completion("other")).await;
    let page = server.get("/metrics").await.body;
    assert!(
        page.contains(&running("other")) && !page.contains(&running("tiny")),
        "{page}"
    );
    server.ask(COMPLETIONS, &completion("tiny")).await;
    let page = server.get("/metrics").await.body;
    assert!(
        page.contains(&running("other")) && page.contains(&running("tiny")),
        "{page}"
    );
    assert_eq!(page.matches("# TYPE vllm:num_requests_running ").count(), 1);
}

#[tokio::test]
async fn a_model_gives_way_to_the_one_that_is_asked_for() {
    let server = Two::tight();
    for (asked, states) in [
        ("tiny", ["ready", "unloaded"]),
        ("other", ["unloaded", "ready"]),
        ("tiny", ["ready", "unloaded"]),
    ] {
        server.ask(COMPLETIONS, &completion(asked)).await;
        assert_eq!(server.states().await, states);
        let memory = server.get("/v1/memory").await.json();
        assert!(
            memory["planned"].as_u64() <= memory["budget"].as_u64(),
            "{memory}"
        );
    }
}

#[tokio::test]
async fn a_busy_model_stays_and_the_other_is_refused_for_now() {
    let server = Two::tight();
    let long =
        json!({"prompt": "ba", "max_tokens": 500, "ignore_eos": true, "n": 8, "model": "tiny"});
    let refused = async {
        while server.fleet.lease(0).is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        server.post(COMPLETIONS, &completion("other")).await
    };
    let (answer, refused) = tokio::join!(server.ask(COMPLETIONS, &long), refused);
    assert_eq!(answer["usage"]["completion_tokens"], 8 * 500);
    let (status, kind, code, param) = refused.error();
    assert_eq!((status, kind.as_str()), (503, "service_unavailable_error"));
    assert_eq!(
        (code.as_str(), param.as_deref()),
        ("model_not_loaded", Some("model"))
    );
    assert_eq!(refused.headers["retry-after"], "1");
    let message = refused.message();
    assert!(
        message.contains("needs") && message.contains("budget is"),
        "{message}"
    );
    server.ask(COMPLETIONS, &completion("other")).await;
}

#[tokio::test]
async fn many_requests_wait_for_one_load() {
    let server = Two::roomy();
    let body = completion("other");
    let requests = (0..20).map(|_| {
        let (router, body) = (server.router(), body.clone());
        tokio::spawn(async move { Alone(router).ask(COMPLETIONS, &body).await })
    });
    for request in requests.collect::<Vec<_>>() {
        assert_eq!(request.await.unwrap()["model"], "other");
    }
    assert_eq!(server.fleet.engines()[0].1.metrics().accepted, 20);
}

/// A router and nothing else.
struct Alone(Router);

impl Client for Alone {
    fn router(&self) -> Router {
        self.0.clone()
    }
}

#[tokio::test]
async fn a_draining_fleet_makes_the_server_unready() {
    let server = Two::roomy();
    server.fleet.drain();
    assert_eq!(server.get("/ready").await.error().2, "shutting_down");
    assert_eq!(server.get("/health").await.status, 200);
    let reply = server.post(COMPLETIONS, &completion("tiny")).await;
    assert_eq!(
        (reply.error().0, reply.error().2.as_str()),
        (503, "shutting_down")
    );
}

#[tokio::test]
async fn names_of_the_configuration_are_the_first_models() {
    let server = Two::new(config(), Bytes::MIB * 256);
    let list = server.get("/v1/models").await.json();
    let ids: Vec<_> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|card| &card["id"])
        .collect();
    assert_eq!(ids, ["tiny", "alias", "other", "second"]);
}

#[tokio::test]
async fn a_model_that_cannot_be_loaded_is_a_fault_of_its_own() {
    let server = Two::roomy();
    std::fs::remove_file(server.fleet.members()[1].path.clone()).unwrap();
    let reply = server.post(COMPLETIONS, &completion("second")).await;
    let (status, kind, code, _) = reply.error();
    assert_eq!(
        (status, kind.as_str(), code.as_str()),
        (500, "server_error", "model_load_failed")
    );
    assert!(!reply.body.contains(".gguf"), "no paths: {}", reply.body);
    server.ask(COMPLETIONS, &completion("tiny")).await;
    assert_eq!(server.get("/health").await.status, 200);
}

#[tokio::test]
async fn a_model_that_is_not_in_memory_has_a_plan_but_no_map() {
    let two = Two::tight();
    let map = |model: &str| format!("/v1/memory/blocks?model={model}");
    let refused = two.get(&map("second")).await.error();
    let expected = (409, "conflict_error", "model_not_loaded", Some("model"));
    assert_eq!(
        (refused.0, &*refused.1, &*refused.2, refused.3.as_deref()),
        expected
    );
    let plan = two
        .ask("/v1/plan", &json!({"model": "second", "max_num_seqs": 3}))
        .await;
    assert_eq!(plan["running_max"], 3);
    two.ask(COMPLETIONS, &completion("second")).await;
    assert_eq!(two.get(&map("second")).await.json()["model"], "other");
}
