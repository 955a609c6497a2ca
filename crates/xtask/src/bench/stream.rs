//! A model larger than its budget: weights are streamed from the file, the answer is the same.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Measured;
use super::load::{Ask, Tally, open_loop, tokens};
use super::memory::{Cgroup, CgroupCounts, Series};
use super::report::{Report, Size, Table};
use super::service::{Launch, Service};

/// Most tokens of a sequence: small, so that weights and not KV are what matters.
const MODEL_LEN: &str = "1024";

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A model file larger than the budget
    model: PathBuf,
    /// The budget
    #[arg(long, default_value = "3GB")]
    memory: String,
    /// Tokens of the prompts
    #[arg(long, default_value_t = 64)]
    prompt_tokens: usize,
    /// Tokens of the answers
    #[arg(long, default_value_t = 16)]
    output_tokens: u32,
    /// Run in a control group whose limit is the budget, page cache included
    #[arg(long)]
    cgroup: bool,
}

pub fn measure(binary: &Path, arguments: &Arguments) -> Measured {
    let common = ["--max-model-len", MODEL_LEN, "--max-num-seqs", "1"];
    let mut streamed = Launch::new(binary, &arguments.model, &common);
    let budget = ["--memory", &arguments.memory, "--offload-weights"];
    streamed.flags.extend(budget.map(str::to_owned));
    let plan = streamed.plan()?;
    let group = arguments
        .cgroup
        .then(|| Cgroup::new(plan.budget))
        .transpose()?;
    streamed.cgroup = group.as_ref();
    let mut ours = run(&streamed, arguments)?;
    ours.cgroup = group.as_ref().map(Cgroup::counts).transpose()?;
    drop(group);

    let whole = Launch::new(binary, &arguments.model, &common);
    let whole = match whole.plan()? {
        plan if plan.fits => Ok(run(&whole, arguments)?),
        plan => Err(format!("not run: needs {} of memory", Size(plan.total))),
    };
    Ok(report(arguments, plan.budget, (&ours, &whole)))
}

/// What one server did.
struct Ran {
    load_seconds: f64,
    /// Tokens and log-probabilities, as answered.
    answer: Value,
    tally: Tally,
    /// Bytes of weights read from the file while `tally` was made, and the seconds that took.
    streamed: Option<(u64, f64)>,
    series: Series,
    cgroup: Option<CgroupCounts>,
}

fn run(launch: &Launch, arguments: &Arguments) -> Result<Ran, Box<dyn Error>> {
    let vocab_len = launch.plan()?.vocab_len;
    let begun = Instant::now();
    let mut service = launch.start()?;
    let load_seconds = begun.elapsed().as_secs_f64();
    let prompt = |seed| tokens(seed, arguments.prompt_tokens, vocab_len);
    let body = json!({
        "prompt": prompt(1), "max_tokens": arguments.output_tokens, "temperature": 0,
        "ignore_eos": true, "logprobs": 1,
    });
    let answer = service.http.post("/v1/completions", &body)?;
    let before = streamed_bytes(&service);
    let begun = Instant::now();
    let ask = Ask::new(prompt(2), arguments.output_tokens);
    let tally = open_loop(service.http, &[(Duration::ZERO, ask)]);
    let seconds = begun.elapsed().as_secs_f64();
    let streamed = before
        .zip(streamed_bytes(&service))
        .map(|(before, after)| (after - before, seconds));
    Ok(Ran {
        load_seconds,
        answer: answer["choices"][0]["logprobs"].clone(),
        tally,
        streamed,
        series: service.take_series(),
        cgroup: None,
    })
}

fn streamed_bytes(service: &Service) -> Option<u64> {
    let metrics = service.metrics().ok()?;
    metrics.count("kvist_weights_streamed_bytes_total", "").ok()
}

fn report(
    arguments: &Arguments,
    budget: u64,
    (ours, whole): (&Ran, &Result<Ran, String>),
) -> Report {
    let mut report = Report::new("A model larger than its budget");
    let Arguments {
        prompt_tokens,
        output_tokens,
        ..
    } = arguments;
    report.setup(format!(
        "--memory {} --offload-weights beside a server without a limit; one client, {prompt_tokens} tokens of prompt, {output_tokens} of output, greedy",
        arguments.memory
    ));
    let mut table = Table::new(["", "streamed", "all in memory"]);
    let mut row = |what: &str, cell: &dyn Fn(&Ran) -> String| {
        let whole = whole.as_ref().map_or_else(Clone::clone, cell);
        table.row([what.to_owned(), cell(ours), whole]);
    };
    row("seconds to load", &|ran| format!("{:.1}", ran.load_seconds));
    row("seconds to the first token", &|ran| first(&ran.tally.ttft));
    row("output tokens a second", &|ran| rate(ran, *output_tokens));
    row("weights read from the file", &|ran| match ran.streamed {
        #[allow(clippy::cast_precision_loss)] // a rate
        Some((bytes, seconds)) => format!("{:.2} GB/s", bytes as f64 / seconds / 1e9),
        None => "not told".to_owned(),
    });
    row("peak RSS", &|ran| {
        Size(ran.series.peak(|memory| memory.rss)).to_string()
    });
    row("peak of own memory", &|ran| {
        Size(ran.series.peak(|memory| memory.own())).to_string()
    });
    report.table(table);

    report.promise_bytes("RSS", (budget, ours.series.peak(|memory| memory.rss)));
    let has_answer = ours.answer["tokens"]
        .as_array()
        .is_some_and(|tokens| !tokens.is_empty());
    if let Ok(whole) = whole {
        let is_same = has_answer && ours.answer == whole.answer;
        let found = if is_same { "the same" } else { "different" };
        report.promise("tokens and log-probabilities", ("the same", found), is_same);
    } else {
        report.promise("an answer", ("one", has_answer), has_answer);
    }
    let read = ours.streamed.map_or(0, |(bytes, _)| bytes);
    report.promise(
        "weights are streamed",
        ("more than nothing", Size(read)),
        read > 0,
    );
    if let Some(counts) = ours.cgroup {
        let found = format!("{}, peak {}", counts.killed, Size(counts.peak));
        report.promise(
            "killed for want of memory",
            ("never", found),
            counts.killed == 0,
        );
    }
    report
}

fn first(values: &[f64]) -> String {
    values
        .first()
        .map_or("none".to_owned(), |value| format!("{value:.2}"))
}

/// Output tokens a second behind the first one.
fn rate(ran: &Ran, output_tokens: u32) -> String {
    let (Some(whole), Some(ttft)) = (ran.tally.seconds.first(), ran.tally.ttft.first()) else {
        return "none".to_owned();
    };
    format!("{:.2}", f64::from(output_tokens - 1) / (whole - ttft))
}
