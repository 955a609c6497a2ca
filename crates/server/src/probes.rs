//! What routers and orchestrators ask a worker about itself, each under the paths it knows.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use kvist_engine::{EngineHandle, MetricsSnapshot};
use serde_json::{Value, json};

use crate::state::App;

pub(crate) fn guarded() -> Router<App> {
    Router::new()
        .route("/load", get(load))
        .route("/v1/loads", get(loads))
        .route("/get_server_info", get(server_info))
        .route("/server_info", get(server_info))
        .route("/get_model_info", get(model_info))
        .route("/model_info", get(model_info))
        .route("/is_sleeping", get(is_sleeping))
        .route("/kv_event_sources", get(kv_event_sources))
}

/// Requests being served. The shape is vLLM's.
async fn load(State(app): State<App>) -> Json<Value> {
    let engines = app.models.loaded();
    let numbers = engines.iter().map(|(_, engine)| engine.metrics());
    let requests: usize = numbers.map(|now| now.running + now.waiting).sum();
    Json(json!({"server_load": requests}))
}

/// How busy this worker is. The shape is SGLang's; all models are one rank.
async fn loads(State(app): State<App>) -> Json<Value> {
    let mut sum = Load::default();
    for (_, engine) in app.models.loaded() {
        sum.add(&engine, &engine.metrics());
    }
    let throughput = app.throughput.measure(sum.output_tokens);
    let load = json!({
        "dp_rank": 0,
        "num_running_reqs": sum.running,
        "num_waiting_reqs": sum.waiting,
        "num_total_reqs": sum.running + sum.waiting,
        "num_used_tokens": sum.used_tokens,
        "max_total_num_tokens": sum.total_tokens,
        "token_usage": share(sum.used_tokens, sum.total_tokens),
        "gen_throughput": throughput,
        "cache_hit_rate": share(sum.hit_tokens, sum.looked_up_tokens),
        "utilization": share(sum.running, sum.running_max),
        "max_running_requests": sum.running_max,
    });
    Json(json!({"dp_rank_count": 1, "loads": [load]}))
}

/// Numbers of all models together.
#[derive(Default)]
struct Load {
    running: u64,
    waiting: u64,
    running_max: u64,
    used_tokens: u64,
    total_tokens: u64,
    hit_tokens: u64,
    looked_up_tokens: u64,
    output_tokens: u64,
}

impl Load {
    fn add(&mut self, engine: &EngineHandle, now: &MetricsSnapshot) {
        let plan = &engine.info().plan;
        let block_size = u64::from(plan.kv.block_size.0);
        self.running += now.running as u64;
        self.waiting += now.waiting as u64;
        self.running_max += u64::from(plan.running_max);
        self.used_tokens += u64::from(now.blocks_held) * block_size;
        self.total_tokens += u64::from(now.blocks_total) * block_size;
        self.hit_tokens += now.prefix_hit_tokens;
        self.looked_up_tokens += now.prefix_query_tokens;
        self.output_tokens += now.output_tokens;
    }
}

#[allow(clippy::cast_precision_loss)] // a share for a router to compare
fn share(part: u64, whole: u64) -> f64 {
    match whole {
        0 => 0.0,
        whole => part as f64 / whole as f64,
    }
}

/// How fast output has been produced lately, measured between those who ask.
#[derive(Debug, Default)]
pub(crate) struct Throughput(Mutex<Option<Seen>>);

#[derive(Clone, Copy, Debug)]
struct Seen {
    at: Instant,
    tokens: u64,
    per_second: f64,
}

impl Throughput {
    /// Tokens a second between the last two times this was asked at least a second apart; 0 at first.
    fn measure(&self, tokens: u64) -> f64 {
        const APART: Duration = Duration::from_secs(1);
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = Instant::now();
        let now = match *seen {
            None => Seen {
                at,
                tokens,
                per_second: 0.0,
            },
            Some(before) if at - before.at < APART => return before.per_second,
            Some(before) => {
                // A model that was unloaded takes its count with it.
                #[allow(clippy::cast_precision_loss)]
                let more = tokens.saturating_sub(before.tokens) as f64;
                Seen {
                    at,
                    tokens,
                    per_second: more / (at - before.at).as_secs_f64(),
                }
            }
        };
        *seen = Some(now);
        now.per_second
    }
}

/// What a router has to know of this worker; with several models, of the one that is meant when none is
/// named.
async fn server_info(State(app): State<App>) -> Json<Value> {
    let (name, member) = app.models.first();
    let mut info = json!({
        "model_id": name,
        "model_path": member.root,
        "served_model_name": name,
        "instance_id": app.instance_id(),
        "version": app.version,
        "max_model_len": member.model_len,
    });
    // Only of a model that is loaded.
    if let Some((_, engine)) = app.models.loaded().first()
        && let Some(fields) = info.as_object_mut()
    {
        let plan = &engine.info().plan;
        let block_size = plan.kv.block_size.0;
        for (key, value) in [
            ("kv_block_size", block_size),
            ("effective_attention_block_size", block_size),
            ("total_kv_blocks", engine.metrics().blocks_total),
            ("max_running_requests", plan.running_max),
        ] {
            fields.insert(key.to_owned(), json!(value));
        }
    }
    Json(info)
}

/// The model behind the first name. The shape is SGLang's.
async fn model_info(State(app): State<App>) -> Json<Value> {
    let (name, member) = app.models.first();
    Json(json!({
        "model_path": member.root,
        "tokenizer_path": member.root,
        "served_model_name": name,
        "is_generation": true,
        "max_model_len": member.model_len,
    }))
}

/// Never: what is idle gives its memory back by itself.
async fn is_sleeping() -> Json<Value> {
    Json(json!({"is_sleeping": false}))
}

/// Where KV events are published: nowhere.
async fn kv_event_sources() -> Json<Value> {
    Json(json!({}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throughput_is_of_the_time_between_two_looks() {
        let throughput = Throughput::default();
        assert!(throughput.measure(100).abs() < 1e-9);
        // At once it says what it said before.
        assert!(throughput.measure(200).abs() < 1e-9);
        let earlier = Instant::now() - Duration::from_secs(2);
        throughput.0.lock().unwrap().as_mut().unwrap().at = earlier;
        let measured = throughput.measure(300);
        assert!((90.0..=100.0).contains(&measured), "{measured}");
    }
}
