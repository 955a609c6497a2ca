//! A real service's requests, whose prompts share beginnings, at their times: how much of the
//! prompts the prefix cache answers, beside an ideal cache of the same size, and what that saves.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kvist_base::mix64;

use super::Measured;
use super::load::{Ask, Tally, open_loop};
use super::report::{Report, Size, Table};
use super::service::Launch;
use super::trace::{Shrink, mooncake};
use crate::stats::{median, percentile};

/// Promised: the hit rate is below the ideal one by at most this.
const POINTS_MAX: f64 = 2.0;
/// The server's default.
const BLOCK_SIZE: usize = 16;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A model file
    model: PathBuf,
    /// The budget
    #[arg(long, default_value = "1GiB")]
    memory: String,
    /// Requests of the trace
    #[arg(long, default_value_t = 600)]
    requests: usize,
    /// What the trace's lengths are divided by; blocks of 512 tokens become blocks of 512 / N
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=512))]
    divisor: u32,
    /// What the trace's times are multiplied by
    #[arg(long, default_value_t = 2)]
    stretch: u32,
}

pub fn measure(binary: &Path, arguments: &Arguments) -> Measured {
    let flags = ["--memory", &arguments.memory];
    let cached = Launch::new(binary, &arguments.model, &flags);
    let plan = cached.plan()?;
    let shrink = Shrink {
        divisor: arguments.divisor,
        stretch: arguments.stretch,
        vocab_len: plan.vocab_len,
    };
    let arrivals: Vec<(Duration, Ask)> = mooncake()
        .iter()
        .take(arguments.requests)
        .map(|row| (row.at(shrink), row.ask(shrink)))
        .collect();
    let unit = shrink.block_len();
    let capacity = usize::try_from(plan.blocks)? * BLOCK_SIZE / unit;
    let ideal = ideal_hits(arrivals.iter().map(|(_, ask)| ask), (unit, capacity));
    let with = replay(&cached, &arrivals)?;
    let without = cached.serving(&["--no-prefix-caching"]);
    let without = replay(&without, &arrivals)?;

    let mut report = Report::new("Prompts that share beginnings");
    report.setup(format!(
        "{} requests of the Mooncake conversation trace at their times x {}, lengths and shared blocks divided by {}",
        arrivals.len(), arguments.stretch, arguments.divisor
    ));
    report.setup(format!(
        "{}: {} KV blocks of {BLOCK_SIZE} tokens",
        Size(plan.budget),
        plan.blocks
    ));
    report.setup(
        "ideal: a cache of as many tokens, in the trace's own blocks, that computes each request at once and whole \
         when it comes, keeps prompts and outputs, and drops the block that was used longest ago, ends before beginnings",
    );
    let prompt_tokens = arrivals
        .iter()
        .map(|(_, ask)| ask.prompt.len() as u64)
        .sum();
    report.table(table(&with, &without));
    judge(
        &mut report,
        percent(ideal, prompt_tokens),
        (&with, &without),
    );
    Ok(report)
}

fn table(with: &Replayed, without: &Replayed) -> Table {
    let mut table = Table::new(["", "prefix cache", "none"]);
    let mut row = |what: &str, cell: &dyn Fn(&Replayed) -> String| {
        table.row([what.to_owned(), cell(with), cell(without)]);
    };
    row("prompt tokens looked up", &|run| run.looked_up.to_string());
    row("prompt tokens found", &|run| run.found.to_string());
    row("first token, p50", &|run| {
        format!("{:.3} s", median(&run.tally.ttft))
    });
    row("first token, p90", &|run| {
        format!("{:.3} s", percentile(&run.tally.ttft, 90))
    });
    row("whole answer, p50", &|run| {
        format!("{:.3} s", median(&run.tally.seconds))
    });
    row("seconds for all", &|run| format!("{:.1}", run.seconds));
    row("answers", &|run| run.tally.summary());
    table
}

fn judge(report: &mut Report, best: f64, (with, without): (&Replayed, &Replayed)) {
    let found = percent(with.found, with.looked_up);
    let promised = format!("at most {POINTS_MAX} points below the ideal {best:.1} %");
    report.promise(
        "prompt tokens found",
        (promised, format!("{found:.1} %")),
        found >= best - POINTS_MAX,
    );
    for (run, what) in [(with, "with the cache"), (without, "without")] {
        for told in &run.tally.told {
            report.setup(format!("{what}: {told}"));
        }
        let is_whole = run.tally.others(&[200]) == 0;
        report.promise(
            format!("answers {what}"),
            ("all 200", run.tally.summary()),
            is_whole,
        );
    }
}

#[allow(clippy::cast_precision_loss)] // a rate
fn percent(part: u64, of: u64) -> f64 {
    100.0 * part as f64 / of.max(1) as f64
}

