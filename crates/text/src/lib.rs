//! Tokenise, render chat templates, detokenise incrementally, match stop strings, tell reasoning and
//! tool calls from text.
//!
//! | step | type |
//! |---|---|
//! | chat messages to prompt text | [`ChatTemplate`] |
//! | prompt text to token ids | [`Tokenizer`], [`encode_prompt`] |
//! | output tokens to text, as they come | [`Detokenizer`] |
//! | where the text must end | [`StopMatcher`] |
//! | reasoning, text and tool calls | [`OutputParser`] |
//!
//! Everything here is a function of its arguments: no clock, thread, file or environment. A
//! template that asks for the date gets the [`TimeStamp`] its caller passed.
//!
//! Work is linear in the text, or linear times its logarithm, for any text: pre-tokenisation is
//! done by scanners that never look back further than one piece, and merging uses a heap. Callers
//! can refuse hopeless prompts before any of it with [`Tokenizer::longest_token_bytes`].

mod automaton;
mod bpe;
mod byte_alphabet;
mod chat;
mod detok;
mod error;
mod hash;
mod hf;
mod merge;
mod output;
mod special;
mod split;
mod spm;
mod stop;
mod table;
mod tokenizer;
mod trie;
mod vocab;

pub use chat::{ChatInput, ChatMessage, ChatTemplate, ChatTraits, TemplateTokens, TimeStamp};
pub use detok::{DetokenizeOptions, Detokenizer, TextDelta};
pub use error::TextError;
pub use hf::{TokenizerJsonOptions, from_tokenizer_json};
pub use output::{
    OutputParser, OutputPiece, OutputSpec, ReasoningFormat, ToolCall, ToolFormat, ToolSpec,
    ToolsSpec, UnknownFormat,
};
pub use stop::{STOPS_BYTES_MAX, StopMatcher, StopVerdict};
pub use tokenizer::{SpecialText, Tokenizer, encode_prompt, from_vocab};
pub use vocab::{SpecialIds, TokenType, VocabModel, VocabSpec};
