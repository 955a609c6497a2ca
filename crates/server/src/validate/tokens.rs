//! The rules of `/tokenize` and `/detokenize`.

use kvist_base::TokenId;
use kvist_engine::{Prompt, PromptOptions};

use super::{Circumstances, chat, extras, out_of_range};
use crate::config::UnknownFields;
use crate::error::ApiError;
use crate::wire::read::{Received, Unread};
use crate::wire::tokens::{DetokenizeRequest, TokenizeRequest};

/// A checked request for the tokens of a prompt.
#[derive(Debug)]
pub(crate) struct TokenizeCall {
    pub(crate) prompt: Prompt,
    pub(crate) options: PromptOptions,
    /// The field the prompt is from.
    pub(crate) field: &'static str,
    pub(crate) returns_texts: bool,
    pub(crate) ignored: Vec<String>,
}

/// Checks a request: a conversation is held to the rules of chat.
pub(crate) fn tokenize(
    received: Received<TokenizeRequest>,
    around: Circumstances<'_>,
) -> Result<TokenizeCall, ApiError> {
    let Received {
        body,
        unread,
        unread_nested,
    } = received;
    let returns_texts = body.return_token_strs == Some(true);
    match (body.prompt, body.chat.messages.is_some()) {
        (Some(text), false) => Ok(TokenizeCall {
            prompt: Prompt::Text(text),
            options: extras::prompt_options(&body.chat.generation.extras)?,
            field: "prompt",
            returns_texts,
            ignored: known_only(&unread, around)?,
        }),
        (None, true) => {
            let received = Received {
                body: body.chat,
                unread,
                unread_nested,
            };
            let mut call = chat(received, around)?;
            Ok(TokenizeCall {
                prompt: call.prompts.remove(0),
                options: call.settings.prompt_options,
                field: "messages",
                returns_texts,
                ignored: call.ignored,
            })
        }
        (Some(_), true) => Err(ApiError::Conflict {
            field: "prompt",
            reason: "with messages",
        }),
        (None, false) => Err(ApiError::Missing {
            field: "prompt",
            hint: "give a string, or a conversation in messages",
        }),
    }
}

/// Checks a request. Its tokens are in the vocabulary.
pub(crate) fn detokenize(
    received: Received<DetokenizeRequest>,
    around: Circumstances<'_>,
) -> Result<(Vec<TokenId>, Vec<String>), ApiError> {
    let ignored = known_only(&received.unread, around)?;
    let tokens = received.body.tokens.ok_or(ApiError::Missing {
        field: "tokens",
        hint: "give a list of token ids",
    })?;
    let limit = around.vocab_len;
    let tokens = tokens.0.into_iter().map(TokenId);
    let in_range = |token: TokenId| match token.idx() < limit {
        true => Ok(token),
        false => Err(out_of_range(
            "tokens",
            format!("token ids below {limit}"),
            &token,
        )),
    };
    Ok((tokens.map(in_range).collect::<Result<_, _>>()?, ignored))
}

/// Names of fields nobody knows, where they are let through.
fn known_only(unread: &[Unread], around: Circumstances<'_>) -> Result<Vec<String>, ApiError> {
    match unread.first() {
        Some(Unread { name, .. }) if around.unknown_fields == UnknownFields::Refuse => {
            Err(ApiError::Unsupported {
                field: name.clone(),
                hint: "; this server takes known fields only",
            })
        }
        _ => Ok(unread.iter().map(|field| field.name.clone()).collect()),
    }
}
