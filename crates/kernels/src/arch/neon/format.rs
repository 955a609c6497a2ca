//! What the tile kernels must know of each format, at compile time.

use kvist_base::QuantFormat;

use super::{Span, tile32, tile256};
use crate::acts::{ActBlock32, ActBlock256};
use crate::matmul::PanelOut;
use crate::panel::PanelLayout;
use crate::quant::codebook;

/// A quant format and its tile kernel.
pub(super) trait Format {
    const QUANT: QuantFormat;
    /// Subtracted from codes; 0 where a minimum is added instead.
    const ZERO: i32;
    /// What codes stand for, if not for themselves.
    const CODEBOOK: Option<&'static [i8; 16]> = codebook(Self::QUANT);
    /// Prepared activations.
    type Act;

    const WEIGHTS: usize = Self::QUANT.block_weights();
    const LAYOUT: PanelLayout = match PanelLayout::of(Self::QUANT) {
        Some(layout) => layout,
        None => panic!("tiles are for formats with quant blocks"),
    };

    /// Adds the products of a panel and `M` tokens to `acc`.
    ///
    /// # Safety
    /// The CPU has the features of this tier.
    unsafe fn tile<const M: usize>(span: &Span<'_, Self::Act>, acc: &mut PanelOut);
}

macro_rules! format {
    ($name:ident, $act:ty, $tile:path, $zero:literal) => {
        pub(super) struct $name;

        impl Format for $name {
            const QUANT: QuantFormat = QuantFormat::$name;
            const ZERO: i32 = $zero;
            type Act = $act;

            unsafe fn tile<const M: usize>(span: &Span<'_, $act>, acc: &mut PanelOut) {
                // SAFETY: the caller's promise.
                unsafe { $tile(span, acc) }
            }
        }
    };
}

format!(Q4_0, ActBlock32, tile32::tile::<Self, M>, 8);
format!(Q4_1, ActBlock32, tile32::tile::<Self, M>, 0);
format!(Q5_0, ActBlock32, tile32::tile::<Self, M>, 16);
format!(Q5_1, ActBlock32, tile32::tile::<Self, M>, 0);
format!(Q8_0, ActBlock32, tile32::tile::<Self, M>, 0);
format!(Q4K, ActBlock256, tile256::tile::<Self, M>, 0);
format!(Q5K, ActBlock256, tile256::tile::<Self, M>, 0);
format!(Q6K, ActBlock256, tile256::tile::<Self, M>, 32);
format!(Iq4Nl, ActBlock32, tile32::tile::<Self, M>, 0);
format!(Iq4Xs, ActBlock256, tile256::tile::<Self, M>, 0);
