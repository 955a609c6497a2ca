//! Counters, gauges and latency histograms, as values.

use kvist_base::Tokens;

/// A cumulative histogram with fixed upper bounds, in the form Prometheus expects.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// Upper bounds of the buckets, ascending; an implicit last bucket has no bound.
    pub bounds: &'static [f64],
    /// Observations per bucket, one more than `bounds`. Not cumulative.
    pub counts: Vec<u64>,
    /// Sum of all observations.
    pub sum: f64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: vec![0; bounds.len() + 1],
            sum: 0.0,
        }
    }

    pub(crate) fn observe(&mut self, value: f64) {
        self.observe_times(value, 1);
    }

    /// So many equal observations.
    pub(crate) fn observe_times(&mut self, value: f64, times: u32) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket] += u64::from(times);
        self.sum += value * f64::from(times);
    }

    /// Observations in all.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// vLLM's buckets for time to first token, in seconds.
const TTFT_BOUNDS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
/// vLLM's buckets for the time between tokens, in seconds.
const ITL_BOUNDS: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
];
/// vLLM's buckets for whole requests, in seconds.
const E2E_BOUNDS: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];

/// Tokens of a step: vLLM's buckets.
const STEP_BOUNDS: &[f64] = &[
    1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0,
];
/// Alternatives of a prompt: vLLM's buckets.
const ALTERNATIVE_BOUNDS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0];
/// Tokens of a request: as many of these as its model can have.
const TOKEN_BOUNDS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5,
    5e5, 1e6, 2e6, 5e6, 1e7,
];

/// vLLM's buckets for tokens of requests to a model with this context.
fn token_bounds(model_len: Tokens) -> &'static [f64] {
    let max = f64::from(model_len.0);
    &TOKEN_BOUNDS[..TOKEN_BOUNDS.partition_point(|bound| *bound <= max)]
}

/// Times and sizes of requests that ended, as distributions.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestHistograms {
    /// Seconds from acceptance to the first step.
    pub queue_seconds: Histogram,
    /// Seconds from the first step to the first output token.
    pub prefill_seconds: Histogram,
    /// Seconds from the first output token to the last.
    pub decode_seconds: Histogram,
    /// Seconds from the first step to the last output token.
    pub inference_seconds: Histogram,
    /// Seconds for each output token after the first: the request's mean.
    pub tpot_seconds: Histogram,
    /// Tokens of the prompt.
    pub prompt_tokens: Histogram,
    /// Tokens of the prompt that were computed, not found in the prefix cache.
    pub computed_prompt_tokens: Histogram,
    /// Tokens of prompts that were found there.
    pub cached_prompt_tokens: u64,
    /// Tokens of the output.
    pub output_tokens: Histogram,
    /// Most tokens of the output that were asked for, or that there was room for.
    pub output_max: Histogram,
    /// Alternatives asked for, once a prompt.
    pub alternatives: Histogram,
}

impl RequestHistograms {
    fn new(model_len: Tokens) -> Self {
        let tokens = || Histogram::new(token_bounds(model_len));
        Self {
            queue_seconds: Histogram::new(E2E_BOUNDS),
            prefill_seconds: Histogram::new(E2E_BOUNDS),
            decode_seconds: Histogram::new(E2E_BOUNDS),
            inference_seconds: Histogram::new(E2E_BOUNDS),
            tpot_seconds: Histogram::new(ITL_BOUNDS),
            prompt_tokens: tokens(),
            computed_prompt_tokens: tokens(),
            cached_prompt_tokens: 0,
            output_tokens: tokens(),
            output_max: tokens(),
            alternatives: Histogram::new(ALTERNATIVE_BOUNDS),
        }
    }
}

