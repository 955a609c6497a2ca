//! Answers of `POST /v1/completions`.

use std::fmt::Write as _;

use axum::response::sse::Event;
use kvist_base::TokenId;
use kvist_engine::{Delta, Finished, Prompt, RequestHandle, Scored, TokenLogprob, TokenLogprobs};

use super::prompt::prompt_logprobs;
use super::{Answer, EventResult, Heading, Vocabulary, ids, stop_reason};
use crate::generate::Output;
use crate::models::Served;
use crate::state::Ticket;
use crate::validate::{Call, Echo, Told};
use crate::wire::common::{Pairs, Usage};
use crate::wire::completion::{Completion, CompletionChoice, CompletionChunk, CompletionLogprobs};

const OBJECT: &str = "text_completion";

/// Words a plain completion.
pub(crate) struct CompletionAnswer {
    heading: Heading,
    vocabulary: Vocabulary,
    told: Told,
    /// How many of the likeliest tokens are listed for an echoed one.
    top_logprobs: usize,
    /// Text the alternatives of each prompt begin with, if they begin with their prompt.
    echoed: Option<Vec<String>>,
    /// Whether that is what the tokens spell, and not all the text there was.
    is_truncated: bool,
    /// Tokens of each prompt, where they are told.
    prompts: Vec<Vec<TokenId>>,
    /// Alternatives of each prompt that are computed, and that are answered.
    computed: usize,
    choices: usize,
    /// Characters of the tokens sent so far, by alternative.
    offsets: Vec<usize>,
}

impl CompletionAnswer {
    pub(crate) fn new(served: &Served, call: &Call, ticket: Ticket) -> Self {
        let vocabulary = Vocabulary::new(served, call);
        let echoed = (call.echo == Echo::PromptFirst).then(|| {
            call.prompts
                .iter()
                .map(|prompt| prompt_text(&vocabulary, prompt))
                .collect()
        });
        Self {
            heading: Heading::new(served, call, (ticket, "cmpl")),
            vocabulary,
            told: call.told.clone(),
            top_logprobs: call.settings.sampling.logprobs.unwrap_or(0) as usize,
            echoed,
            is_truncated: call.settings.prompt_options.truncation.is_some(),
            prompts: Vec::new(),
            computed: call.choices,
            choices: call.kept,
            offsets: vec![0; call.prompts.len() * call.kept],
        }
    }

    fn echoed(&self, index: usize) -> Option<&str> {
        self.echoed
            .as_ref()
            .map(|texts| texts[index / self.choices].as_str())
    }

    fn prompt(&self, index: usize) -> &[TokenId] {
        self.prompts
            .get(index / self.choices)
            .map_or(&[], Vec::as_slice)
    }

    /// Log-probabilities of new output, behind those of the echoed prompt that came with it.
    fn logprobs(
        &mut self,
        index: usize,
        (scored, entries): (&[Scored], &[TokenLogprobs]),
    ) -> Option<CompletionLogprobs> {
        let mut lists = self.told.logprobs.then(CompletionLogprobs::default)?;
        if self.echoed.is_some() {
            for each in scored {
                let top = each.top.iter().take(self.top_logprobs);
                let is_listed = top.clone().any(|likely| likely.token == each.chosen.token);
                let own = (!is_listed).then_some(&each.chosen);
                let pairs = self.pairs(top.chain(own));
                self.list(index, &mut lists, (each.chosen, pairs));
            }
        }
        for entry in entries {
            // The engine adds the chosen token if it is not among the likeliest.
            let pairs = self.pairs(entry.top.iter());
            self.list(index, &mut lists, (entry.chosen, pairs));
        }
        Some(lists)
    }

    /// The first token of an echoed prompt: nothing comes before it that would say how likely it is.
    fn first_logprobs(&mut self, index: usize) -> Option<CompletionLogprobs> {
        let mut lists = self.told.logprobs.then(CompletionLogprobs::default)?;
        if let Some(&token) = self.prompt(index).first() {
            self.list_token(index, &mut lists, token);
            lists.token_logprobs.push(None);
            lists.top_logprobs.push(None);
        }
        Some(lists)
    }

    fn list(
        &mut self,
        index: usize,
        lists: &mut CompletionLogprobs,
        (chosen, top): (TokenLogprob, Pairs),
    ) {
        self.list_token(index, lists, chosen.token);
        lists.token_logprobs.push(Some(chosen.logprob));
        lists.top_logprobs.push(Some(top));
    }

    fn list_token(&mut self, index: usize, lists: &mut CompletionLogprobs, token: TokenId) {
        let text = token_text(&self.vocabulary.bytes(token));
        let offset = &mut self.offsets[index];
        lists.text_offset.push(*offset);
        *offset += text.chars().count();
        lists.tokens.push(self.vocabulary.name(token, || text));
    }

    fn pairs<'a>(&self, entries: impl Iterator<Item = &'a TokenLogprob>) -> Pairs {
        let pair = |each: &TokenLogprob| {
            let bytes = self.vocabulary.bytes(each.token);
            let name = self.vocabulary.name(each.token, || token_text(&bytes));
            (name, each.logprob)
        };
        Pairs(entries.map(pair).collect())
    }

    fn ids(&self, tokens: &[TokenId]) -> Option<Vec<u32>> {
        self.told.token_ids.then(|| ids(tokens))
    }

    fn chunk(&self, choices: Vec<CompletionChoice>, usage: Option<Usage>) -> EventResult {
        Event::default().json_data(CompletionChunk {
            id: &self.heading.id,
            object: OBJECT,
            created: self.heading.created,
            model: &self.heading.model,
            choices,
            usage: self.heading.piece_usage(usage),
            system_fingerprint: &self.heading.fingerprint,
        })
    }
}

