//! Weights from nothing: element i of a tensor is a function of the tensor's name, the model's
//! salt and i, in numbers that f32 holds exactly before they are scaled.

use kvist_base::mix64;

const GOLDEN_RATIO: u64 = 0x9E37_79B9_7F4A_7C15;

/// Numbers in [-1, 1): the splitmix64 stream seeded by FNV-1a of the name, 24 bits each.
fn uniform(name: &str, salt: u64) -> impl Iterator<Item = f64> {
    let hash = name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    let seed = hash ^ salt.wrapping_mul(GOLDEN_RATIO);
    (1u64..).map(move |n| {
        let word = mix64(seed.wrapping_add(n.wrapping_mul(GOLDEN_RATIO)));
        #[allow(clippy::cast_precision_loss)] // 24 bits
        let unit = (word >> 40) as f64 / f64::from(1 << 23);
        unit - 1.0
    })
}

/// The weights of one tensor of the original checkpoint, row by row.
///
/// Norms are 1 ± 0.2, biases ± 0.2, embeddings ± 0.1 (or tied output would echo the input), and
/// matrices have variance 1 / fan-in.
pub(super) fn generate(name: &str, shape: &[usize], salt: u64) -> Vec<f32> {
    let (centre, scale) = match *shape {
        [_] if name.ends_with("norm.weight") => (1.0, 0.2),
        [_] => (0.0, 0.2),
        [_, _] if name.contains("embed_tokens") => (0.0, 0.1),
        #[allow(clippy::cast_precision_loss)] // a row's length
        [_, fan_in] => (0.0, (3.0 / fan_in as f64).sqrt()),
        _ => panic!("{name}: no rule for shape {shape:?}"),
    };
    #[allow(clippy::cast_possible_truncation)] // rounded to f32, as the reference does
    let weights = uniform(name, salt).map(|u| (centre + u * scale) as f32);
    weights.take(shape.iter().product()).collect()
}

#[cfg(test)]
mod tests {
    use super::{generate, uniform};

    #[test]
    fn the_stream_depends_on_name_and_salt_only() {
        let head = |name, salt| uniform(name, salt).take(4).collect::<Vec<_>>();
        assert_eq!(head("a", 0), head("a", 0));
        assert_ne!(head("a", 0), head("a", 1));
        assert_ne!(head("a", 0), head("b", 0));
        assert!(uniform("a", 0).take(1000).all(|u| (-1.0..1.0).contains(&u)));
    }

    #[test]
    fn each_kind_of_tensor_has_its_range() {
        let norm = generate("model.norm.weight", &[64], 3);
        assert!(norm.iter().all(|w| (0.8..1.2).contains(w)));
        let bias = generate("model.layers.0.self_attn.q_proj.bias", &[64], 3);
        assert!(bias.iter().all(|w| (-0.2..0.2).contains(w)) && bias.iter().any(|&w| w < 0.0));
        assert_eq!(
            generate("model.layers.0.mlp.up_proj.weight", &[128, 64], 3).len(),
            128 * 64
        );
    }
}
