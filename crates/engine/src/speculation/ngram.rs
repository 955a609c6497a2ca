//! Prompt lookup: what followed the last tokens the last time they occurred (Saxena 2023).
//!
//! Of all places where the last two tokens occurred, the one before which most tokens agree with what
//! is known now. Places are found through chains, as in LZ77 compressors: a head for each hash of two
//! tokens, and from each place a link to the one before it with the same hash.

use kvist_base::TokenId;

/// The shortest match that can be found: what the hash is of.
pub(crate) const MATCH_MIN: usize = 2;
/// Places looked at for one draft, the latest first.
const PLACES_MAX: usize = 32;

/// Where each pair of tokens occurred in one sequence, within a window of its latest tokens.
///
/// Taking in a token is one store in each table, whatever the length. Nothing grows.
#[derive(Debug)]
pub(crate) struct NgramIndex {
    /// By hash: one past the latest place, 0 for none.
    heads: Box<[u32]>,
    /// By place, modulo the window: one past the place before it with the same hash, 0 for none.
    links: Box<[u32]>,
    /// Tokens taken in.
    len: usize,
}

/// What was found for a draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Match {
    /// Tokens before the draft that agree, at most as many as were compared.
    pub(crate) len: usize,
}

impl NgramIndex {
    /// An index over the latest `window` tokens, a power of two.
    pub(crate) fn new(window: usize) -> Self {
        assert!(window.is_power_of_two());
        Self {
            heads: vec![0; window].into_boxed_slice(),
            links: vec![0; window].into_boxed_slice(),
            len: 0,
        }
    }

    /// Forgets the sequence it was for.
    pub(crate) fn clear(&mut self) {
        // Links are reached through heads only.
        self.heads.fill(0);
        self.len = 0;
    }

