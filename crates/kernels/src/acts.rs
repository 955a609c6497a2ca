//! Activations prepared for products: quantised once per matrix input, used by every panel.
//!
//! Codes are i8 in -127..=127, rounded half to even, with one f32 scale per 32 or 256 values:
//! `scale = amax / 127`. A block whose largest magnitude is below [`AMAX_MIN`] is zero. A block
//! with a NaN or an infinity gets the scale NaN, so every product with it is NaN and the fault
//! shows in the logits.

use kvist_base::QuantFormat;

#[cfg(target_arch = "aarch64")]
use crate::arch::neon;
#[cfg(target_arch = "x86_64")]
use crate::arch::x86;
use crate::isa::{Isa, Tier};
use crate::pool::Pool;
use crate::shared::for_each_chunk;

/// Largest magnitude below which a block counts as zero (2^-100): keeps `127 / amax` finite.
pub(crate) const AMAX_MIN: f32 = f32::from_bits(27 << 23);

/// How activations must be prepared for a weight format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActFormat {
    /// As they are.
    F32,
    /// 8-bit codes, one scale per 32 values.
    Q8x32,
    /// 8-bit codes, one scale per 256 values.
    Q8x256,
}

/// The activation format a weight format is multiplied with.
pub const fn act_format(format: QuantFormat) -> ActFormat {
    match format.block_weights() {
        1 => ActFormat::F32,
        32 => ActFormat::Q8x32,
        _ => ActFormat::Q8x256,
    }
}

impl ActFormat {
    /// Values that share a scale; columns come in multiples of it.
    pub const fn block_values(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Q8x32 => 32,
            Self::Q8x256 => 256,
        }
    }
}

/// 32 quantised values.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub(crate) struct ActBlock32 {
    /// value = scale * code
    pub scale: f32,
    /// `scale * sum of codes`, the factor of a weight block's minimum.
    pub scaled_sum: f32,
    /// Sums of the codes with k % 4 in {0, 1} and in {2, 3}: the two 16-bit lanes a row has in
    /// a product vector.
    pub pair_sums: [i16; 2],
    /// The codes.
    pub codes: [i8; 32],
}

/// 256 quantised values.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub(crate) struct ActBlock256 {
    /// value = scale * code
    pub scale: f32,
    /// As [`ActBlock32::pair_sums`], for each 16 values.
    pub pair_sums: [[i16; 2]; 16],
    /// Sums of each 32 codes.
    pub sums: [i16; 8],
    /// The codes.
    pub codes: [i8; 256],
}

impl ActBlock32 {
    pub(crate) const ZERO: Self = Self {
        scale: 0.0,
        scaled_sum: 0.0,
        pair_sums: [0; 2],
        codes: [0; 32],
    };
}

impl ActBlock256 {
    pub(crate) const ZERO: Self = Self {
        scale: 0.0,
        pair_sums: [[0; 2]; 16],
        sums: [0; 8],
        codes: [0; 256],
    };
}

/// Prepared token rows, each row's blocks in k order.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ActRows<'a> {
    F32(&'a [f32]),
    Q8x32(&'a [ActBlock32]),
    Q8x256(&'a [ActBlock256]),
}

/// Token rows before preparation: `[tokens][cols]`.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// The values, a whole number of rows.
    pub values: &'a [f32],
    /// Values of a row.
    pub cols: usize,
}

/// The widest inputs of products, in columns, by the format they are prepared in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActWidths {
    /// As they are.
    pub f32: usize,
    /// In blocks of 32.
    pub q8x32: usize,
    /// In blocks of 256.
    pub q8x256: usize,
}

impl ActWidths {
    /// Makes room for the inputs of weights of `format` with `cols` columns.
    pub fn include(&mut self, format: QuantFormat, cols: usize) {
        let width = match act_format(format) {
            ActFormat::F32 => &mut self.f32,
            ActFormat::Q8x32 => &mut self.q8x32,
            ActFormat::Q8x256 => &mut self.q8x256,
        };
        *width = cols.max(*width);
    }
}

