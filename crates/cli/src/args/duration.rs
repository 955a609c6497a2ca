//! Spans of time as people write them.

use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

/// A span of time, or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Not at all.
    Off,
    /// After so long.
    Time(Duration),
}

impl After {
    /// The span, if there is one.
    pub fn time(self) -> Option<Duration> {
        match self {
            Self::Off => None,
            Self::Time(time) => Some(time),
        }
    }
}

/// Why a text is not a span of time.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{given:?} is not a span of time: write 500ms, 10s, 5m, 2h, or off")]
pub struct ParseAfterError {
    given: String,
}

impl FromStr for After {
    type Err = ParseAfterError;

    /// `500ms`, `10s`, `5m`, `2h`, or `off`. Zero is refused: it would be easy to take for `off`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let trimmed = text.trim();
        if trimmed.eq_ignore_ascii_case("off") {
            return Ok(Self::Off);
        }
        let digits_end = trimmed
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(trimmed.len());
        let (digits, unit) = trimmed.split_at(digits_end);
        let milliseconds: Option<u64> = match unit.trim_start() {
            "ms" => Some(1),
            "s" => Some(1000),
            "m" => Some(60_000),
            "h" => Some(3_600_000),
            _ => None,
        };
        let count = digits.parse::<u64>().ok().filter(|count| *count > 0);
        let total = count
            .zip(milliseconds)
            .and_then(|(count, each)| count.checked_mul(each));
        total
            .map(|total| Self::Time(Duration::from_millis(total)))
            .ok_or_else(|| ParseAfterError {
                given: text.to_owned(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_a_unit_and_are_not_zero() {
        let cases = [
            ("500ms", 500),
            ("10s", 10_000),
            ("5m", 300_000),
            (" 2 h", 7_200_000),
        ];
        for (text, milliseconds) in cases {
            let time = Duration::from_millis(milliseconds);
            assert_eq!(text.parse(), Ok(After::Time(time)), "{text}");
        }
        assert_eq!("OFF".parse(), Ok(After::Off));
        for bad in [
            "",
            "10",
            "0s",
            "s",
            "-1s",
            "1.5s",
            "1 day",
            "99999999999999999h",
        ] {
            assert!(bad.parse::<After>().is_err(), "{bad:?} should be refused");
        }
    }
}
