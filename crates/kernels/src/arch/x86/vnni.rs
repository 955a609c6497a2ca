//! The AVX-VNNI tier of matrix products: what AVX-512-VNNI does, in two vectors of 8 rows.
//!
//! The same instruction exists in two encodings, for CPUs with AVX-VNNI and for those with AVX-512.
//! Kernels are generic over which; the second is there so that tests run this code on either.

use std::arch::x86_64::*;

use kvist_base::QuantFormat;

use super::Span;
use super::avx512::format::{Format, Iq4Nl, Iq4Xs, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
use super::codes::{
    GROUP_BYTES, broadcast, for_each_group, load, load_rows, look_up, prefetch, scales, shift_left,
    store_rows, token_blocks,
};
use crate::acts::{ActBlock32, ActBlock256, ActRows};
use crate::isa::{Isa, Tier, VnniEncoding};
use crate::matmul::{Panel, PanelOut};
use crate::panel::PANEL_ROWS;

/// Tokens of a register tile: 2 accumulators each leave room for weights and activations.
const TILE_TOKENS: usize = 4;
/// Runs of 32 k in a block of 256.
const RUNS: usize = 8;

/// The integer sums of rows 0-7 and 8-15, for each of `M` tokens.
type Lanes<const M: usize> = [[__m256i; 2]; M];

/// The dot product in one of its encodings. A value is the proof that the CPU has it, and AVX2, FMA
/// and F16C: it is made where those are enabled alone. What is generic over it must be
/// `#[inline(always)]`, so that it is compiled with those instructions.
trait Dot: Copy {
    /// To each dword of `acc`, the dot product of the unsigned bytes of `w` and the signed ones of `x`
    /// there.
    fn dot(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i;
}

#[derive(Clone, Copy)]
struct Vex(());

impl Dot for Vex {
    #[inline(always)]
    fn dot(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: `self` proves AVX-VNNI.
        unsafe { _mm256_dpbusd_avx_epi32(acc, w, x) }
    }
}

#[cfg(test)]
#[derive(Clone, Copy)]
struct Evex(());

#[cfg(test)]
impl Dot for Evex {
    #[inline(always)]
    fn dot(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: `self` proves AVX-512-VNNI and VL.
        unsafe { _mm256_dpbusd_epi32(acc, w, x) }
    }
}

/// One panel of quantised weights for `out.len()` tokens.
pub(super) fn multiply_panel(isa: Isa, panel: Panel<'_>, x: ActRows<'_>, out: &mut PanelOut) {
    match isa.tier() {
        // SAFETY: an `Isa` of this tier exists only where the CPU was seen to have AVX-VNNI.
        Tier::AvxVnni(VnniEncoding::Vex) => unsafe { enter_vex(panel, x, out) },
        #[cfg(test)]
        // SAFETY: and of this one, AVX-512-VNNI and VL.
        Tier::AvxVnni(VnniEncoding::Evex) => unsafe { enter_evex(panel, x, out) },
        _ => unreachable!("{isa} is another tier"),
    }
}

#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn enter_vex(panel: Panel<'_>, x: ActRows<'_>, out: &mut PanelOut) {
    // SAFETY: the features are enabled here.
    unsafe { multiply_as(Vex(()), panel, x, out) }
}

#[cfg(test)]
#[target_feature(enable = "avx2,fma,f16c,avx512vl,avx512vnni")]
fn enter_evex(panel: Panel<'_>, x: ActRows<'_>, out: &mut PanelOut) {
    // SAFETY: the features are enabled here.
    unsafe { multiply_as(Evex(()), panel, x, out) }
}

/// # Safety
/// The CPU has AVX2, FMA, F16C; so for all functions below.
#[inline(always)]
unsafe fn multiply_as<D: Dot>(dot: D, panel: Panel<'_>, x: ActRows<'_>, out: &mut PanelOut) {
    use QuantFormat as Q;
    // SAFETY: the caller's promise.
    unsafe {
        match (panel.format, x) {
            (Q::Q4_0, ActRows::Q8x32(x)) => multiply::<D, Q4_0>(dot, panel, x, out),
            (Q::Q4_1, ActRows::Q8x32(x)) => multiply::<D, Q4_1>(dot, panel, x, out),
            (Q::Q5_0, ActRows::Q8x32(x)) => multiply::<D, Q5_0>(dot, panel, x, out),
            (Q::Q5_1, ActRows::Q8x32(x)) => multiply::<D, Q5_1>(dot, panel, x, out),
            (Q::Q8_0, ActRows::Q8x32(x)) => multiply::<D, Q8_0>(dot, panel, x, out),
            (Q::Iq4Nl, ActRows::Q8x32(x)) => multiply::<D, Iq4Nl>(dot, panel, x, out),
            (Q::Q4K, ActRows::Q8x256(x)) => multiply::<D, Q4K>(dot, panel, x, out),
            (Q::Q5K, ActRows::Q8x256(x)) => multiply::<D, Q5K>(dot, panel, x, out),
            (Q::Q6K, ActRows::Q8x256(x)) => multiply::<D, Q6K>(dot, panel, x, out),
            (Q::Iq4Xs, ActRows::Q8x256(x)) => multiply::<D, Iq4Xs>(dot, panel, x, out),
            (format, _) => unreachable!("activations not prepared for {format}"),
        }
    }
}

/// Tile by tile, tiles as equal as they come.
///
/// # Safety
/// As [`multiply_as`].
#[inline(always)]
unsafe fn multiply<D: Dot, F: Format<Act: Act>>(
    dot: D,
    panel: Panel<'_>,
    x: &[F::Act],
    out: &mut PanelOut,
) {
    let blocks = panel.cols / F::WEIGHTS;
    out.fill([0.0; PANEL_ROWS]);
    if out.is_empty() || blocks == 0 {
        return;
    }
    let tile_tokens = out.len().div_ceil(out.len().div_ceil(TILE_TOKENS));
    let tokens = x.chunks(tile_tokens * blocks);
    for (out, x) in out.chunks_mut(tile_tokens).zip(tokens) {
        let span = Span {
            panel: panel.data,
            codes: &[],
            x,
            stride: blocks,
        };
        // SAFETY: the caller's promise.
        unsafe {
            match out.len() {
                1 => F::Act::tile::<D, F, 1>(dot, &span, out),
                2 => F::Act::tile::<D, F, 2>(dot, &span, out),
                3 => F::Act::tile::<D, F, 3>(dot, &span, out),
                _ => F::Act::tile::<D, F, 4>(dot, &span, out),
            }
        }
    }
}

/// Prepared activations, which decide what a block of a format is.
trait Act: Sized {
    /// Adds the products of one panel block `b` and `M` tokens to `acc`.
    ///
    /// # Safety
    /// As [`multiply_as`]; `block` is a panel block of the format and `x` are token blocks.
    unsafe fn add_block<D: Dot, F: Format, const M: usize>(
        dot: D,
        block: *const u8,
        x: [*const Self; M],
        acc: &mut PanelOut,
    );

    /// Adds the products of a panel and `M` tokens to `acc`.
    ///
    /// # Safety
    /// As [`multiply_as`].
    #[inline(always)]
    unsafe fn tile<D: Dot, F: Format, const M: usize>(
        dot: D,
        span: &Span<'_, Self>,
        acc: &mut PanelOut,
    ) {
        let blocks = span.panel.len() / F::LAYOUT.bytes;
        assert!(acc.len() == M && span.x.len() >= (M - 1) * span.stride + blocks);
        for b in 0..blocks {
            // SAFETY: block b < blocks is inside the panel and inside each of the M token rows,
            // asserted above.
            unsafe {
                let block = span.panel.as_ptr().add(b * F::LAYOUT.bytes);
                prefetch(block, F::LAYOUT.bytes);
                let x = token_blocks::<Self, M>(span.x, span.stride, b);
                Self::add_block::<D, F, M>(dot, block, x, acc);
            }
        }
    }
}

impl Act for ActBlock32 {
    #[inline(always)]
    unsafe fn add_block<D: Dot, F: Format, const M: usize>(
        dot: D,
        block: *const u8,
        x: [*const Self; M],
        acc: &mut PanelOut,
    ) {
        // SAFETY: the caller's promise; a block has 32 codes.
        unsafe {
            let mut dots: Lanes<M> = [[_mm256_setzero_si256(); 2]; M];
            let mut codes = [std::ptr::null(); M];
            for t in 0..M {
                codes[t] = (&raw const (*x[t]).codes).cast::<i8>();
                dots[t] = start::<F>(&raw const (*x[t]).pair_sums);
            }
            for_each_group!(G => { multiply_group::<D, F, M, G>(dot, block, codes, &mut dots); });
            let d = scales(block.add(F::LAYOUT.d_at));
            for t in 0..M {
                add_scaled(dots[t], (d, (*x[t]).scale), &mut acc[t]);
            }
            if let Some(m_at) = F::LAYOUT.m_at {
                let m = scales(block.add(m_at));
                for t in 0..M {
                    let dx_sum = _mm256_set1_ps((*x[t]).scaled_sum);
                    let [low, high] = load_rows(&acc[t]);
                    let low = _mm256_fmadd_ps(m[0], dx_sum, low);
                    store_rows([low, _mm256_fmadd_ps(m[1], dx_sum, high)], &mut acc[t]);
                }
            }
        }
    }
}

impl Act for ActBlock256 {
    #[inline(always)]
    unsafe fn add_block<D: Dot, F: Format, const M: usize>(
        dot: D,
        block: *const u8,
        x: [*const Self; M],
        acc: &mut PanelOut,
    ) {
        // SAFETY: the caller's promise; minima are 4 pairs of sub-blocks, 32 bytes a pair.
        unsafe {
            let mut sums: Lanes<M> = [[_mm256_setzero_si256(); 2]; M];
            for run in 0..RUNS {
                add_part::<D, F, M, 0>(dot, (block, run), x, &mut sums);
                if F::LAYOUT.subs == 2 * RUNS {
                    add_part::<D, F, M, 1>(dot, (block, run), x, &mut sums);
                }
            }
            let d = scales(block.add(F::LAYOUT.d_at));
            for t in 0..M {
                add_scaled(sums[t], (d, (*x[t]).scale), &mut acc[t]);
            }
            let Some(m_at) = F::LAYOUT.m_at else { return };
            let m = scales(block.add(m_at));
            let minima = block.add(F::LAYOUT.sub_mins_at);
            for t in 0..M {
                let mut sums = [_mm256_setzero_si256(); 2];
                for pair in 0..RUNS / 2 {
                    let x = broadcast((&raw const (*x[t]).sums).cast::<i16>().add(2 * pair));
                    for (h, sums) in sums.iter_mut().enumerate() {
                        let at = minima.add((2 * pair + h) * PANEL_ROWS);
                        let mins = _mm256_cvtepu8_epi16(_mm_loadu_si128(at.cast()));
                        *sums = _mm256_add_epi32(*sums, _mm256_madd_epi16(mins, x));
                    }
                }
                // A factor's sign does not change its rounding.
                add_scaled(sums, (m, -(*x[t]).scale), &mut acc[t]);
            }
        }
    }
}

/// Adds sub-scale times dot product of one sub-block of a run, of which it has one or two.
///
/// # Safety
/// As [`multiply_as`]; `block` is a panel block, `run` one of its runs, `x` are token blocks.
#[inline(always)]
unsafe fn add_part<D: Dot, F: Format, const M: usize, const PART: usize>(
    dot: D,
    (block, run): (*const u8, usize),
    x: [*const ActBlock256; M],
    sums: &mut Lanes<M>,
) {
    let parts = F::LAYOUT.subs / RUNS;
    // SAFETY: the caller's promise; a token block has 32 codes and two pairs of sums a run, a panel
    // block 16 bytes of scales a sub-block.
    unsafe {
        let mut dots: Lanes<M> = [[_mm256_setzero_si256(); 2]; M];
        let mut codes = [std::ptr::null(); M];
        for t in 0..M {
            codes[t] = (&raw const (*x[t]).codes).cast::<i8>().add(32 * run);
            let pair_sums = (&raw const (*x[t]).pair_sums).cast::<[i16; 2]>();
            dots[t] = start::<F>(pair_sums.add(2 * run + PART));
            if parts == 1 {
                let second = start::<F>(pair_sums.add(2 * run + 1));
                for h in 0..2 {
                    dots[t][h] = _mm256_add_epi32(dots[t][h], second[h]);
                }
            }
        }
        let packed = block.add(run * F::LAYOUT.run_bytes);
        for_each_group!(G => {
            if G * parts / 8 == PART {
                multiply_group::<D, F, M, G>(dot, packed, codes, &mut dots);
            }
        });
        let sub = block.add(F::LAYOUT.sub_scales_at + (parts * run + PART) * PANEL_ROWS);
        for h in 0..2 {
            // Unsigned scales are below 64, so reading them as signed is the same.
            let scale = _mm256_cvtepi8_epi32(_mm_loadl_epi64(sub.add(8 * h).cast()));
            for t in 0..M {
                let scaled = _mm256_mullo_epi32(dots[t][h], scale);
                sums[t][h] = _mm256_add_epi32(sums[t][h], scaled);
            }
        }
    }
}

/// Lanes at the start of a dot product: what makes the zero point come out.
///
/// # Safety
/// As [`multiply_as`]; `pair_sums` are two sums that can be read.
#[inline(always)]
unsafe fn start<F: Format>(pair_sums: *const [i16; 2]) -> [__m256i; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        if F::ZERO == 0 {
            return [_mm256_setzero_si256(); 2];
        }
        [_mm256_madd_epi16(broadcast(pair_sums), _mm256_set1_epi16(-F::ZERO)); 2]
    }
}