/// Token rows prepared for products. One value is reused for every matrix input: it allocates
/// when it is made, and again only if a step is larger than what it was made for.
#[derive(Debug)]
pub struct Activations {
    format: ActFormat,
    tokens: usize,
    cols: usize,
    floats: Vec<f32>,
    blocks32: Vec<ActBlock32>,
    blocks256: Vec<ActBlock256>,
}

impl Activations {
    /// Room for `tokens_max` rows of these widths.
    pub fn with_capacity(tokens_max: usize, widths: ActWidths) -> Self {
        Self {
            format: ActFormat::F32,
            tokens: 0,
            cols: 0,
            floats: Vec::with_capacity(tokens_max * widths.f32),
            blocks32: Vec::with_capacity(tokens_max * (widths.q8x32 / 32)),
            blocks256: Vec::with_capacity(tokens_max * (widths.q8x256 / 256)),
        }
    }

    /// Bytes [`Activations::with_capacity`] allocates; saturates.
    pub const fn bytes_for(tokens_max: usize, widths: ActWidths) -> usize {
        let row = (widths.f32.saturating_mul(size_of::<f32>()))
            .saturating_add((widths.q8x32 / 32).saturating_mul(size_of::<ActBlock32>()))
            .saturating_add((widths.q8x256 / 256).saturating_mul(size_of::<ActBlock256>()));
        row.saturating_mul(tokens_max)
    }

    /// Token rows held.
    pub const fn tokens(&self) -> usize {
        self.tokens
    }

    /// Values of a row.
    pub const fn cols(&self) -> usize {
        self.cols
    }

    /// The format last prepared.
    pub const fn format(&self) -> ActFormat {
        self.format
    }

    /// Replaces the contents by `x`, prepared as `format`.
    ///
    /// # Panics
    /// When `x` is not whole rows of whole blocks.
    pub fn prepare(&mut self, isa: Isa, pool: &Pool, format: ActFormat, x: Rows<'_>) {
        assert!(
            x.cols > 0 && x.values.len().is_multiple_of(x.cols),
            "whole rows"
        );
        assert!(
            x.cols.is_multiple_of(format.block_values()),
            "whole blocks in a row"
        );
        (self.format, self.cols) = (format, x.cols);
        self.tokens = x.values.len() / x.cols;
        match format {
            ActFormat::F32 => {
                self.floats.clear();
                self.floats.extend_from_slice(x.values);
            }
            ActFormat::Q8x32 => {
                self.blocks32.resize(x.values.len() / 32, ActBlock32::ZERO);
                quantise_all(pool, x, &mut self.blocks32, &|values, blocks| {
                    quantise32(isa, values, blocks);
                });
            }
            ActFormat::Q8x256 => {
                self.blocks256
                    .resize(x.values.len() / 256, ActBlock256::ZERO);
                quantise_all(pool, x, &mut self.blocks256, &|values, blocks| {
                    quantise256(isa, values, blocks);
                });
            }
        }
    }

    /// The prepared rows `first..first + count`.
    pub(crate) fn rows(&self, first: usize, count: usize) -> ActRows<'_> {
        let blocks = self.cols / self.format.block_values();
        let range = first * blocks..(first + count) * blocks;
        match self.format {
            ActFormat::F32 => ActRows::F32(&self.floats[range]),
            ActFormat::Q8x32 => ActRows::Q8x32(&self.blocks32[range]),
            ActFormat::Q8x256 => ActRows::Q8x256(&self.blocks256[range]),
        }
    }
}

/// Values one task quantises: long enough to be worth handing out.
const TASK_VALUES: usize = 8192;

fn quantise_all<B: Send>(
    pool: &Pool,
    x: Rows<'_>,
    blocks: &mut [B],
    quantise: &(dyn Fn(&[f32], &mut [B]) + Sync),
) {
    if x.values.len() <= 2 * TASK_VALUES {
        quantise(x.values, blocks);
        return;
    }
    let block_values = x.values.len() / blocks.len();
    for_each_chunk(
        pool,
        blocks,
        TASK_VALUES / block_values,
        &|index, blocks| {
            let values = &x.values[index * TASK_VALUES..][..blocks.len() * block_values];
            quantise(values, blocks);
        },
    );
}

