//! Running one test once.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use kvist_base::{TokenId, Tokens, mix64};
use kvist_engine::{EndTokens, EngineHandle, GenerateSpec, Prompt, RequestHandle, StreamEvent};

use super::Test;
use crate::error::CliError;
use crate::exit::Exit;

/// Prompt of a sequence whose output is measured.
pub(super) const DECODE_PROMPT: Tokens = Tokens(1);

/// Makes prompts, no two alike.
pub(super) struct Workload {
    vocab_len: u64,
    drawn: u64,
}

impl Workload {
    pub(super) fn new(vocab_len: usize) -> Self {
        Self {
            vocab_len: vocab_len.max(1) as u64,
            drawn: 0,
        }
    }

    fn spec(&mut self, prompt: Tokens, output: Tokens) -> GenerateSpec {
        let mut token = || {
            self.drawn += 1;
            // Below the vocabulary's length, which fits a token id.
            TokenId(u32::try_from(mix64(self.drawn) % self.vocab_len).unwrap_or(0))
        };
        let prompt = (0..prompt.0).map(|_| token()).collect();
        GenerateSpec {
            output_max: Some(output),
            end_tokens: EndTokens::Ignore,
            ..GenerateSpec::greedy(Prompt::Tokens(prompt))
        }
    }

    /// Runs `test` once: tokens a second, over all sequences.
    pub(super) async fn rate(
        &mut self,
        test: &Test,
        engine: &EngineHandle,
    ) -> Result<f64, CliError> {
        let begun = Instant::now();
        match *test {
            Test::Prefill { prompt } => {
                let mut streams = vec![Stream::open(engine, self.spec(prompt, Tokens(1)))?];
                drive(&mut streams).await?;
                let first = streams[0].first().ok_or_else(nothing_measured)?;
                Ok(f64::from(prompt.0) / (first - begun).as_secs_f64())
            }
            Test::Decode { output, batch } => {
                let specs: Vec<_> = (0..batch)
                    .map(|_| self.spec(DECODE_PROMPT, output))
                    .collect();
                let mut streams = specs
                    .into_iter()
                    .map(|spec| Stream::open(engine, spec))
                    .collect::<Result<Vec<_>, _>>()?;
                drive(&mut streams).await?;
                let times: Vec<_> = streams
                    .iter()
                    .map(|stream| stream.times.as_slice())
                    .collect();
                rate_of_all(&times).ok_or_else(nothing_measured)
            }
        }
    }
}

fn nothing_measured() -> CliError {
    CliError::new(Exit::Usage, "the test is too short to be measured")
        .because("the first sequence ended before the last one began")
        .fix("-n 128")
}

/// When tokens arrived, and how many at a time.
type Arrivals = [(Instant, u32)];

/// Tokens a second while every sequence was producing: from the last one's first token to the
/// first one's last.
///
/// ```text
/// a  x---x---x---x---x
/// b      x---x---x---x---x
///        |-----------|       six of the ten count: those after the bar on the left
/// ```
fn rate_of_all(times: &[&Arrivals]) -> Option<f64> {
    let begin = times
        .iter()
        .map(|arrivals| arrivals.first().map(|a| a.0))
        .max()??;
    let end = times
        .iter()
        .map(|arrivals| arrivals.last().map(|a| a.0))
        .min()??;
    let span = end
        .checked_duration_since(begin)
        .filter(|span| *span > Duration::ZERO)?;
    let arrivals = times.iter().flat_map(|arrivals| arrivals.iter());
    let counted = arrivals.filter(|(at, _)| begin < *at && *at <= end);
    let tokens: u64 = counted.map(|(_, tokens)| u64::from(*tokens)).sum();
    #[allow(clippy::cast_precision_loss)] // far below 2^52 tokens
    Some(tokens as f64 / span.as_secs_f64())
}

/// One request under way.
struct Stream {
    request: RequestHandle,
    times: Vec<(Instant, u32)>,
}

impl Stream {
    fn open(engine: &EngineHandle, spec: GenerateSpec) -> Result<Self, CliError> {
        Ok(Self {
            request: engine.submit(spec)?,
            times: Vec::new(),
        })
    }

    fn first(&self) -> Option<Instant> {
        self.times.first().map(|arrival| arrival.0)
    }

    /// Takes what has arrived; ready when nothing more will.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), CliError>> {
        loop {
            match self.request.poll_next(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(StreamEvent::Delta(delta))) => {
                    let tokens = u32::try_from(delta.tokens.len()).unwrap_or(u32::MAX);
                    self.times.push((Instant::now(), tokens));
                }
                Poll::Ready(Some(StreamEvent::Failed(fault))) => {
                    return Poll::Ready(Err(fault.into()));
                }
                Poll::Ready(Some(StreamEvent::Finished(_)) | None) => return Poll::Ready(Ok(())),
            }
        }
    }
}

/// Reads all streams to their ends.
async fn drive(streams: &mut [Stream]) -> Result<(), CliError> {
    let mut open: Vec<&mut Stream> = streams.iter_mut().collect();
    poll_fn(|context| {
        let mut failed = None;
        open.retain_mut(|stream| match stream.poll(context) {
            Poll::Pending => true,
            Poll::Ready(result) => {
                failed = failed.take().or(result.err());
                false
            }
        });
        match (failed, open.is_empty()) {
            (Some(error), _) => Poll::Ready(Err(error)),
            (None, true) => Poll::Ready(Ok(())),
            (None, false) => Poll::Pending,
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_time_when_all_produce_counts() {
        let zero = Instant::now();
        let at = |ms: u64, tokens: u32| (zero + Duration::from_millis(ms), tokens);
        let a = [at(0, 1), at(100, 1), at(200, 1), at(300, 2)];
        let b = [at(100, 1), at(200, 2), at(300, 1), at(900, 1)];
        // From 100 to 300 ms: 1 + 2 of a, 2 + 1 of b.
        let rate = rate_of_all(&[&a, &b]).unwrap();
        assert!((rate - 30.0).abs() < 1e-9, "{rate}");
        assert!((rate_of_all(&[&a]).unwrap() - 4.0 / 0.3).abs() < 1e-9);
    }

    #[test]
    fn sequences_that_never_overlap_have_no_rate() {
        let zero = Instant::now();
        let at = |ms: u64| (zero + Duration::from_millis(ms), 1);
        assert_eq!(rate_of_all(&[&[at(0), at(10)], &[at(20), at(30)]]), None);
        assert_eq!(rate_of_all(&[&[at(0)]]), None);
        assert_eq!(rate_of_all(&[&[at(0), at(9)], &[]]), None);
        assert_eq!(rate_of_all(&[]), None);
    }

    #[test]
    fn prompts_differ_and_stay_in_the_vocabulary() {
        let mut workload = Workload::new(50);
        let mut prompt = || match workload.spec(Tokens(20), Tokens(1)).prompt {
            Prompt::Tokens(tokens) => tokens,
            other => panic!("{other:?}"),
        };
        let (first, second) = (prompt(), prompt());
        assert_ne!(first, second);
        assert!(first.iter().chain(&second).all(|token| token.0 < 50) && first.len() == 20);
    }
}
