//! A small vocabulary, and outputs drawn at random under a constraint.
#![allow(dead_code)] // each test binary uses its part
#![allow(clippy::cast_possible_truncation)] // test sizes are small

use std::borrow::Cow;

use kvist_base::{TokenId, mix64};
use kvist_grammar::{
    Compiler, Constraint, ConstraintError, Grammar, GrammarFault, Progress, TokenRole, Vocabulary,
};

/// A control token, `<|tool|>`.
pub const TOOL: TokenId = TokenId(256);
/// Ends an output.
pub const END: TokenId = TokenId(257);
/// Ends one too.
pub const OTHER_END: TokenId = TokenId(258);
/// Tokens of several bytes.
pub const LONG: [&str; 12] = [
    "{\"", "\":", "\": ", ", \"", "true", "fal", "null", "  ", "\n  ", "ab", "abc", "é",
];

/// Every byte, two control tokens, two end tokens, and some longer ones.
pub fn vocabulary() -> Vec<(Vec<u8>, TokenRole)> {
    let mut tokens: Vec<_> = (0..=255)
        .map(|byte| (vec![byte], TokenRole::Text))
        .collect();
    tokens.push((b"<|tool|>".to_vec(), TokenRole::Control));
    tokens.push((b"<|end|>".to_vec(), TokenRole::End));
    tokens.push((b"<eos>".to_vec(), TokenRole::End));
    tokens.extend(LONG.map(|text| (text.as_bytes().to_vec(), TokenRole::Text)));
    tokens
}

pub fn compiler() -> Compiler {
    compiler_of(vocabulary())
}

pub fn compiler_of(tokens: Vec<(Vec<u8>, TokenRole)>) -> Compiler {
    let tokens = tokens
        .into_iter()
        .map(|(bytes, role)| (Cow::Owned(bytes), role));
    Compiler::new(|| Vocabulary::new(tokens)).expect("a small vocabulary")
}

pub fn refusal(compiler: &Compiler, constraint: &Constraint) -> ConstraintError {
    compiler
        .compile(constraint)
        .expect_err("this is not to be taken")
}

/// How an output ended.
#[derive(Debug, PartialEq)]
pub enum End {
    /// The grammar was complete.
    Complete,
    /// An end token was drawn.
    Token(TokenId),
    /// It had as many tokens as were allowed.
    Length,
    Fault(GrammarFault),
}

/// An output of tokens drawn uniformly among those that are allowed.
pub fn draw(grammar: &Grammar, seed: u64, len_max: usize) -> (Vec<u8>, End) {
    let tokens = vocabulary();
    let mut state = grammar.begin();
    let mut text = Vec::new();
    for step in 0..len_max as u64 {
        let allowed = match state.allowed() {
            Ok(allowed) => allowed,
            Err(fault) => return (text, End::Fault(fault)),
        };
        assert_eq!(allowed.vocab_len(), tokens.len());
        let ids: Vec<u32> = (0..tokens.len() as u32)
            .filter(|id| allowed.contains(TokenId(*id)))
            .collect();
        let token = TokenId(ids[(mix64(seed ^ mix64(step)) % ids.len() as u64) as usize]);
        let progress = state.advance(token).expect("an allowed token");
        if token == END || token == OTHER_END {
            assert_eq!(progress, Progress::Complete);
            return (text, End::Token(token));
        }
        text.extend_from_slice(&tokens[token.idx()].0);
        if progress == Progress::Complete {
            return (text, End::Complete);
        }
    }
    (text, End::Length)
}

/// Whether some split of the text into bytes is an output under the constraint.
pub fn accepts(grammar: &Grammar, text: &str) -> bool {
    let mut state = grammar.begin();
    let mut progress = Progress::Open;
    for byte in text.bytes() {
        let token = TokenId(byte.into());
        if progress == Progress::Complete || !state.allowed().is_ok_and(|set| set.contains(token)) {
            return false;
        }
        progress = state.advance(token).expect("an allowed token");
    }
    progress == Progress::Complete || state.allowed().is_ok_and(|set| set.contains(END))
}