/// `values` is exactly what the blocks hold.
fn quantise32(isa: Isa, values: &[f32], blocks: &mut [ActBlock32]) {
    match isa.tier() {
        Tier::Scalar => {
            for (values, block) in values.chunks_exact(32).zip(blocks) {
                quantise_block32(values, block);
            }
        }
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 | Tier::AvxVnni(_) | Tier::Avx512 => x86::quantise32(isa, values, blocks),
        #[cfg(target_arch = "aarch64")]
        Tier::Neon => neon::quantise32(isa, values, blocks),
    }
}

/// `values` is exactly what the blocks hold.
fn quantise256(isa: Isa, values: &[f32], blocks: &mut [ActBlock256]) {
    match isa.tier() {
        Tier::Scalar => {
            for (values, block) in values.chunks_exact(256).zip(blocks) {
                quantise_block256(values, block);
            }
        }
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 | Tier::AvxVnni(_) | Tier::Avx512 => x86::quantise256(isa, values, blocks),
        #[cfg(target_arch = "aarch64")]
        Tier::Neon => neon::quantise256(isa, values, blocks),
    }
}

fn quantise_block32(values: &[f32], block: &mut ActBlock32) {
    block.scale = quantise_codes(values, &mut block.codes);
    block.pair_sums = pair_sums(&block.codes);
    block.scaled_sum = block.scale * f32::from(block.pair_sums[0] + block.pair_sums[1]);
}

fn quantise_block256(values: &[f32], block: &mut ActBlock256) {
    block.scale = quantise_codes(values, &mut block.codes);
    for (sums, codes) in block.pair_sums.iter_mut().zip(block.codes.chunks_exact(16)) {
        *sums = pair_sums(codes);
    }
    for (sum, pairs) in block.sums.iter_mut().zip(block.pair_sums.chunks_exact(2)) {
        *sum = pairs.iter().flatten().sum();
    }
}

/// The factors of a block whose largest magnitude has the bits `amax_bits`: its scale, and what
/// takes a value to its code. Magnitudes order as their bits do, a NaN above all.
#[inline]
pub(crate) fn block_factors(amax_bits: u32) -> (f32, f32) {
    let amax = f32::from_bits(amax_bits);
    if amax_bits >= f32::INFINITY.to_bits() {
        (f32::NAN, 0.0)
    } else if amax < AMAX_MIN {
        (0.0, 0.0)
    } else {
        (amax / 127.0, 127.0 / amax)
    }
}

/// Writes the codes and returns the scale.
fn quantise_codes(values: &[f32], codes: &mut [i8]) -> f32 {
    let amax_bits = values.iter().map(|x| x.abs().to_bits()).max().unwrap_or(0);
    let (scale, inverse) = block_factors(amax_bits);
    if scale.is_nan() {
        codes.fill(0);
        return scale;
    }
    for (code, x) in codes.iter_mut().zip(values) {
        #[allow(clippy::cast_possible_truncation)] // |x| <= amax, so the product rounds to <= 127
        let rounded = (x * inverse).round_ties_even() as i8;
        *code = rounded;
    }
    scale
}