    /// Bytes of the tables.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.heads) + size_of_val(&*self.links)
    }

    /// Takes in what was appended to a sequence since the last call.
    pub(crate) fn update(&mut self, tokens: &[TokenId]) {
        assert!(self.len <= tokens.len(), "a sequence only grows");
        for place in self.len.max(MATCH_MIN - 1)..tokens.len() {
            let head = self.head(tokens, place);
            let link = place & (self.links.len() - 1);
            self.links[link] = self.heads[head];
            self.heads[head] = u32::try_from(place + 1).expect("a sequence's length is 32 bits");
        }
        self.len = tokens.len();
    }

    /// Fills `out`, which is empty, with `max` tokens that followed the best match with the end of `tokens`, all
    /// of which must have been taken in. Matches are compared over at most `match_max` tokens; of
    /// equally long ones the latest is taken. Where a match reaches into its own draft, the draft goes on
    /// from itself.
    pub(crate) fn draft(
        &self,
        tokens: &[TokenId],
        (match_max, max): (usize, usize),
        out: &mut Vec<TokenId>,
    ) -> Option<Match> {
        assert_eq!(self.len, tokens.len());
        assert!(out.is_empty());
        let (place, len) = self.best_match(tokens, match_max)?;
        for idx in 0..max {
            let from = place + 1 + idx;
            let token = match tokens.get(from) {
                Some(token) => *token,
                None => out[from - tokens.len()],
            };
            out.push(token);
        }
        Some(Match { len })
    }

    /// The place at which the best match ends, and its length.
    fn best_match(&self, tokens: &[TokenId], match_max: usize) -> Option<(usize, usize)> {
        let last = tokens.len().checked_sub(1)?;
        if last < MATCH_MIN {
            return None;
        }
        let mut best = None;
        let mut place = last;
        for _ in 0..PLACES_MAX {
            let link = self.links[place & (self.links.len() - 1)] as usize;
            // Links beyond the window were overwritten by later places.
            let Some(next) = link
                .checked_sub(1)
                .filter(|next| *next < place && last - next < self.links.len())
            else {
                break;
            };
            place = next;
            let ends = tokens[..=place].iter().rev().zip(tokens.iter().rev());
            let len = ends.take(match_max).take_while(|(a, b)| a == b).count();
            if len >= MATCH_MIN && best.is_none_or(|(_, most)| len > most) {
                best = Some((place, len));
            }
            if len == match_max {
                break;
            }
        }
        best
    }

    fn head(&self, tokens: &[TokenId], place: usize) -> usize {
        let pair = u64::from(tokens[place - 1].0) << 32 | u64::from(tokens[place].0);
        // Fibonacci hashing: the upper bits of the product depend on all of the pair.
        let hash = pair.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        #[allow(clippy::cast_possible_truncation)] // 32 bits are left
        let hash = hash as usize;
        hash & (self.heads.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use kvist_base::mix64;

    use super::*;

    fn tokens(text: &str) -> Vec<TokenId> {
        text.bytes().map(|byte| TokenId(byte.into())).collect()
    }

    fn draft(text: &str, max: usize) -> Option<(String, usize)> {
        let known = tokens(text);
        let mut index = NgramIndex::new(64);
        index.update(&known);
        let mut out = Vec::new();
        let found = index.draft(&known, (32, max), &mut out)?;
        let bytes = out.iter().map(|token| u8::try_from(token.0).unwrap());
        Some((String::from_utf8(bytes.collect()).unwrap(), found.len))
    }

    #[test]
    fn the_longest_match_goes_on_and_of_equals_the_latest() {
        assert_eq!(draft("abcdX_cdY_abcd", 1), Some(("X".to_owned(), 4)));
        assert_eq!(draft("cdX_cdY_cd", 2), Some(("Y_".to_owned(), 3)));
        assert_eq!(draft("abcdef", 3), None);
        assert_eq!(draft("", 3), None);
        assert_eq!(draft("aa", 3), None, "it matches nothing but itself");
    }

    #[test]
    fn a_draft_goes_on_from_itself() {
        assert_eq!(draft("xyxyxy", 5), Some(("xyxyx".to_owned(), 4)));
        assert_eq!(draft("aaa", 4), Some(("aaaa".to_owned(), 2)));
    }

    /// The same by comparing with every place.
    fn by_hand(known: &[TokenId], window: usize) -> Option<usize> {
        let last = known.len() - 1;
        let agree = |place: usize| {
            let pairs = known[..=place].iter().rev().zip(known.iter().rev());
            pairs.take(32).take_while(|(a, b)| a == b).count()
        };
        let places = (1..last).filter(|place| last - place < window);
        let longest = places.map(agree).max().unwrap_or(0);
        (longest >= MATCH_MIN).then_some(longest)
    }

    #[test]
    fn any_history_gives_the_match_that_comparing_everything_gives() {
        for (window, kinds) in [(64, 12), (16, 5), (256, 25)] {
            let mut index = NgramIndex::new(window);
            for seed in 0..20 {
                index.clear();
                let mut known = Vec::new();
                let mut found_count = 0;
                for step in 0..200_u64 {
                    let kind = mix64(seed * 1000 + step) % kinds;
                    known.push(TokenId(u32::try_from(kind).unwrap()));
                    // As sequences grow: mostly by one, sometimes by several.
                    if kind == 0 {
                        continue;
                    }
                    index.update(&known);
                    let mut out = Vec::new();
                    let found = index.draft(&known, (32, 3), &mut out).map(|m| m.len);
                    let expected = by_hand(&known, window);
                    // Places beyond the 32 latest of a hash are not looked at.
                    assert!(found <= expected, "{seed} {step}");
                    assert_eq!(found.is_some(), expected.is_some(), "{seed} {step}");
                    found_count += usize::from(found == expected);
                    assert_eq!(out.len(), if found.is_some() { 3 } else { 0 });
                }
                assert!(found_count > 100, "{window} {seed}: {found_count}");
            }
        }
    }

    #[test]
    fn the_plan_has_room_for_the_tables() {
        for model_len in [1, 200, 4096, 40_000, 1 << 20] {
            let window = kvist_plan::draft_window(kvist_base::Tokens(model_len));
            let bytes = NgramIndex::new(window.len()).bytes() as u64;
            assert_eq!(bytes, window.len() as u64 * kvist_plan::DRAFT_TOKEN_BYTES);
        }
    }
}
