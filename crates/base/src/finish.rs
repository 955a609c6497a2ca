//! Why a sequence ended.

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// The model produced an end token, or a stop string matched.
    Stop,
    /// The output limit or the context limit was reached.
    Length,
    /// The client went away or asked to stop.
    Cancelled,
}

impl FinishReason {
    /// The word the OpenAI API uses. `Cancelled` follows vLLM's `abort`.
    pub const fn wire_name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Cancelled => "abort",
        }
    }
}
