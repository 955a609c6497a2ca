//! Speculation, on and off: the speed of decoding a text that copies its prompt, and of one that does
//! not. Two servers with the same model are asked in turns, so that whatever else the machine does
//! falls on both; one works at a time.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};

use super::Measured;
use super::report::{Report, Table};
use super::service::{Launch, Service};
use crate::http::{Request, Server};
use crate::stats::{median, spread};

/// What is to be rewritten: a file of this program.
const SOURCE: &str = include_str!("../stats.rs");
/// What the prose is about.
const SUBJECTS: [&str; 3] = [
    "a keeper of a lighthouse who finds a letter in a bottle",
    "how bread came to be baked in a village high in the mountains",
    "two engineers who disagree about a bridge, and what becomes of it",
];
/// Tokens of each answer.
const OUTPUT_LEN: u32 = 384;
/// Promised: decoding with speculation, as a multiple of decoding without.
const COPY_MIN: f64 = 1.8;
const PROSE_MIN: f64 = 0.97;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Model files
    #[arg(required = true)]
    models: Vec<PathBuf>,
    /// How often each text is asked for
    #[arg(short, long, default_value_t = 5)]
    repetitions: u32,
    /// What --speculative is given
    #[arg(long, default_value = "auto")]
    speculative: String,
}

/// A text to ask for.
struct Task {
    name: &'static str,
    prompt: String,
    temperature: f64,
    ratio_min: f64,
}

/// A streamed answer.
struct Answer {
    text: String,
    /// Output tokens a second after the first.
    rate: f64,
}

pub fn measure(binary: &Path, arguments: &Arguments) -> Measured {
    let mut report = Report::new("Speculation by prompt lookup");
    report.setup(format!(
        "answers of {OUTPUT_LEN} tokens, {} times each, with and without in turns; medians",
        arguments.repetitions
    ));
    let mut table = Table::new([
        "model", "text", "off t/s", "on t/s", "ratio", "spread", "drafted", "accepted",
    ]);
    for model in &arguments.models {
        let name = model.file_name().unwrap_or_default().to_string_lossy();
        let start = |how: &str| {
            let flags = ["--max-num-seqs", "4", "--max-model-len", "4096"];
            Launch::new(binary, model, &flags)
                .serving(&["--speculative", how])
                .start()
        };
        let (off, on) = (start("off")?, start(&arguments.speculative)?);
        for task in tasks() {
            let found = run(&task, (&off, &on), arguments.repetitions)?;
            let ratio = median(&found.ratios);
            table.row([
                name.to_string(),
                task.name.to_owned(),
                format!("{:.1}", median(&found.off)),
                format!("{:.1}", median(&found.on)),
                format!("{ratio:.2}"),
                format!("{:.0} %", 100.0 * spread(&found.ratios)),
                found.drafted.to_string(),
                found.accepted.to_string(),
            ]);
            report.promise(
                format!("{name}: {}, speed", task.name),
                (
                    format!("at least {} x", task.ratio_min),
                    format!("{ratio:.2} x"),
                ),
                ratio >= task.ratio_min,
            );
            report.promise(
                format!("{name}: {}, output", task.name),
                (
                    "the same",
                    format!("{} of {} differ", found.differing, found.off.len()),
                ),
                found.differing == 0,
            );
        }
    }
    report.table(table);
    Ok(report)
}

fn tasks() -> Vec<Task> {
    let code = Task {
        name: "rewrites code",
        prompt: format!(
            "Rewrite this code with the function `median` renamed to `middle`. \
             Answer with all of the code and nothing else.\n\n```rust\n{SOURCE}```"
        ),
        temperature: 0.0,
        ratio_min: COPY_MIN,
    };
    let prose = SUBJECTS.map(|subject| Task {
        name: "prose",
        prompt: format!("Write a long story about {subject}."),
        temperature: 0.8,
        ratio_min: PROSE_MIN,
    });
    std::iter::once(code).chain(prose).collect()
}

/// What a task came to.
struct Found {
    off: Vec<f64>,
    on: Vec<f64>,
    ratios: Vec<f64>,
    differing: usize,
    drafted: u64,
    accepted: u64,
}

fn run(
    task: &Task,
    (off, on): (&Service, &Service),
    repetitions: u32,
) -> Result<Found, Box<dyn Error>> {
    let mut found = Found {
        off: Vec::new(),
        on: Vec::new(),
        ratios: Vec::new(),
        differing: 0,
        drafted: 0,
        accepted: 0,
    };
    let before = drafts(on)?;
    for round in 0..repetitions {
        // Neither is always the one that finds the caches warm.
        let (plain, fast);
        if round % 2 == 0 {
            plain = ask(off.http, task, round)?;
            fast = ask(on.http, task, round)?;
        } else {
            fast = ask(on.http, task, round)?;
            plain = ask(off.http, task, round)?;
        }
        found.differing += usize::from(plain.text != fast.text);
        found.ratios.push(fast.rate / plain.rate);
        found.off.push(plain.rate);
        found.on.push(fast.rate);
    }
    let after = drafts(on)?;
    found.drafted = after.0 - before.0;
    found.accepted = after.1 - before.1;
    Ok(found)
}

/// Draft tokens computed and accepted so far.
fn drafts(service: &Service) -> Result<(u64, u64), Box<dyn Error>> {
    let metrics = service.metrics()?;
    let count =
        |what: &str| metrics.count(&format!("vllm:spec_decode_num_{what}_tokens_total"), "");
    Ok((count("draft")?, count("accepted")?))
}

/// Asks for a text and times its tokens after the first, as they arrive.
fn ask(server: Server, task: &Task, seed: u32) -> Result<Answer, Box<dyn Error>> {
    let body = json!({
        "messages": [{ "role": "user", "content": task.prompt }],
        "max_tokens": OUTPUT_LEN,
        "temperature": task.temperature,
        "seed": seed,
        "ignore_eos": true,
        "stream": true,
        "stream_options": { "include_usage": true },
    })
    .to_string();
    let mut connection = server.connect()?;
    let (status, events) = connection.begin(&Request {
        method: "POST",
        path: "/v1/chat/completions",
        body: &body,
    })?;
    let mut text = String::new();
    let mut produced = None;
    let (mut first, mut last) = (None, None);
    let mut broken = None;
    events.events(|data| {
        if data != "[DONE]" {
            match serde_json::from_str::<Value>(data) {
                Ok(event) => {
                    let piece = event.pointer("/choices/0/delta/content");
                    if let Some(piece) = piece.and_then(Value::as_str).filter(|p| !p.is_empty()) {
                        text.push_str(piece);
                        first.get_or_insert_with(Instant::now);
                        last = Some(Instant::now());
                    }
                    let usage = event.pointer("/usage/completion_tokens");
                    produced = usage.and_then(Value::as_u64).or(produced);
                }
                Err(error) => broken = Some(error),
            }
        }
        true
    })?;
    if let Some(error) = broken {
        return Err(error.into());
    }
    let (Some(first), Some(last), 200) = (first, last, status) else {
        return Err(format!("answered {status} without a text").into());
    };
    if produced != Some(u64::from(OUTPUT_LEN)) {
        return Err(format!("{produced:?} tokens were produced, not {OUTPUT_LEN}").into());
    }
    let rate = f64::from(OUTPUT_LEN - 1) / (last - first).as_secs_f64();
    Ok(Answer { text, rate })
}
