//! Whether two models mean the same by the same token ids.

use kvist_text::TokenType;
use kvist_weights::{Metadata, StrArray};

use super::error::DraftError;
use crate::load::LoadError;

/// A vocabulary as its file has it.
#[derive(Clone, Copy, Debug)]
struct Vocabulary<'a> {
    /// How tokens are spelled.
    kind: &'a str,
    /// By id.
    tokens: &'a StrArray,
    /// By id, as numbers.
    types: Option<&'a [i32]>,
}

/// Refuses a draft model whose tokens are not the served model's, naming the first that differs. Tokens
/// that only one of them has must be padding: files of one family pad their tables to different lengths.
pub(super) fn check_same(served: &Metadata, draft: &Metadata) -> Result<(), LoadError> {
    match first_difference(&vocabulary(served)?, &vocabulary(draft)?) {
        None => Ok(()),
        Some(difference) => Err(difference.into()),
    }
}

fn vocabulary(metadata: &Metadata) -> Result<Vocabulary<'_>, LoadError> {
    Ok(Vocabulary {
        kind: metadata.require_str("tokenizer.ggml.model")?,
        tokens: metadata.require_strings("tokenizer.ggml.tokens")?,
        types: metadata.i32s("tokenizer.ggml.token_type")?,
    })
}

fn first_difference(served: &Vocabulary<'_>, draft: &Vocabulary<'_>) -> Option<DraftError> {
    if served.kind != draft.kind {
        return Some(DraftError::Kind {
            served: served.kind.to_owned(),
            draft: draft.kind.to_owned(),
        });
    }
    let pairs = served.tokens.iter().zip(draft.tokens.iter()).enumerate();
    let differs = { pairs }.find(|(_, (served, draft))| served != draft);
    if let Some((token, (served, draft))) = differs {
        return Some(DraftError::Token {
            token,
            served: served.to_owned(),
            draft: draft.to_owned(),
        });
    }
    let common = served.tokens.len().min(draft.tokens.len());
    [(served, "model"), (draft, "draft model")]
        .into_iter()
        .find_map(|(vocabulary, owner)| {
            let (token, text) = vocabulary.first_in_use_from(common)?;
            let text = text.to_owned();
            Some(DraftError::Extra { token, text, owner })
        })
}

impl<'a> Vocabulary<'a> {
    fn first_in_use_from(&self, start: usize) -> Option<(usize, &'a str)> {
        let is_unused = |token: &usize| {
            let number = self.types.and_then(|types| types.get(*token)).copied();
            let kind = number.map(TokenType::try_from);
            matches!(kind, Some(Ok(TokenType::Unused)))
        };
        let token = (start..self.tokens.len()).find(|token| !is_unused(token))?;
        Some((token, self.tokens.get(token)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NORMAL: i32 = 1;
    const UNUSED: i32 = 5;

    /// What is said of two vocabularies of these tokens, the last ones of these types.
    fn said(served: (&str, &[i32]), draft: (&str, &[i32])) -> Option<String> {
        let tokens = |text: &str| text.split(' ').collect::<StrArray>();
        let (served_tokens, draft_tokens) = (tokens(served.0), tokens(draft.0));
        let of = |tokens, types| Vocabulary {
            kind: "gpt2",
            tokens,
            types: Some(types),
        };
        let served = of(&served_tokens, served.1);
        let draft = of(&draft_tokens, draft.1);
        first_difference(&served, &draft).map(|error| error.to_string())
    }

    #[test]
    fn the_first_token_that_differs_is_named() {
        let types = [NORMAL; 4];
        assert_eq!(said(("a b c", &types), ("a b c", &types)), None);
        let differs = said(("a b c d", &types), ("a b x y", &types)).unwrap();
        assert!(differs.starts_with("token 2 is \"c\" in the model and \"x\" in the draft model"));
        let longer = said(("a b c d", &types), ("a b", &types)).unwrap();
        assert!(longer.starts_with("token 2, \"c\", is in the vocabulary of the model only"));
        let longer = said(("a", &types), ("a b", &types)).unwrap();
        assert!(longer.starts_with("token 1, \"b\", is in the vocabulary of the draft model only"));
    }

    #[test]
    fn padding_at_the_end_is_no_difference() {
        let padded = [NORMAL, NORMAL, UNUSED, UNUSED];
        let pads = "a b [PAD2] [PAD3]";
        assert_eq!(said((pads, &padded), ("a b", &padded)), None);
        assert_eq!(said(("a b", &padded), (pads, &padded)), None);
        let in_use = said((pads, &padded[..3]), ("a b", &padded)).unwrap();
        assert!(
            in_use.starts_with("token 3"),
            "of no type is in use: {in_use}"
        );
    }

    #[test]
    fn kinds_of_spelling_must_be_the_same() {
        let tokens: StrArray = ["a"].into_iter().collect();
        let of = |kind| Vocabulary {
            kind,
            tokens: &tokens,
            types: None,
        };
        let error = first_difference(&of("gpt2"), &of("llama")).unwrap();
        assert!(matches!(error, DraftError::Kind { .. }));
    }
}