/// Adds the products of group `G` of a run to the lanes.
///
/// # Safety
/// As [`multiply_as`]; `run` is a run of the format's panel block, `x` are its 32 codes of each token.
#[inline(always)]
unsafe fn multiply_group<D: Dot, F: Format, const M: usize, const G: usize>(
    dot: D,
    run: *const u8,
    x: [*const i8; M],
    lanes: &mut Lanes<M>,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let w = [half_group::<F, G>(run), half_group::<F, G>(run.add(32))];
        for t in 0..M {
            let x = broadcast(x[t].add(4 * G));
            for h in 0..2 {
                lanes[t][h] = dot.dot(lanes[t][h], w[h], x);
            }
        }
    }
}

/// The codes of 8 rows of group `G`, or what a codebook makes of them, unsigned.
///
/// # Safety
/// As [`multiply_as`]; `run` is a run of the format's panel block, or 32 bytes into it.
#[inline(always)]
unsafe fn half_group<F: Format, const G: usize>(run: *const u8) -> __m256i {
    // SAFETY: a run is 8 groups of 8-bit codes, or 4 of low bits and then one group of high bits for
    // 5-bit codes, two for 6-bit codes.
    unsafe {
        if F::LAYOUT.code_bits == 8 {
            let codes = load(run.add(G * GROUP_BYTES));
            return _mm256_xor_si256(codes, _mm256_set1_epi8(i8::MIN));
        }
        let low = load(run.add(G / 2 * GROUP_BYTES));
        let low = if G.is_multiple_of(2) {
            low
        } else {
            _mm256_srli_epi16::<4>(low)
        };
        let low = _mm256_and_si256(low, _mm256_set1_epi8(0x0F));
        if let Some(values) = &F::CODEBOOK {
            return look_up(values, low);
        }
        let high = run.add(F::LAYOUT.high_at);
        match F::LAYOUT.code_bits {
            5 => {
                let high = shift_left::<4>(load(high), G);
                _mm256_or_si256(low, _mm256_and_si256(high, _mm256_set1_epi8(0x10)))
            }
            6 => {
                let high = shift_left::<4>(load(high.add(G / 4 * GROUP_BYTES)), 2 * (G % 4));
                _mm256_or_si256(low, _mm256_and_si256(high, _mm256_set1_epi8(0x30)))
            }
            _ => low,
        }
    }
}

/// `rows = fma(sums, d_w * d_x, rows)`.
///
/// # Safety
/// As [`multiply_as`].
#[inline(always)]
unsafe fn add_scaled(
    sums: [__m256i; 2],
    (d, dx): ([__m256; 2], f32),
    rows: &mut [f32; PANEL_ROWS],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let dx = _mm256_set1_ps(dx);
        let mut sum = load_rows(rows);
        for h in 0..2 {
            let factor = _mm256_mul_ps(d[h], dx);
            sum[h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[h]), factor, sum[h]);
        }
        store_rows(sum, rows);
    }
}
