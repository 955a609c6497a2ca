//! Windows of published request traces: when requests came, how long they were, what they shared.
//! Sources and licences: `crates/xtask/data/README.md`.

use std::time::Duration;

use serde::Deserialize;

use super::load::{Ask, tokens};

const AZURE: &str = include_str!("../../data/azure_conversation_2023.csv");
const MOONCAKE: &str = include_str!("../../data/mooncake_conversation.jsonl");
/// Tokens a block id of the Mooncake trace stands for.
const MOONCAKE_BLOCK: u32 = 512;

/// Lengths of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    pub at: Duration,
    pub prompt_len: u32,
    pub output_len: u32,
}

impl Lengths {
    /// The same request, shorter: at least one token each.
    pub fn scaled(self, factor: f64) -> Self {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // less than before
        let scale = |len: u32| ((f64::from(len) * factor) as u32).max(1);
        Self {
            at: self.at,
            prompt_len: scale(self.prompt_len),
            output_len: scale(self.output_len),
        }
    }
}

/// The Azure window.
pub fn azure() -> Vec<Lengths> {
    parse_azure(AZURE).expect("the checked-in window is well-formed: a test reads it")
}

/// The Azure window with the lengths divided so that the longest request fits a context, and the
/// factor.
pub fn azure_within(model_len: u64) -> (Vec<Lengths>, f64) {
    let rows = azure();
    let longest = rows.iter().map(|row| row.prompt_len + row.output_len).max();
    #[allow(clippy::cast_precision_loss)] // lengths of contexts
    let factor = (model_len as f64 / f64::from(longest.unwrap_or(1))).min(1.0);
    (rows.iter().map(|row| row.scaled(factor)).collect(), factor)
}

fn parse_azure(text: &str) -> Option<Vec<Lengths>> {
    text.lines()
        .skip(1)
        .map(|line| {
            let mut fields = line.split(',').map(|field| field.parse::<u32>().ok());
            Some(Lengths {
                at: Duration::from_millis(u64::from(fields.next()??)),
                prompt_len: fields.next()??,
                output_len: fields.next()??,
            })
        })
        .collect()
}

/// One request of the Mooncake trace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Shared {
    timestamp: u64,
    input_length: u32,
    output_length: u32,
    hash_ids: Vec<u64>,
}

/// How a Mooncake request is made smaller: its blocks of 512 tokens, and with them all lengths,
/// divided by `divisor`; its time multiplied by `stretch`.
#[derive(Clone, Copy, Debug)]
pub struct Shrink {
    pub divisor: u32,
    pub stretch: u32,
    pub vocab_len: u32,
}

impl Shrink {
    /// Tokens a block id stands for.
    pub fn block_len(self) -> usize {
        (MOONCAKE_BLOCK / self.divisor).max(1) as usize
    }
}

/// The Mooncake window.
pub fn mooncake() -> Vec<Shared> {
    parse_mooncake(MOONCAKE).expect("the checked-in window is well-formed: a test reads it")
}

fn parse_mooncake(text: &str) -> serde_json::Result<Vec<Shared>> {
    text.lines().map(serde_json::from_str).collect()
}

impl Shared {
    /// When it comes.
    pub fn at(&self, shrink: Shrink) -> Duration {
        Duration::from_millis(self.timestamp) * shrink.stretch
    }

    /// The request itself. Equal block ids become equal tokens.
    pub fn ask(&self, shrink: Shrink) -> Ask {
        let block_len = shrink.block_len();
        let blocks = self.hash_ids.iter();
        let mut prompt: Vec<u32> = blocks
            .flat_map(|id| tokens(*id, block_len, shrink.vocab_len))
            .collect();
        prompt.truncate((self.input_length / shrink.divisor).max(1) as usize);
        Ask::new(prompt, (self.output_length / shrink.divisor).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_azure_window_is_whole() {
        let rows = azure();
        assert_eq!(rows.len(), 2000);
        assert!(rows.is_sorted_by_key(|row| row.at));
        let first = Lengths {
            at: Duration::ZERO,
            prompt_len: 374,
            output_len: 44,
        };
        assert_eq!(rows[0], first);
        assert_eq!(parse_azure("arrival_ms,a,b\n1,2\n"), None);
    }

    #[test]
    fn scaled_requests_fit_and_are_not_empty() {
        let (rows, factor) = azure_within(1000);
        assert!((0.1..0.2).contains(&factor));
        assert!(
            rows.iter()
                .all(|row| row.prompt_len + row.output_len <= 1000)
        );
        assert!(
            rows.iter()
                .all(|row| row.prompt_len > 0 && row.output_len > 0)
        );
        assert_eq!(azure_within(1 << 20).0, azure());
    }

    #[test]
    fn equal_blocks_of_the_mooncake_window_become_equal_tokens() {
        let rows = mooncake();
        assert_eq!(rows.len(), 600);
        assert!(rows.is_sorted_by_key(|row| row.timestamp));
        let shrink = Shrink {
            divisor: 32,
            stretch: 2,
            vocab_len: 49152,
        };
        let (first, second) = (rows[0].ask(shrink), rows[1].ask(shrink));
        assert_eq!(first.prompt.len(), 6758 / 32);
        assert_eq!(first.output_len, 500 / 32);
        assert_eq!(
            first.prompt[..16],
            second.prompt[..16],
            "both begin with block 0"
        );
        assert_ne!(first.prompt[16..32], second.prompt[16..32]);
        for row in &rows {
            assert_eq!(
                row.ask(shrink).prompt.len(),
                (row.input_length / 32).max(1) as usize
            );
        }
        assert!(parse_mooncake("{}").is_err());
    }
}