/// Everything the engine counts, as of the last step.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricsSnapshot {
    /// Sequences with KV blocks.
    pub running: usize,
    /// Sequences waiting for blocks or a place in the batch.
    pub waiting: usize,
    /// KV blocks without content worth keeping.
    pub blocks_free: u32,
    /// KV blocks referenced by a sequence.
    pub blocks_held: u32,
    /// KV blocks unreferenced but reusable as a prefix.
    pub blocks_cached: u32,
    /// KV blocks in all.
    pub blocks_total: u32,
    /// Requests accepted since start.
    pub accepted: u64,
    /// Requests refused because all places were taken.
    pub rejected: u64,
    /// Requests ended by logits that were not numbers.
    pub corrupted: u64,
    /// Requests ended by a stop, by length, by cancellation, by a fault.
    pub finished: FinishedCounts,
    /// Prompt tokens of accepted requests.
    pub prompt_tokens: u64,
    /// Output tokens produced.
    pub output_tokens: u64,
    /// Tokens run through the model, prompt and output, recomputation included.
    pub computed_tokens: u64,
    /// Sequences preempted.
    pub preemptions: u64,
    /// Prompt tokens looked up in the prefix cache.
    pub prefix_query_tokens: u64,
    /// Prompt tokens found there.
    pub prefix_hit_tokens: u64,
    /// KV blocks sent to the second tier.
    pub spilled_blocks: u64,
    /// KV blocks read back from it.
    pub restored_blocks: u64,
    /// Draft tokens computed.
    pub drafted_tokens: u64,
    /// Of those, tokens that were drawn too.
    pub accepted_draft_tokens: u64,
    /// Of the draft tokens computed, those that the draft model guessed.
    pub draft_model_tokens: u64,
    /// Of those, tokens that were drawn too.
    pub accepted_draft_model_tokens: u64,
    /// Rows the draft model computed.
    pub draft_model_rows: u64,
    /// Seconds that took.
    pub draft_model_seconds: f64,
    /// Steps run.
    pub steps: u64,
    /// Bytes of weights read from their file by steps.
    pub weights_streamed_bytes: u64,
    /// Seconds that reading them took, summed over threads.
    pub weights_streamed_seconds: f64,
    /// Tokens computed in a step.
    pub step_tokens: Histogram,
    /// What requests took.
    pub requests: RequestHistograms,
    /// Seconds from acceptance to the first output token.
    pub ttft_seconds: Histogram,
    /// Seconds between output tokens of one request.
    pub itl_seconds: Histogram,
    /// Seconds from acceptance to the end.
    pub e2e_seconds: Histogram,
}

/// Ended requests by how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FinishedCounts {
    /// End token or stop string.
    pub stop: u64,
    /// Output or context limit.
    pub length: u64,
    /// Client gone.
    pub cancelled: u64,
    /// Engine fault.
    pub failed: u64,
}

impl MetricsSnapshot {
    pub(crate) fn new(model_len: Tokens) -> Self {
        Self {
            running: 0,
            waiting: 0,
            blocks_free: 0,
            blocks_held: 0,
            blocks_cached: 0,
            blocks_total: 0,
            accepted: 0,
            rejected: 0,
            corrupted: 0,
            finished: FinishedCounts::default(),
            prompt_tokens: 0,
            output_tokens: 0,
            computed_tokens: 0,
            preemptions: 0,
            prefix_query_tokens: 0,
            prefix_hit_tokens: 0,
            spilled_blocks: 0,
            restored_blocks: 0,
            drafted_tokens: 0,
            accepted_draft_tokens: 0,
            draft_model_tokens: 0,
            accepted_draft_model_tokens: 0,
            draft_model_rows: 0,
            draft_model_seconds: 0.0,
            steps: 0,
            weights_streamed_bytes: 0,
            weights_streamed_seconds: 0.0,
            step_tokens: Histogram::new(STEP_BOUNDS),
            requests: RequestHistograms::new(model_len),
            ttft_seconds: Histogram::new(TTFT_BOUNDS),
            itl_seconds: Histogram::new(ITL_BOUNDS),
            e2e_seconds: Histogram::new(E2E_BOUNDS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_of_tokens_end_at_the_context() {
        assert_eq!(token_bounds(Tokens(512)).last(), Some(&500.0));
        assert_eq!(token_bounds(Tokens(5000)).last(), Some(&5000.0));
        assert_eq!(token_bounds(Tokens(2)), [1.0, 2.0]);
    }

    #[test]
    fn a_bound_belongs_to_its_own_bucket() {
        let mut histogram = Histogram::new(&[1.0, 2.0]);
        for value in [0.5, 1.0, 1.5, 2.0, 9.0] {
            histogram.observe(value);
        }
        assert_eq!(histogram.counts, [2, 2, 1]);
        assert_eq!(histogram.count(), 5);
        assert!((histogram.sum - 14.0).abs() < 1e-12);
    }
}
