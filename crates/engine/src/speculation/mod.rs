//! Speculation: what is likely to follow is computed together with the last known token, and kept as
//! far as the sampler draws the same. It changes how many tokens a step brings, and no token.
//!
//! Drafts are copied from what the sequence has said or was told ([`ngram`]), or guessed by a second,
//! smaller model ([`model`]), whichever is likelier to be right. Every draft is compared with what is
//! drawn afterwards, whether it was computed or not, so that what drafts are worth ([`acceptance`]) is
//! known before a row is spent on one. How much of them to compute ([`length`]), and whether to ask the
//! model at all ([`outlook`]), follows from that and from what steps cost ([`times`]).

mod acceptance;
mod length;
mod model;
mod ngram;
mod options;
mod outlook;
mod times;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use kvist_base::{Blocks, Bytes, SeqId, TokenId, Tokens};
use kvist_model::ModelError;
use kvist_plan::{Holding, Plan, draft_index_count, draft_window};
use kvist_sample::Sampler;
use kvist_sched::{Scheduler, SequenceState, SequenceView, StepOutcome, StepPlan};

use acceptance::{Acceptance, Class, Tally};
use length::{Plain, Promise, choose};
use model::{ModelDrafts, Step};
use ngram::NgramIndex;
use times::StepTimes;

use crate::draft::Drafter;
use crate::live::Live;
use crate::metrics::MetricsSnapshot;

pub use options::{DraftLength, Speculation, SpeculationError};

/// What the engine thread keeps to find drafts and to decide on them.
pub(crate) struct Speculator {
    options: Speculation,
    /// Sequences that can have drafts; the others find no index left.
    tracks: BTreeMap<SeqId, Track>,
    spare: Vec<NgramIndex>,
    lookups: Acceptance,
    model: Option<ModelDrafts>,
    times: StepTimes,
    /// Sequences that can have a draft in this step.
    decoding: Vec<SeqId>,
    /// Drafts of this step, and the promises of their tokens: empty between steps.
    drafting: Vec<SeqId>,
    promises: Vec<Promise>,
    lens: Vec<usize>,
}

/// A sequence, followed token by token.
#[derive(Debug)]
struct Track {
    index: NgramIndex,
    /// What became of its lookups, and of the draft model's guesses for it.
    lookups: Tally,
    model: Tally,
    /// What is guessed to follow the first `draft_at` tokens, and how sure each token of it is.
    draft: Vec<TokenId>,
    classes: Vec<Class>,
    source: Source,
    draft_at: usize,
}

/// Where a draft comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Lookup,
    Model,
}

impl Speculator {
    pub(crate) fn new(options: Speculation, plan: &Plan, drafter: Option<Drafter>) -> Self {
        let window = draft_window(plan.model_len).len();
        let count = draft_index_count(plan.running_max, options.step_max) as usize;
        Self {
            options,
            tracks: BTreeMap::new(),
            spare: (0..count).map(|_| NgramIndex::new(window)).collect(),
            lookups: Acceptance::of_lookups(),
            model: drafter.map(|drafter| ModelDrafts::new(drafter, count)),
            times: StepTimes::default(),
            decoding: Vec::with_capacity(count),
            drafting: Vec::with_capacity(count),
            promises: Vec::with_capacity(count * options.tokens_max.len()),
            lens: Vec::with_capacity(count),
        }
    }

    /// Proposes drafts for the next plan. `live` are all sequences that are not over.
    ///
    /// # Errors
    /// The draft model's device failed.
    pub(crate) fn propose(
        &mut self,
        scheduler: &mut Scheduler,
        (live, sampler): (&BTreeMap<SeqId, Live>, &mut Sampler),
    ) -> Result<(), ModelError> {
        self.settle(scheduler);
        self.decoding.clear();
        let mut sequences = 0;
        for &id in live.keys() {
            let Some(view) = scheduler.sequence(id).filter(is_decoding) else {
                continue;
            };
            sequences += 1;
            self.look(id, &view);
        }
        let plain = self.plain(scheduler, sequences);
        if let Some(model) = &mut self.model {
            let step = Step {
                scheduler,
                live,
                decoding: &self.decoding,
                plain,
                served: &self.times,
                lookups: &self.lookups,
                length: self.options.length,
                tokens_max: self.options.tokens_max.0,
            };
            model.guess(&mut self.tracks, step, sampler)?;
        }
        self.promise();
        self.decide(plain);
        for (id, len) in self.drafting.iter().zip(&self.lens) {
            let draft = &self.tracks[id].draft[..*len];
            if !draft.is_empty() {
                scheduler.propose(*id, draft);
            }
        }
        Ok(())
    }

    /// A step took `time`.
    pub(crate) fn observe(&mut self, (plan, outcome): (&StepPlan, &StepOutcome), time: Duration) {
        self.times.observe(plan.token_count().0, time);
        let Some(model) = &mut self.model else {
            return;
        };
        for (chunk, outcome) in plan.chunks().iter().zip(&outcome.chunks) {
            let track = self.tracks.get(&chunk.seq);
            if track.is_some_and(|track| track.source == Source::Model) {
                model.counts.drafted += u64::from(chunk.draft_len.0);
                model.counts.accepted += u64::from(outcome.accepted.0);
            }
        }
    }

