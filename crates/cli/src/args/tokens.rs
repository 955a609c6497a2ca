//! Numbers of tokens as people write them.

use std::str::FromStr;

use kvist_base::Tokens;
use thiserror::Error;

/// Why a text is not a number of tokens.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{given:?} is not a number of tokens: write 4096 or 16k (k is 1024)")]
pub struct ParseTokensError {
    given: String,
}

/// `4096`, or `16k` for 16,384.
///
/// # Errors
/// For anything else, zero included.
pub fn parse_tokens(text: &str) -> Result<Tokens, ParseTokensError> {
    let err = || ParseTokensError {
        given: text.to_owned(),
    };
    let trimmed = text.trim();
    let (digits, factor) = match trimmed.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1024),
        None => (trimmed, 1),
    };
    let all_digits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let count = digits.parse::<u32>().ok().filter(|_| all_digits);
    count
        .and_then(|n| n.checked_mul(factor))
        .filter(|n| *n > 0)
        .map(Tokens)
        .ok_or_else(err)
}

/// The longest sequence: a number, or whatever fits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ContextLen {
    /// The longest that fits.
    #[default]
    Auto,
    /// So many tokens.
    Tokens(Tokens),
}

impl FromStr for ContextLen {
    type Err = ParseTokensError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.eq_ignore_ascii_case("auto") {
            return Ok(Self::Auto);
        }
        parse_tokens(text).map(Self::Tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_plain_or_in_units_of_1024() {
        assert_eq!(parse_tokens("4096"), Ok(Tokens(4096)));
        assert_eq!(parse_tokens(" 16k "), Ok(Tokens(16_384)));
        assert_eq!(parse_tokens("1K"), Ok(Tokens(1024)));
        for bad in [
            "", "k", "0", "0k", "-1", "+5", "1.5k", "4194304k", "4 k", "1m",
        ] {
            assert!(parse_tokens(bad).is_err(), "{bad:?} should be refused");
        }
        assert_eq!("auto".parse(), Ok(ContextLen::Auto));
        assert_eq!("22k".parse(), Ok(ContextLen::Tokens(Tokens(22_528))));
    }
}
