//! Tokens a grammar does not allow: their logits become -infinity.

use kvist_base::{TokenId, TokenSet};

/// Tokens a word of the set holds.
const WORD_BITS: usize = 32;

/// Replaces `out` by `row` with what may not be drawn masked: tokens outside `allowed`, and those
/// that are not `named` if some are.
pub(crate) fn copy_allowed(
    row: &[f32],
    (allowed, named): (Option<&TokenSet>, &[TokenId]),
    out: &mut Vec<f32>,
) {
    match (allowed, named) {
        (Some(allowed), []) => masked(row, allowed, out),
        (None, []) => {
            out.clear();
            out.extend_from_slice(row);
        }
        (_, named) => {
            out.clear();
            out.resize(row.len(), f32::NEG_INFINITY);
            for token in named {
                if allowed.is_none_or(|allowed| allowed.contains(*token)) {
                    out[token.idx()] = row[token.idx()];
                }
            }
        }
    }
}

/// Whether something other than an end is left of `allowed`, and of what is `named` if something is.
pub(crate) fn goes_on(allowed: &TokenSet, named: &[TokenId], ends: &[TokenId]) -> bool {
    match named {
        [] => has_others(allowed, ends),
        named => named
            .iter()
            .any(|token| allowed.contains(*token) && !ends.contains(token)),
    }
}

/// Replaces `out` by `row` with the logits of all tokens outside `allowed` masked.
///
/// A word at a time: most are all or nothing, which is a fill or a copy; the rest are selects side
/// by side, which the compiler turns into vector instructions.
pub(crate) fn masked(row: &[f32], allowed: &TokenSet, out: &mut Vec<f32>) {
    assert_eq!(row.len(), allowed.vocab_len());
    out.clear();
    let (groups, rest) = row.as_chunks::<WORD_BITS>();
    let (words, last) = allowed.words().split_at(groups.len());
    for (group, &word) in groups.iter().zip(words) {
        match word {
            0 => out.extend_from_slice(&[f32::NEG_INFINITY; WORD_BITS]),
            u32::MAX => out.extend_from_slice(group),
            _ => out.extend_from_slice(&select(group, word)),
        }
    }
    let word = last.first().copied().unwrap_or(0);
    let kept = |(bit, &logit): (usize, &f32)| match word >> bit & 1 {
        1 => logit,
        _ => f32::NEG_INFINITY,
    };
    out.extend(rest.iter().enumerate().map(kept));
}

fn select(group: &[f32; WORD_BITS], word: u32) -> [f32; WORD_BITS] {
    let mut kept = [f32::NEG_INFINITY; WORD_BITS];
    for bit in 0..WORD_BITS {
        kept[bit] = if word & (1 << bit) == 0 {
            f32::NEG_INFINITY
        } else {
            group[bit]
        };
    }
    kept
}

/// Whether something is left of `allowed` without `tokens`.
pub(crate) fn has_others(allowed: &TokenSet, tokens: &[TokenId]) -> bool {
    let among = |token: &TokenId| allowed.contains(*token);
    // A token may be listed twice; counted twice it could only hide that there are others.
    let mut distinct: Vec<TokenId> = tokens.iter().copied().filter(among).collect();
    distinct.sort_unstable();
    distinct.dedup();
    allowed.count() > distinct.len()
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)] // test vocabularies are small
mod tests {
    use super::*;
    use kvist_base::mix64;

    #[test]
    fn allowed_logits_stay_and_all_others_are_masked() {
        for vocab_len in [1, 31, 32, 33, 95, 96, 500] {
            for kind in 0..4u64 {
                let word = |idx: u64| match (kind, idx % 3) {
                    (0, _) | (1, 0) => 0,
                    (2, _) | (1, 1) => u32::MAX,
                    _ => (mix64(idx + kind) >> 20) as u32,
                };
                let words = (0..vocab_len as u64).map(word).collect();
                let allowed = TokenSet::from_words(words, vocab_len);
                let row: Vec<f32> = (0..vocab_len).map(|idx| idx as f32 - 7.5).collect();
                let mut out = vec![1.0; 3];
                masked(&row, &allowed, &mut out);
                assert_eq!(out.len(), vocab_len);
                for (idx, &logit) in out.iter().enumerate() {
                    let expected = if allowed.contains(TokenId(idx as u32)) {
                        row[idx]
                    } else {
                        f32::NEG_INFINITY
                    };
                    assert_eq!(logit, expected, "{idx} of {vocab_len}, kind {kind}");
                }
            }
        }
    }

    #[test]
    fn others_are_those_beside_the_listed_ones() {
        let mut allowed = TokenSet::empty(40);
        allowed.insert(TokenId(3));
        allowed.insert(TokenId(33));
        let ids = |ids: &[u32]| ids.iter().copied().map(TokenId).collect::<Vec<_>>();
        assert!(has_others(&allowed, &[]));
        assert!(has_others(&allowed, &ids(&[3, 3, 5])));
        assert!(!has_others(&allowed, &ids(&[33, 3])));
        assert!(!has_others(&TokenSet::empty(40), &[]));
    }
}
