//! What the tile kernels must know of each format, at compile time.

use kvist_base::QuantFormat;

use super::{Span, tile32, tile256};
use crate::acts::{ActBlock32, ActBlock256};
use crate::matmul::PanelOut;
use crate::panel::PanelLayout;
use crate::quant::codebook;

/// A quant format and its tile kernel.
pub(in super::super) trait Format {
    const QUANT: QuantFormat;
    /// Subtracted from codes as the kernel unpacks them; 0 where a minimum is added instead.
    const ZERO: i16;
    /// What codes stand for, if not for themselves; `ZERO` is added.
    const CODEBOOK: Option<[i8; 16]> = match codebook(Self::QUANT) {
        Some(values) => Some(turned(*values)),
        None => None,
    };
    /// Prepared activations.
    type Act;

    const WEIGHTS: usize = Self::QUANT.block_weights();
    const LAYOUT: PanelLayout = match PanelLayout::of(Self::QUANT) {
        Some(layout) => layout,
        None => panic!("tiles are for formats with quant blocks"),
    };

    /// The products of a panel and `M` tokens, in `out` that is zeros.
    ///
    /// # Safety
    /// The CPU has the features of this tier.
    unsafe fn tile<const M: usize>(span: &Span<'_, Self::Act>, out: &mut PanelOut);
}

/// Signed bytes with the sign bit turned over: as unsigned ones 128 more.
const fn turned(mut values: [i8; 16]) -> [i8; 16] {
    let mut code = 0;
    while code < values.len() {
        values[code] ^= i8::MIN;
        code += 1;
    }
    values
}

macro_rules! format {
    ($name:ident, $act:ty, $tile:path, $zero:literal) => {
        pub(in super::super) struct $name;

        impl Format for $name {
            const QUANT: QuantFormat = QuantFormat::$name;
            const ZERO: i16 = $zero;
            type Act = $act;

            unsafe fn tile<const M: usize>(span: &Span<'_, $act>, out: &mut PanelOut) {
                // SAFETY: the caller's promise.
                unsafe { $tile(span, out) }
            }
        }
    };
}

format!(Q4_0, ActBlock32, tile32::tile::<Self, M>, 8);
format!(Q4_1, ActBlock32, tile32::tile::<Self, M>, 0);
format!(Q5_0, ActBlock32, tile32::tile::<Self, M>, 16);
format!(Q5_1, ActBlock32, tile32::tile::<Self, M>, 0);
// Signed bytes with the sign bit turned over are unsigned ones, 128 more.
format!(Q8_0, ActBlock32, tile32::tile::<Self, M>, 128);
format!(Q4K, ActBlock256, tile256::tile::<Self, M>, 0);
format!(Q5K, ActBlock256, tile256::tile::<Self, M>, 0);
format!(Q6K, ActBlock256, tile256::tile::<Self, M>, 32);
// As Q8_0, once they are looked up.
format!(Iq4Nl, ActBlock32, tile32::tile::<Self, M>, 128);
format!(Iq4Xs, ActBlock256, tile256::tile::<Self, M>, 128);
