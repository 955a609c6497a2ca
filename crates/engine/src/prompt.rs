//! From what a request says to the tokens it runs with.

use kvist_base::{TokenId, Tokens};
use kvist_text::{SpecialText, encode_prompt};

use crate::error::RequestError;
use crate::request::{BeginToken, Prompt, PromptOptions};
use crate::shared::Shared;

impl Shared {
    /// How the tokenizer may spell these words: alone, and after a space.
    pub(crate) fn spellings(&self, words: &[String]) -> Result<Vec<Vec<TokenId>>, RequestError> {
        let mut spellings: Vec<Vec<TokenId>> = Vec::new();
        for word in words {
            let word = word.trim_start();
            for text in [word.to_owned(), format!(" {word}")] {
                let tokens = self.tokenize(&text, SpecialText::Plain)?;
                if !tokens.is_empty() && !spellings.contains(&tokens) {
                    spellings.push(tokens);
                }
            }
        }
        Ok(spellings)
    }

    /// The tokens a request with this prompt and `output_max` runs with.
    pub(crate) fn prompt_tokens(
        &self,
        prompt: Prompt,
        options: &PromptOptions,
        output_max: Option<Tokens>,
    ) -> Result<Vec<TokenId>, RequestError> {
        let (tokens, _) = self.prompt_and_tail(prompt, options, output_max)?;
        Ok(tokens)
    }

    /// The same, and the end of its text if it is a conversation.
    pub(crate) fn prompt_and_tail(
        &self,
        prompt: Prompt,
        options: &PromptOptions,
        output_max: Option<Tokens>,
    ) -> Result<(Vec<TokenId>, String), RequestError> {
        let encode = |text: &str, mode| {
            self.check_bytes(text)?;
            Ok::<_, RequestError>(match options.begin_token {
                BeginToken::IfWanted => encode_prompt(&*self.tokenizer, text, mode)?,
                BeginToken::Never => self.tokenizer.encode(text, mode)?,
            })
        };
        let mut prompt_tail = String::new();
        let mut tokens = match prompt {
            Prompt::Text(text) => encode(&text, SpecialText::Plain)?,
            Prompt::Chat(input) => {
                let text = self.render_chat(&input)?;
                prompt_tail = tail(&text).to_owned();
                encode(&text, SpecialText::Parse)?
            }
            Prompt::Tokens(tokens) => tokens,
        };
        let limit = self.tokenizer.vocab_len();
        if let Some(token) = tokens.iter().find(|token| token.idx() >= limit) {
            return Err(RequestError::TokenOutOfRange {
                limit,
                given: token.0,
            });
        }
        if tokens.is_empty() {
            return Err(RequestError::EmptyPrompt);
        }
        if let Some(truncation) = options.truncation {
            let output = output_max.unwrap_or(Tokens(1));
            let room = self.info.model_len.saturating_sub(output).max(Tokens(1));
            truncation.apply(&mut tokens, room);
        }
        Ok((tokens, prompt_tail))
    }

    /// A prompt that could not fit even if every token were the longest is not worth tokenising.
    pub(crate) fn check_bytes(&self, text: &str) -> Result<(), RequestError> {
        let limit = self.info.model_len;
        let bytes_max = limit
            .len()
            .saturating_mul(self.tokenizer.longest_token_bytes());
        if text.len() > bytes_max {
            let given = kvist_base::Bytes::of_len(text.len());
            return Err(RequestError::PromptTooLarge { limit, given });
        }
        Ok(())
    }
}

/// The last characters of a rendered conversation: enough for any mark a template ends with.
fn tail(text: &str) -> &str {
    const BYTES: usize = 64;
    let mut start = text.len().saturating_sub(BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}
