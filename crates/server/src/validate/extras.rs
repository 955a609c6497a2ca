//! The rules of vLLM's fields beside OpenAI's.

use kvist_base::{TokenId, Tokens};
use kvist_engine::{
    BeginToken, LOGPROB_TOKENS_MAX, LOGPROBS_MAX, PromptOptions, PromptTokens, Truncation,
    TruncationSide,
};

use super::{Circumstances, bounded, out_of_range};
use crate::error::ApiError;
use crate::state::{REQUEST_ID_BYTES_MAX, is_sane_id};
use crate::wire::common::Integer;
use crate::wire::extras::ExtraFields;

/// Bad words a request may carry; each has up to two spellings.
pub(crate) const BAD_WORDS_MAX: usize = 128;
/// Tokens a request may name to be drawn from.
pub(crate) const ALLOWED_TOKENS_MAX: usize = 4096;

/// What an answer tells beside text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// Log-probabilities of the output.
    pub(crate) logprobs: bool,
    /// Log-probabilities of the prompt, in vLLM's form.
    pub(crate) prompt_logprobs: bool,
    /// Ids of prompt and output.
    pub(crate) token_ids: bool,
    /// How tokens are written in log-probabilities.
    pub(crate) spelling: Spelling,
    /// What the answer's id ends with, if the client says it.
    pub(crate) request_id: Option<String>,
}

/// How tokens are written in log-probabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// As their text.
    #[default]
    Text,
    /// As `token_id:7`.
    Ids,
}

/// What to tell, but for log-probabilities of the output.
pub(super) fn told(fields: &ExtraFields) -> Result<Told, ApiError> {
    let request_id = match &fields.request_id {
        None => None,
        Some(id) if is_sane_id(id.as_bytes()) => Some(id.clone()),
        Some(id) => {
            let limit = format!(
                "1 to {REQUEST_ID_BYTES_MAX} ASCII letters, digits, dots, dashes and underscores"
            );
            return Err(out_of_range("request_id", limit, &format_args!("{id:?}")));
        }
    };
    Ok(Told {
        logprobs: false,
        prompt_logprobs: fields.prompt_logprobs.is_some(),
        token_ids: fields.return_token_ids == Some(true),
        spelling: match fields.return_tokens_as_token_ids {
            Some(true) => Spelling::Ids,
            Some(false) | None => Spelling::Text,
        },
        request_id,
    })
}

pub(super) fn prompt_options(fields: &ExtraFields) -> Result<PromptOptions, ApiError> {
    let logprobs = match fields.prompt_logprobs {
        None => None,
        Some(Integer(given)) => Some(bounded("prompt_logprobs", given, 0..=LOGPROBS_MAX)?),
    };
    let is_told = logprobs.is_some() || fields.return_token_ids == Some(true);
    Ok(PromptOptions {
        begin_token: match fields.add_special_tokens {
            Some(false) => BeginToken::Never,
            Some(true) | None => BeginToken::IfWanted,
        },
        truncation: truncation(fields)?,
        logprobs,
        tokens: match is_told {
            true => PromptTokens::Keep,
            false => PromptTokens::Forget,
        },
    })
}

/// -1 is how vLLM's clients spell "what fits".
fn truncation(fields: &ExtraFields) -> Result<Option<Truncation>, ApiError> {
    let side = match fields.truncation_side.as_deref() {
        None | Some("left") => TruncationSide::Left,
        Some("right") => TruncationSide::Right,
        Some(other) => {
            let given = format_args!("{other:?}");
            return Err(out_of_range("truncation_side", "left or right", &given));
        }
    };
    let limit = match fields.truncate_prompt_tokens {
        None => return Ok(None),
        Some(Integer(-1)) => None,
        Some(Integer(given)) => {
            let limit = bounded("truncate_prompt_tokens", given, 1..=u32::MAX)?;
            Some(Tokens(limit))
        }
    };
    Ok(Some(Truncation { limit, side }))
}

pub(super) fn bad_words(fields: &ExtraFields) -> Result<Vec<String>, ApiError> {
    let Some(words) = &fields.bad_words else {
        return Ok(Vec::new());
    };
    if words.0.len() > BAD_WORDS_MAX {
        let limit = format!("at most {BAD_WORDS_MAX} words");
        return Err(out_of_range("bad_words", limit, &words.0.len()));
    }
    if words.0.iter().any(String::is_empty) {
        return Err(out_of_range(
            "bad_words",
            "made of non-empty strings",
            &"\"\"",
        ));
    }
    Ok(words.0.clone())
}

pub(super) fn allowed_tokens(
    fields: &ExtraFields,
    around: Circumstances<'_>,
) -> Result<Vec<TokenId>, ApiError> {
    let given = fields.allowed_token_ids.as_ref();
    let given = given.map_or(&[][..], |list| &list.0);
    tokens(("allowed_token_ids", ALLOWED_TOKENS_MAX), given, around)
}

/// Tokens whose log-probabilities are to be told. Only where some are.
pub(super) fn logprob_tokens(
    fields: &ExtraFields,
    around: Circumstances<'_>,
) -> Result<Vec<TokenId>, ApiError> {
    let given = fields.logprob_token_ids.as_ref();
    let given = given.map_or(&[][..], |list| &list.0);
    tokens(("logprob_token_ids", LOGPROB_TOKENS_MAX), given, around)
}

/// Token ids of a list, each in the vocabulary.
pub(super) fn tokens(
    (field, max): (&'static str, usize),
    given: &[Integer],
    around: Circumstances<'_>,
) -> Result<Vec<TokenId>, ApiError> {
    if given.len() > max {
        let limit = format!("at most {max} token ids");
        return Err(out_of_range(field, limit, &given.len()));
    }
    let vocab_len = around.vocab_len;
    let token = |&Integer(id): &Integer| match u32::try_from(id).map(TokenId) {
        Ok(token) if token.idx() < vocab_len => Ok(token),
        _ => {
            let limit = format!("token ids below {vocab_len}");
            Err(out_of_range(field, limit, &id))
        }
    };
    given.iter().map(token).collect()
}
