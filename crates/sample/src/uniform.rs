//! The random numbers: a function of (seed, index), with no state to keep or restore.

use kvist_base::mix64;

/// 2^64 divided by the golden ratio: splitmix64's increment.
const STRIDE: u64 = 0x9E37_79B9_7F4A_7C15;

/// The uniform number in [0, 1) for draw `index` of the stream `seed` selects.
///
/// The seed is mixed before the index is added: seeds that clients count up would otherwise
/// select the same stream, shifted.
pub(crate) fn uniform(seed: u64, index: u32) -> f64 {
    let stream = mix64(seed ^ STRIDE);
    let bits = mix64(stream.wrapping_add((u64::from(index) + 1).wrapping_mul(STRIDE)));
    #[allow(clippy::cast_precision_loss)] // 53 bits are exactly what an f64 holds
    let numerator = (bits >> 11) as f64;
    numerator / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_in_range_and_centred() {
        let mut sum = 0.0;
        for index in 0..10_000 {
            let number = uniform(42, index);
            assert!((0.0..1.0).contains(&number));
            sum += number;
        }
        // The mean of n uniform numbers has a deviation of sqrt(1 / 12 n): 0.0029. Allow four.
        assert!(
            (sum / 10_000.0 - 0.5).abs() < 0.0116,
            "mean {}",
            sum / 10_000.0
        );
    }

    #[test]
    fn neighbouring_seeds_share_no_numbers() {
        let stream = |seed| (0..100).map(move |index| uniform(seed, index).to_bits());
        for seed in 0..20u64 {
            let ours: Vec<u64> = stream(seed).collect();
            for other in [seed + 1, seed.wrapping_add(STRIDE), seed ^ (1 << 63)] {
                assert!(
                    stream(other).all(|bits| !ours.contains(&bits)),
                    "{seed} and {other}"
                );
            }
        }
    }
}
