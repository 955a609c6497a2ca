//! What can go wrong with text, and who can do something about it.

use kvist_base::TokenId;

/// A failure of this crate.
///
/// `Template…` and `Stop…` errors may be answered to the client that sent the request, except
/// [`TemplateSyntax`](Self::TemplateSyntax), which like all vocabulary errors is found while a
/// model is loaded and is for the operator.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The model file names a tokenizer this crate does not implement.
    #[error("tokenizer model {given:?} is not supported; supported: {supported}")]
    UnsupportedModel {
        /// What the file says.
        given: String,
        /// The names that would be understood.
        supported: String,
    },
    /// The model file names a pre-tokeniser this crate does not implement. Guessing another one
    /// would give plausible but wrong tokens.
    #[error("pre-tokenizer {given:?} is not supported; supported: {supported}")]
    UnsupportedPre {
        /// What the file says.
        given: String,
        /// The names that would be understood.
        supported: String,
    },
    /// A per-token list is not as long as the token list, or the token list is empty.
    #[error("vocabulary list {field:?} has {given} entries, expected {expected}")]
    ListLength {
        /// The list.
        field: &'static str,
        /// Entries it should have.
        expected: usize,
        /// Entries it has.
        given: usize,
    },
    /// More tokens, or more text in them, than 32-bit indices can name.
    #[error("vocabulary holds {given} {what}, at most {limit} are possible")]
    VocabTooLarge {
        /// Tokens or bytes.
        what: &'static str,
        /// The most possible.
        limit: usize,
        /// What the vocabulary has.
        given: usize,
    },
    /// A token type outside ggml's 1 to 6.
    #[error("token type {given} is not one of 1 to 6")]
    UnknownTokenType {
        /// The number in the file.
        given: i32,
    },
    /// A special token id does not name a token.
    #[error("special token {name} has id {given}, but the vocabulary has {vocab_len} tokens")]
    SpecialIdOutOfRange {
        /// `bos`, `eos`, ….
        name: &'static str,
        /// The id in the file.
        given: TokenId,
        /// Tokens in the vocabulary.
        vocab_len: usize,
    },
    /// A merge rule that cannot be applied.
    #[error("merge {index} {text:?}: {reason}")]
    BadMerge {
        /// Position in the list of merges.
        index: usize,
        /// The rule as written.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A token that should stand for one byte and is not written `<0xNN>`.
    #[error("token {token} {text:?} is typed as a byte but is not written <0xNN>")]
    BadByteToken {
        /// The token.
        token: TokenId,
        /// Its text.
        text: String,
    },
    /// A merge priority that is not a number.
    #[error("token {token} has a score that is not a number")]
    BadScore {
        /// The token.
        token: TokenId,
    },
    /// A text whose bytes cannot be counted in 32 bits.
    #[error("the text has {given} bytes, at most {limit} can be tokenised")]
    TextTooLong {
        /// Bytes that can be tokenised.
        limit: usize,
        /// Bytes given.
        given: usize,
    },
    /// A `tokenizer.json` that the tokenizers library refuses.
    #[error("tokenizer.json is not usable: {detail}")]
    TokenizerJson {
        /// The library's words.
        detail: String,
    },
    /// A `tokenizer.json` whose tokens cannot be turned back into bytes one by one.
    #[error("tokenizer.json has decoder {given:?}; supported: {supported}")]
    UnsupportedDecoder {
        /// The decoder's type.
        given: String,
        /// The types that would be understood.
        supported: &'static str,
    },
    /// The tokenizers library failed on a text.
    #[error("the text could not be tokenised: {detail}")]
    Encode {
        /// The library's words.
        detail: String,
    },
    /// The chat template does not parse. The template is part of the model.
    #[error("chat template, line {line}: {detail}")]
    TemplateSyntax {
        /// Line in the template, from 1.
        line: usize,
        /// What is wrong there.
        detail: String,
    },
    /// The template refused the conversation by calling `raise_exception`.
    #[error("the model's chat template refuses this conversation: {message}")]
    TemplateRaised {
        /// The template's words.
        message: String,
    },
    /// The template failed on this conversation.
    #[error("the model's chat template failed in line {line}: {detail}")]
    TemplateFailed {
        /// Line in the template, from 1.
        line: usize,
        /// What failed there.
        detail: String,
    },
    /// The template did more work than any conversation needs.
    #[error("the model's chat template exceeded its work limit of {limit} units")]
    TemplateWorkLimit {
        /// Units of work allowed for this conversation.
        limit: u64,
    },
    /// There is no message to go on with.
    #[error("the conversation must end with a message of the assistant's that the template writes")]
    NothingToContinue,
    /// A template argument has the name of something the engine passes itself.
    #[error("chat template argument {name:?} is reserved")]
    ReservedTemplateArgument {
        /// The argument's name.
        name: String,
    },
    /// A stop string without text would stop everything.
    #[error("stop string {index} is empty")]
    EmptyStop {
        /// Position in the list, from 0.
        index: usize,
    },
    /// Stop strings longer than the limit, taken together.
    #[error("stop strings have {given} bytes together, at most {limit} are allowed")]
    StopsTooLong {
        /// Bytes allowed.
        limit: usize,
        /// Bytes given.
        given: usize,
    },
}
