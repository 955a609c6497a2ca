//! What the engine keeps for a sequence beside the scheduler's bookkeeping: how to sample it, how
//! to turn its tokens into text, and whom to tell.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kvist_base::{FinishReason, TokenId, Tokens};
use kvist_grammar::Progress;
use kvist_sample::{Sampled, Sampler, SamplerState, SamplingParams, TokenLogprob};
use kvist_sched::{ChunkEnd, ChunkOutcome, FinishedSequence, NewSequence};
use kvist_text::{DetokenizeOptions, Detokenizer, StopMatcher, Tokenizer};

use crate::constrain::Constrained;
use crate::emit::{Delta, Emitter, Finished, StoppedBy, StreamEvent, TokenLogprobs, Usage};
use crate::error::EngineFault;
use crate::metrics::MetricsSnapshot;
use crate::places::{Place, WaitingTokens};
use crate::request::SpecialTokens;
use crate::shared::Submission;

pub(crate) struct Live {
    pub(crate) sampling: SamplingParams,
    pub(crate) state: SamplerState,
    detokenizer: Detokenizer,
    stop: StopMatcher,
    stop_texts: Vec<String>,
    ends: Vec<TokenId>,
    constrained: Option<Constrained>,
    emitter: Emitter,
    place: Place,
    /// `None` once a step has computed something of it.
    waiting: Option<WaitingTokens>,
    stopped_by: Option<StoppedBy>,
    accepted_at: Instant,
    last_token_at: Option<Instant>,
}

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
            ends: request.ends,
            constrained: request.constrained,
            emitter,
            place,
            waiting: Some(waiting),
            stopped_by: None,
            accepted_at,
            last_token_at: None,
        };
        let sequence = NewSequence {
            id,
            prompt: request.prompt,
            output_max: request.output_max,
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
        now.saturating_duration_since(self.accepted_at)
    }

    /// Its turn has come. Says so once, however often it is called.
    pub(crate) fn begin(&mut self) {
        if self.waiting.take().is_some() {
            self.emitter.begin();
        }
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
        loop {
            let row = rows.next().expect("the batch asked for these rows");
            let end = match self.draw_one(row, sampler, tokenizer) {
                Ok(end) => end,
                Err(fault) => {
                    let end = ChunkEnd::Finished {
                        token: None,
                        reason: FinishReason::Cancelled,
                    };
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
            ChunkEnd::Finished {
                token: Some(token),
                reason: FinishReason::Stop,
            }
        } else {
            let text = self.detokenizer.push(token);
            let verdict = self.stop.feed(text.as_str());
            delta.text = verdict.emit;
            delta.text_lens[0] = delta.text.len();
            match verdict.matched {
                Some(idx) => {
                    self.stopped_by = self.stop_texts.get(idx).cloned().map(StoppedBy::Text);
                    ChunkEnd::Finished {
                        token: Some(token),
                        reason: FinishReason::Stop,
                    }
                }
                None => ChunkEnd::Sampled(token),
            }
        };
        self.emitter.emit(StreamEvent::Delta(delta));
        outcome
    }

    /// Records the times of `count` tokens that came at once: they share the time since the last one.
    pub(crate) fn clock(&mut self, now: Instant, count: Tokens, metrics: &mut MetricsSnapshot) {
        match self.last_token_at.replace(now) {
            // A draft follows an output token, so there is one only.
            None => metrics
                .ttft_seconds
                .observe((now - self.accepted_at).as_secs_f64()),
            Some(before) => {
                let each = (now - before).as_secs_f64() / f64::from(count.0.max(1));
                metrics.itl_seconds.observe_times(each, count.0);
            }
        }
    }

    /// Tells the client how it ended, after whatever text was held back.
    pub(crate) fn finish(mut self, end: &FinishedSequence, metrics: &mut MetricsSnapshot) {
        let by_stop_text = matches!(self.stopped_by, Some(StoppedBy::Text(_)));
        if !by_stop_text {
            let tail = self.detokenizer.finish();
            let verdict = self.stop.feed(tail.as_str());
            let mut text = verdict.emit;
            if verdict.matched.is_none() {
                text.push_str(&self.stop.finish());
            }
            if !text.is_empty() {
                self.emitter.emit(StreamEvent::Delta(Delta {
                    text,
                    ..Delta::default()
                }));
            }
        }
        metrics
            .e2e_seconds
            .observe(self.accepted_at.elapsed().as_secs_f64());
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
