//! What the tile kernels must know of each format, at compile time.

use kvist_base::QuantFormat;

use super::{Span, TILE_TOKENS, tile32, tile256};
use crate::acts::{ActBlock32, ActBlock256};
use crate::matmul::PanelOut;
use crate::panel::PanelLayout;
use crate::quant::codebook;

/// A quant format and its tile kernel.
///
/// Codes of up to 6 bits, unless they are places in a codebook, are multiplied as unsigned bytes and summed in 16-bit lanes, each of
/// which gets half of a row's products. Additions wrap, so only the end of a sum must fit. With
/// a zero point the lane starts at `-zero * (sum of its x)` and ends at
/// `sum of (code - zero) * x`. `MADD_K` is how many k a lane pair can sum:
///
/// ```text
/// 4 bits        15 * 127 * 16 = 30480 after 32 k
/// 5 bits - 16   16 * 127 * 16 = 32512 after 32 k
/// 5 bits        31 * 127 *  8 = 31496 after 16 k
/// 6 bits - 32   32 * 127 *  8 = 32512 after 16 k
/// ```
pub(super) trait Format {
    const QUANT: QuantFormat;
    /// Subtracted from codes; 0 where a minimum is added instead.
    const ZERO: i16;
    /// k summed in 16-bit lanes, 16 or 32.
    const MADD_K: usize;
    /// Tokens of the largest tile.
    const TILE_TOKENS: usize = TILE_TOKENS;
    /// Whether codes are multiplied as signed bytes, by `signed`; `ZERO` and `MADD_K` then mean
    /// nothing.
    const SIGNED: bool = false;
    /// Whether many tokens are worth expanding codes for.
    const EXPANDS: bool = true;
    /// Prepared activations.
    type Act;

    /// What codes stand for, if not for themselves.
    const CODEBOOK: Option<&'static [i8; 16]> = codebook(Self::QUANT);
    const WEIGHTS: usize = Self::QUANT.block_weights();
    const LAYOUT: PanelLayout = match PanelLayout::of(Self::QUANT) {
        Some(layout) => layout,
        None => panic!("tiles are for formats with quant blocks"),
    };

    /// Adds the products of a span to the accumulators of `M` tokens.
    ///
    /// # Safety
    /// The CPU has AVX2, FMA and F16C.
    unsafe fn tile<const M: usize, const EXPANDED: bool>(
        span: &Span<'_, Self::Act>,
        acc: &mut PanelOut,
    );
}

macro_rules! format {
    ($name:ident, $act:ty, $tile:path { $($constant:ident: $kind:ty = $value:expr;)* }) => {
        pub(super) struct $name;

        impl Format for $name {
            const QUANT: QuantFormat = QuantFormat::$name;
            $(const $constant: $kind = $value;)*
            type Act = $act;

            unsafe fn tile<const M: usize, const EXPANDED: bool>(
                span: &Span<'_, $act>,
                acc: &mut PanelOut,
            ) {
                // SAFETY: the caller's promise.
                unsafe { $tile(span, acc) }
            }
        }
    };
}

format!(Q4_0, ActBlock32, tile32::tile::<Self, M, EXPANDED> { ZERO: i16 = 8; MADD_K: usize = 32; });
format!(Q4_1, ActBlock32, tile32::tile::<Self, M, EXPANDED> { ZERO: i16 = 0; MADD_K: usize = 32; });
format!(Q5_0, ActBlock32, tile32::tile::<Self, M, EXPANDED> { ZERO: i16 = 16; MADD_K: usize = 32; });
format!(Q5_1, ActBlock32, tile32::tile::<Self, M, EXPANDED> { ZERO: i16 = 0; MADD_K: usize = 16; });
format!(Q4K, ActBlock256, tile256::tile::<Self, M, EXPANDED> { ZERO: i16 = 0; MADD_K: usize = 32; });
format!(Q5K, ActBlock256, tile256::tile::<Self, M, EXPANDED> { ZERO: i16 = 0; MADD_K: usize = 16; });
format!(Q6K, ActBlock256, tile256::tile::<Self, M, EXPANDED> { ZERO: i16 = 32; MADD_K: usize = 16; });
// Signed bytes need more registers a token. Those of Q8_0 are there as they are: nothing to expand.
format!(Q8_0, ActBlock32, tile32::tile::<Self, M, EXPANDED> {
    ZERO: i16 = 0; MADD_K: usize = 32; SIGNED: bool = true; TILE_TOKENS: usize = 4; EXPANDS: bool = false;
});
// Out of a codebook, they are worth expanding.
format!(Iq4Nl, ActBlock32, tile32::tile::<Self, M, EXPANDED> {
    ZERO: i16 = 0; MADD_K: usize = 32; SIGNED: bool = true; TILE_TOKENS: usize = 4;
});
format!(Iq4Xs, ActBlock256, tile256::tile::<Self, M, EXPANDED> {
    ZERO: i16 = 0; MADD_K: usize = 32; SIGNED: bool = true; TILE_TOKENS: usize = 4;
});
