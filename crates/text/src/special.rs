//! Tokens that are found in the text before any merging: control and user-defined ones.

use kvist_base::TokenId;

use crate::tokenizer::SpecialText;
use crate::trie::Trie;
use crate::vocab::TokenType;

/// A stretch of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fragment<'t> {
    /// A token that occurs literally.
    Token(TokenId),
    /// Text between such tokens, never empty.
    Text(&'t str),
}

/// Finds whole tokens in text, leftmost first and the longest at each place.
///
/// Takes at most (length of text) × (length of the longest such token) steps.
pub(crate) struct SpecialTokens {
    parse: Trie,
    plain: Trie,
}

impl SpecialTokens {
    /// From all tokens of a vocabulary: control tokens count when special text is parsed,
    /// user-defined ones always.
    pub fn new<'t>(tokens: impl Iterator<Item = (TokenId, &'t str, TokenType)>) -> Self {
        let (mut parse, mut plain) = (Trie::new(), Trie::new());
        for (TokenId(id), text, kind) in tokens {
            let (in_parse, in_plain) = match kind {
                TokenType::Control => (true, false),
                TokenType::UserDefined => (true, true),
                _ => continue,
            };
            if text.is_empty() {
                continue;
            }
            if in_parse {
                parse.insert(text.as_bytes(), id);
            }
            if in_plain {
                plain.insert(text.as_bytes(), id);
            }
        }
        Self { parse, plain }
    }

    /// Cuts `text` and hands out its fragments in order.
    pub fn split<'t>(&self, text: &'t str, mode: SpecialText) -> Vec<Fragment<'t>> {
        let trie = match mode {
            SpecialText::Parse => &self.parse,
            SpecialText::Plain => &self.plain,
        };
        let bytes = text.as_bytes();
        let mut fragments = Vec::new();
        let (mut start, mut at) = (0, 0);
        while at < bytes.len() {
            let Some((len, id)) = trie.longest_prefix(&bytes[at..]) else {
                at += 1;
                continue;
            };
            if start < at {
                fragments.push(Fragment::Text(&text[start..at]));
            }
            fragments.push(Fragment::Token(TokenId(id)));
            at += len;
            start = at;
        }
        if start < bytes.len() {
            fragments.push(Fragment::Text(&text[start..]));
        }
        fragments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_token_at_the_leftmost_place_wins() {
        let tokens = [
            (TokenId(1), "<|a", TokenType::Control),
            (TokenId(2), "<|a|>", TokenType::Control),
            (TokenId(3), "a|", TokenType::UserDefined),
            (TokenId(4), "é", TokenType::UserDefined),
            (TokenId(5), "x", TokenType::Normal),
        ];
        let special = SpecialTokens::new(tokens.into_iter());
        let split = |text, mode| special.split(text, mode);
        assert_eq!(
            split("x<|a|><|aéy", SpecialText::Parse),
            [
                Fragment::Text("x"),
                Fragment::Token(TokenId(2)),
                Fragment::Token(TokenId(1)),
                Fragment::Token(TokenId(4)),
                Fragment::Text("y"),
            ]
        );
        assert_eq!(
            split("x<|a|>", SpecialText::Plain),
            [
                Fragment::Text("x<|"),
                Fragment::Token(TokenId(3)),
                Fragment::Text(">")
            ]
        );
        assert_eq!(split("", SpecialText::Parse), []);
    }
}
