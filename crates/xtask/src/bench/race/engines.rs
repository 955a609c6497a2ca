//! Both engines' benchmark programs: how they are called and what they say.

use std::error::Error;
use std::fmt;
use std::path::Path;

use serde::Deserialize;

use super::case::{Sizes, Test};
use crate::command::Run;
use crate::machine::CpuTimes;
use crate::peer::Peer;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A run during which the hypervisor took more than this share is repeated, and marked if that
/// does not help.
pub const STOLEN_MAX: f64 = 0.02;
/// How often a run is made until nothing is stolen.
const TRIES: usize = 3;

/// A result, and what others took of the processor meanwhile.
pub struct Undisturbed<T> {
    pub result: T,
    pub stolen: f64,
}

/// The least disturbed of a few runs: the first, if it was left in peace.
pub fn undisturbed<T>(mut run: impl FnMut() -> Result<T>) -> Result<Undisturbed<T>> {
    let mut best: Option<Undisturbed<T>> = None;
    for _ in 0..TRIES {
        let before = CpuTimes::now();
        let result = run()?;
        let stolen = CpuTimes::now().stolen_since(before);
        if best.as_ref().is_none_or(|best| stolen < best.stolen) {
            best = Some(Undisturbed { result, stolen });
        }
        if stolen <= STOLEN_MAX {
            break;
        }
    }
    best.ok_or_else(|| "no run".into())
}

/// What both engines are given.
#[derive(Clone, Copy, Debug)]
pub struct Course<'a> {
    pub model: &'a Path,
    pub threads: usize,
    pub sizes: Sizes,
}

/// Our own program.
#[derive(Clone, Copy, Debug)]
pub struct Kvist<'a> {
    pub binary: &'a Path,
    /// The instruction tier, if not the best.
    pub isa: Option<&'a str>,
}

/// What `kvist bench --json` says, of which we read these.
#[derive(Clone, Debug, Deserialize)]
pub struct KvistReport {
    pub isa: String,
    pub ceilings: KvistCeilings,
    pub results: Vec<KvistResult>,
}

/// The most the machine gave.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct KvistCeilings {
    pub read_gb_per_second: f64,
    pub gops: f64,
}

/// One of its tests.
#[derive(Clone, Debug, Deserialize)]
pub struct KvistResult {
    pub kind: String,
    pub batch: u32,
    pub depth: u32,
    pub tokens_per_second: f64,
    pub runs: Vec<f64>,
    pub gb_per_second: Option<f64>,
    pub gops: f64,
}

impl Kvist<'_> {
    /// Runs what `flags` ask for.
    pub fn bench(&self, course: &Course<'_>, flags: &[&str]) -> Result<KvistReport> {
        let mut run = Run::new(self.binary)
            .args(["bench".as_ref(), course.model.as_os_str()])
            .args(["--json", "--offline"])
            .args(["--threads".to_owned(), course.threads.to_string()])
            .args(flags);
        if let Some(isa) = self.isa {
            run = run.args(["--isa", isa]);
        }
        if !course.sizes.warmup {
            run = run.args(["--no-warmup"]);
        }
        Ok(serde_json::from_str(&run.output()?)?)
    }
}

impl KvistReport {
    /// The result of one test.
    pub fn find(&self, test: Test, sizes: &Sizes) -> Result<&KvistResult> {
        let matches = |result: &&KvistResult| match test {
            Test::Prefill => result.kind == "prefill" && result.depth == 0,
            Test::Decode(streams) => {
                result.kind == "decode" && result.batch == streams && result.depth == 0
            }
            Test::Deep => result.kind == "decode" && result.depth == sizes.depth,
        };
        let found = self.results.iter().find(matches);
        found.ok_or_else(|| format!("kvist bench did not run {}", sizes.name(test)).into())
    }
}

/// What can be chosen of the peer, and makes it faster or slower by model, test and machine.
/// Its threads spin always: they are two, and the cores theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Variant {
    /// Its repacked weights.
    pub repack: bool,
    /// Its tiled products.
    pub tiled: bool,
    /// Its flash attention.
    pub flash: bool,
}

impl Variant {
    /// As it comes.
    pub const DEFAULT: Self = Self {
        repack: true,
        tiled: true,
        flash: true,
    };

    fn program(self, peer: &Peer, name: &str) -> Run {
        peer.program(name)
            .env("OMP_WAIT_POLICY", "active")
            .env("GGML_CPU_TILED_MM", if self.tiled { "1" } else { "0" })
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            repack,
            tiled,
            flash,
        } = *self;
        let bit = u8::from;
        let (repack, tiled, flash) = (bit(repack), bit(tiled), bit(flash));
        write!(f, "repack {repack}, tiled {tiled}, fa {flash}")
    }
}

/// A test of llama-bench's.
#[derive(Clone, Debug, Deserialize)]
pub struct LlamaBench {
    pub repack: bool,
    flash_attn: i32,
    pub n_gen: u32,
    samples_ts: Vec<f64>,
}

impl LlamaBench {
    /// Tokens a second of each run.
    pub fn rates(&self) -> &[f64] {
        &self.samples_ts
    }

