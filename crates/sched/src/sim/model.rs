//! A fake language model: what follows depends on the whole history, and on nothing else.

use kvist_base::{FinishReason, TokenId, Tokens, mix64};

use crate::plan::ChunkEnd;

/// Content of one slot: a fingerprint of everything up to and including its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag(u64);

impl Tag {
    /// The content before position 0.
    pub(super) fn root(cache_root: u64) -> Self {
        Self(mix64(cache_root.wrapping_add(0xA076_1D64_78BD_642F)))
    }

    pub(super) fn then(self, token: TokenId) -> Self {
        Self(mix64(
            self.0.wrapping_mul(0xE703_7ED1_A0B4_28DB) ^ u64::from(token.0),
        ))
    }
}

/// How the fake model ends its outputs.
#[derive(Clone, Copy, Debug)]
pub(super) struct FakeModel {
    /// One history in this many ends; 0: none does.
    pub(super) stop_every: u64,
}

impl FakeModel {
    /// What follows a history that ends with `tag`.
    pub(super) fn sample(self, tag: Tag) -> ChunkEnd {
        let bits = mix64(tag.0 ^ 0x8EBC_6AF0_9C88_C6E3);
        let token = TokenId(u32::from(bits & 1 == 1));
        if self.stop_every == 0 || !(bits >> 8).is_multiple_of(self.stop_every) {
            return ChunkEnd::Sampled(token);
        }
        // An end token is not part of the output; the last token of a stop string is.
        let token = (bits & 2 == 2).then_some(token);
        ChunkEnd::Finished {
            token,
            reason: FinishReason::Stop,
        }
    }

    /// The tokens after `prompt` and the reason for their end, without any scheduler.
    pub(super) fn run_alone(
        self,
        cache_root: u64,
        prompt: &[TokenId],
        len_max: Tokens,
    ) -> (Vec<TokenId>, FinishReason) {
        assert!(prompt.len() < len_max.len());
        let mut tag = prompt
            .iter()
            .fold(Tag::root(cache_root), |tag, token| tag.then(*token));
        let mut output = Vec::new();
        while prompt.len() + output.len() < len_max.len() {
            match self.sample(tag) {
                ChunkEnd::Sampled(token) => {
                    output.push(token);
                    tag = tag.then(token);
                }
                ChunkEnd::Finished { token, reason } => {
                    output.extend(token);
                    return (output, reason);
                }
                ChunkEnd::Advanced => unreachable!("sample always samples"),
            }
        }
        (output, FinishReason::Length)
    }
}
