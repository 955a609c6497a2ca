//! The engine on a device that waits, fails or panics when a test wants it to: what callers see
//! then must not depend on luck, so steps pass a gate one by one.

mod faults;
mod gate;
mod map;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kvist_base::{Bytes, QuantFormat, TokenId, Tokens};
use kvist_plan::{Limits, Machine};
use kvist_testkit::tiny::TinyModel;

use crate::emit::{Finished, StreamEvent};
use crate::error::EngineFault;
use crate::faults::{Fault, Faults, FaultyDevice, When};
use crate::handle::{EngineHandle, RequestHandle};
use crate::load::{Engine, EngineOptions, ShutdownReport};
use crate::metrics::MetricsSnapshot;
use crate::request::{EndTokens, GenerateSpec, Prompt};

/// At most two sequences run and three wait; steps of eight tokens.
fn options() -> EngineOptions {
    EngineOptions {
        limits: Limits {
            model_len: Some(Tokens(200)),
            running_max: 2,
            step_tokens_max: Tokens(8),
            ..Limits::default()
        },
        waiting_max: 3,
        ..EngineOptions::default()
    }
}

/// A tiny engine behind a gate. The gate opens when this ends, so that a failed test ends too.
struct Gated {
    gate: Faults,
    engine: Option<Engine>,
}

impl Gated {
    fn start(options: &EngineOptions, trouble: Option<(When, Fault)>) -> Self {
        let gate = Faults::default();
        gate.close();
        if let Some((when, fault)) = trouble {
            gate.plan(when, fault);
        }
        let path = model_file();
        let machine = Machine {
            mem_total: Bytes(8 << 30),
            mem_available: Bytes(8 << 30),
            cgroup_limit: None,
            cgroup_used: None,
            cores: 2,
        };
        let engine = Engine::load_around(&path, &machine, options, |inner| {
            FaultyDevice::around(inner, gate.clone())
        });
        std::fs::remove_file(&path).expect("just written");
        let engine = Some(engine.expect("a tiny model loads"));
        Self { gate, engine }
    }

    fn handle(&self) -> EngineHandle {
        self.engine.as_ref().expect("not shut down").handle()
    }

    fn shut_down(mut self) -> ShutdownReport {
        self.gate.open();
        self.engine.take().expect("not shut down").shutdown()
    }
}

impl Drop for Gated {
    fn drop(&mut self) {
        self.gate.open();
    }
}

fn model_file() -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("kvist-gated-{}-{number}.gguf", std::process::id());
    let path = std::env::temp_dir().join(name);
    TinyModel::load("llama3").write_gguf(&path, QuantFormat::F32);
    path
}

/// A request of `prompt` tokens that ends after exactly `output` more.
fn request(prompt: u32, output: u32) -> GenerateSpec {
    let tokens = (0..prompt).map(|idx| TokenId(3 + idx)).collect();
    GenerateSpec {
        output_max: Some(Tokens(output)),
        end_tokens: EndTokens::Ignore,
        ..GenerateSpec::greedy(Prompt::Tokens(tokens))
    }
}

/// How a request ended; every request must be told.
fn end_of(mut handle: RequestHandle) -> Result<Finished, EngineFault> {
    loop {
        match handle
            .recv()
            .expect("a stream ends with Finished or Failed")
        {
            StreamEvent::Delta(_) => {}
            StreamEvent::Finished(finished) => return Ok(finished),
            StreamEvent::Failed(fault) => return Err(fault),
        }
    }
}

fn until(handle: &EngineHandle, what: &str, is_so: impl Fn(&MetricsSnapshot) -> bool) {
    let start = Instant::now();
    while !is_so(&handle.metrics()) {
        let waited = start.elapsed();
        assert!(
            waited < Duration::from_secs(60),
            "{what}: {:?}",
            handle.metrics()
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}
