//! From a constraint to a grammar over a vocabulary.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::InferenceCapabilities;
use llguidance::{Matcher, ParserFactory, panic_utils};
use serde_json::json;

use crate::constraint::Constraint;
use crate::error::{ConstraintError, GrammarFault};
use crate::lark;
use crate::limits::{check, parser_limits, schema_tree};
use crate::state::GrammarState;
use crate::vocab::Vocabulary;

/// Tokens whose bytes match one of these are allowed or not as a whole where the parser can tell: inside
/// strings. Each costs copies of the trie, so there are two: short strings have a bound, most have none.
const SLICES: [&str; 2] = [r#"[^"\\\x00-\x1F\x7F]{1,10}"#, r#"[^"\\\x00-\x1F\x7F]+"#];
/// What a compiled grammar takes beside its lexer and its source: rules and symbols, for each byte
/// of the source.
const GRAMMAR_PER_SOURCE_BYTE: usize = 32;
/// What the smallest one takes.
const GRAMMAR_BYTES_MIN: usize = 32 << 10;

/// Compiles constraints for one vocabulary.
pub struct Compiler {
    vocabulary: Vocabulary,
    factory: ParserFactory,
}

impl Compiler {
    /// Prepares a vocabulary. Takes tenths of a second and, for each token, about a hundred bytes.
    ///
    /// # Errors
    /// The vocabulary is too large for llguidance's tries.
    pub fn new(vocabulary: impl FnOnce() -> Vocabulary) -> Result<Self, ConstraintError> {
        let build = || {
            let vocabulary = vocabulary();
            let slices = SLICES.map(str::to_owned);
            let caps = InferenceCapabilities::default();
            let mut factory = ParserFactory::new(vocabulary.env(), caps, &slices)?;
            *factory.limits_mut() = parser_limits();
            factory.quiet();
            Ok(Self {
                vocabulary,
                factory,
            })
        };
        // The tries assert their limits.
        panic_utils::catch_unwind(std::panic::AssertUnwindSafe(build)).map_err(|error| {
            ConstraintError::Invalid {
                what: "vocabulary of this model",
                reason: first_line(&error.to_string()),
            }
        })
    }

    /// Checks and compiles.
    ///
    /// # Errors
    /// The constraint is beyond a limit, is not valid, or allows no first token.
    pub fn compile(&self, constraint: &Constraint) -> Result<Grammar, ConstraintError> {
        check(constraint)?;
        let what = what(constraint);
        let invalid = |reason: String| ConstraintError::Invalid { what, reason };
        let source = self.source(constraint)?;
        let parser = self
            .factory
            .create_parser(source)
            .map_err(|error| invalid(first_line(&format!("{error:#}"))))?;
        let lexer_bytes = parser.parser.lexer_stats().num_bytes;
        let matcher = Matcher::new(Ok(parser));
        let vocab_len = self.vocabulary.env().tok_trie().vocab_size();
        let grammar = Grammar {
            bytes: lexer_bytes
                + source_bytes(constraint) * GRAMMAR_PER_SOURCE_BYTE
                + GRAMMAR_BYTES_MIN,
            prototype: Mutex::new(matcher),
            vocab_len,
        };
        // What fails at the first token fails at the door.
        match grammar.begin().allowed() {
            Ok(_) => Ok(grammar),
            Err(fault @ GrammarFault::NothingAllowed) => Err(invalid(fault.to_string())),
            Err(GrammarFault::TooComplex(reason)) => Err(invalid(reason)),
        }
    }

    fn source(&self, constraint: &Constraint) -> Result<TopLevelGrammar, ConstraintError> {
        Ok(match constraint {
            Constraint::JsonObject => {
                TopLevelGrammar::from_json_schema(lark::with_json_style(json!({"type": "object"})))
            }
            Constraint::JsonSchema(schema) => {
                TopLevelGrammar::from_json_schema(lark::with_json_style(schema_tree(schema)?))
            }
            Constraint::Regex(regex) => TopLevelGrammar::from_regex(whole(regex)),
            Constraint::Choice(choices) => TopLevelGrammar::from_lark(lark::choice(choices)),
            Constraint::Lark(grammar) => TopLevelGrammar::from_lark(grammar.clone()),
            Constraint::TaggedJson(tagged) => {
                TopLevelGrammar::from_lark(lark::tagged(tagged, &self.vocabulary)?)
            }
        })
    }
}

impl fmt::Debug for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compiler").finish_non_exhaustive()
    }
}

/// A compiled constraint. Requests begin with a copy each.
pub struct Grammar {
    /// As compiled, never advanced. Locked only while it is copied.
    prototype: Mutex<Matcher>,
    bytes: usize,
    vocab_len: usize,
}

impl Grammar {
    /// The state of an output that is still empty.
    pub fn begin(&self) -> GrammarState {
        // The copy shares nothing with its original: see the crate's documentation.
        let prototype = self
            .prototype
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        GrammarState::new(prototype.deep_clone(), self.vocab_len)
    }

    /// About what it takes in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammar")
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// The word for it in messages.
pub(crate) fn what(constraint: &Constraint) -> &'static str {
    match constraint {
        Constraint::JsonObject | Constraint::JsonSchema(_) => "JSON schema",
        Constraint::Regex(_) => "regular expression",
        Constraint::Choice(_) => "list of choices",
        Constraint::Lark(_) => "grammar",
        Constraint::TaggedJson(_) => "list of alternatives",
    }
}

pub(crate) fn source_bytes(constraint: &Constraint) -> usize {
    match constraint {
        Constraint::JsonObject => 0,
        Constraint::JsonSchema(text) | Constraint::Regex(text) | Constraint::Lark(text) => {
            text.len()
        }
        Constraint::Choice(choices) => choices.iter().map(String::len).sum(),
        Constraint::TaggedJson(tagged) => tagged
            .alternatives
            .iter()
            .map(|each| each.begin.len() + each.schema.len() + each.end.len())
            .sum(),
    }
}

/// A regular expression without the anchors that say what is meant anyway: all of the output.
fn whole(regex: &str) -> &str {
    let regex = regex.strip_prefix('^').unwrap_or(regex);
    match regex.strip_suffix('$') {
        // An odd number of backslashes before it: a dollar sign, not an anchor.
        Some(rest) if (rest.len() - rest.trim_end_matches('\\').len()).is_multiple_of(2) => rest,
        _ => regex,
    }
}

/// What a client needs of a message: not the excerpts and marks that follow.
pub(crate) fn first_line(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    line.trim_end().to_owned()
}
