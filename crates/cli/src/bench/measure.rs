//! Running one test once.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use kvist_base::{TokenId, Tokens, mix64};
use kvist_engine::{
    EndTokens, EngineHandle, GenerateSpec, Prompt, RequestHandle, StreamEvent, Usage,
};

use super::test::{Test, What};
use crate::error::CliError;
use crate::exit::Exit;

/// Makes prompts, no two alike but for contexts that are meant to be.
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

    /// Runs `test` once: tokens a second, over all sequences.
    pub(super) async fn rate(
        &mut self,
        test: &Test,
        engine: &EngineHandle,
    ) -> Result<f64, CliError> {
        for sequence in 0..test.batch() {
            self.prepare(sequence, test.depth, engine).await?;
        }
        match test.what {
            What::Prefill { prompt } => {
                let tokens = self.prompt(0, test.depth, prompt);
                let begun = Instant::now();
                let mut streams = vec![Stream::open(engine, spec(tokens, Tokens(1)))?];
                drive(&mut streams).await?;
                let first = streams[0].first().ok_or_else(nothing_measured)?;
                let usage = streams[0].usage.ok_or_else(nothing_measured)?;
                let computed = computed(test, usage, engine)?;
                Ok(f64::from(computed) / (first - begun).as_secs_f64())
            }
            What::Decode { output, batch } => {
                let fresh = Tokens(test.before().0 - test.depth.0);
                let specs: Vec<_> = (0..batch)
                    .map(|sequence| spec(self.prompt(sequence, test.depth, fresh), output))
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

    /// Leaves the context of a sequence in the cache; next to nothing is computed if it is there.
    async fn prepare(
        &mut self,
        sequence: u32,
        depth: Tokens,
        engine: &EngineHandle,
    ) -> Result<(), CliError> {
        if depth == Tokens(0) {
            return Ok(());
        }
        let context = spec(self.prompt(sequence, depth, Tokens(0)), Tokens(1));
        drive(&mut [Stream::open(engine, context)?]).await
    }

    /// The context of a sequence, then tokens that never were.
    fn prompt(&mut self, sequence: u32, depth: Tokens, fresh: Tokens) -> Vec<TokenId> {
        // The numbers of contexts and of fresh tokens have no value in common.
        let context = (0..depth.0).map(|at| 1 << 63 | u64::from(sequence) << 32 | u64::from(at));
        let fresh = self.drawn..self.drawn + u64::from(fresh.0);
        self.drawn = fresh.end;
        // Below the vocabulary's length, which fits a token id.
        let token = |idx| TokenId(u32::try_from(mix64(idx) % self.vocab_len).unwrap_or(0));
        context.chain(fresh).map(token).collect()
    }
}

/// Greedy, and not ended by the model.
fn spec(prompt: Vec<TokenId>, output: Tokens) -> GenerateSpec {
    GenerateSpec {
        output_max: Some(output),
        end_tokens: EndTokens::Ignore,
        ..GenerateSpec::greedy(Prompt::Tokens(prompt))
    }
}

/// Tokens of a prompt that were computed while it was timed: those behind the context, and the
/// part of a block the context ends with.
fn computed(test: &Test, usage: Usage, engine: &EngineHandle) -> Result<u32, CliError> {
    let block_size = crate::session::block_size(&engine.info().plan).0;
    let hit = usage.prefix_hit.0;
    if hit < test.depth.0 / block_size * block_size {
        let what = format!(
            "{} was not measured behind its context: {hit} of {} tokens were left in the cache",
            test.name(),
            test.depth.0
        );
        return Err(CliError::new(Exit::Other, what).fix("more memory: --memory SIZE"));
    }
    Ok(usage.prompt.0 - hit)
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
    /// What it took, once it has ended.
    usage: Option<Usage>,
}

impl Stream {
    fn open(engine: &EngineHandle, spec: GenerateSpec) -> Result<Self, CliError> {
        Ok(Self {
            request: engine.submit(spec)?,
            times: Vec::new(),
            usage: None,
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
                Poll::Ready(Some(StreamEvent::Finished(finished))) => {
                    self.usage = Some(finished.usage);
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(None) => return Poll::Ready(Ok(())),
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
    fn prompts_differ_but_for_their_contexts() {
        let mut workload = Workload::new(50);
        let mut prompt = |sequence, depth, fresh| {
            let prompt = workload.prompt(sequence, Tokens(depth), Tokens(fresh));
            assert!(prompt.iter().all(|token| token.0 < 50));
            prompt
        };
        let (first, second) = (prompt(0, 0, 20), prompt(0, 0, 20));
        assert!(first != second && first.len() == 20);
        let (short, long) = (prompt(1, 16, 8), prompt(1, 32, 8));
        assert!(short[..16] == long[..16] && short[16..] != long[16..24]);
        assert!(long.len() == 40 && long[..32] != prompt(2, 32, 0));
    }
}
