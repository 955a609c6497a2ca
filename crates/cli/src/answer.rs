//! One answer from the engine, streamed as it comes and timed.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use kvist_base::{FinishReason, Tokens};
use kvist_engine::{EngineHandle, GenerateSpec, StreamEvent, Usage};

use crate::error::{CliError, output_error};
use crate::session::block_size;
use crate::signals::StopSignals;
use crate::terminal::printable;

/// A finished or stopped answer.
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) end: AnswerEnd,
    pub(crate) stats: Stats,
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AnswerEnd {
    Finished(FinishReason),
    /// By the user.
    Stopped,
}

/// What an answer took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stats {
    prompt_tokens: u32,
    output_tokens: u32,
    prefix_hit_tokens: u32,
    first_token: Option<Duration>,
    total: Duration,
    blocks_needed: u32,
    blocks_total: u32,
    seed: u64,
}

impl Stats {
    /// Output tokens a second after the first, whose time is the prompt's.
    fn decode_rate(&self) -> Option<f64> {
        let seconds = (self.total - self.first_token?).as_secs_f64();
        let tokens = self.output_tokens.checked_sub(1)?;
        (tokens > 0 && seconds > 0.0).then(|| f64::from(tokens) / seconds)
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} tokens", self.output_tokens)?;
        if let Some(rate) = self.decode_rate() {
            write!(f, ", {rate:.1} tok/s")?;
        }
        if let Some(first) = self.first_token {
            write!(f, ", first token {:.2} s", first.as_secs_f64())?;
        }
        write!(f, ", prompt {} tokens", self.prompt_tokens)?;
        if self.prefix_hit_tokens > 0 {
            write!(f, " ({} reused)", self.prefix_hit_tokens)?;
        }
        write!(
            f,
            ", KV {} of {} blocks, seed {}]",
            self.blocks_needed, self.blocks_total, self.seed
        )
    }
}

/// Submits `spec` and copies the answer to standard output until it ends or a signal stops it.
///
/// # Errors
/// When the request is refused, the engine fails, or standard output cannot be written.
pub(crate) async fn stream(
    engine: &EngineHandle,
    spec: GenerateSpec,
    signals: &mut StopSignals,
) -> Result<Answer, CliError> {
    let seed = spec.sampling.seed;
    let begun = Instant::now();
    let mut request = engine.submit(spec)?;
    let prompt_tokens = request.prompt_len().0;
    let mut out = Output::default();
    let mut stats = Stats {
        prompt_tokens,
        seed,
        ..Stats::default()
    };
    let end = loop {
        let event = tokio::select! {
            biased;
            () = signals.next() => break AnswerEnd::Stopped,
            event = request.next() => event,
        };
        match event {
            Some(StreamEvent::Delta(delta)) => {
                stats.first_token.get_or_insert_with(|| begun.elapsed());
                stats.output_tokens += u32::try_from(delta.tokens.len()).unwrap_or(u32::MAX);
                out.push(&delta.text)
                    .map_err(|error| output_error(&error))?;
            }
            Some(StreamEvent::Finished(finished)) => {
                let Usage {
                    output, prefix_hit, ..
                } = finished.usage;
                (stats.output_tokens, stats.prefix_hit_tokens) = (output.0, prefix_hit.0);
                break AnswerEnd::Finished(finished.reason);
            }
            Some(StreamEvent::Failed(fault)) => return Err(fault.into()),
            None => return Err(stopped(engine)),
        }
    };
    stats.total = begun.elapsed();
    let plan = &engine.info().plan;
    let len = Tokens(stats.prompt_tokens.saturating_add(stats.output_tokens));
    stats.blocks_needed = len.div_ceil(block_size(plan)).0;
    stats.blocks_total = plan.kv.blocks.0;
    let text = out.finish().map_err(|error| output_error(&error))?;
    Ok(Answer { text, end, stats })
}

/// The engine went away without a word about this request.
fn stopped(engine: &EngineHandle) -> CliError {
    match engine.status() {
        kvist_engine::EngineStatus::Failed(fault) => fault.into(),
        status => CliError::new(
            crate::exit::Exit::EngineFault,
            format!("the engine ended while it answered ({status:?})"),
        ),
    }
}

/// Standard output, and the answer as it is meant.
struct Output {
    text: String,
    is_terminal: bool,
}

impl Default for Output {
    fn default() -> Self {
        Self {
            text: String::new(),
            is_terminal: io::stdout().is_terminal(),
        }
    }
}

impl Output {
    /// A file gets the model's bytes; a terminal is spared what it would obey.
    fn push(&mut self, piece: &str) -> io::Result<()> {
        self.text.push_str(piece);
        let mut out = io::stdout().lock();
        if self.is_terminal {
            out.write_all(printable(piece).as_bytes())?;
        } else {
            out.write_all(piece.as_bytes())?;
        }
        out.flush()
    }

    /// Ends the last line and gives back the whole text.
    fn finish(self) -> io::Result<String> {
        if !self.text.ends_with('\n') {
            writeln!(io::stdout())?;
        }
        Ok(self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_has_rates_only_where_there_is_something_to_divide() {
        let mut stats = Stats {
            prompt_tokens: 12,
            seed: 7,
            blocks_needed: 1,
            blocks_total: 512,
            ..Stats::default()
        };
        assert_eq!(
            stats.to_string(),
            "[0 tokens, prompt 12 tokens, KV 1 of 512 blocks, seed 7]"
        );
        stats.output_tokens = 21;
        stats.first_token = Some(Duration::from_millis(310));
        stats.total = Duration::from_millis(2310);
        stats.prefix_hit_tokens = 8;
        assert_eq!(
            stats.to_string(),
            "[21 tokens, 10.0 tok/s, first token 0.31 s, prompt 12 tokens (8 reused), \
             KV 1 of 512 blocks, seed 7]"
        );
    }
}
