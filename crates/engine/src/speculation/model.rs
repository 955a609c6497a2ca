//! Drafts of the draft model: whom it is asked for, and for how much.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kvist_base::{SeqId, TokenId};
use kvist_model::ModelError;
use kvist_sample::Sampler;
use kvist_sched::Scheduler;

use super::acceptance::{Acceptance, Class};
use super::length::Plain;
use super::outlook::{Outlook, Probe, Prospect, SoFar};
use super::times::StepTimes;
use super::{DraftLength, Track};
use crate::draft::{Drafter, Followed};
use crate::live::Live;

/// A sequence less likely than this to have its next guess accepted is not guessed for any further.
const CHANCE_MIN: f64 = 0.1;
/// Guesses of a probe: with the first one, enough to measure what a step of the draft model takes.
const PROBE_ROUNDS: u32 = 5;

/// The draft model, and what is known of its guesses.
pub(crate) struct ModelDrafts {
    pub(super) drafter: Drafter,
    pub(super) acceptance: Acceptance,
    times: StepTimes,
    probe: Probe,
    /// Who is asked for in this step: empty between steps.
    asked: Vec<Asked>,
    ready: Vec<bool>,
    pub(super) counts: ModelCounts,
}

/// What the draft model did since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ModelCounts {
    /// Rows it computed.
    pub(crate) rows: u64,
    /// Time that took, drawing included.
    pub(crate) time: Duration,
    /// Its guesses that the served model computed.
    pub(crate) drafted: u64,
    /// Of those, guesses that were drawn too.
    pub(crate) accepted: u64,
}

/// A sequence that the draft model is asked for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    id: SeqId,
    /// Rows to compute before the first guess.
    missing: u32,
    /// Tokens of output so far.
    said: u32,
    /// The probability of its next guess.
    share: f64,
    /// The probability that all of its guesses so far hold.
    chance: f64,
    is_open: bool,
}

/// Why the draft model is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// The operator fixed the length of drafts.
    Told,
    /// It is expected to pay.
    Pays,
    /// To see whether it would.
    Probe,
}

/// What a step has for drafts.
#[derive(Clone, Copy)]
pub(super) struct Step<'a> {
    pub(super) scheduler: &'a Scheduler,
    pub(super) live: &'a BTreeMap<SeqId, Live>,
    /// Sequences that decode and can have a draft.
    pub(super) decoding: &'a [SeqId],
    pub(super) plain: Plain,
    pub(super) served: &'a StepTimes,
    pub(super) lookups: &'a Acceptance,
    pub(super) length: DraftLength,
    pub(super) tokens_max: u32,
}

impl Step<'_> {
    fn tokens(&self, id: SeqId) -> &[TokenId] {
        let view = self.scheduler.sequence(id);
        view.expect("a sequence that decodes is known").tokens
    }
}

impl ModelDrafts {
    /// For at most `sequences` at one time.
    pub(crate) fn new(drafter: Drafter, sequences: usize) -> Self {
        Self {
            drafter,
            acceptance: Acceptance::of_model(),
            times: StepTimes::default(),
            probe: Probe::default(),
            asked: Vec::with_capacity(sequences),
            ready: Vec::with_capacity(sequences),
            counts: ModelCounts::default(),
        }
    }

    /// Replaces the drafts of those sequences whose next token the model is likelier to guess than what
    /// was looked up, as far as that is expected to pay.
    pub(super) fn guess(
        &mut self,
        tracks: &mut BTreeMap<SeqId, Track>,
        step: Step<'_>,
        sampler: &mut Sampler,
    ) -> Result<(), ModelError> {
        self.ask(tracks, step);
        if self.asked.is_empty() {
            return Ok(());
        }
        let (rounds, why) = match step.length {
            DraftLength::Fixed => (rounds_max(step, self.asked.len()), Why::Told),
            DraftLength::Adaptive => self.decide(step),
        };
        let mut so_far = SoFar {
            tokens: f64::from(step.plain.sequences),
            rows: step.plain.sequences,
            seconds: 0.0,
        };
        let rows_max = so_far.rows + step.plain.draft_max;
        for ahead in 0..rounds {
            let time = self.round((ahead, &mut *tracks), step, sampler)?;
            so_far.seconds += time.as_secs_f64();
            so_far.rows += narrow(self.asked.len());
            so_far.tokens += self.asked.iter().map(|asked| asked.chance).sum::<f64>();
            let is_likely = |asked: &Asked| asked.chance * asked.share > CHANCE_MIN;
            self.asked
                .retain(|asked| asked.is_open && (why != Why::Pays || is_likely(asked)));
            if self.asked.is_empty() || so_far.rows >= rows_max {
                break;
            }
            if why == Why::Pays && !self.pays_to_go_on(step, so_far) {
                break;
            }
        }
        // A probe goes on until what it asks for is caught up with.
        if why == Why::Probe && so_far.rows > step.plain.sequences {
            self.probe.done();
        }
        self.asked.clear();
        Ok(())
    }

