//! `kvist bench` and llama-bench on one file, one run of each in turn, so that both meet the same
//! machine: its clock, its neighbours, its mood.

use std::error::Error;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::Outcome;
use crate::command::{Run, release_binary};
use crate::machine::{CpuTimes, load_average, read_bandwidth};
use crate::peer::{Peer, threads};
use crate::stats::{median, spread};

/// A run during which the hypervisor took more than this share is marked.
const STOLEN_MAX: f64 = 0.02;
/// With more than this to do beforehand the machine is not ours: threads that spin, as the peer's
/// do, lose most.
const LOAD_MAX: f64 = 0.5;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A GGUF file
    model: PathBuf,
    /// Directory with llama.cpp's programs [default: installed below the target directory]
    #[arg(long)]
    peer_dir: Option<PathBuf>,
    /// Runs of each engine
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Threads of each engine
    #[arg(long, default_value_t = threads())]
    threads: usize,
    /// Tokens of the prompt
    #[arg(short, long, default_value_t = 512)]
    prompt_tokens: u32,
    /// Tokens produced
    #[arg(short = 'n', long, default_value_t = 64)]
    output_tokens: u32,
}

/// One run of one engine.
#[derive(Debug, PartialEq)]
struct Speed {
    /// Prompt tokens a second.
    prefill: f64,
    /// Output tokens a second, one sequence.
    decode: f64,
    /// Bytes of weights read for an output token.
    weight_bytes: f64,
}

/// A program's speed and what others took meanwhile.
#[derive(Debug)]
struct Measured {
    speed: Speed,
    stolen: f64,
}

pub fn run(arguments: &Arguments) -> Outcome {
    let peer = Peer::find(arguments.peer_dir.as_deref())?;
    let model = arguments.model.canonicalize()?;
    let kvist = release_binary()?;
    let load = load_average();
    if load > LOAD_MAX {
        eprintln!(
            "warning: the machine is busy (load {load:.1}): these are not numbers to publish"
        );
    }
    let bandwidth = read_bandwidth(arguments.threads);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 1..=arguments.runs {
        eprintln!("round {round} of {}", arguments.runs);
        ours.push(measured(|| run_kvist(&kvist, &model, arguments))?);
        theirs.push(measured(|| run_llama_bench(&peer, &model, arguments))?);
    }
    print!("{}", table(arguments, &ours, &theirs, bandwidth));
    Ok(())
}

fn measured(
    run: impl FnOnce() -> Result<Speed, Box<dyn Error>>,
) -> Result<Measured, Box<dyn Error>> {
    let before = CpuTimes::now();
    let speed = run()?;
    Ok(Measured {
        speed,
        stolen: CpuTimes::now().stolen_since(before),
    })
}

fn run_kvist(kvist: &Path, model: &Path, arguments: &Arguments) -> Result<Speed, Box<dyn Error>> {
    let Arguments {
        threads,
        prompt_tokens,
        output_tokens,
        ..
    } = arguments;
    let output = Run::new(kvist)
        .args(["bench".as_ref(), model.as_os_str()])
        .args(["--json", "--offline", "--batch", "1", "-r", "1"])
        .args(["--threads".to_owned(), threads.to_string()])
        .args(["-p".to_owned(), prompt_tokens.to_string()])
        .args(["-n".to_owned(), output_tokens.to_string()])
        .output()?;
    let names = (format!("pp{prompt_tokens}"), format!("tg{output_tokens}"));
    kvist_speed(&serde_json::from_str(&output)?, &names)
        .ok_or_else(|| format!("kvist bench without {names:?}: {output}").into())
}

fn kvist_speed(report: &Value, (prefill, decode): &(String, String)) -> Option<Speed> {
    let results = report["results"].as_array()?;
    let rate = |name: &str| {
        let result = results.iter().find(|result| result["test"] == name)?;
        result["tokens_per_second"].as_f64()
    };
    let weight_bytes = report["weight_bytes_per_step"].as_f64()?;
    Some(Speed {
        prefill: rate(prefill)?,
        decode: rate(decode)?,
        weight_bytes,
    })
}

fn run_llama_bench(
    peer: &Peer,
    model: &Path,
    arguments: &Arguments,
) -> Result<Speed, Box<dyn Error>> {
    let Arguments {
        threads,
        prompt_tokens,
        output_tokens,
        ..
    } = arguments;
    let output = peer
        .program("llama-bench")
        .env("OMP_WAIT_POLICY", "active")
        .args(["-m".as_ref(), model.as_os_str()])
        .args(["-o", "json", "-r", "1"])
        .args(["-t".to_owned(), threads.to_string()])
        .args(["-p".to_owned(), prompt_tokens.to_string()])
        .args(["-n".to_owned(), output_tokens.to_string()])
        .output()?;
    llama_bench_speed(&serde_json::from_str(&output)?)
        .ok_or_else(|| format!("llama-bench without its two tests: {output}").into())
}