/// What one server did.
struct Replayed {
    tally: Tally,
    seconds: f64,
    looked_up: u64,
    found: u64,
}

fn replay(launch: &Launch, arrivals: &[(Duration, Ask)]) -> Result<Replayed, Box<dyn Error>> {
    let service = launch.start()?;
    let begun = Instant::now();
    let tally = open_loop(service.http, arrivals);
    let seconds = begun.elapsed().as_secs_f64();
    let metrics = service.metrics()?;
    Ok(Replayed {
        tally,
        seconds,
        looked_up: metrics.count("vllm:prefix_cache_queries_total", "")?,
        found: metrics.count("vllm:prefix_cache_hits_total", "")?,
    })
}

/// Prompt tokens found by an ideal cache of `capacity` blocks of `unit` tokens: what the trace shares
/// is whole blocks of that size. The last token of a prompt is never found: it has to be computed
/// for its logits.
fn ideal_hits<'a>(asks: impl Iterator<Item = &'a Ask>, (unit, capacity): (usize, usize)) -> u64 {
    let mut cache = Lru::default();
    let mut hits = 0;
    for (idx, ask) in asks.enumerate() {
        let chain = content(ask, unit, idx as u64);
        let found = chain.iter().take_while(|key| cache.has(**key)).count();
        hits += (found * unit).min(ask.prompt.len().saturating_sub(1)) as u64;
        // The beginning last, so that it is the last to go.
        chain.iter().rev().for_each(|key| cache.touch(*key));
        cache.shrink(capacity);
    }
    hits
}

/// The content of each block of a request, prompt and output; equal when all tokens up to its end
/// are equal. Outputs, and what is behind the prompt's last whole block, nobody shares.
fn content(ask: &Ask, unit: usize, idx: u64) -> Vec<u64> {
    let mut state = 0;
    let mut chain: Vec<u64> = ask
        .prompt
        .chunks_exact(unit)
        .map(|block| {
            for token in block {
                state = mix64(state ^ u64::from(*token)).wrapping_add(0x9E37_79B9_7F4A_7C15);
            }
            state
        })
        .collect();
    let len = (ask.prompt.len() + ask.output_len as usize).div_ceil(unit);
    let own = (chain.len()..len).map(|block| mix64(mix64(idx + 1) ^ block as u64));
    chain.extend(own);
    chain
}

/// Keys by when they were last used.
#[derive(Debug, Default)]
struct Lru {
    clock: u64,
    used_at: BTreeMap<u64, u64>,
    by_age: BTreeMap<u64, u64>,
}

impl Lru {
    fn has(&self, key: u64) -> bool {
        self.used_at.contains_key(&key)
    }

    fn touch(&mut self, key: u64) {
        self.clock += 1;
        if let Some(before) = self.used_at.insert(key, self.clock) {
            self.by_age.remove(&before);
        }
        self.by_age.insert(self.clock, key);
    }

    fn shrink(&mut self, capacity: usize) {
        while self.by_age.len() > capacity {
            if let Some((_, key)) = self.by_age.pop_first() {
                self.used_at.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(prompt: impl IntoIterator<Item = u32>, output_len: u32) -> Ask {
        Ask::new(prompt.into_iter().collect(), output_len)
    }

    #[test]
    fn ideal_hits_by_hand() {
        let first = ask(0..64, 16);
        let same = ask(0..64, 16);
        let longer = ask(0..80, 16);
        let other = ask(100..164, 16);
        let hits = |asks: &[&Ask], capacity| ideal_hits(asks.iter().copied(), (16, capacity));
        assert_eq!(hits(&[&first, &other], 100), 0);
        assert_eq!(
            hits(&[&first, &same], 100),
            63,
            "the last token is computed"
        );
        assert_eq!(hits(&[&first, &longer], 100), 64);
        assert_eq!(hits(&[&first, &other, &same], 100), 63);
        assert_eq!(
            hits(&[&first, &other, &same], 5),
            0,
            "other took all blocks"
        );
        assert_eq!(
            hits(&[&first, &other, &same], 7),
            32,
            "the first two blocks stayed"
        );
    }

    #[test]
    fn a_block_is_its_tokens_and_all_before_them() {
        let a = content(&ask(0..48, 20), 16, 0);
        assert_eq!(a.len(), 5, "68 tokens");
        let b = content(&ask((0..32).chain(90..106), 20), 16, 1);
        assert_eq!(a[..2], b[..2]);
        assert!(a[2..].iter().all(|key| !b.contains(key)));
        let c = content(&ask((1..17).chain(16..48), 20), 16, 2);
        assert_ne!(a[1], c[1], "equal tokens after others");
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut cache = Lru::default();
        [1, 2, 3, 1].into_iter().for_each(|key| cache.touch(key));
        cache.shrink(2);
        assert_eq!([1, 2, 3].map(|key| cache.has(key)), [true, false, true]);
    }
}