    /// Lists the sequences it is likelier to be right about than their lookups.
    fn ask(&mut self, tracks: &BTreeMap<SeqId, Track>, step: Step<'_>) {
        self.asked.clear();
        if step.plain.draft_max == 0 {
            return;
        }
        for &id in step.decoding {
            let track = &tracks[&id];
            let share = self.acceptance.model_share(&track.model);
            let looked_up = track.classes.first().copied();
            let looked_up = looked_up.map(|class| step.lookups.probability(&track.lookups, class));
            if looked_up.is_some_and(|chance| chance >= share) {
                continue;
            }
            let view = step.scheduler.sequence(id);
            let view = view.expect("a sequence that decodes is known");
            let tokens = view.tokens;
            if let Some(missing) = self.drafter.missing(Followed { id, tokens }) {
                self.asked.push(Asked {
                    id,
                    missing: narrow(missing),
                    said: (view.known_len - view.prompt_len).0,
                    share,
                    chance: 1.0,
                    is_open: true,
                });
            }
        }
    }

    /// Keeps those it pays to ask for; how often at most, and why.
    fn decide(&mut self, step: Step<'_>) -> (u32, Why) {
        let prospect = self.prospect(step);
        let outlook = Outlook {
            plain: step.plain,
            served: step.served,
            draft: &self.times,
        };
        let is_worth = |asked: &Asked| {
            let (missing, said) = (asked.missing, asked.said);
            outlook.is_worth_catching_up((missing, said), prospect.saved)
        };
        if prospect.rounds > 0 && self.asked.iter().any(is_worth) {
            self.asked.retain(is_worth);
            if self.prospect(step).rounds > 0 {
                self.probe.pays();
                return (rounds_max(step, self.asked.len()), Why::Pays);
            }
        }
        let is_known = outlook.served.seconds(1.0).is_some();
        let nearest = self.asked.iter().copied().min_by_key(|asked| asked.missing);
        self.asked.clear();
        // That a prompt is too long for an output is no reason to try it.
        let is_due = is_known && prospect.rounds == 0 && nearest.is_some() && self.probe.is_due();
        self.asked.extend(nearest.filter(|_| is_due));
        (if is_due { PROBE_ROUNDS } else { 0 }, Why::Probe)
    }

    fn prospect(&self, step: Step<'_>) -> Prospect {
        let outlook = Outlook {
            plain: step.plain,
            served: step.served,
            draft: &self.times,
        };
        let shares = self.asked.iter().map(|asked| asked.share);
        let count = narrow(self.asked.len());
        let best = outlook.best((shares, count), rounds_max(step, self.asked.len()));
        best.unwrap_or_default()
    }

    fn pays_to_go_on(&self, step: Step<'_>, so_far: SoFar) -> bool {
        let outlook = Outlook {
            plain: step.plain,
            served: step.served,
            draft: &self.times,
        };
        let gains = self.asked.iter().map(|asked| asked.chance * asked.share);
        outlook.pays_to_go_on(so_far, (gains.sum(), narrow(self.asked.len())))
    }

    /// One guess for each sequence that is asked for and caught up with.
    fn round(
        &mut self,
        (ahead, tracks): (u32, &mut BTreeMap<SeqId, Track>),
        step: Step<'_>,
        sampler: &mut Sampler,
    ) -> Result<Duration, ModelError> {
        let begun = Instant::now();
        let Self {
            drafter,
            asked,
            ready,
            ..
        } = self;
        ready.clear();
        let followed = asked.iter().map(|asked| Followed {
            id: asked.id,
            tokens: step.tokens(asked.id),
        });
        let rows = drafter.compute(followed, |is_ready| ready.push(is_ready))?;
        let mut ready = ready.iter();
        asked.retain(|_| ready.next().copied().unwrap_or(false));
        for (idx, asked) in asked.iter_mut().enumerate() {
            let live = &step.live[&asked.id];
            let row = drafter.logits(idx)?;
            let Ok(guess) = sampler.guess(row, &live.sampling, (&live.state, ahead)) else {
                // What the draft model says in numbers that are none is of no use, and no harm.
                (asked.is_open, asked.chance) = (false, 0.0);
                continue;
            };
            drafter.push_guess(asked.id, guess.token);
            let track = tracks
                .get_mut(&asked.id)
                .expect("it was asked for by its track");
            let class = Class::of_margin(guess.margin);
            track.take_guess(guess.token, class);
            asked.chance *= self.acceptance.probability(&track.model, class);
            asked.is_open = !live.ends_at(guess.token);
        }
        let time = begun.elapsed();
        self.times.observe(rows.0, time);
        self.counts.rows += u64::from(rows.0);
        self.counts.time += time;
        Ok(time)
    }
}

/// Most guesses for each of `count` sequences: all together are no more than the step has rows for.
fn rounds_max(step: Step<'_>, count: usize) -> u32 {
    let each = step.plain.draft_max.div_ceil(narrow(count).max(1));
    each.min(step.tokens_max)
}

fn narrow(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
