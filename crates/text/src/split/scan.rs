//! One function a pattern: how long is the first piece of a text?
//!
//! The text is never empty, and never cut before: patterns only look ahead.

use super::class::{is_letter, is_number, is_punctuation, is_symbol};

/// Bytes of the characters `text` begins with that are in `class`.
fn run(text: &str, class: impl Fn(char) -> bool) -> usize {
    text.find(|c| !class(c)).unwrap_or(text.len())
}

fn first(text: &str) -> Option<char> {
    text.chars().next()
}

fn last(text: &str) -> Option<char> {
    text.chars().next_back()
}

/// The one-character prefix that a run of letters or symbols may have, and the rest.
fn split_first(text: &str) -> Option<(char, &str)> {
    let mut chars = text.chars();
    Some((chars.next()?, chars.as_str()))
}

/// `'s|'t|'re|'ve|'m|'ll|'d`
fn contraction(text: &str) -> Option<usize> {
    let rest = text.strip_prefix('\'')?;
    match rest.as_bytes() {
        [b's' | b't' | b'm' | b'd', ..] => Some(2),
        [b'r' | b'v', b'e', ..] | [b'l', b'l', ..] => Some(3),
        _ => None,
    }
}

/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)`. Case folding makes `ſ` an `s`.
fn contraction_any_case(text: &str) -> Option<usize> {
    let rest = text.strip_prefix('\'')?;
    if rest.starts_with('ſ') {
        return Some(1 + 'ſ'.len_utf8());
    }
    match rest.as_bytes() {
        [b's' | b'S' | b't' | b'T' | b'm' | b'M' | b'd' | b'D', ..] => Some(2),
        [b'r' | b'R' | b'v' | b'V', b'e' | b'E', ..] | [b'l' | b'L', b'l' | b'L', ..] => Some(3),
        _ => None,
    }
}

/// `\s+(?!\S)|\s+`: white space, less its last character if something follows that a piece could
/// begin with a space for. `joins` says whether what follows counts as such.
fn white_space(text: &str, joins: impl Fn(char) -> bool) -> usize {
    let all = run(text, char::is_whitespace);
    let (space, after) = text.split_at(all);
    match (first(after), last(space)) {
        (Some(next), Some(end)) if joins(next) && all > end.len_utf8() => all - end.len_utf8(),
        _ => all,
    }
}

/// ` ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+`, for the given classes.
fn spaced_run(text: &str, classes: &[fn(char) -> bool]) -> Option<usize> {
    let body = text.strip_prefix(' ').unwrap_or(text);
    let class = classes
        .iter()
        .find(|class| first(body).is_some_and(*class))?;
    Some(text.len() - body.len() + run(body, class))
}

/// GPT-2 (Radford et al. 2019):
/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
pub(super) fn gpt2(text: &str) -> usize {
    contraction(text)
        .or_else(|| spaced_run(text, &[is_letter, is_number, is_symbol]))
        .unwrap_or_else(|| white_space(text, |_| true))
}

/// Each number character by itself (`\p{N}`), and what lies between them cut as by [`gpt2`]: the
/// end of such a stretch is the end of its text, so white space before a number is one piece.
pub(super) fn single_digits(text: &str) -> usize {
    if let Some(c) = first(text).filter(|&c| is_number(c)) {
        return c.len_utf8();
    }
    contraction(text)
        .or_else(|| spaced_run(text, &[is_letter, is_symbol]))
        .unwrap_or_else(|| white_space(text, |next| !is_number(next)))
}

/// What ggml does for files that name no pre-tokeniser. Four expressions, each cutting what the
/// one before left: `[\p{P}\$\+<=>\^~\|]+`, then [`gpt2`]'s, `\p{N}+`, and `[0-9][0-9][0-9]`.
pub(super) fn ggml_default(text: &str) -> usize {
    if first(text).is_some_and(is_number) {
        return ascii_triple(text);
    }
    if first(text).is_some_and(is_isolated) {
        return run(text, is_isolated);
    }
    let is_plain_symbol = |c| is_symbol(c) && !is_isolated(c);
    spaced_run(text, &[is_letter, is_plain_symbol])
        .unwrap_or_else(|| white_space(text, |next| !is_isolated(next)))
}

/// `[\p{P}\$\+<=>\^~\|]`
fn is_isolated(c: char) -> bool {
    is_punctuation(c) || matches!(c, '$' | '+' | '<' | '=' | '>' | '^' | '~' | '|')
}

/// Three ASCII digits, or the number characters before the next such three. Looks no further: a
/// long number is scanned once, not once for each piece of it.
fn ascii_triple(text: &str) -> usize {
    let is_triple = |at: usize| {
        text.as_bytes()
            .get(at..at + 3)
            .is_some_and(|three| three.iter().all(u8::is_ascii_digit))
    };
    if is_triple(0) {
        return 3;
    }
    let end = text
        .char_indices()
        .find(|&(at, c)| !is_number(c) || is_triple(at));
    end.map_or(text.len(), |(at, _)| at)
}

/// Llama 3 and Qwen 2, with at most `DIGITS` number characters in a piece:
/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,DIGITS}|
///  ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
pub(super) fn case_insensitive<const DIGITS: usize>(text: &str) -> usize {
    contraction_any_case(text)
        .or_else(|| prefixed_word(text))
        .or_else(|| digits(text, DIGITS))
        .or_else(|| symbols_and_newlines(text))
        .or_else(|| through_last_newline(text))
        .unwrap_or_else(|| white_space(text, |_| true))
}

/// `[^\r\n\p{L}\p{N}]?\p{L}+`
fn prefixed_word(text: &str) -> Option<usize> {
    let (c, rest) = split_first(text)?;
    if is_letter(c) {
        return Some(run(text, is_letter));
    }
    let word = run(rest, is_letter);
    let is_prefix = word > 0 && !matches!(c, '\r' | '\n') && !is_number(c);
    is_prefix.then(|| c.len_utf8() + word)
}

/// `\p{N}{1,max}`
fn digits(text: &str, max: usize) -> Option<usize> {
    let len = text
        .chars()
        .take_while(|&c| is_number(c))
        .take(max)
        .map(char::len_utf8)
        .sum();
    (len > 0).then_some(len)
}

/// ` ?[^\s\p{L}\p{N}]+[\r\n]*`
fn symbols_and_newlines(text: &str) -> Option<usize> {
    let symbols = spaced_run(text, &[is_symbol])?;
    Some(symbols + run(&text[symbols..], |c| matches!(c, '\r' | '\n')))
}

/// `\s*[\r\n]+`: white space up to the last line break in it.
fn through_last_newline(text: &str) -> Option<usize> {
    let space = &text[..run(text, char::is_whitespace)];
    space.rfind(['\r', '\n']).map(|at| at + 1)
}