fn llama_bench_speed(report: &Value) -> Option<Speed> {
    let tests = report.as_array()?;
    let test = |key: &str| tests.iter().find(|test| test[key].as_u64() > Some(0));
    let (prefill, decode) = (test("n_prompt")?, test("n_gen")?);
    Some(Speed {
        prefill: prefill["avg_ts"].as_f64()?,
        decode: decode["avg_ts"].as_f64()?,
        weight_bytes: decode["model_size"].as_f64()?,
    })
}

/// The medians as Markdown, with the runs the machine was shared during.
fn table(arguments: &Arguments, ours: &[Measured], theirs: &[Measured], bandwidth: f64) -> String {
    let of = |runs: &[Measured], field: fn(&Speed) -> f64| -> Vec<f64> {
        runs.iter().map(|run| field(&run.speed)).collect()
    };
    let row = |test: String, field: fn(&Speed) -> f64, unit: &str| {
        let (ours, theirs) = (of(ours, field), of(theirs, field));
        let (a, b) = (median(&ours), median(&theirs));
        format!(
            "| {test} | {a:.1} ± {:.0} % | {b:.1} ± {:.0} % | {unit} | {:.2} |\n",
            spread(&ours) * 50.0,
            spread(&theirs) * 50.0,
            a / b
        )
    };
    let stolen = |runs: &[Measured]| runs.iter().filter(|run| run.stolen > STOLEN_MAX).count();
    let Arguments {
        model,
        threads,
        runs,
        prompt_tokens,
        output_tokens,
        ..
    } = arguments;
    let file = model.file_name().unwrap_or_default().display();
    let mut text = format!("{file}, {threads} threads, medians of {runs} interleaved runs\n\n");
    text += "| test | kvist | llama.cpp | unit | ratio |\n|---|---:|---:|---|---:|\n";
    text += &row(
        format!("prompt of {prompt_tokens}"),
        |speed| speed.prefill,
        "token/s",
    );
    text += &row(
        format!("output of {output_tokens}"),
        |speed| speed.decode,
        "token/s",
    );
    text += &row(
        "weights read".to_owned(),
        |s| s.decode * s.weight_bytes / 1e9,
        "GB/s",
    );
    text += &format!(
        "\nMemory read by {threads} threads: {:.1} GB/s.\n",
        bandwidth / 1e9
    );
    text + &format!(
        "Runs with more than {:.0} % of the processor stolen: kvist {}, llama.cpp {}.\n",
        STOLEN_MAX * 100.0,
        stolen(ours),
        stolen(theirs)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn measured(prefill: f64, decode: f64, stolen: f64) -> Measured {
        Measured {
            speed: Speed {
                prefill,
                decode,
                weight_bytes: 1e9,
            },
            stolen,
        }
    }

    #[test]
    fn both_reports_are_read() {
        let kvist = json!({ "weight_bytes_per_step": 96, "results": [
            { "test": "pp512", "tokens_per_second": 100.0 },
            { "test": "tg64", "tokens_per_second": 20.0 } ] });
        let names = ("pp512".to_owned(), "tg64".to_owned());
        let expected = Some(Speed {
            prefill: 100.0,
            decode: 20.0,
            weight_bytes: 96.0,
        });
        assert_eq!(kvist_speed(&kvist, &names), expected);
        assert_eq!(
            kvist_speed(&kvist, &("pp1".to_owned(), "tg64".to_owned())),
            None
        );
        let peer = json!([
            { "n_prompt": 512, "n_gen": 0, "avg_ts": 100.0, "model_size": 96 },
            { "n_prompt": 0, "n_gen": 64, "avg_ts": 20.0, "model_size": 96 } ]);
        assert_eq!(llama_bench_speed(&peer), expected);
        assert_eq!(llama_bench_speed(&json!([])), None);
    }

    #[test]
    fn the_table_has_medians_ratios_and_marks() {
        let arguments = Arguments {
            model: "dir/m.gguf".into(),
            peer_dir: None,
            runs: 3,
            threads: 2,
            prompt_tokens: 512,
            output_tokens: 64,
        };
        let ours = [
            measured(200.0, 30.0, 0.0),
            measured(220.0, 30.0, 0.5),
            measured(180.0, 30.0, 0.0),
        ];
        let theirs = [measured(100.0, 20.0, 0.0), measured(100.0, 20.0, 0.0)];
        let table = table(&arguments, &ours, &theirs, 16e9);
        assert!(table.contains("| prompt of 512 | 200.0 ± 10 % | 100.0 ± 0 % | token/s | 2.00 |"));
        assert!(
            table.contains("| weights read | 30.0 ± 0 % | 20.0 ± 0 % | GB/s | 1.50 |"),
            "{table}"
        );
        assert!(table.contains("2 threads: 16.0 GB/s") && table.contains("kvist 1, llama.cpp 0"));
    }
}
