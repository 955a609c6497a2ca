//! Clients that come at once with one long prefix: it is computed once, not once for each. Beside
//! llama-server with a slot for each client, on the same prompts.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Measured;
use super::load::{Ask, Tally, open_loop, tokens};
use super::memory::ProcessMemory;
use super::report::{Report, Size, Table};
use super::service::Launch;
use crate::http::Server;
use crate::peer::{FlashAttention, Peer, Serving};

const CLIENTS: usize = 16;
const PREFIX_LEN: usize = 500;
const OUTPUT_LEN: u32 = 8;
/// Context of all of the peer's slots together.
const PEER_CONTEXT: usize = 65536;
/// Promised: prompt tokens computed, as a multiple of one prefix and all tails.
const WORK_MAX: f64 = 1.1;
/// Promised: time, as a part of the peer's.
const TIME_MAX: f64 = 1.0 / 8.0;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A model file
    model: PathBuf,
    /// A directory with llama.cpp's programs [default: installed below target/]
    #[arg(long)]
    peer_dir: Option<PathBuf>,
}

pub fn measure(binary: &Path, arguments: &Arguments) -> Measured {
    let peer = Peer::find(arguments.peer_dir.as_deref())?;
    let launch = Launch::new(binary, &arguments.model, &[]);
    let prompts = prompts(launch.plan()?.vocab_len);
    let tails: usize = prompts.iter().map(|prompt| prompt.len() - PREFIX_LEN).sum();

    let service = launch.start()?;
    let idle = ProcessMemory::of(service.pid())?.rss;
    let before = computed_tokens(&service)?;
    let begun = Instant::now();
    let asks: Vec<_> = prompts
        .iter()
        .map(|prompt| (Duration::ZERO, Ask::new(prompt.clone(), OUTPUT_LEN)))
        .collect();
    let tally = open_loop(service.http, &asks);
    let ours = Side {
        seconds: begun.elapsed().as_secs_f64(),
        idle,
        after: ProcessMemory::of(service.pid())?.rss,
    };
    // Every output token but the last of a request goes through the model, too.
    let outputs = CLIENTS as u64 * u64::from(OUTPUT_LEN - 1);
    let computed = (computed_tokens(&service)? - before).saturating_sub(outputs);
    drop(service);

    let theirs = peer_side(&peer, &arguments.model, &prompts)?;
    Ok(report(
        (computed, PREFIX_LEN + tails),
        &tally,
        (&ours, &theirs),
    ))
}

/// One prefix and tails of 8 to 23 tokens.
fn prompts(vocab_len: u32) -> Vec<Vec<u32>> {
    let prompt = |idx: usize| {
        let mut prompt = tokens(0, PREFIX_LEN, vocab_len);
        prompt.extend(tokens(1 + idx as u64, 8 + idx, vocab_len));
        prompt
    };
    (0..CLIENTS).map(prompt).collect()
}

fn computed_tokens(service: &super::service::Service) -> Result<u64, Box<dyn std::error::Error>> {
    service.metrics()?.count("kvist_computed_tokens_total", "")
}

/// What one server took.
struct Side {
    seconds: f64,
    idle: u64,
    after: u64,
}

fn peer_side(
    peer: &Peer,
    model: &Path,
    prompts: &[Vec<u32>],
) -> Result<Side, Box<dyn std::error::Error>> {
    let server = peer.serve(
        model,
        Serving {
            context: PEER_CONTEXT,
            attention: FlashAttention::Auto,
            slots: CLIENTS,
        },
    )?;
    let idle = ProcessMemory::of(server.pid())?.rss;
    let begun = Instant::now();
    let answers = thread::scope(|scope| {
        let clients: Vec<_> = prompts
            .iter()
            .map(|prompt| scope.spawn(|| complete(server.http, prompt).map_err(|e| e.to_string())))
            .collect();
        let answers = clients
            .into_iter()
            .map(|client| client.join().expect("no client panics"));
        answers.collect::<Result<Vec<Value>, String>>()
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    for answer in &answers {
        if answer["tokens_predicted"] != OUTPUT_LEN {
            return Err(format!("llama-server did not produce {OUTPUT_LEN} tokens").into());
        }
    }
    Ok(Side {
        seconds,
        idle,
        after: ProcessMemory::of(server.pid())?.rss,
    })
}

fn complete(server: Server, prompt: &[u32]) -> Result<Value, Box<dyn std::error::Error>> {
    let body = json!({
        "prompt": prompt, "n_predict": OUTPUT_LEN, "temperature": 0, "ignore_eos": true,
        "cache_prompt": true,
    });
    server.post("/completion", &body)
}

#[allow(clippy::cast_precision_loss)] // ratios
fn report(
    (computed, needed): (u64, usize),
    tally: &Tally,
    (ours, theirs): (&Side, &Side),
) -> Report {
    let mut report = Report::new("One prefix, many clients at once");
    report.setup(format!(
        "{CLIENTS} clients at once, the same first {PREFIX_LEN} tokens, tails of 8 to {}, {OUTPUT_LEN} tokens of output each",
        7 + CLIENTS
    ));
    report.setup(format!("llama-server with {CLIENTS} slots, a context of {PEER_CONTEXT} tokens for all, its prompt cache on"));
    let mut table = Table::new(["", "kvist", "llama-server"]);
    let seconds = |side: &Side| format!("{:.2}", side.seconds);
    table.row(["seconds for all".to_owned(), seconds(ours), seconds(theirs)]);
    for (what, bytes) in [
        ("RSS when idle", (|side| side.idle) as fn(&Side) -> u64),
        ("RSS after", |side| side.after),
    ] {
        table.row([
            what.to_owned(),
            Size(bytes(ours)).to_string(),
            Size(bytes(theirs)).to_string(),
        ]);
    }
    report.table(table);
    let work = computed as f64 / needed as f64;
    report.promise(
        "prompt tokens computed",
        (
            format!("at most {WORK_MAX} x {needed}: one prefix and all tails"),
            format!("{computed}, {work:.2} x"),
        ),
        work <= WORK_MAX,
    );
    let part = ours.seconds / theirs.seconds;
    report.promise(
        "time",
        (
            format!("at most {TIME_MAX:.3} of llama-server's"),
            format!("{part:.3}"),
        ),
        part <= TIME_MAX,
    );
    let is_answered = tally.count(200) == CLIENTS as u64;
    report.promise("answers", ("all 200", tally.summary()), is_answered);
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_share_the_prefix_and_nothing_behind_it() {
        let prompts = prompts(49152);
        for (idx, prompt) in prompts.iter().enumerate() {
            assert_eq!(prompt[..PREFIX_LEN], prompts[0][..PREFIX_LEN]);
            assert_eq!(prompt.len(), PREFIX_LEN + 8 + idx);
            let is_own = |other: &Vec<u32>| other[PREFIX_LEN..] != prompt[PREFIX_LEN..];
            assert_eq!(
                prompts.iter().filter(|other| is_own(other)).count(),
                CLIENTS - 1
            );
        }
    }
}
