//! Where one sequence is in its grammar.

use std::fmt;

use kvist_base::{TokenId, TokenSet};
use llguidance::Matcher;

use crate::compile::first_line;
use crate::error::GrammarFault;

/// What llguidance says when the mask is empty.
const NOTHING_ALLOWED: &str = "NoExtensionBias";

/// Whether an output may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It may, and perhaps has to.
    Open,
    /// Nothing can follow.
    Complete,
}

/// The state of one output. Changed by [`advance`](Self::advance) alone.
pub struct GrammarState {
    /// Behind a pointer: it moves between threads with each token.
    matcher: Box<Matcher>,
    vocab_len: usize,
}

impl GrammarState {
    pub(crate) fn new(matcher: Matcher, vocab_len: usize) -> Self {
        Self {
            matcher: Box::new(matcher),
            vocab_len,
        }
    }

    /// The tokens that may come next: never an empty set. End tokens are among them where the
    /// output may end.
    ///
    /// # Errors
    /// [`GrammarFault`]; the state is of no use then.
    pub fn allowed(&mut self) -> Result<TokenSet, GrammarFault> {
        let mask = self.matcher.compute_mask_or_eos().map_err(fault)?;
        let allowed = TokenSet::from_words(Vec::from(mask), self.vocab_len);
        if allowed.count() == 0 {
            return Err(GrammarFault::NothingAllowed);
        }
        Ok(allowed)
    }

    /// Takes in the token that was drawn among the allowed ones.
    ///
    /// # Errors
    /// [`GrammarFault`]; the state is of no use then.
    pub fn advance(&mut self, token: TokenId) -> Result<Progress, GrammarFault> {
        self.matcher.consume_token(token.0).map_err(fault)?;
        Ok(if self.matcher.is_stopped() {
            Progress::Complete
        } else {
            Progress::Open
        })
    }
}

impl fmt::Debug for GrammarState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarState").finish_non_exhaustive()
    }
}

#[allow(clippy::needless_pass_by_value)] // as `map_err` gives it
fn fault(error: impl fmt::Display) -> GrammarFault {
    let reason = first_line(&error.to_string());
    if reason == NOTHING_ALLOWED {
        return GrammarFault::NothingAllowed;
    }
    GrammarFault::TooComplex(reason)
}
