//! `kvist serve` as a child, and what it says about itself.

use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::memory::{Cgroup, Sampler};
use crate::command::target_dir;
use crate::http::{Request, Server};
use crate::peer::free_port;

/// How long a server may take to load a model from a slow disk.
const LOADING: Duration = Duration::from_secs(600);
/// Lines of the log that are shown when it fails.
const LOG_LINES: usize = 20;

/// What to serve and how.
#[derive(Clone, Debug)]
pub struct Launch<'a> {
    pub binary: &'a Path,
    pub model: &'a Path,
    /// Flags of `kvist serve`. Those that `kvist plan` does not take are `serve_flags`.
    pub flags: Vec<String>,
    pub serve_flags: Vec<String>,
    /// The control group to run in.
    pub cgroup: Option<&'a Cgroup>,
}

impl<'a> Launch<'a> {
    /// A model with these flags.
    pub fn new(binary: &'a Path, model: &'a Path, flags: &[&str]) -> Self {
        Self {
            binary,
            model,
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            serve_flags: Vec::new(),
            cgroup: None,
        }
    }

    /// With flags that only `kvist serve` takes.
    pub fn serving(mut self, flags: &[&str]) -> Self {
        self.serve_flags
            .extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }

    /// The plan for it, fitting or not.
    pub fn plan(&self) -> Result<Plan, Box<dyn Error>> {
        let output = self
            .command("plan")
            .arg("--json")
            .stdin(Stdio::null())
            .output()?;
        // A plan that does not fit is told by the exit code, and printed all the same.
        Plan::parse(&serde_json::from_slice(&output.stdout).map_err(|error| {
            let said = String::from_utf8_lossy(&output.stderr);
            format!("kvist plan printed no plan ({error}): {}", said.trim())
        })?)
    }

    /// Starts the server and waits until it answers.
    pub fn start(&self) -> Result<Service, Box<dyn Error>> {
        let port = free_port()?;
        let dir = target_dir().join("bench");
        fs::create_dir_all(&dir)?;
        let log = dir.join(format!("serve-{port}.log"));
        let out = File::create(&log)?;
        let child = self
            .command("serve")
            .args(&self.serve_flags)
            .args(["--port", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .map_err(|error| format!("{}: {error}", self.binary.display()))?;
        let sampler = Some(Sampler::start(child.id()));
        let mut service = Service {
            child,
            http: Server { port },
            log,
            sampler,
        };
        service.await_ready()?;
        Ok(service)
    }

    fn command(&self, subcommand: &str) -> Command {
        let mut command = match self.cgroup {
            None => Command::new(self.binary),
            Some(group) => {
                // The shell enters the group and then becomes kvist, with the same process id.
                let mut shell = Command::new("sh");
                shell
                    .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
                    .arg(group.door())
                    .arg(self.binary);
                shell
            }
        };
        command.arg(subcommand).arg(self.model).args(&self.flags);
        command
    }
}

/// As much of a memory plan as is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// All lines together.
    pub total: u64,
    /// Lines in the model file's pages.
    pub mapped: u64,
    /// The KV pool.
    pub kv_pool: u64,
    /// What describes the KV pool's blocks.
    pub kv_tables: u64,
    pub budget: u64,
    pub block_bytes: u64,
    pub blocks: u64,
    pub bytes_per_token: u64,
    pub model_len: u64,
    pub weight_bytes: u64,
    pub vocab_len: u32,
    pub fits: bool,
}

impl Plan {
    fn parse(json: &Value) -> Result<Self, Box<dyn Error>> {
        let number = |pointer: &str| {
            let value = json.pointer(pointer).and_then(Value::as_u64);
            value.ok_or_else(|| format!("the plan has no {pointer}"))
        };
        let lines = json.pointer("/plan/lines").and_then(Value::as_array);
        let lines = lines.ok_or("the plan has no lines")?;
        let sum = |kind: &str| {
            let of_kind = lines.iter().filter(|line| line["kind"] == kind);
            of_kind.filter_map(|line| line["bytes"].as_u64()).sum()
        };
        Ok(Self {
            total: number("/plan/total")?,
            mapped: sum("weights_mapped") + sum("program"),
            kv_pool: sum("kv_pool"),
            kv_tables: sum("kv_tables"),
            budget: number("/plan/budget")?,
            block_bytes: number("/plan/kv/block_bytes")?,
            blocks: number("/plan/kv/blocks")?,
            bytes_per_token: number("/plan/kv/bytes_per_token")?,
            model_len: number("/plan/model_len")?,
            weight_bytes: number("/model/weight_bytes")?,
            vocab_len: u32::try_from(number("/model/vocab_len")?)?,
            fits: json["fits"] == true,
        })
    }

    /// What is planned in the process's own memory.
    pub fn own(&self) -> u64 {
        self.total - self.mapped
    }

    /// What is planned when no request is there: everything but the KV pool.
    pub fn idle(&self) -> u64 {
        self.total - self.kv_pool
    }

    /// The same without memory that grows with the pool: what a pool comes on top of.
    pub fn base(&self) -> u64 {
        self.total - self.kv_pool - self.kv_tables
    }
}

/// A running server, watched from its start. Killed when the value is dropped.
#[derive(Debug)]
pub struct Service {
    child: Child,
    pub http: Server,
    log: PathBuf,
    sampler: Option<Sampler>,
}

impl Service {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Begins a new series of samples and returns the one so far.
    pub fn take_series(&mut self) -> super::memory::Series {
        let next = Sampler::start(self.pid());
        let sampler = self.sampler.replace(next);
        sampler.map(Sampler::finish).unwrap_or_default()
    }

