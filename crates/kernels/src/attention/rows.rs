//! How a row of the KV cache stores its values.
//!
//! ```text
//! f16  | head_dim x f16 |
//! f32  | head_dim x f32 |
//! ```
//! All numbers are little-endian.
//!
//! Plain index loops over arrays, as in the register tiles, so that they are compiled with the
//! tier's instructions.
#![allow(clippy::needless_range_loop)]

use kvist_base::KvDtype;

use crate::lanes::{Lanes, Oct};

/// Stores one row: `values` is a head, `to` the row's bytes.
#[inline(always)]
pub(super) fn encode<L: Lanes>(lanes: L, dtype: KvDtype, values: &[f32], to: &mut [u8]) {
    let (values, _) = values.as_chunks::<8>();
    match dtype {
        KvDtype::F16 => {
            for (to, from) in to.as_chunks_mut::<16>().0.iter_mut().zip(values) {
                *to = lanes.narrow(lanes.load(from));
            }
        }
        KvDtype::F32 => {
            for (to, from) in to.as_chunks_mut::<32>().0.iter_mut().zip(values) {
                let (to, _) = to.as_chunks_mut::<4>();
                for i in 0..8 {
                    to[i] = from[i].to_le_bytes();
                }
            }
        }
    }
}

/// Reads rows that follow each other: `to` is `head_octs` vectors a row.
#[inline(always)]
pub(super) fn decode<L: Lanes>(lanes: L, dtype: KvDtype, rows: &[u8], to: &mut [Oct]) {
    match dtype {
        KvDtype::F16 => {
            for (to, from) in to.iter_mut().zip(rows.as_chunks::<16>().0) {
                lanes.store(lanes.widen(from), &mut to.0);
            }
        }
        KvDtype::F32 => {
            for (to, from) in to.iter_mut().zip(rows.as_chunks::<32>().0) {
                let (from, _) = from.as_chunks::<4>();
                for i in 0..8 {
                    to.0[i] = f32::from_le_bytes(from[i]);
                }
            }
        }
    }
}
