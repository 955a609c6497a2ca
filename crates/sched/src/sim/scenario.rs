//! Limits, odds and events drawn from a seed.

use kvist_base::{Blocks, SeqId, TokenId, Tokens, mix64};

use super::model::FakeModel;
use super::world::Event;
use crate::config::{Admission, Fairness, SchedulerConfig};
use crate::kv::TierSlot;
use crate::scheduler::TierCosts;
use crate::sequence::{NewSequence, PromptLogits};

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

/// The kinds of events.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Admit,
    Step,
    StepCancelling,
    Propose,
    Abandon,
    Cancel,
    Preempt,
    Reset,
    Resize,
    DropCached,
    LoseSlot,
    StepDamaged,
}

/// Relative odds of the kinds.
type Odds = Vec<(Kind, u32)>;

fn draw_odds(rng: &mut Rng) -> Odds {
    // A kind that a history does not have at all lets others go on for longer.
    let mut odd = |kind, high: u32| {
        (
            kind,
            rng.between(0, high + high / 2).saturating_sub(high / 2),
        )
    };
    let mut odds = vec![
        odd(Kind::StepCancelling, 3),
        odd(Kind::Abandon, 3),
        odd(Kind::Cancel, 3),
        odd(Kind::Preempt, 4),
        odd(Kind::Reset, 2),
        odd(Kind::Resize, 4),
        odd(Kind::DropCached, 2),
        odd(Kind::LoseSlot, 1),
        odd(Kind::StepDamaged, 2),
        odd(Kind::Propose, 20),
    ];
    odds.push((Kind::Admit, rng.between(1, 10)));
    odds.push((Kind::Step, rng.between(4, 20)));
    odds
}

/// Everything that distinguishes one history's setting from another's.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) config: SchedulerConfig,
    pub(crate) hash_mask: u128,
    pub(super) tier_costs: Option<TierCosts>,
    pub(super) model: FakeModel,
    pub(super) event_count: u32,
    odds: Odds,
    /// Prompts begin like one of these.
    stems: Vec<Vec<TokenId>>,
    root_count: u32,
    /// What priorities are drawn from.
    priorities: Vec<i32>,
}

impl Scenario {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let block_size = Tokens(rng.between(1, 4));
        let blocks_limit = Blocks(rng.between(3, 12));
        let prefix_caching = !rng.one_in(8);
        let chunk_max = rng.one_in(2).then(|| Tokens(rng.between(1, 6)));
        Self {
            config: SchedulerConfig {
                block_size,
                blocks_limit,
                blocks_max: blocks_limit + Blocks(rng.between(0, 6)),
                running_max: rng.between(1, 6) as usize,
                waiting_max: rng.between(1, 8) as usize,
                step_tokens_max: Tokens(rng.between(1, 24)),
                chunk_max,
                draft_max: Tokens(rng.between(0, 12)),
                model_len_max: Tokens(rng.between(4, 48)),
                prefix_caching,
                partial_hits: !rng.one_in(4),
                tier_slots: if prefix_caching {
                    rng.between(0, 12).saturating_sub(4)
                } else {
                    0
                },
                admission: *rng
                    .pick(&[
                        Admission::Optimistic,
                        Admission::Optimistic,
                        Admission::Guaranteed,
                    ])
                    .expect("not empty"),
                fairness: *rng
                    .pick(&[Fairness::Arrival, Fairness::Tenants])
                    .expect("not empty"),
                watermark: Blocks(rng.between(0, 4).saturating_sub(2)),
            },
            hash_mask: *rng
                .pick(&[u128::MAX, u128::MAX, u128::MAX, 7, 0])
                .expect("not empty"),
            tier_costs: rng.one_in(3).then(|| TierCosts {
                restore_ns_per_block: 10,
                compute_ns_per_token: u64::from(rng.between(2, 11)),
            }),
            model: FakeModel {
                stop_every: u64::from(rng.between(0, 26).saturating_sub(6)),
            },
            event_count: rng.between(20, 300),
            odds: draw_odds(rng),
            stems: (0..rng.between(1, 3))
                .map(|_| rng.tokens(STEM_LEN))
                .collect(),
            root_count: rng.between(1, 2),
            priorities: match rng.between(0, 2) {
                0 => vec![-1, 0, 0, i32::MAX],
                _ => vec![],
            },
        }
    }

    /// The next event, among those that `live` sequences allow.
    pub(super) fn draw_event(&self, rng: &mut Rng, live: &[SeqId]) -> Event {
        let sum = self.odds.iter().map(|(_, odds)| odds).sum();
        let mut draw = rng.between(1, sum);
        let is_it = |(_, odds): &&(Kind, u32)| {
            let is_it = draw <= *odds;
            draw = draw.saturating_sub(*odds);
            is_it
        };
        let kind = self.odds.iter().find(is_it).map(|(kind, _)| *kind);
        let target = rng.pick(live).copied();
        match (kind, target) {
            (Some(Kind::Admit), _) => Event::Admit(self.draw_sequence(rng)),
            (Some(Kind::StepCancelling), Some(seq)) => Event::StepCancelling(seq),
            (Some(Kind::Propose), Some(seq)) => {
                let len = rng.between(1, 8);
                Event::Propose(seq, rng.tokens(len))
            }
            (Some(Kind::Abandon), _) => Event::Abandon,
            (Some(Kind::Cancel), Some(seq)) => Event::Cancel(seq),
            (Some(Kind::Preempt), Some(seq)) => Event::Preempt(seq),
            (Some(Kind::Reset), _) => Event::Reset,
            (Some(Kind::Resize), _) => {
                Event::Resize(Blocks(rng.between(0, self.config.blocks_max.0 + 1)))
            }
            (Some(Kind::LoseSlot), _) => {
                Event::LoseSlot(TierSlot(rng.between(0, self.config.tier_slots)))
            }
            (Some(Kind::StepDamaged), _) => Event::StepDamaged(rng.bits()),
            (Some(Kind::DropCached), _) => Event::DropCached(Blocks(rng.between(0, 3))),
            _ => Event::Step,
        }
    }

    /// A sequence; the world gives it an id. Most fit into the pool several at a time, so that they
    /// compete for it; some are of any size.
    fn draw_sequence(&self, rng: &mut Rng) -> NewSequence {
        let pool_len = self.config.block_size.0 * self.config.blocks_limit.0;
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
            prompt_logits: match rng.one_in(5) {
                true => PromptLogits::All,
                false => PromptLogits::Last,
            },
            cache_root: u64::from(rng.between(1, self.root_count)),
            priority: rng.pick(&self.priorities).copied().unwrap_or(0),
            tenant: u64::from(rng.between(1, 3)),
        }
    }
}