    /// What sequences that are over had is for others, and so are the draft model's blocks of those that
    /// gave way.
    pub(crate) fn settle(&mut self, scheduler: &Scheduler) {
        let has_ended = |id: &SeqId| scheduler.sequence(*id).is_none();
        while let Some(id) = self.tracks.keys().copied().find(has_ended) {
            let track = self.tracks.remove(&id).expect("just found");
            let mut index = track.index;
            index.clear();
            self.spare.push(index);
        }
        if let Some(model) = &mut self.model {
            let runs = |view: SequenceView<'_>| view.state == SequenceState::Running;
            model
                .drafter
                .retain(|id| scheduler.sequence(id).is_some_and(runs));
        }
    }

    /// What the draft model's KV pool holds; `None` without one.
    pub(crate) fn draft_kv(&self) -> Option<Holding> {
        self.model.as_ref().map(|model| model.drafter.kv_holding())
    }

    /// Blocks of that pool, free and in all.
    pub(crate) fn draft_blocks(&self) -> (Blocks, Blocks) {
        let blocks = self.model.as_ref().map(|model| model.drafter.blocks());
        blocks.unwrap_or_default()
    }

    /// Gives the memory of its free blocks back to the system.
    pub(crate) fn give_back(&mut self) -> Bytes {
        let model = self.model.as_mut();
        model.map_or(Bytes::ZERO, |model| model.drafter.give_back())
    }

    /// Writes down what the draft model did.
    pub(crate) fn count(&self, metrics: &mut MetricsSnapshot) {
        let Some(model) = &self.model else { return };
        metrics.draft_model_rows = model.counts.rows;
        metrics.draft_model_seconds = model.counts.time.as_secs_f64();
        metrics.draft_model_tokens = model.counts.drafted;
        metrics.accepted_draft_model_tokens = model.counts.accepted;
    }

    /// What a step has without drafts, and room for.
    fn plain(&self, scheduler: &Scheduler, sequences: u32) -> Plain {
        let rows = scheduler.config().logit_rows_max();
        let left = rows.saturating_sub(sequences as usize);
        let left = u32::try_from(left).unwrap_or(u32::MAX);
        Plain {
            sequences,
            draft_max: left.min(self.options.step_max.0),
        }
    }

    /// Learns from what a sequence said since, and looks up what may follow.
    fn look(&mut self, id: SeqId, view: &SequenceView<'_>) {
        let Some(track) = follow(&mut self.tracks, &mut self.spare, id) else {
            return;
        };
        let model = self.model.as_mut().map(|model| &mut model.acceptance);
        track.settle(view.tokens, (&mut self.lookups, model));
        self.decoding.push(id);
        let Speculation {
            tokens_max,
            match_min,
            match_max,
            ..
        } = self.options;
        track.index.update(view.tokens);
        let wanted = (match_max, tokens_max.len());
        let found = track.index.draft(view.tokens, wanted, &mut track.draft);
        match found.filter(|found| found.len >= match_min) {
            Some(found) => {
                let lens = found.len..found.len + track.draft.len();
                track.classes.extend(lens.map(Class::of_match));
            }
            None => track.draft.clear(),
        }
    }

    /// What the tokens of each draft promise.
    fn promise(&mut self) {
        self.drafting.clear();
        self.promises.clear();
        for &id in &self.decoding {
            let track = &self.tracks[&id];
            if track.draft.is_empty() {
                continue;
            }
            let draft = self.drafting.len();
            self.drafting.push(id);
            let (acceptance, tally) = match (track.source, &self.model) {
                (Source::Model, Some(model)) => (&model.acceptance, &track.model),
                _ => (&self.lookups, &track.lookups),
            };
            let mut probability = 1.0;
            for class in &track.classes {
                probability *= acceptance.probability(tally, *class);
                self.promises.push(Promise { draft, probability });
            }
        }
    }

    /// How much of each draft to propose.
    fn decide(&mut self, plain: Plain) {
        self.lens.clear();
        self.lens.resize(self.drafting.len(), 0);
        let count = match self.options.length {
            DraftLength::Fixed => self.promises.len(),
            DraftLength::Adaptive => choose(&mut self.promises, plain, &self.times),
        };
        for promise in &self.promises[..count] {
            self.lens[promise.draft] += 1;
        }
    }
}

impl Track {
    /// Compares the last draft with what was drawn, and forgets it.
    fn settle(
        &mut self,
        tokens: &[TokenId],
        (lookups, model): (&mut Acceptance, Option<&mut Acceptance>),
    ) {
        let (acceptance, tally) = match (self.source, model) {
            (Source::Model, Some(model)) => (model, &mut self.model),
            _ => (lookups, &mut self.lookups),
        };
        let drawn = &tokens[self.draft_at..];
        for ((guess, class), token) in self.draft.iter().zip(&self.classes).zip(drawn) {
            let is_hit = guess == token;
            acceptance.observe(tally, *class, is_hit);
            if !is_hit {
                break;
            }
        }
        self.draft.clear();
        self.classes.clear();
        self.source = Source::Lookup;
        self.draft_at = tokens.len();
    }

    /// Adds a guess of the draft model. The first one takes the place of what was looked up.
    fn take_guess(&mut self, token: TokenId, class: Class) {
        if self.source == Source::Lookup {
            self.draft.clear();
            self.classes.clear();
            self.source = Source::Model;
        }
        self.draft.push(token);
        self.classes.push(class);
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
            lookups: Tally::default(),
            model: Tally::default(),
            draft: Vec::new(),
            classes: Vec::new(),
            source: Source::Lookup,
            draft_at: 0,
        })),
    }
}

fn is_decoding(view: &SequenceView<'_>) -> bool {
    view.state == SequenceState::Running && view.computed_len + Tokens(1) == view.known_len
}
