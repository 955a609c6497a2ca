//! What the engine keeps for a sequence beside the scheduler's bookkeeping: how to sample it, how
//! to turn its tokens into text, and whom to tell.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kvist_base::{FinishReason, TokenId, Tokens};
use kvist_grammar::Progress;
use kvist_sample::{SampleFault, Sampled, Sampler, SamplerState, SamplingParams, TokenLogprob};
use kvist_sched::{ChunkEnd, ChunkOutcome, FinishedSequence, NewSequence, PromptLogits};
use kvist_text::{DetokenizeOptions, Detokenizer, StopMatcher, Tokenizer};

use crate::constrain::Constrained;
use crate::emit::{Delta, Emitter, Finished, StoppedBy, StreamEvent, TokenLogprobs, Usage};
use crate::error::EngineFault;
use crate::metrics::{Histogram, MetricsSnapshot, RequestHistograms};
use crate::places::{Place, WaitingTokens};
use crate::request::{SpecialTokens, StopText};
use crate::shared::Submission;

pub(crate) struct Live {
    pub(crate) sampling: SamplingParams,
    pub(crate) state: SamplerState,
    detokenizer: Detokenizer,
    stop: StopMatcher,
    stop_texts: Vec<String>,
    stop_text: StopText,
    /// How many of the likeliest tokens are told for each of the prompt's.
    prompt_logprobs: u32,
    /// Whether nothing is to be drawn.
    ends_with_prompt: bool,
    ends: Vec<TokenId>,
    constrained: Option<Constrained>,
    emitter: Emitter,
    place: Place,
    /// `None` once a step has computed something of it.
    waiting: Option<WaitingTokens>,
    stopped_by: Option<StoppedBy>,
    times: Times,
    /// What was asked for.
    output_max: Tokens,
    alternatives: u32,
}

/// When things happened to a sequence.
struct Times {
    accepted: Instant,
    /// Its first step.
    begun: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
}

/// The end of a sequence that cannot go on.
pub(crate) const CANCELLED: ChunkEnd = ChunkEnd::Finished {
    token: None,
    reason: FinishReason::Cancelled,
};

impl Live {
    /// Splits a submission into what the scheduler needs and what the engine keeps.
    pub(crate) fn new(
        submission: Submission,
        tokenizer: &Arc<dyn Tokenizer>,
    ) -> (NewSequence, Self) {
        let Submission {
            id,
            request,
            emitter,
            place,
            waiting,
            accepted_at,
        } = submission;
        let options = DetokenizeOptions {
            skip_special_tokens: request.special_tokens == SpecialTokens::Hide,
            kept: request.marks,
        };
        let live = Self {
            state: SamplerState::new(&request.prompt),
            sampling: request.sampling,
            detokenizer: Detokenizer::new(Arc::clone(tokenizer), options),
            stop: request.stop,
            stop_texts: request.stop_texts,
            stop_text: request.stop_text,
            prompt_logprobs: request.prompt_logprobs.unwrap_or(0),
            ends_with_prompt: request.output_max.is_empty(),
            ends: request.ends,
            constrained: request.constrained,
            emitter,
            place,
            waiting: Some(waiting),
            stopped_by: None,
            times: Times {
                accepted: accepted_at,
                begun: None,
                first_token: None,
                last_token: None,
            },
            output_max: request.output_max,
            alternatives: request.alternatives,
        };
        let sequence = NewSequence {
            id,
            prompt: request.prompt,
            output_max: request.output_max,
            prompt_logits: match request.prompt_logprobs {
                Some(_) => PromptLogits::All,
                None => PromptLogits::Last,
            },
            cache_root: request.cache_root,
            priority: request.priority,
            tenant: request.tenant,
        };
        (sequence, live)
    }

    /// Whether this token would end the sequence.
    pub(crate) fn ends_at(&self, token: TokenId) -> bool {
        self.ends.contains(&token)
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.emitter.is_abandoned()
    }