fn piece(index: usize, text: String) -> CompletionChoice {
    CompletionChoice {
        index,
        text,
        logprobs: None,
        finish_reason: None,
        stop_reason: None,
        token_ids: None,
        prompt_token_ids: None,
        prompt_logprobs: None,
    }
}

impl Answer for CompletionAnswer {
    const PROMPT_FIELD: &'static str = "prompt";
    type Whole = Completion;

    fn heading(&self) -> &Heading {
        &self.heading
    }

    fn heading_mut(&mut self) -> &mut Heading {
        &mut self.heading
    }

    fn begin(&mut self, handles: &[RequestHandle]) {
        let firsts = handles.iter().step_by(self.computed);
        self.prompts = firsts
            .map(|handle| handle.prompt_tokens().to_vec())
            .collect();
        if let Some(texts) = self.echoed.as_mut().filter(|_| self.is_truncated) {
            let tokens = self.prompts.iter();
            *texts = tokens.map(|prompt| self.vocabulary.text(prompt)).collect();
        }
    }

    fn whole(mut self, outputs: Vec<Output>, usage: Usage) -> Completion {
        let mut choices = Vec::with_capacity(outputs.len());
        for (index, output) in outputs.into_iter().enumerate() {
            let text = match self.echoed(index) {
                Some(prompt) => format!("{prompt}{}", output.text),
                None => output.text,
            };
            let logprobs = match self.echoed {
                Some(_) => self.first_logprobs(index),
                None => None,
            };
            let more = self.logprobs(index, (&output.prompt_logprobs, &output.logprobs));
            let told = self.told.prompt_logprobs;
            choices.push(CompletionChoice {
                logprobs: joined(logprobs, more),
                token_ids: self.ids(&output.tokens),
                prompt_token_ids: self.ids(self.prompt(index)),
                prompt_logprobs: told
                    .then(|| prompt_logprobs(&self.vocabulary, &output.prompt_logprobs)),
                finish_reason: Some(output.finished.reason.wire_name()),
                stop_reason: stop_reason(&output.finished),
                ..piece(index, text)
            });
        }
        Completion {
            id: self.heading.id,
            object: OBJECT,
            created: self.heading.created,
            model: self.heading.model,
            choices,
            usage,
            system_fingerprint: self.heading.fingerprint,
        }
    }

    fn opening(&mut self, index: usize) -> Option<EventResult> {
        let echoed = self.echoed(index).map(str::to_owned);
        if echoed.is_none() && !self.told.token_ids {
            return None;
        }
        let logprobs = match echoed {
            Some(_) => self.first_logprobs(index),
            None => None,
        };
        let choice = CompletionChoice {
            logprobs,
            prompt_token_ids: self.ids(self.prompt(index)),
            ..piece(index, echoed.unwrap_or_default())
        };
        Some(self.chunk(vec![choice], None))
    }

    fn delta(&mut self, index: usize, delta: Delta) -> Option<EventResult> {
        let told = (delta.prompt_logprobs.as_slice(), delta.logprobs.as_slice());
        let logprobs = self.logprobs(index, told);
        let token_ids = self.ids(&delta.tokens);
        let has_logprobs = logprobs
            .as_ref()
            .is_some_and(|lists| !lists.tokens.is_empty());
        let has_ids = token_ids.as_ref().is_some_and(|ids| !ids.is_empty());
        if delta.text.is_empty() && !has_logprobs && !has_ids {
            return None;
        }
        Some(self.chunk(
            vec![CompletionChoice {
                logprobs,
                token_ids,
                ..piece(index, delta.text)
            }],
            None,
        ))
    }

    fn end(&mut self, index: usize, finished: &Finished) -> Vec<EventResult> {
        let choice = CompletionChoice {
            finish_reason: Some(finished.reason.wire_name()),
            stop_reason: stop_reason(finished),
            ..piece(index, String::new())
        };
        vec![self.chunk(vec![choice], None)]
    }

    fn usage(&mut self, usage: Usage) -> EventResult {
        self.chunk(Vec::new(), Some(usage))
    }
}

/// Lists behind lists.
fn joined(
    first: Option<CompletionLogprobs>,
    more: Option<CompletionLogprobs>,
) -> Option<CompletionLogprobs> {
    let (mut lists, more) = match (first, more) {
        (Some(lists), Some(more)) => (lists, more),
        (first, more) => return first.or(more),
    };
    lists.tokens.extend(more.tokens);
    lists.token_logprobs.extend(more.token_logprobs);
    lists.top_logprobs.extend(more.top_logprobs);
    lists.text_offset.extend(more.text_offset);
    Some(lists)
}

/// A prompt as the client wrote it, or as its tokens spell it.
fn prompt_text(vocabulary: &Vocabulary, prompt: &Prompt) -> String {
    match prompt {
        Prompt::Text(text) => text.clone(),
        Prompt::Tokens(tokens) => vocabulary.text(tokens),
        // This endpoint has no conversations.
        Prompt::Chat(_) => String::new(),
    }
}

/// A token as this endpoint writes it: `bytes:\xe2\x80` where it is not whole characters, so that
/// different tokens stay different keys.
fn token_text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold("bytes:".to_owned(), |mut text, byte| {
            let _ = write!(text, "\\x{byte:02x}"); // a String takes everything
            text
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_characters_are_spelled_as_bytes() {
        assert_eq!(token_text("né".as_bytes()), "né");
        assert_eq!(token_text(&[0xe2, 0x80]), "bytes:\\xe2\\x80");
    }
}
