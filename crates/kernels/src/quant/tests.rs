#![allow(clippy::cast_precision_loss)]

use super::*;
use kvist_base::mix64;

fn noise(len: usize, seed: u64) -> Vec<f32> {
    (0..len as u64)
        .map(|n| (mix64(seed * 7919 + n) >> 40) as f32 / (1 << 23) as f32 - 1.0)
        .collect()
}

fn decoded(format: QuantFormat, raw: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; raw.len() / format.block_bytes() * format.block_weights()];
    decode_row(format, raw, &mut out);
    out
}

fn encoded(format: QuantFormat, values: &[f32]) -> Vec<u8> {
    let mut raw = vec![0xAA; format.row_bytes(values.len()).unwrap()];
    encode_row(format, values, &mut raw);
    raw
}

fn f16_bytes(value: f32) -> [u8; 2] {
    f16::from_f32(value).to_le_bytes()
}

#[test]
fn floating_point_weights_by_hand() {
    assert_eq!(decoded(QuantFormat::F32, &1.5f32.to_le_bytes()), [1.5]);
    assert_eq!(
        decoded(QuantFormat::F16, &[0x00, 0x3E, 0x01, 0x00]),
        [1.5, 2f32.powi(-24)]
    );
    assert_eq!(
        decoded(QuantFormat::BF16, &[0xC0, 0x3F, 0x80, 0xC0]),
        [1.5, -4.0]
    );
}

#[test]
fn q4_0_by_hand() {
    let mut raw = [0x88u8; 18];
    raw[..2].copy_from_slice(&f16_bytes(0.5));
    raw[2] = 0xF0; // code 0: 0, code 16: 15
    raw[17] = 0x9A; // code 15: 10, code 31: 9
    let mut expected = [0.0f32; 32];
    (expected[0], expected[16], expected[15], expected[31]) = (-4.0, 3.5, 1.0, 0.5);
    assert_eq!(decoded(QuantFormat::Q4_0, &raw), expected);
    assert_eq!(encoded(QuantFormat::Q4_0, &expected), raw);
}

#[test]
fn q4_1_by_hand() {
    let mut raw = [0x00u8; 20];
    raw[..2].copy_from_slice(&f16_bytes(2.0));
    raw[2..4].copy_from_slice(&f16_bytes(-3.0));
    raw[5] = 0xF1; // code 1: 1, code 17: 15
    let mut expected = [-3.0f32; 32];
    (expected[1], expected[17]) = (-1.0, 27.0);
    assert_eq!(decoded(QuantFormat::Q4_1, &raw), expected);
    assert_eq!(encoded(QuantFormat::Q4_1, &expected), raw);
}

#[test]
fn q5_0_by_hand() {
    let mut raw = [0x00u8; 22];
    raw[..2].copy_from_slice(&f16_bytes(0.25));
    raw[2..6].copy_from_slice(&[0xFE, 0xFF, 0xFF, 0xFF]); // all but code 0
    raw[6] = 0x20; // code 16: 16 + 2
    raw[21] = 0x0F; // code 15: 16 + 15
    let mut expected = [0.0f32; 32];
    (expected[0], expected[16], expected[15]) = (-4.0, 0.5, 3.75);
    assert_eq!(decoded(QuantFormat::Q5_0, &raw), expected);
    assert_eq!(encoded(QuantFormat::Q5_0, &expected), raw);
}

#[test]
fn q5_1_by_hand() {
    let mut raw = [0x00u8; 24];
    raw[..2].copy_from_slice(&f16_bytes(1.0));
    raw[2..4].copy_from_slice(&f16_bytes(10.0));
    raw[4..8].copy_from_slice(&0x8000_0001u32.to_le_bytes()); // codes 0 and 31
    raw[8] = 0x30; // code 0: 16, code 16: 3
    raw[23] = 0xF0; // code 31: 16 + 15
    let mut expected = [10.0f32; 32];
    (expected[0], expected[16], expected[31]) = (26.0, 13.0, 41.0);
    assert_eq!(decoded(QuantFormat::Q5_1, &raw), expected);
    assert_eq!(encoded(QuantFormat::Q5_1, &expected), raw);
}

