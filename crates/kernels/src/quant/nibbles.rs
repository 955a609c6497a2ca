//! How GGUF stores runs of 4-bit and 5-bit codes.
//!
//! A run of 2n codes is n bytes: byte j has code j in its low nibble and code j + n in its high
//! nibble. The fifth bits of a 32-code block are one little-endian u32, bit j for code j.

/// Nibbles to codes: `codes` is twice as long as `bytes`.
pub(super) fn split(bytes: &[u8], codes: &mut [u8]) {
    let (low, high) = codes.split_at_mut(bytes.len());
    for ((byte, low), high) in bytes.iter().zip(low).zip(high) {
        (*low, *high) = (byte & 0x0F, byte >> 4);
    }
}

/// The low four bits of codes to nibbles.
pub(super) fn join(codes: &[u8], bytes: &mut [u8]) {
    let (low, high) = codes.split_at(bytes.len());
    for ((byte, low), high) in bytes.iter_mut().zip(low).zip(high) {
        *byte = (low & 0x0F) | (high << 4);
    }
}

/// Adds the fifth bits of a 32-code block.
pub(super) fn split_fifth(bytes: [u8; 4], codes: &mut [u8]) {
    let bits = u32::from_le_bytes(bytes);
    for (j, code) in codes[..32].iter_mut().enumerate() {
        *code |= u8::from(bits & (1 << j) != 0) << 4;
    }
}

/// Collects the fifth bits of a 32-code block.
pub(super) fn join_fifth(codes: &[u8]) -> [u8; 4] {
    let bits = codes[..32]
        .iter()
        .enumerate()
        .map(|(j, code)| u32::from((code >> 4) & 1) << j);
    bits.sum::<u32>().to_le_bytes()
}
