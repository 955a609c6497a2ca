//! What a tensor is for, by the names GGUF files give: how reports group weights.

use std::fmt;

/// A part of a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WeightPart {
    /// Projections of the attention.
    Attention,
    /// Matrices of the feed-forward network.
    Mlp,
    /// The table tokens are looked up in; also the head when the file has no other.
    Embedding,
    /// The output layer.
    Head,
    /// Matrices of no part above.
    Other,
    /// Norms, biases and other vectors.
    Vectors,
}

impl fmt::Display for WeightPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Attention => "attention",
            Self::Mlp => "mlp",
            Self::Embedding => "embedding",
            Self::Head => "head",
            Self::Other => "other",
            Self::Vectors => "norms, biases",
        })
    }
}

impl WeightPart {
    /// The part a matrix belongs to.
    pub fn of_matrix(name: &str) -> Self {
        let inner = layer_and_name(name).map_or(name, |(_, inner)| inner);
        if inner.starts_with("attn_") {
            Self::Attention
        } else if inner.starts_with("ffn_") {
            Self::Mlp
        } else if inner.starts_with("token_embd.") {
            Self::Embedding
        } else if inner.starts_with("output.") {
            Self::Head
        } else {
            Self::Other
        }
    }
}

/// The decoder layer a tensor belongs to: 3 for `blk.3.ffn_up.weight`.
pub fn layer_of(name: &str) -> Option<usize> {
    layer_and_name(name).map(|(layer, _)| layer)
}

fn layer_and_name(name: &str) -> Option<(usize, &str)> {
    let (layer, inner) = name.strip_prefix("blk.")?.split_once('.')?;
    Some((layer.parse().ok()?, inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_part_and_layer() {
        let cases = [
            ("blk.0.attn_q.weight", WeightPart::Attention, Some(0)),
            ("blk.27.ffn_down.weight", WeightPart::Mlp, Some(27)),
            ("token_embd.weight", WeightPart::Embedding, None),
            ("output.weight", WeightPart::Head, None),
            ("rope_freqs.weight", WeightPart::Other, None),
            ("blk.x.attn_q.weight", WeightPart::Other, None),
        ];
        for (name, part, layer) in cases {
            assert_eq!(
                (WeightPart::of_matrix(name), layer_of(name)),
                (part, layer),
                "{name}"
            );
        }
    }
}