    /// Whether it ran with flash attention.
    pub fn flash(&self) -> bool {
        self.flash_attn > 0
    }
}

/// Runs llama-bench with `flags`; those of them that are lists make several tests.
pub fn llama_bench(
    (peer, variant): (&Peer, Variant),
    course: &Course<'_>,
    flags: &[&str],
) -> Result<Vec<LlamaBench>> {
    let mut run = variant
        .program(peer, "llama-bench")
        .args(["-m".as_ref(), course.model.as_os_str()])
        .args(["-t".to_owned(), course.threads.to_string()])
        .args(["-o", "json"])
        .args(flags);
    if !course.sizes.warmup {
        run = run.args(["--no-warmup"]);
    }
    Ok(serde_json::from_str(&run.output()?)?)
}

/// A line of llama-batched-bench's.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct BatchedBench {
    /// Sequences at once.
    pub pl: u32,
    /// Tokens a second all of them produced.
    pub speed_tg: f64,
}

/// Runs llama-batched-bench for each number of sequences.
pub fn batched_bench(
    (peer, variant): (&Peer, Variant),
    course: &Course<'_>,
    streams: &[u32],
) -> Result<Vec<BatchedBench>> {
    let output = course.sizes.output;
    let most = streams.iter().max().copied().unwrap_or(1);
    let streams: Vec<String> = streams.iter().map(u32::to_string).collect();
    let run = variant
        .program(peer, "llama-batched-bench")
        .args(["-m".as_ref(), course.model.as_os_str()])
        .args(["-t".to_owned(), course.threads.to_string()])
        .args(["-c".to_owned(), (most * (output + 1)).to_string()])
        .args(["-npp", "1", "-ntg", &output.to_string()])
        .args(["-npl", &streams.join(",")])
        .args(["-fa", if variant.flash { "on" } else { "off" }])
        .args([if variant.repack {
            "--repack"
        } else {
            "--no-repack"
        }])
        .args(["--output-format", "jsonl"]);
    batched_lines(&run.output()?)
}

fn batched_lines(text: &str) -> Result<Vec<BatchedBench>> {
    let lines = text.lines().filter(|line| line.starts_with('{'));
    Ok(lines
        .map(serde_json::from_str)
        .collect::<std::result::Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::race::case::Class;

    #[test]
    fn the_reports_of_both_engines_are_read() {
        let text = r#"{"version": "0", "isa": "avx2", "ceilings": {"read_gb_per_second": 20.5, "gops": 400.0},
            "results": [
              {"kind": "prefill", "tokens": 512, "batch": 1, "depth": 0, "tokens_per_second": 100.0,
               "runs": [100.0], "gb_per_second": null, "gops": 30.0},
              {"kind": "decode", "tokens": 64, "batch": 4, "depth": 0, "tokens_per_second": 20.0,
               "runs": [20.0], "gb_per_second": 9.5, "gops": 6.0},
              {"kind": "decode", "tokens": 64, "batch": 1, "depth": 4096, "tokens_per_second": 5.0,
               "runs": [5.0, 5.5], "gb_per_second": 9.0, "gops": 1.5}]}"#;
        let report: KvistReport = serde_json::from_str(text).expect("a report");
        let rate = |test| {
            let found = report.find(test, &Class::Small.sizes());
            found.map(|result| result.tokens_per_second).ok()
        };
        assert_eq!(rate(Test::Prefill), Some(100.0));
        assert_eq!(rate(Test::Decode(4)), Some(20.0));
        assert_eq!(rate(Test::Deep), Some(5.0));
        assert_eq!(rate(Test::Decode(16)), None);

        let text = r#"[{"build_number": 0, "flash_attn": 1, "repack": false, "n_prompt": 16, "n_gen": 0,
            "n_depth": 64, "avg_ts": 9.6, "samples_ns": [1, 2], "samples_ts": [15.0, 4.25]}]"#;
        let tests: Vec<LlamaBench> = serde_json::from_str(text).expect("a list of tests");
        assert!(tests[0].rates() == [15.0, 4.25] && tests[0].flash() && !tests[0].repack);

        let text = "main: n_kv_max = 1024\n\n\
            {\"n_kv_max\": 1024, \"pp\": 4, \"tg\": 8, \"pl\": 4, \"speed_pp\": 10.4, \"speed_tg\": 4.5}\n\n";
        let lines = batched_lines(text).expect("lines");
        let expected = BatchedBench {
            pl: 4,
            speed_tg: 4.5,
        };
        assert_eq!(lines, [expected]);
        assert!(batched_lines("{\"pl\": 4}\n").is_err());
    }

    #[test]
    fn a_failing_run_is_an_error_and_a_quiet_one_is_not_repeated() {
        let mut runs = 0;
        let result = undisturbed(|| {
            runs += 1;
            Ok(runs)
        });
        let result = result.expect("a run");
        assert!(result.stolen <= 1.0 && (1..=TRIES).contains(&result.result));
        assert!(undisturbed(|| Err::<u32, _>("no".into())).is_err());
    }
}