    /// The counters and gauges now.
    pub fn metrics(&self) -> Result<Metrics, Box<dyn Error>> {
        let answer = self.http.get("/metrics")?;
        if answer.status != 200 {
            return Err(format!("/metrics answered {}: {}", answer.status, answer.body).into());
        }
        Ok(Metrics { text: answer.body })
    }

    /// Waits until `blocks` KV blocks are free, or for long enough, and says how many are.
    pub fn await_free(&self, blocks: u64, patience: Duration) -> Result<u64, Box<dyn Error>> {
        let begun = Instant::now();
        loop {
            let free = self.metrics()?.blocks("free")?;
            if free >= blocks || begun.elapsed() >= patience {
                return Ok(free);
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Changes the budget of the running server.
    pub fn set_budget(&self, bytes: u64) -> Result<Value, Box<dyn Error>> {
        let path = "/v1/memory";
        let body = &serde_json::json!({ "budget": bytes }).to_string();
        let method = "PUT";
        self.http.ask(&Request { method, path, body })?.json(path)
    }

    /// Why it ended, if it did.
    pub fn ended(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(status.to_string()),
            Err(error) => Some(error.to_string()),
        }
    }

    fn await_ready(&mut self) -> Result<(), Box<dyn Error>> {
        let begun = Instant::now();
        while !self.http.is_ready("/ready") {
            if let Some(status) = self.ended() {
                return Err(format!("kvist serve ended: {status}\n{}", self.log_tail()?).into());
            }
            if begun.elapsed() > LOADING {
                return Err(format!("not ready after {} s", LOADING.as_secs()).into());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn log_tail(&self) -> io::Result<String> {
        let text = fs::read_to_string(&self.log)?;
        let lines: Vec<&str> = text.lines().collect();
        Ok(lines[lines.len().saturating_sub(LOG_LINES)..].join("\n"))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It holds nothing that has to be saved; if it has ended already, so much the better.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(sampler) = self.sampler.take() {
            sampler.finish();
        }
    }
}

/// A page of metrics in Prometheus' text format.
#[derive(Clone, Debug)]
pub struct Metrics {
    text: String,
}

impl Metrics {
    /// The sample of this name whose labels contain `label`, such as `state="free"`; any labels
    /// when it is empty.
    pub fn get(&self, name: &str, label: &str) -> Result<f64, Box<dyn Error>> {
        let found = self.text.lines().find_map(|line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = match rest.strip_prefix('{') {
                Some(rest) => rest.rsplit_once("} ")?,
                None => ("", rest.strip_prefix(' ')?),
            };
            labels.contains(label).then(|| value.trim().parse().ok())?
        });
        found.ok_or_else(|| format!("/metrics has no {name} with {label:?}").into())
    }

    /// A count of KV blocks by state: free, held or cached.
    pub fn blocks(&self, state: &str) -> Result<u64, Box<dyn Error>> {
        self.count("kvist_kv_blocks", &format!("state=\"{state}\""))
    }

    /// All KV blocks of the pool.
    pub fn blocks_total(&self) -> Result<u64, Box<dyn Error>> {
        let states = ["free", "held", "cached"];
        states.into_iter().map(|state| self.blocks(state)).sum()
    }

    /// A whole number.
    pub fn count(&self, name: &str, label: &str) -> Result<u64, Box<dyn Error>> {
        let value = self.get(name, label)?;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates
        Ok(value.round() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_plan_is_read_by_kind_of_line() {
        let line = |kind: &str, bytes: u64| json!({ "kind": kind, "name": "x", "bytes": bytes });
        let json = json!({
            "fits": true,
            "model": { "vocab_len": 100, "weight_bytes": 60 },
            "plan": {
                "lines": [line("weights_resident", 40), line("weights_mapped", 20),
                          line("kv_pool", 30), line("kv_tables", 3), line("margin", 7)],
                "total": 100, "budget": 110, "model_len": 512,
                "kv": { "block_bytes": 10, "blocks": 3, "bytes_per_token": 1 },
            },
        });
        let plan = Plan::parse(&json).expect("all of it");
        assert_eq!((plan.own(), plan.idle(), plan.base()), (80, 70, 67));
        assert!(plan.fits);
        let error = Plan::parse(&json!({ "plan": { "lines": [] } })).expect_err("no total");
        assert_eq!(error.to_string(), "the plan has no /plan/total");
    }

    #[test]
    fn samples_are_found_by_name_and_label() {
        let metrics = Metrics {
            text:
                "# TYPE a gauge\na_total{model_name=\"m\"} 7\na{model_name=\"m\",state=\"x\"} 1\n\
                   a{model_name=\"m\",state=\"y\"} 2e3\nb 3\n"
                    .to_owned(),
        };
        assert_eq!(metrics.count("a", "state=\"y\"").expect("there"), 2000);
        assert_eq!(metrics.count("a_total", "").expect("there"), 7);
        assert_eq!(metrics.count("b", "").expect("there"), 3);
        assert!(metrics.count("a", "state=\"z\"").is_err());
        assert!(metrics.count("c", "").is_err());
    }
}
