//! A subset of a vocabulary.

use crate::TokenId;

/// Tokens a word holds.
const WORD_BITS: usize = u32::BITS as usize;

/// Which tokens of a vocabulary are in the set: bit `id % 32` of word `id / 32`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSet {
    /// Exactly as many words as the vocabulary needs; bits beyond it are zero.
    words: Vec<u32>,
    vocab_len: usize,
}

impl TokenSet {
    /// No token of a vocabulary of `vocab_len`.
    pub fn empty(vocab_len: usize) -> Self {
        Self::from_words(Vec::new(), vocab_len)
    }

    /// The set that `words` spell. Words and bits beyond the vocabulary are dropped, words that are
    /// missing are zero.
    pub fn from_words(mut words: Vec<u32>, vocab_len: usize) -> Self {
        words.resize(vocab_len.div_ceil(WORD_BITS), 0);
        let beyond = vocab_len % WORD_BITS;
        if beyond > 0
            && let Some(last) = words.last_mut()
        {
            *last &= (1 << beyond) - 1;
        }
        Self { words, vocab_len }
    }

    /// Tokens in the vocabulary.
    pub fn vocab_len(&self) -> usize {
        self.vocab_len
    }

    /// The set's bits, 32 tokens a word, ascending.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// Puts a token of the vocabulary into the set.
    ///
    /// # Panics
    /// If the token is not in the vocabulary.
    pub fn insert(&mut self, token: TokenId) {
        assert!(token.idx() < self.vocab_len);
        self.words[token.idx() / WORD_BITS] |= 1 << (token.idx() % WORD_BITS);
    }

    /// Whether the token is in the set; one outside the vocabulary is not.
    pub fn contains(&self, token: TokenId) -> bool {
        let word = self.words.get(token.idx() / WORD_BITS);
        word.is_some_and(|word| word >> (token.idx() % WORD_BITS) & 1 == 1)
    }

    /// How many tokens are in the set.
    pub fn count(&self) -> usize {
        self.words
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum()
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)] // test vocabularies are small
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_the_vocabulary_is_not_in_the_set() {
        for vocab_len in [0, 1, 31, 32, 33, 64, 70] {
            let all = TokenSet::from_words(vec![u32::MAX; 5], vocab_len);
            assert_eq!(all.count(), vocab_len);
            assert_eq!(all.words().len(), vocab_len.div_ceil(32));
            assert!((0..vocab_len as u32).all(|id| all.contains(TokenId(id))));
            assert!(!all.contains(TokenId(vocab_len as u32)));
            assert!(!all.contains(TokenId(u32::MAX)));
        }
    }

    #[test]
    fn a_token_is_in_the_set_once_inserted() {
        let mut set = TokenSet::empty(100);
        for id in [0, 31, 32, 99, 32] {
            set.insert(TokenId(id));
        }
        let held: Vec<u32> = (0..100).filter(|id| set.contains(TokenId(*id))).collect();
        assert_eq!(held, [0, 31, 32, 99]);
        assert_eq!(set.count(), 4);
        assert_eq!(set, TokenSet::from_words(set.words().to_vec(), 100));
    }
}
