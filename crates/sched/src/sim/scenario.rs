//! Limits, odds and events drawn from a seed.

use kvist_base::{Blocks, SeqId, TokenId, Tokens, mix64};

use super::model::FakeModel;
use super::world::Event;
use crate::config::SchedulerConfig;
use crate::sequence::NewSequence;

/// The splitmix64 stream of a seed.
#[derive(Debug)]
pub(crate) struct Rng {
    state: u64,
}

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        // Neighbouring seeds must not give shifted copies of one stream.
        Self {
            state: mix64(seed ^ 0x5851_F42D_4C95_7F2D),
        }
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix64(self.state)
    }

    /// A number in `low..=high`. The bias of the remainder does not matter here.
    pub(crate) fn between(&mut self, low: u32, high: u32) -> u32 {
        assert!(low <= high);
        let offset = self.bits() % (u64::from(high - low) + 1);
        low + u32::try_from(offset).expect("less than a u32 range")
    }

    pub(crate) fn one_in(&mut self, n: u32) -> bool {
        self.between(1, n) == 1
    }

    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        let last = u32::try_from(items.len()).ok()?.checked_sub(1)?;
        items.get(self.between(0, last) as usize)
    }

    fn tokens(&mut self, len: u32) -> Vec<TokenId> {
        (0..len).map(|_| TokenId(self.between(0, 1))).collect()
    }
}

const STEM_LEN: u32 = 24;

/// Relative odds of the events.
#[derive(Clone, Copy, Debug)]
struct Odds {
    admit: u32,
    step: u32,
    step_cancelling: u32,
    abandon: u32,
    cancel: u32,
    preempt: u32,
    reset: u32,
}

/// Everything that distinguishes one history's setting from another's.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) config: SchedulerConfig,
    pub(crate) hash_mask: u128,
    pub(super) model: FakeModel,
    pub(super) event_count: u32,
    odds: Odds,
    /// Prompts begin like one of these.
    stems: Vec<Vec<TokenId>>,
    root_count: u32,
}

impl Scenario {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let block_size = Tokens(rng.between(1, 4));
        let blocks_total = Blocks(rng.between(3, 12));
        let chunk_max = rng.one_in(2).then(|| Tokens(rng.between(1, 6)));
        let odd = |rng: &mut Rng, high| {
            if rng.one_in(3) {
                0
            } else {
                rng.between(1, high)
            }
        };
        Self {
            config: SchedulerConfig {
                block_size,
                blocks_total,
                running_max: rng.between(1, 6) as usize,
                waiting_max: rng.between(1, 8) as usize,
                step_tokens_max: Tokens(rng.between(1, 24)),
                chunk_max,
                model_len_max: Tokens(rng.between(4, 48)),
                prefix_caching: !rng.one_in(8),
                watermark: Blocks(rng.between(0, 4).saturating_sub(2)),
            },
            hash_mask: *rng
                .pick(&[u128::MAX, u128::MAX, u128::MAX, 7, 0])
                .expect("not empty"),
            model: FakeModel {
                stop_every: u64::from(odd(rng, 20)),
            },
            event_count: rng.between(20, 300),
            odds: Odds {
                admit: rng.between(1, 10),
                step: rng.between(4, 20),
                step_cancelling: odd(rng, 3),
                abandon: odd(rng, 3),
                cancel: odd(rng, 3),
                preempt: odd(rng, 4),
                reset: odd(rng, 2),
            },
            stems: (0..rng.between(1, 3))
                .map(|_| rng.tokens(STEM_LEN))
                .collect(),
            root_count: rng.between(1, 2),
        }
    }

    /// The next event, among those that `live` sequences allow.
    pub(super) fn draw_event(&self, rng: &mut Rng, live: &[SeqId]) -> Event {
        let Odds {
            admit,
            step,
            step_cancelling,
            abandon,
            cancel,
            preempt,
            reset,
        } = self.odds;
        let bounds = [
            admit,
            step,
            step_cancelling,
            abandon,
            cancel,
            preempt,
            reset,
        ];
        let mut draw = rng.between(1, bounds.iter().sum());
        let mut kind = 0;
        while draw > bounds[kind] {
            draw -= bounds[kind];
            kind += 1;
        }
        let target = rng.pick(live).copied();
        match (kind, target) {
            (0, _) => Event::Admit(self.draw_sequence(rng)),
            (2, Some(seq)) => Event::StepCancelling(seq),
            (3, _) => Event::Abandon,
            (4, Some(seq)) => Event::Cancel(seq),
            (5, Some(seq)) => Event::Preempt(seq),
            (6, _) => Event::Reset,
            _ => Event::Step,
        }
    }

    /// A sequence; the world gives it an id. Most fit into the pool several at a time, so that they
    /// compete for it; some are of any size.
    fn draw_sequence(&self, rng: &mut Rng) -> NewSequence {
        let pool_len = self.config.block_size.0 * self.config.blocks_total.0;
        let room = pool_len.min(self.config.model_len_max.0);
        let (stem_max, output_max) = if rng.one_in(12) {
            (STEM_LEN, 20)
        } else {
            (room / 2, room / 2)
        };
        let mut prompt = rng.pick(&self.stems).expect("there is a stem").clone();
        prompt.truncate(rng.between(0, stem_max) as usize);
        let tail_len = rng.between(u32::from(prompt.is_empty()), 2);
        prompt.extend(rng.tokens(tail_len));
        NewSequence {
            id: SeqId(0),
            prompt,
            output_max: Tokens(rng.between(1, output_max)),
            cache_root: u64::from(rng.between(1, self.root_count)),
        }
    }
}
