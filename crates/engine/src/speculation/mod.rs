//! Speculation: what is likely to follow is computed together with the last known token, and kept as
//! far as the sampler draws the same. It changes how many tokens a step brings, and no token.
//!
//! Drafts are copied from what the sequence has said or was told ([`ngram`]). Every draft is compared
//! with what is drawn afterwards, whether it was computed or not, so that what drafts are worth
//! ([`acceptance`]) is known before a row is spent on one. How much of them to compute ([`length`])
//! follows from that and from what rows cost ([`times`]).

mod acceptance;
mod length;
mod ngram;
mod options;
mod times;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use kvist_base::{SeqId, TokenId, Tokens};
use kvist_plan::{Plan, draft_index_count, draft_window};
use kvist_sched::{Scheduler, SequenceState, SequenceView};

use acceptance::{Acceptance, Tally};
use length::{Plain, Promise, choose};
use ngram::NgramIndex;
use times::StepTimes;

pub use options::{DraftLength, Speculation, SpeculationError};

/// What the engine thread keeps to find drafts and to decide on them.
#[derive(Debug)]
pub(crate) struct Speculator {
    options: Speculation,
    /// Sequences that can have drafts; the others find no index left.
    tracks: BTreeMap<SeqId, Track>,
    spare: Vec<NgramIndex>,
    acceptance: Acceptance,
    times: StepTimes,
    /// Drafts of this step, and the promises of their tokens: empty between steps.
    drafting: Vec<SeqId>,
    promises: Vec<Promise>,
    lens: Vec<usize>,
}

/// A sequence, followed token by token.
#[derive(Debug)]
struct Track {
    index: NgramIndex,
    tally: Tally,
    /// What was found to follow the first `draft_at` tokens.
    draft: Vec<TokenId>,
    draft_at: usize,
    /// How many tokens before the draft agreed.
    match_len: usize,
}

impl Speculator {
    pub(crate) fn new(options: Speculation, plan: &Plan) -> Self {
        let window = draft_window(plan.model_len).len();
        let count = draft_index_count(plan.running_max, options.step_max) as usize;
        Self {
            options,
            tracks: BTreeMap::new(),
            spare: (0..count).map(|_| NgramIndex::new(window)).collect(),
            acceptance: Acceptance::default(),
            times: StepTimes::default(),
            drafting: Vec::with_capacity(count),
            promises: Vec::with_capacity(count * options.tokens_max.len()),
            lens: Vec::with_capacity(count),
        }
    }

    /// Proposes drafts for the next plan. `live` are all sequences that are not over.
    pub(crate) fn propose(&mut self, scheduler: &mut Scheduler, live: impl Iterator<Item = SeqId>) {
        self.forget_ended(scheduler);
        self.drafting.clear();
        self.promises.clear();
        let mut sequences = 0;
        for id in live {
            let Some(view) = scheduler.sequence(id).filter(is_decoding) else {
                continue;
            };
            sequences += 1;
            self.look(id, &view);
        }
        self.decide(sequences);
        for (id, len) in self.drafting.iter().zip(&self.lens) {
            let draft = &self.tracks[id].draft[..*len];
            if !draft.is_empty() {
                scheduler.propose(*id, draft);
            }
        }
    }

    /// A step of `rows` rows took `time`.
    pub(crate) fn observe(&mut self, rows: Tokens, time: Duration) {
        self.times.observe(rows.0, time);
    }

    /// Indices of sequences that are over are for others.
    fn forget_ended(&mut self, scheduler: &Scheduler) {
        let has_ended = |id: &SeqId| scheduler.sequence(*id).is_none();
        while let Some(id) = self.tracks.keys().copied().find(has_ended) {
            let track = self.tracks.remove(&id).expect("just found");
            let mut index = track.index;
            index.clear();
            self.spare.push(index);
        }
    }

    /// Learns from what a sequence said since, and finds its next draft.
    fn look(&mut self, id: SeqId, view: &SequenceView<'_>) {
        let Some(track) = follow(&mut self.tracks, &mut self.spare, id) else {
            return;
        };
        track.settle(view.tokens, &mut self.acceptance);
        let Speculation {
            tokens_max,
            match_min,
            match_max,
            ..
        } = self.options;
        track.index.update(view.tokens);
        track.draft_at = view.tokens.len();
        let wanted = (match_max, tokens_max.len());
        let found = track.index.draft(view.tokens, wanted, &mut track.draft);
        let Some(found) = found.filter(|found| found.len >= match_min) else {
            track.draft.clear();
            return;
        };
        track.match_len = found.len;
        let draft = self.drafting.len();
        self.drafting.push(id);
        let mut probability = 1.0;
        for place in 0..track.draft.len() {
            probability *= self.acceptance.probability(&track.tally, found.len + place);
            self.promises.push(Promise { draft, probability });
        }
    }

    /// How much of each draft to propose.
    fn decide(&mut self, sequences: u32) {
        self.lens.clear();
        self.lens.resize(self.drafting.len(), 0);
        let count = match self.options.length {
            DraftLength::Fixed => self.promises.len(),
            DraftLength::Adaptive => {
                let plain = Plain {
                    sequences,
                    draft_max: self.options.step_max.len(),
                };
                choose(&mut self.promises, plain, &self.times)
            }
        };
        for promise in &self.promises[..count] {
            self.lens[promise.draft] += 1;
        }
    }
}

impl Track {
    /// Compares the last draft with what was drawn.
    fn settle(&mut self, tokens: &[TokenId], acceptance: &mut Acceptance) {
        let drawn = &tokens[self.draft_at..];
        for (place, (guess, token)) in self.draft.iter().zip(drawn).enumerate() {
            let is_hit = guess == token;
            acceptance.observe(&mut self.tally, self.match_len + place, is_hit);
            if !is_hit {
                break;
            }
        }
        self.draft.clear();
    }
}

/// The track of a sequence, a new one if there is an index left.
fn follow<'a>(
    tracks: &'a mut BTreeMap<SeqId, Track>,
    spare: &mut Vec<NgramIndex>,
    id: SeqId,
) -> Option<&'a mut Track> {
    match tracks.entry(id) {
        Entry::Occupied(track) => Some(track.into_mut()),
        Entry::Vacant(place) => Some(place.insert(Track {
            index: spare.pop()?,
            tally: Tally::default(),
            draft: Vec::new(),
            draft_at: 0,
            match_len: 0,
        })),
    }
}

fn is_decoding(view: &SequenceView<'_>) -> bool {
    view.state == SequenceState::Running && view.computed_len + Tokens(1) == view.known_len
}