fn pair_sums(codes: &[i8]) -> [i16; 2] {
    codes.chunks_exact(4).fold([0; 2], |[low, high], k| {
        [
            low + i16::from(k[0]) + i16::from(k[1]),
            high + i16::from(k[2]) + i16::from(k[3]),
        ]
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::cast_precision_loss)]

    use super::*;
    use kvist_base::mix64;
    use std::num::NonZeroUsize;

    fn pool(threads: usize) -> Pool {
        Pool::new(NonZeroUsize::new(threads).unwrap()).unwrap()
    }

    fn noise(len: usize, seed: u64) -> Vec<f32> {
        (0..len as u64)
            .map(|n| (mix64(seed + n) >> 40) as f32 / (1 << 23) as f32 - 1.0)
            .collect()
    }

    fn prepared(isa: Isa, threads: usize, format: ActFormat, x: Rows<'_>) -> Activations {
        let mut acts = Activations::with_capacity(0, ActWidths::default());
        acts.prepare(isa, &pool(threads), format, x);
        acts
    }

    #[test]
    fn a_block_worked_by_hand() {
        let mut values = [0.0f32; 32];
        values[..6].copy_from_slice(&[127.0, -127.0, 2.5, 3.5, -2.5, 0.4]);
        for isa in Isa::available() {
            let acts = prepared(
                isa,
                1,
                ActFormat::Q8x32,
                Rows {
                    values: &values,
                    cols: 32,
                },
            );
            let block = &acts.blocks32[0];
            assert_eq!(block.scale, 1.0);
            assert_eq!(block.codes[..6], [127, -127, 2, 4, -2, 0], "half to even");
            assert_eq!(block.pair_sums, [-2, 6]);
            assert_eq!(block.scaled_sum, 4.0);
        }
    }

    #[test]
    fn every_tier_and_thread_count_gives_the_same_blocks() {
        let mut values = noise(40 * 1024, 7);
        values[..512].fill(0.0);
        values[512..1024].fill(1e-38);
        values[1024..2048].iter_mut().for_each(|x| *x *= 3e38);
        values[2048..4096].iter_mut().for_each(|x| *x *= AMAX_MIN);
        let x = Rows {
            values: &values,
            cols: 1024,
        };
        let small = prepared(Isa::SCALAR, 1, ActFormat::Q8x32, x).blocks32;
        let large = prepared(Isa::SCALAR, 1, ActFormat::Q8x256, x).blocks256;
        for isa in Isa::available() {
            for threads in 1..=3 {
                assert!(prepared(isa, threads, ActFormat::Q8x32, x).blocks32 == small);
                assert!(prepared(isa, threads, ActFormat::Q8x256, x).blocks256 == large);
            }
        }
    }

    #[test]
    fn codes_are_nearest() {
        let values = noise(1024, 3);
        let acts = prepared(
            Isa::detect(),
            1,
            ActFormat::Q8x256,
            Rows {
                values: &values,
                cols: 1024,
            },
        );
        for (block, values) in acts.blocks256.iter().zip(values.chunks_exact(256)) {
            for (code, x) in block.codes.iter().zip(values) {
                let error = (f32::from(*code) * block.scale - x).abs();
                assert!(
                    error <= block.scale * 0.5001,
                    "{x} became {code} * {}",
                    block.scale
                );
            }
        }
    }

    #[test]
    fn a_value_that_is_no_number_makes_the_scale_nan() {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for isa in Isa::available() {
                let mut values = noise(256, 1);
                values[77] = bad;
                let x = Rows {
                    values: &values,
                    cols: 256,
                };
                let small = prepared(isa, 1, ActFormat::Q8x32, x).blocks32;
                assert!(
                    small
                        .iter()
                        .enumerate()
                        .all(|(i, b)| b.scale.is_nan() == (i == 2))
                );
                assert!(small[2].scaled_sum.is_nan() && small[2].codes == [0; 32]);
                let large = prepared(isa, 1, ActFormat::Q8x256, x).blocks256;
                assert!(large[0].scale.is_nan() && large[0].codes == [0; 256]);
            }
        }
    }

    #[test]
    fn room_for_a_step_is_not_outgrown() {
        let values = noise(8 * 512, 5);
        let mut widths = ActWidths::default();
        for format in [QuantFormat::F16, QuantFormat::Q8_0, QuantFormat::Q4K] {
            widths.include(format, 512);
            widths.include(format, 256);
        }
        let mut acts = Activations::with_capacity(8, widths);
        let room = |acts: &Activations| {
            acts.floats.capacity() * 4
                + acts.blocks32.capacity() * size_of::<ActBlock32>()
                + acts.blocks256.capacity() * size_of::<ActBlock256>()
        };
        assert_eq!(room(&acts), Activations::bytes_for(8, widths));
        for format in [ActFormat::F32, ActFormat::Q8x32, ActFormat::Q8x256] {
            let x = Rows {
                values: &values,
                cols: 512,
            };
            acts.prepare(Isa::detect(), &pool(2), format, x);
            assert_eq!(
                (acts.tokens(), acts.cols(), acts.format()),
                (8, 512, format)
            );
        }
        assert_eq!(room(&acts), Activations::bytes_for(8, widths));
        assert_eq!(Activations::bytes_for(usize::MAX, widths), usize::MAX);
    }
}
