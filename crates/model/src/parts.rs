//! What a tensor is for, by the names GGUF files give: how reports group weights.

use kvist_base::WeightPart;

/// The part a matrix belongs to.
pub fn part_of(name: &str) -> WeightPart {
    let inner = layer_and_name(name).map_or(name, |(_, inner)| inner);
    if inner.starts_with("attn_") {
        WeightPart::Attention
    } else if inner.starts_with("ffn_") {
        WeightPart::Mlp
    } else if inner.starts_with("token_embd.") {
        WeightPart::Embedding
    } else if inner.starts_with("output.") {
        WeightPart::Head
    } else {
        WeightPart::Other
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
            assert_eq!((part_of(name), layer_of(name)), (part, layer), "{name}");
        }
    }
}
