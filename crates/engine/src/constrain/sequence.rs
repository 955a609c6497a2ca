//! One sequence under a grammar.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use kvist_base::{TokenId, TokenSet};
use kvist_grammar::{Grammar, GrammarFault, GrammarState, Progress};

use super::masks::{Computed, MaskThread};

/// Where the sequence is in its grammar, and what may come next as soon as it is known. Advanced
/// by drawn tokens alone: drafts and preemption do not touch it.
pub(crate) struct Constrained {
    place: Place,
    masks: Option<MaskThread>,
}

enum Place {
    /// The mask of this state has not been asked for.
    Open(Begun),
    /// On the mask thread.
    Away(Receiver<Computed>),
    Ready(GrammarState, TokenSet),
    /// Nothing can follow, or the grammar has failed.
    Over,
}

/// A sequence that waits to be served for the first time has no state yet.
pub(super) enum Begun {
    Not(Arc<Grammar>),
    With(GrammarState),
}

impl Begun {
    pub(super) fn compute(self) -> Computed {
        let mut state = match self {
            Self::Not(grammar) => grammar.begin(),
            Self::With(state) => state,
        };
        let allowed = state.allowed();
        (state, allowed)
    }
}

impl Constrained {
    pub(crate) fn new(grammar: Arc<Grammar>, masks: Option<MaskThread>) -> Self {
        Self {
            place: Place::Open(Begun::Not(grammar)),
            masks,
        }
    }

    /// Has the next mask computed on the mask thread, unless that has happened or there is none.
    pub(crate) fn prepare(&mut self) {
        let Some(masks) = &self.masks else { return };
        self.place = match std::mem::replace(&mut self.place, Place::Over) {
            Place::Open(begun) => Place::Away(masks.compute(begun)),
            other => other,
        };
    }

    /// The tokens that may be drawn now. Waits for the mask thread if it is at work on them,
    /// computes them here if it is not.
    pub(crate) fn allowed(&mut self) -> Result<&TokenSet, GrammarFault> {
        let (state, allowed) = match std::mem::replace(&mut self.place, Place::Over) {
            Place::Ready(state, allowed) => (state, Ok(allowed)),
            Place::Away(answer) => answer.recv().map_err(|_| stopped())?,
            Place::Open(begun) => begun.compute(),
            Place::Over => return Err(GrammarFault::NothingAllowed),
        };
        self.place = Place::Ready(state, allowed?);
        let Place::Ready(_, allowed) = &self.place else {
            unreachable!("just set");
        };
        Ok(allowed)
    }

    /// Takes in a token that was drawn among the allowed ones.
    pub(crate) fn advance(&mut self, token: TokenId) -> Result<Progress, GrammarFault> {
        let place = std::mem::replace(&mut self.place, Place::Over);
        let Place::Ready(mut state, allowed) = place else {
            unreachable!("a token is drawn among those that are allowed");
        };
        assert!(allowed.contains(token), "a masked token was drawn");
        let progress = state.advance(token)?;
        if progress == Progress::Open {
            self.place = Place::Open(Begun::With(state));
        }
        Ok(progress)
    }
}

fn stopped() -> GrammarFault {
    GrammarFault::TooComplex("the thread that computes masks has stopped".to_owned())
}
