//! A checksum against decay and torn writes, not against forgery.

use kvist_base::mix64;

/// Words summed side by side: one chain of multiplications would be slower than a disk.
const LANES: usize = 4;

/// Sum of some bytes. Differs, but for one chance in 2^64, when any of them differ.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    let mut lanes: [u64; LANES] = std::array::from_fn(|lane| lane as u64 + 1);
    let (groups, rest) = bytes.as_chunks::<{ LANES * 8 }>();
    for group in groups {
        for (lane, word) in lanes.iter_mut().zip(group.as_chunks::<8>().0) {
            *lane = mix64(*lane ^ u64::from_le_bytes(*word));
        }
    }
    let mut tail = [0; LANES * 8];
    tail[..rest.len()].copy_from_slice(rest);
    for (lane, word) in lanes.iter_mut().zip(tail.as_chunks::<8>().0) {
        *lane = mix64(*lane ^ u64::from_le_bytes(*word));
    }
    lanes
        .into_iter()
        .fold(bytes.len() as u64, |sum, lane| mix64(sum ^ lane))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_changed_bit_and_any_length_gives_another_sum() {
        let bytes: Vec<u8> = (0..=255).cycle().take(333).collect();
        let sum = checksum(&bytes);
        assert_eq!(checksum(&bytes), sum);
        for idx in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[idx] ^= 1 << bit;
                assert_ne!(checksum(&damaged), sum, "byte {idx} bit {bit}");
            }
        }
        for len in 0..bytes.len() {
            assert_ne!(checksum(&bytes[..len]), sum);
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert_ne!(checksum(&longer), sum, "zeroes count");
    }
}
