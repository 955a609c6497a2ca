//! Answers of `POST /v1/chat/completions`.

use axum::response::sse::Event;
use kvist_base::TokenId;
use kvist_engine::{Delta, Finished, Prompt, RequestHandle, TokenLogprob, TokenLogprobs};

use super::prompt::prompt_logprobs;
use super::turn::{self, Reading, Said, Turn};
use super::{Answer, EventResult, Heading, Vocabulary, ids, lossy, stop_reason};
use crate::generate::Output;
use crate::models::Served;
use crate::state::Ticket;
use crate::validate::{Call, Echo, Told};
use crate::wire::chat::{
    AssistantMessage, ChatChoice, ChatChunkChoice, ChatCompletion, ChatCompletionChunk, ChatDelta,
    ChatLogprobs, ChatTokenLogprob, ChatTokenLogprobs,
};
use crate::wire::common::{CompletionTokensDetails, Usage};
use crate::wire::tools;

const ASSISTANT: &str = "assistant";

/// Words a chat answer.
pub(crate) struct ChatAnswer {
    heading: Heading,
    vocabulary: Vocabulary,
    told: Told,
    /// What the answer goes on with, if it begins with that.
    echoed: String,
    prompt: Vec<TokenId>,
    /// How many of the likeliest tokens go with each position, if log-probabilities were asked for.
    top_logprobs: Option<usize>,
    reading: Reading,
    /// By alternative.
    turns: Vec<Turn>,
}

impl ChatAnswer {
    pub(crate) fn new(served: &Served, call: &Call, ticket: Ticket) -> Self {
        Self {
            heading: Heading::new(served, call, (ticket, "chatcmpl")),
            vocabulary: Vocabulary::new(served, call),
            told: call.told.clone(),
            echoed: match call.echo {
                Echo::PromptFirst => continued(call),
                Echo::OutputOnly => String::new(),
            },
            prompt: Vec::new(),
            top_logprobs: top_logprobs(call),
            reading: Reading::new(call, ticket),
            turns: Vec::new(),
        }
    }

    /// With how much of the output was reasoning.
    fn detailed(&self, usage: Usage) -> Usage {
        let tokens = self.turns.iter().map(Turn::reasoning_tokens).sum();
        Usage {
            completion_tokens_details: self.reading.finds_reasoning().then_some(
                CompletionTokensDetails {
                    reasoning_tokens: tokens,
                },
            ),
            ..usage
        }
    }

    fn choice(&mut self, index: usize, output: &Output) -> ChatChoice {
        let turn = &mut self.turns[index];
        let said = Message::of(turn.take_all(output));
        let is_silent = said.reasoning.is_none() && said.calls.is_empty();
        let content = match self.echoed.as_str() {
            "" => said.text.or_else(|| is_silent.then(String::new)),
            echoed => Some(format!("{echoed}{}", said.text.unwrap_or_default())),
        };
        ChatChoice {
            index,
            finish_reason: turn.ending(&output.finished).openai_name(),
            stop_reason: stop_reason(&output.finished),
            logprobs: self.logprobs(&output.logprobs),
            token_ids: self.ids(&output.tokens),
            message: AssistantMessage {
                role: ASSISTANT,
                content,
                reasoning_content: said.reasoning.clone(),
                reasoning: said.reasoning,
                tool_calls: said
                    .calls
                    .into_iter()
                    .map(|call| wire(call, None))
                    .collect(),
                refusal: None,
            },
        }
    }

    fn logprobs(&self, entries: &[TokenLogprobs]) -> Option<ChatLogprobs> {
        let count = self.top_logprobs?;
        // The engine adds a chosen token that is not among the likeliest; here it has its own
        // place.
        let position = |entry: &TokenLogprobs| ChatTokenLogprobs {
            chosen: self.token(&entry.chosen),
            top_logprobs: entry
                .top
                .iter()
                .take(count)
                .map(|each| self.token(each))
                .collect(),
        };
        Some(ChatLogprobs {
            content: entries.iter().map(position).collect(),
        })
    }

    fn token(&self, entry: &TokenLogprob) -> ChatTokenLogprob {
        let bytes = self.vocabulary.bytes(entry.token);
        ChatTokenLogprob {
            token: self.vocabulary.name(entry.token, || lossy(&bytes)),
            logprob: entry.logprob,
            bytes,
        }
    }

    fn chunk(&self, choices: Vec<ChatChunkChoice>, usage: Option<Usage>) -> EventResult {
        Event::default().json_data(self.chunk_of(choices, usage))
    }

    fn chunk_of(
        &self,
        choices: Vec<ChatChunkChoice>,
        usage: Option<Usage>,
    ) -> ChatCompletionChunk<'_> {
        ChatCompletionChunk {
            id: &self.heading.id,
            object: "chat.completion.chunk",
            created: self.heading.created,
            model: &self.heading.model,
            choices,
            usage: self.heading.piece_usage(usage),
            system_fingerprint: &self.heading.fingerprint,
            prompt_token_ids: None,
        }
    }

    fn piece(&self, index: usize, delta: ChatDelta) -> ChatChunkChoice {
        ChatChunkChoice {
            index,
            delta,
            logprobs: None,
            finish_reason: None,
            stop_reason: None,
            token_ids: None,
        }
    }

    fn ids(&self, tokens: &[TokenId]) -> Option<Vec<u32>> {
        self.told.token_ids.then(|| ids(tokens))
    }
}

