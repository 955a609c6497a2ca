//! From the start of the process to the first token, and to a server that is ready; files in the
//! page cache.

use std::error::Error;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::report::{Report, Table};
use super::service::Launch;
use crate::command::release_binary;
use crate::stats::median;

/// Promised of small models: seconds to the first token.
const FIRST_TOKEN_MAX: f64 = 0.5;
/// Promised of large models: seconds until a server answers.
const READY_MAX: f64 = 6.0;
/// Files from here on are of large models.
const LARGE_BYTES: u64 = 2 << 30;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// GGUF files
    #[arg(required = true)]
    models: Vec<PathBuf>,
    /// Runs of each; one more goes uncounted
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Measure this kvist instead of building one
    #[arg(long)]
    binary: Option<PathBuf>,
}

/// Seconds of one run.
#[derive(Clone, Copy, Debug)]
struct Start {
    /// To open the file and plan: a process of its own.
    plan: f64,
    /// From the request to its first token, as the program says.
    first_step: f64,
    /// From the start of `kvist run` to the first byte of the answer.
    answer: f64,
    /// From the start of `kvist serve` until it answers.
    ready: f64,
}

pub fn measure(arguments: &Arguments) -> Result<Report, Box<dyn Error>> {
    let binary = match &arguments.binary {
        Some(binary) => binary.canonicalize()?,
        None => release_binary()?,
    };
    let mut report = Report::new("From start to first token");
    report.setup(format!(
        "medians of {} runs, after one; seconds from the start of the process",
        arguments.runs
    ));
    let mut table = Table::new([
        "model",
        "first token",
        "open and plan",
        "load and pack",
        "first step",
        "server ready",
    ]);
    for model in &arguments.models {
        let model = model.canonicalize()?;
        once(&binary, &model)?;
        let runs = (0..arguments.runs).map(|_| once(&binary, &model));
        let runs = runs.collect::<Result<Vec<_>, _>>()?;
        let name = model.file_stem().unwrap_or_default().to_string_lossy();
        let of = |part: fn(&Start) -> f64| median(&runs.iter().map(part).collect::<Vec<_>>());
        let seconds = |part| format!("{:.3}", of(part));
        table.row([
            name.clone().into_owned(),
            seconds(|run| run.answer),
            seconds(|run| run.plan),
            seconds(|run| run.answer - run.plan - run.first_step),
            seconds(|run| run.first_step),
            seconds(|run| run.ready),
        ]);
        let (what, limit, found) = if model.metadata()?.len() < LARGE_BYTES {
            ("first token", FIRST_TOKEN_MAX, of(|run| run.answer))
        } else {
            ("server ready", READY_MAX, of(|run| run.ready))
        };
        report.promise(
            format!("{name}: {what}"),
            (format!("at most {limit} s"), format!("{found:.2} s")),
            found <= limit,
        );
    }
    report.table(table);
    Ok(report)
}

fn once(binary: &Path, model: &Path) -> Result<Start, Box<dyn Error>> {
    let begun = Instant::now();
    Launch::new(binary, model, &[]).plan()?;
    let plan = begun.elapsed().as_secs_f64();
    let (answer, first_step) = answer(binary, model)?;
    let begun = Instant::now();
    let service = Launch::new(binary, model, &[]).start()?;
    let ready = begun.elapsed().as_secs_f64();
    drop(service);
    Ok(Start {
        plan,
        first_step,
        answer,
        ready,
    })
}

/// Seconds to the first byte of an answer, and those of them after the request was made.
fn answer(binary: &Path, model: &Path) -> Result<(f64, f64), Box<dyn Error>> {
    let begun = Instant::now();
    let mut child = Command::new(binary)
        .arg("run")
        .arg(model)
        .args(["--offline", "--raw", "-n", "8", "--temperature", "0"])
        .args(["-p", "The quick brown fox jumps over the"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut out = child.stdout.take().ok_or("no standard output")?;
    out.read_exact(&mut [0])?;
    let seconds = begun.elapsed().as_secs_f64();
    out.read_to_end(&mut Vec::new())?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let first_step = first_token(&said).ok_or_else(|| format!("kvist run: {said}"))?;
    Ok((seconds, first_step))
}

/// The number in `first token 0.02 s`.
fn first_token(said: &str) -> Option<f64> {
    let (_, rest) = said.split_once("first token ")?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_the_first_token_is_found() {
        let said = "note\n[8 tokens, 176.2 tok/s, first token 0.02 s, prompt 9 tokens]\n";
        assert_eq!(first_token(said), Some(0.02));
        assert_eq!(first_token("error: no"), None);
    }
}
