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
    let (eights, _) = codes[..32].as_chunks_mut::<8>();
    for (bits, codes) in bytes.into_iter().zip(eights) {
        // Byte j keeps bit j alone; adding takes it, wherever it is, to the top. Nothing carries.
        let alone = (u64::from(bits) * 0x0101_0101_0101_0101) & 0x8040_2010_0804_0201;
        let top = (alone + 0x7F7F_7F7F_7F7F_7F7F) & 0x8080_8080_8080_8080;
        *codes = (u64::from_le_bytes(*codes) | top >> 3).to_le_bytes();
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