impl Answer for ChatAnswer {
    const PROMPT_FIELD: &'static str = "messages";
    type Whole = ChatCompletion;

    fn heading(&self) -> &Heading {
        &self.heading
    }

    fn heading_mut(&mut self) -> &mut Heading {
        &mut self.heading
    }

    fn begin(&mut self, handles: &[RequestHandle]) {
        let turn = |(number, handle)| self.reading.turn(number, handle);
        self.turns = handles.iter().enumerate().map(turn).collect();
        if let Some(first) = handles.first() {
            self.prompt = first.prompt_tokens().to_vec();
        }
    }

    fn whole(mut self, outputs: Vec<Output>, usage: Usage) -> ChatCompletion {
        let first = outputs.first().filter(|_| self.told.prompt_logprobs);
        let prompt_logprobs =
            first.map(|output| prompt_logprobs(&self.vocabulary, &output.prompt_logprobs));
        let numbered = outputs.iter().enumerate();
        let choices = numbered.map(|(index, output)| self.choice(index, output));
        let choices = choices.collect();
        let usage = self.detailed(usage);
        ChatCompletion {
            choices,
            prompt_token_ids: self.ids(&self.prompt),
            prompt_logprobs,
            system_fingerprint: self.heading.fingerprint,
            id: self.heading.id,
            object: "chat.completion",
            created: self.heading.created,
            model: self.heading.model,
            usage,
        }
    }

    fn opening(&mut self, index: usize) -> Option<EventResult> {
        let delta = ChatDelta {
            role: Some(ASSISTANT),
            content: Some(self.echoed.clone()),
            ..ChatDelta::default()
        };
        let chunk = ChatCompletionChunk {
            prompt_token_ids: self.ids(&self.prompt),
            ..self.chunk_of(vec![self.piece(index, delta)], None)
        };
        Some(Event::default().json_data(chunk))
    }

    fn delta(&mut self, index: usize, delta: Delta) -> Option<EventResult> {
        let said = self.turns[index].take(&delta);
        let token_ids = self.ids(&delta.tokens);
        let has_ids = token_ids.as_ref().is_some_and(|ids| !ids.is_empty());
        if said.is_empty() && delta.logprobs.is_empty() && !has_ids {
            return None;
        }
        let logprobs = self.logprobs(&delta.logprobs);
        let delta = chat_delta(Message::of(said));
        let choice = ChatChunkChoice {
            logprobs,
            token_ids,
            ..self.piece(index, delta)
        };
        Some(self.chunk(vec![choice], None))
    }

    fn end(&mut self, index: usize, finished: &Finished) -> Vec<EventResult> {
        let turn = &mut self.turns[index];
        let said = turn.finish();
        let ending = turn.ending(finished);
        let mut events = Vec::with_capacity(2);
        if !said.is_empty() {
            let delta = chat_delta(Message::of(said));
            events.push(self.chunk(vec![self.piece(index, delta)], None));
        }
        let choice = ChatChunkChoice {
            finish_reason: Some(ending.openai_name()),
            stop_reason: stop_reason(finished),
            ..self.piece(index, ChatDelta::default())
        };
        events.push(self.chunk(vec![choice], None));
        events
    }

    fn usage(&mut self, usage: Usage) -> EventResult {
        self.chunk(Vec::new(), Some(self.detailed(usage)))
    }
}

/// What was said, sorted by kind: an answer reasons, then speaks, then calls.
#[derive(Default)]
struct Message {
    reasoning: Option<String>,
    text: Option<String>,
    calls: Vec<turn::Call>,
}

impl Message {
    fn of(said: Vec<Said>) -> Self {
        let mut message = Self::default();
        for each in said {
            match each {
                Said::Reasoning(more) => append(&mut message.reasoning, &more),
                Said::Text(more) => append(&mut message.text, &more),
                Said::Call(call) => message.calls.push(call),
            }
        }
        message
    }
}

fn append(text: &mut Option<String>, more: &str) {
    text.get_or_insert_default().push_str(more);
}

fn chat_delta(said: Message) -> ChatDelta {
    let is_silent = said.reasoning.is_none() && said.calls.is_empty();
    let calls = said.calls.into_iter().map(|call| {
        let index = call.index;
        wire(call, Some(index))
    });
    ChatDelta {
        role: None,
        content: said.text.or_else(|| is_silent.then(String::new)),
        reasoning_content: said.reasoning.clone(),
        reasoning: said.reasoning,
        tool_calls: calls.collect(),
    }
}

fn wire(call: turn::Call, index: Option<usize>) -> tools::Call {
    tools::Call {
        index,
        id: call.id,
        kind: "function",
        function: tools::Function {
            name: call.name,
            arguments: call.arguments,
        },
    }
}

/// How many tokens are listed at each position: all there are where they were named.
fn top_logprobs(call: &Call) -> Option<usize> {
    let sampling = &call.settings.sampling;
    let named = sampling.logprob_tokens.len();
    let count = sampling.logprobs? as usize;
    Some(if named == 0 { count } else { named })
}

/// The message an answer goes on with: the last one, if it is the assistant's.
fn continued(call: &Call) -> String {
    let Some(Prompt::Chat(input)) = call.prompts.first() else {
        return String::new();
    };
    let last = input.messages.last();
    let own = last.filter(|message| message.role == ASSISTANT);
    own.and_then(|message| message.content.clone())
        .unwrap_or_default()
}