#[test]
fn q8_0_by_hand() {
    let mut raw = [0x00u8; 34];
    raw[..2].copy_from_slice(&f16_bytes(0.5));
    (raw[2], raw[3], raw[33]) = (0x7F, 0xFF, 0x81);
    let mut expected = [0.0f32; 32];
    (expected[0], expected[1], expected[31]) = (63.5, -0.5, -63.5);
    assert_eq!(decoded(QuantFormat::Q8_0, &raw), expected);
    assert_eq!(encoded(QuantFormat::Q8_0, &expected), raw);
    raw[2] = 0x80;
    assert_eq!(
        decoded(QuantFormat::Q8_0, &raw)[0],
        -64.0,
        "-128 is allowed in a file"
    );
}

/// d = 1, m = 0.5; sub-block 1 has scale 33 and minimum 3, sub-block 6 scale 50 and minimum 35.
fn k_header() -> [u8; 16] {
    let mut raw = [0u8; 16];
    raw[..2].copy_from_slice(&f16_bytes(1.0));
    raw[2..4].copy_from_slice(&f16_bytes(0.5));
    raw[4 + 1] = 33;
    raw[4 + 4 + 1] = 3;
    raw[4 + 2] |= 3 << 6; // 50 = 3 * 16 + 2
    raw[4 + 4 + 2] |= 2 << 6; // 35 = 2 * 16 + 3
    raw[4 + 8 + 2] = 2 | (3 << 4);
    raw
}

#[test]
fn q4_k_by_hand() {
    let mut raw = [0u8; 144];
    raw[..16].copy_from_slice(&k_header());
    raw[16 + 5] = 0x70; // sub-block 1, code 5: 7
    raw[16 + 3 * 32 + 31] = 0x0F; // sub-block 6, code 31: 15
    let mut expected = [0.0f32; 256];
    expected[32..64].fill(-1.5);
    expected[192..224].fill(-17.5);
    expected[32 + 5] = 7.0 * 33.0 - 1.5;
    expected[192 + 31] = 15.0 * 50.0 - 17.5;
    assert_eq!(decoded(QuantFormat::Q4K, &raw), expected);
}

#[test]
fn q5_k_by_hand() {
    let mut raw = [0u8; 176];
    raw[..16].copy_from_slice(&k_header());
    raw[16 + 5] = 1 << 1; // fifth bit of sub-block 1, code 5
    raw[16 + 31] = 1 << 6; // and of sub-block 6, code 31
    raw[48 + 5] = 0x70;
    let mut expected = [0.0f32; 256];
    expected[32..64].fill(-1.5);
    expected[192..224].fill(-17.5);
    expected[32 + 5] = 23.0 * 33.0 - 1.5;
    expected[192 + 31] = 16.0 * 50.0 - 17.5;
    assert_eq!(decoded(QuantFormat::Q5K, &raw), expected);
}

#[test]
fn q6_k_by_hand() {
    let mut raw = [0u8; 210];
    raw[208..].copy_from_slice(&f16_bytes(0.5));
    raw[192] = 4;
    raw[192 + 15] = 0x80; // -128
    raw[1] = 0x05; // code 1: 5
    raw[128 + 1] = 0x02; // + 2 * 16
    raw[127] = 0x90; // code 255: 9
    raw[191] = 0xC0; // + 3 * 16
    let mut expected = [0.0f32; 256];
    expected[..16].fill(-64.0);
    expected[240..].fill(2048.0);
    expected[1] = 2.0 * 5.0;
    expected[255] = -64.0 * 25.0;
    assert_eq!(decoded(QuantFormat::Q6K, &raw), expected);
}

#[test]
fn iq4_nl_by_hand() {
    let mut raw = [0x88u8; 18];
    raw[..2].copy_from_slice(&f16_bytes(-0.5));
    raw[2] = 0xF0; // code 0: 0, code 16: 15
    raw[17] = 0x7C; // code 15: 12, code 31: 7
    let mut expected = [-0.5f32; 32];
    (expected[0], expected[16]) = (63.5, -56.5);
    (expected[15], expected[31]) = (-26.5, 5.0);
    assert_eq!(decoded(QuantFormat::Iq4Nl, &raw), expected);
    assert_eq!(encoded(QuantFormat::Iq4Nl, &expected), raw);
}

#[test]
fn iq4_xs_by_hand() {
    let mut raw = [0x88u8; 136];
    raw[..2].copy_from_slice(&f16_bytes(0.25));
    raw[2..4].copy_from_slice(&[0b1010_1010, 0b0010_1011]); // pairs: 3 for 4, 0 for 7, else 2
    raw[4..8].fill(0);
    raw[4] = 0x10; // sub-block 1: 33 - 32
    raw[6] = 0x0F; // sub-block 4: 63 - 32
    raw[7] = 0x00; // sub-block 7: 0 - 32
    raw[8 + 16] = 0x4F; // sub-block 1, code 0: 15, code 16: 4
    raw[8 + 4 * 16 + 15] = 0x0A; // sub-block 4, code 15: 10, code 31: 0
    let mut expected = [0.0f32; 256];
    expected[32..64].fill(0.25);
    (expected[32], expected[48]) = (28.25, -12.25);
    expected[128..160].fill(7.75);
    (expected[143], expected[159]) = (193.75, -984.25);
    expected[224..].fill(-8.0);
    assert_eq!(decoded(QuantFormat::Iq4Xs, &raw), expected);
}

