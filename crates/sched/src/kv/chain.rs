//! Chain hashes: one number for a block's tokens and everything before them.

use kvist_base::{TokenId, Tokens, mix64};

/// Hash of `(root, tokens[0..n * block_size])`.
///
/// Not cryptographic, and it need not be: see rule 3 of this module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ChainHash(pub(crate) u128);

/// How prefixes are hashed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChainHasher {
    block_size: Tokens,
    /// Which bits survive. All of them, except where collisions are wanted.
    mask: u128,
}

// Two different odd constants: the lanes of a hash must not move alike.
const LANE_A: u64 = 0x9E37_79B9_7F4A_7C15;
const LANE_B: u64 = 0xC2B2_AE3D_27D4_EB4F;

impl ChainHasher {
    pub(crate) fn new(block_size: Tokens, mask: u128) -> Self {
        assert!(!block_size.is_empty());
        Self { block_size, mask }
    }

    /// Appends to `chain` the hash of each full block of `tokens` that it lacks.
    pub(crate) fn extend(&self, chain: &mut Vec<ChainHash>, root: u64, tokens: &[TokenId]) {
        let full_count = tokens.len() / self.block_size.len();
        assert!(chain.len() <= full_count);
        for block_idx in chain.len()..full_count {
            let start = block_idx * self.block_size.len();
            let before = chain.last().copied();
            chain.push(self.next(before, root, &tokens[start..start + self.block_size.len()]));
        }
        assert_eq!(chain.len(), full_count);
    }

    /// The hash of a full block after those whose hash is `before`.
    pub(super) fn next(
        &self,
        before: Option<ChainHash>,
        root: u64,
        tokens: &[TokenId],
    ) -> ChainHash {
        assert_eq!(tokens.len(), self.block_size.len());
        self.link(before.unwrap_or_else(|| self.root(root)), tokens)
    }

    fn root(&self, root: u64) -> ChainHash {
        self.join(mix64(root.wrapping_add(LANE_A)), mix64(root ^ LANE_B))
    }

    fn link(&self, before: ChainHash, tokens: &[TokenId]) -> ChainHash {
        #[allow(clippy::cast_possible_truncation)] // each lane is one half
        let (mut a, mut b) = ((before.0 >> 64) as u64, before.0 as u64);
        for token in tokens {
            let word = u64::from(token.0);
            a = mix64(a.wrapping_add(word).wrapping_add(LANE_A));
            b = mix64(b ^ word.wrapping_add(1).wrapping_mul(LANE_B));
        }
        self.join(a, b)
    }

    fn join(&self, a: u64, b: u64) -> ChainHash {
        ChainHash((u128::from(a) << 64 | u128::from(b)) & self.mask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(root: u64, tokens: &[u32]) -> Vec<ChainHash> {
        let tokens: Vec<TokenId> = tokens.iter().copied().map(TokenId).collect();
        let mut chain = Vec::new();
        ChainHasher::new(Tokens(2), u128::MAX).extend(&mut chain, root, &tokens);
        chain
    }

    #[test]
    fn a_hash_stands_for_the_whole_prefix() {
        let base = chain(7, &[1, 2, 3, 4]);
        assert_eq!(base.len(), 2);
        assert_eq!(
            chain(7, &[1, 2, 3, 4, 5]),
            base,
            "a partial block has no hash"
        );
        assert_eq!(chain(7, &[1, 2, 3, 5])[0], base[0]);
        assert_ne!(chain(7, &[1, 2, 3, 5])[1], base[1]);
        assert_ne!(
            chain(7, &[2, 1, 3, 4])[1],
            base[1],
            "an earlier block matters"
        );
        assert_ne!(chain(8, &[1, 2, 3, 4])[0], base[0], "the root matters");
    }

    #[test]
    fn a_chain_grows_as_if_hashed_at_once() {
        let tokens: Vec<TokenId> = (0..9).map(TokenId).collect();
        let hasher = ChainHasher::new(Tokens(2), u128::MAX);
        let mut grown = Vec::new();
        for len in 0..=tokens.len() {
            hasher.extend(&mut grown, 7, &tokens[..len]);
        }
        let mut at_once = Vec::new();
        hasher.extend(&mut at_once, 7, &tokens);
        assert_eq!(grown, at_once);
    }
}
