//! The parts of a decoder that weights belong to.

use std::fmt;

/// A part of a decoder: how reports group weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WeightPart {
    /// Projections of the attention.
    Attention,
    /// Matrices of the feed-forward network.
    Mlp,
    /// The table tokens are looked up in; also the head when there is no other.
    Embedding,
    /// The output layer.
    Head,
    /// Matrices of no part above.
    Other,
    /// Norms, biases and other vectors.
    Vectors,
}

impl WeightPart {
    /// The name reports use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Attention => "attention",
            Self::Mlp => "mlp",
            Self::Embedding => "embedding",
            Self::Head => "head",
            Self::Other => "other",
            Self::Vectors => "norms, biases",
        }
    }
}

impl fmt::Display for WeightPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