/// The largest distance from a value of a block to the nearest code, given the block's spread.
fn error_bound(format: QuantFormat, block: &[f32]) -> f32 {
    let (low, high) = range(block);
    let amax = low.abs().max(high.abs());
    // Below 2^-14 an f16 scale is rounded to multiples of 2^-24, and codes multiply that error.
    let code_max = if format.block_weights() == 256 {
        4096.0
    } else {
        128.0
    };
    let f16_loss = amax * 2f32.powi(-10) + code_max * 2f32.powi(-25);
    match format {
        QuantFormat::F32 => 0.0,
        QuantFormat::F16 => amax * 2f32.powi(-11) + 2f32.powi(-25),
        QuantFormat::BF16 => amax * 2f32.powi(-8),
        // The side opposite the largest magnitude may be cut one step short.
        QuantFormat::Q4_0 => amax / 8.0 + f16_loss,
        QuantFormat::Q5_0 => amax / 16.0 + f16_loss,
        QuantFormat::Q4_1 => (high - low) / 30.0 + 2.0 * f16_loss,
        QuantFormat::Q5_1 => (high - low) / 62.0 + 2.0 * f16_loss,
        QuantFormat::Q8_0 => amax / 254.0 + f16_loss,
        // Half a code step, plus what rounding scale and minimum to 6 bits can cut off.
        QuantFormat::Q4K => 2.0 * amax * (0.5 / 15.0 + 1.0 / 63.0) + f16_loss,
        QuantFormat::Q5K => 2.0 * amax * (0.5 / 31.0 + 1.0 / 63.0) + f16_loss,
        QuantFormat::Q6K => amax * (1.0 / 32.0 + 0.5 / 127.0) + f16_loss,
        // One end of the codebook is 14 of 127 steps short; half its widest gap is less.
        QuantFormat::Iq4Nl => amax * 14.0 / 127.0 + f16_loss,
        // The same, and a step of 1 / 32 in the sub-scale.
        QuantFormat::Iq4Xs => amax * (14.0 / 127.0 * (1.0 + 1.0 / 32.0) + 1.0 / 32.0) + f16_loss,
    }
}

#[test]
fn decoding_an_encoded_row_stays_within_the_format_error() {
    for format in QuantFormat::ALL {
        for (seed, gain) in [(1u64, 1.0f32), (2, 1e-2), (3, 900.0)] {
            let mut values = noise(1024, seed);
            for (block, values) in values.chunks_exact_mut(32).enumerate() {
                let block_gain = gain * (1.0 + (block % 5) as f32);
                values.iter_mut().for_each(|x| *x *= block_gain);
            }
            values[64..96].fill(0.25 * gain);
            let back = decoded(format, &encoded(format, &values));
            let weights = format.block_weights();
            for (index, (x, y)) in values.iter().zip(&back).enumerate() {
                let block = &values[index / weights * weights..][..weights];
                let bound = error_bound(format, block);
                assert!(
                    (x - y).abs() <= bound,
                    "{format} {index}: {x} became {y}, bound {bound}"
                );
            }
        }
    }
}

#[test]
fn zeros_stay_zeros() {
    for format in QuantFormat::ALL {
        let raw = encoded(format, &[0.0; 256]);
        assert!(decoded(format, &raw).iter().all(|x| *x == 0.0), "{format}");
    }
}

#[test]
fn parts_carry_every_bit_of_a_file_block() {
    for format in QuantFormat::ALL {
        let Some(codec) = codec(format) else { continue };
        for seed in 0..20 {
            let raw: Vec<u8> = (0..format.block_bytes() as u64)
                .map(|n| mix64(seed * 1000 + n).to_le_bytes()[3])
                .collect();
            let (mut parts, mut back) = (Parts::ZERO, vec![0x55; raw.len()]);
            (codec.split)(&raw, &mut parts);
            (codec.join)(&parts, &mut back);
            assert_eq!(raw, back, "{format}");
        }
    }
}