    /// Time since it was accepted.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.times.accepted)
    }

    /// Its turn has come: a step computes some of it. Says so once, however often it is called.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.times.begun.get_or_insert(now);
        if self.waiting.take().is_some() {
            self.emitter.begin();
        }
    }

    /// Tells the client what these rows say of the prompt's tokens behind them.
    ///
    /// # Errors
    /// A row is not finite.
    pub(crate) fn score<'a>(
        &mut self,
        rows: impl Iterator<Item = (&'a [f32], TokenId)>,
        sampler: &mut Sampler,
    ) -> Result<(), EngineFault> {
        let count = self.prompt_logprobs;
        let scored = rows.map(|(row, token)| sampler.score(row, token, count));
        let prompt_logprobs: Vec<_> = scored.collect::<Result<_, SampleFault>>()?;
        if !prompt_logprobs.is_empty() {
            self.emitter.emit(StreamEvent::Delta(Delta {
                prompt_logprobs,
                ..Delta::default()
            }));
        }
        Ok(())
    }

    /// Draws a token from the first row, and from the next one for as long as the token drawn is the
    /// next of the draft: the tokens are those that one row a step would give. `rows` are those of the
    /// last known token and of each token of the draft.
    ///
    /// A row that is not finite ends the sequence, and so does a grammar without a next token; the
    /// fault is returned too.
    pub(crate) fn draw<'a>(
        &mut self,
        rows: &mut impl Iterator<Item = &'a [f32]>,
        draft: &[TokenId],
        (sampler, tokenizer): (&mut Sampler, &dyn Tokenizer),
    ) -> (ChunkOutcome, Option<EngineFault>) {
        let mut accepted = Tokens::ZERO;
        if self.ends_with_prompt {
            let end = ChunkEnd::Finished {
                token: None,
                reason: FinishReason::Length,
            };
            return (end.into(), None);
        }
        loop {
            let row = rows.next().expect("the batch asked for these rows");
            let end = match self.draw_one(row, sampler, tokenizer) {
                Ok(end) => end,
                Err(fault) => {
                    let end = CANCELLED;
                    return (ChunkOutcome { accepted, end }, Some(fault));
                }
            };
            let next = draft.get(accepted.len()).copied();
            match end {
                ChunkEnd::Sampled(token) if next == Some(token) => accepted += Tokens(1),
                _ => return (ChunkOutcome { accepted, end }, None),
            }
        }
    }

    fn draw_one(
        &mut self,
        row: &[f32],
        sampler: &mut Sampler,
        tokenizer: &dyn Tokenizer,
    ) -> Result<ChunkEnd, EngineFault> {
        let Self {
            constrained,
            sampling,
            state,
            ..
        } = self;
        let allowed = match constrained {
            Some(constrained) => Some(constrained.allowed()?),
            None => None,
        };
        let sampled = sampler.draw_among(row, allowed, sampling, state)?;
        let end = self.take(sampled, tokenizer);
        let (Some(constrained), ChunkEnd::Sampled(token)) = (&mut self.constrained, end) else {
            return Ok(end);
        };
        Ok(match constrained.advance(token)? {
            Progress::Open => end,
            Progress::Complete => ChunkEnd::Finished {
                token: Some(token),
                reason: FinishReason::Stop,
            },
        })
    }

    /// The sequence will draw in the step that begins: what it needs beside logits is prepared.
    pub(crate) fn prepare(&mut self) {
        if let Some(constrained) = &mut self.constrained {
            constrained.prepare();
        }
    }

    /// Takes in a sampled token: tells the client what became certain and decides whether the
    /// sequence ends here. End tokens count as output but have no text.
    pub(crate) fn take(&mut self, sampled: Sampled, tokenizer: &dyn Tokenizer) -> ChunkEnd {
        let Sampled {
            token,
            logprob,
            top,
        } = sampled;
        let mut delta = Delta {
            tokens: vec![token],
            text_lens: vec![0],
            ..Delta::default()
        };
        if let Some(logprob) = logprob {
            let chosen = TokenLogprob { token, logprob };
            delta.logprobs.push(TokenLogprobs { chosen, top });
        }
        let outcome = if self.ends.contains(&token) {
            if !tokenizer.is_end(token) {
                self.stopped_by = Some(StoppedBy::Token(token));
            }
            if self.stop_text == StopText::Include {
                delta.text = self.detokenizer.push(token);
            }
            ChunkEnd::Finished {
                token: Some(token),
                reason: FinishReason::Stop,
            }
        } else {
            let text = self.detokenizer.push(token);
            let verdict = self.stop.feed(text.as_str());
            delta.text = verdict.emit;
            match verdict.matched {
                Some(idx) => {
                    self.stopped_by = self.stop_texts.get(idx).cloned().map(StoppedBy::Text);
                    self.include_stop(idx, &mut delta.text);
                    ChunkEnd::Finished {
                        token: Some(token),
                        reason: FinishReason::Stop,
                    }
                }
                None => ChunkEnd::Sampled(token),
            }
        };
        delta.text_lens[0] = delta.text.len();
        self.emitter.emit(StreamEvent::Delta(delta));
        outcome
    }

    /// Ends the text with the stop string it ended at, where that is wanted.
    fn include_stop(&self, idx: usize, text: &mut String) {
        if self.stop_text == StopText::Include {
            text.push_str(&self.stop_texts[idx]);
        }
    }

    /// Records the times of `count` tokens that came at once: they share the time since the last one.
    pub(crate) fn clock(&mut self, now: Instant, count: Tokens, metrics: &mut MetricsSnapshot) {
        match self.times.last_token.replace(now) {
            // A draft follows an output token, so there is one only.
            None => {
                self.times.first_token = Some(now);
                let waited = now - self.times.accepted;
                metrics.ttft_seconds.observe(waited.as_secs_f64());
            }
            Some(before) => {
                let each = (now - before).as_secs_f64() / f64::from(count.0.max(1));
                metrics.itl_seconds.observe_times(each, count.0);
            }
        }
    }

    /// Counts what the sequence took, as far as it came.
    fn observe(&self, end: &FinishedSequence, requests: &mut RequestHistograms) {
        let usage = usage(end);
        let count = |histogram: &mut Histogram, tokens: Tokens| {
            histogram.observe(f64::from(tokens.0));
        };
        count(&mut requests.prompt_tokens, usage.prompt);
        count(&mut requests.output_tokens, usage.output);
        count(&mut requests.output_max, self.output_max);
        if self.alternatives > 0 {
            requests.alternatives.observe(self.alternatives.into());
        }
        let Some(begun) = self.times.begun else {
            return;
        };
        let computed = usage.prompt - usage.prefix_hit;
        count(&mut requests.computed_prompt_tokens, computed);
        requests.cached_prompt_tokens += u64::from(usage.prefix_hit.0);
        let queue = begun - self.times.accepted;
        requests.queue_seconds.observe(queue.as_secs_f64());
        let (Some(first), Some(last)) = (self.times.first_token, self.times.last_token) else {
            return;
        };
        let (decode, after_first) = (last - first, usage.output.saturating_sub(Tokens(1)));
        for (histogram, time) in [
            (&mut requests.prefill_seconds, first - begun),
            (&mut requests.decode_seconds, decode),
            (&mut requests.inference_seconds, last - begun),
        ] {
            histogram.observe(time.as_secs_f64());
        }
        if !after_first.is_empty() {
            let each = decode.as_secs_f64() / f64::from(after_first.0);
            requests.tpot_seconds.observe(each);
        }
    }

    /// Tells the client how it ended, after whatever text was held back.
    pub(crate) fn finish(mut self, end: &FinishedSequence, metrics: &mut MetricsSnapshot) {
        let by_stop_text = matches!(self.stopped_by, Some(StoppedBy::Text(_)));
        if !by_stop_text {
            let tail = self.detokenizer.finish();
            let verdict = self.stop.feed(tail.as_str());
            let mut text = verdict.emit;
            match verdict.matched {
                Some(idx) => self.include_stop(idx, &mut text),
                None => text.push_str(&self.stop.finish()),
            }
            if !text.is_empty() {
                self.emitter.emit(StreamEvent::Delta(Delta {
                    text,
                    ..Delta::default()
                }));
            }
        }
        let whole = self.times.accepted.elapsed();
        metrics.e2e_seconds.observe(whole.as_secs_f64());
        self.observe(end, &mut metrics.requests);
        match end.reason {
            FinishReason::Stop => metrics.finished.stop += 1,
            FinishReason::Length => metrics.finished.length += 1,
            FinishReason::Cancelled => metrics.finished.cancelled += 1,
        }
        // Before the client hears of the end: it may ask for the next request at once.
        drop(self.place);
        self.emitter.emit(StreamEvent::Finished(Finished {
            reason: end.reason,
            stopped_by: self.stopped_by,
            usage: usage(end),
        }));
    }

    /// Tells the client that we failed it.
    pub(crate) fn fail(self, fault: EngineFault, metrics: &mut MetricsSnapshot) {
        metrics.finished.failed += 1;
        drop(self.place);
        self.emitter.emit(StreamEvent::Failed(fault));
    }
}

fn usage(end: &FinishedSequence) -> Usage {
    let prefix_hit = end.prefix_hit_len.min(end.prompt_len);
    Usage {
        prompt: end.prompt_len,
        output: end.output_len,
        prefix_hit,
    }
}

impl Usage {
    /// Prompt and output together.
    pub fn total(&self) -> Tokens {
        self.prompt + self.output
    }
}
