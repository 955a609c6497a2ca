//! Several models behind one server.

use kvist_engine::{Engine, EngineStatus};
use kvist_server::{Models, ServerConfig, router};
use kvist_testkit::tiny::TinyModel;
use serde_json::json;

use crate::support::{Server, TempModel, config, machine, options};

/// Two models: `server.engine` is the first, served as `tiny`; the second one is `other`.
fn two() -> (Server, Engine) {
    let mut server = Server::start();
    let file = TempModel::of(&TinyModel::load("qwen2"), |weight| weight);
    let other = Engine::load(file.path(), &machine(), &options()).unwrap();
    let models = Models::new([
        (vec!["tiny".to_owned()], server.handle()),
        (
            vec!["other".to_owned(), "second".to_owned()],
            other.handle(),
        ),
    ]);
    server.router = router(models, ServerConfig::default());
    (server, other)
}

#[tokio::test]
async fn requests_go_to_the_model_they_name() {
    let (server, other) = two();
    let body = |model| json!({"prompt": "banana", "max_tokens": 3, "model": model});
    for (asked, answered) in [("tiny", "tiny"), ("other", "other"), ("second", "other")] {
        let answer = server.ask("/v1/completions", &body(asked)).await;
        assert_eq!(answer["model"], answered);
    }
    let unnamed = json!({"messages": [{"role": "user", "content": "a"}], "max_tokens": 1});
    let answer = server.ask("/v1/chat/completions", &unnamed).await;
    assert_eq!(answer["model"], "tiny", "the first is the default");
    assert_eq!(server.handle().metrics().accepted, 2);
    assert_eq!(other.handle().metrics().accepted, 2);

    let reply = server.post("/v1/completions", &body("third")).await;
    let (status, _, code, param) = reply.error();
    assert_eq!((status, code.as_str()), (404, "model_not_found"));
    assert_eq!(param.as_deref(), Some("model"));
    let message = reply.message();
    assert!(message.contains("tiny, other, second"), "{message}");
}

#[tokio::test]
async fn every_model_is_listed_and_measured() {
    let (server, _other) = two();
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

    let page = server.get("/metrics").await.body;
    for name in ["tiny", "other"] {
        let sample = format!("vllm:num_requests_running{{model_name=\"{name}\"}} 0");
        assert!(page.contains(&sample), "{page}");
    }
    let families = page.matches("# TYPE vllm:num_requests_running ");
    assert_eq!(families.count(), 1);
}

#[tokio::test]
async fn one_model_that_drains_makes_the_server_unready() {
    let (server, other) = two();
    assert_eq!(server.get("/ready").await.status, 200);
    other.handle().drain();
    assert_eq!(other.handle().status(), EngineStatus::Draining);
    assert_eq!(server.get("/ready").await.error().2, "shutting_down");
    assert_eq!(server.get("/health").await.status, 200);
}

#[tokio::test]
async fn names_of_the_configuration_are_the_first_models() {
    let (server, other) = two();
    let models = Models::new([(vec![], server.handle()), (vec![], other.handle())]);
    let server = Server {
        router: router(models, config()),
        ..server
    };
    let list = server.get("/v1/models").await.json();
    let ids: Vec<_> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|card| &card["id"])
        .collect();
    assert_eq!(ids, ["tiny", "alias", "qwen2"]);
}
