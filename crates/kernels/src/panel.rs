//! The layout weights are kept in: panels of 16 rows, so that one vector load brings weights of
//! 8 rows (or 16) and one activation dword serves them all.
//!
//! A panel holds the quant blocks of its rows side by side, block after block along k. The codes
//! of 32 consecutive k come as 8 groups of 4 k; byte `b` of a group's 64 is row `b / 4`, k
//! `b % 4`, so a 32-byte vector is 8 rows. One panel block is
//!
//! ```text
//! per 32 k:  low  256 B: 4 x 64 bytes, group 2j in the low nibbles of 64 bytes j, 2j + 1 above
//!                 512 B for 8-bit codes: 8 x 64 bytes, one group each
//!            high   0 B
//!                  64 B for 5-bit codes: bit g of each byte belongs to group g
//!                 128 B for 6-bit codes: 2 x 64 bytes, bit pair p of 64 bytes h: group 4h + p
//! per block: sub  128 B Q4_K, Q5_K: scales [8 sub-blocks][16 rows] u8, then
//!                 128 B             minima [4 pairs of sub-blocks][16 rows][2] u8
//!                 256 B Q6_K: scales [16 sub-blocks][16 rows] i8
//!                 128 B IQ4_XS: scales [8 sub-blocks][16 rows] i8
//!            d     32 B: [16 rows] f16
//!            m     32 B: [16 rows] f16, where the format has one
//! ```
//!
//! All parts are multiples of 32 bytes. The floating-point formats are `[k][16 rows]`. Packing
//! moves bits and changes none: the values are exactly the file's.

use kvist_base::QuantFormat;

#[cfg(target_arch = "x86_64")]
use crate::arch::x86;
use crate::isa::Isa;
use crate::quant::{self, Parts};

/// Rows of a panel.
pub const PANEL_ROWS: usize = 16;

/// Bytes of a group: 4 k of 16 rows.
const GROUP_BYTES: usize = 4 * PANEL_ROWS;
/// Groups of 32 k.
const GROUPS: usize = 8;

/// Where things are in one panel block of a quant format.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PanelLayout {
    /// Bits of a code: 4, 5, 6 or 8.
    pub code_bits: usize,
    /// Runs of 32 k in the block.
    pub runs: usize,
    /// Bytes of one run.
    pub run_bytes: usize,
    /// Where the high bits start in a run.
    pub high_at: usize,
    /// Sub-blocks with a scale; 0 for the 32-weight formats.
    pub subs: usize,
    /// Where the sub-scales start.
    pub sub_scales_at: usize,
    /// Where the sub-minima start, if `m_at` is set and there are sub-blocks.
    pub sub_mins_at: usize,
    /// Where the scales start.
    pub d_at: usize,
    /// Where the minima start, for formats that have them.
    pub m_at: Option<usize>,
    /// Bytes of the panel block.
    pub bytes: usize,
}

impl PanelLayout {
    /// The layout of a quant format, or `None` for the floating-point ones.
    pub(crate) const fn of(format: QuantFormat) -> Option<Self> {
        let (code_bits, subs, min) = match format {
            QuantFormat::F32 | QuantFormat::F16 | QuantFormat::BF16 => return None,
            QuantFormat::Q4_0 | QuantFormat::Iq4Nl => (4, 0, false),
            QuantFormat::Q4_1 => (4, 0, true),
            QuantFormat::Q5_0 => (5, 0, false),
            QuantFormat::Q5_1 => (5, 0, true),
            QuantFormat::Q8_0 => (8, 0, false),
            QuantFormat::Q4K => (4, 8, true),
            QuantFormat::Q5K => (5, 8, true),
            QuantFormat::Q6K => (6, 16, false),
            QuantFormat::Iq4Xs => (4, 8, false),
        };
        let runs = format.block_weights() / 32;
        let (high_at, run_bytes) = match code_bits {
            8 => (GROUPS * GROUP_BYTES, GROUPS * GROUP_BYTES),
            bits => {
                let low = GROUPS / 2 * GROUP_BYTES;
                (low, low + (bits - 4) * GROUP_BYTES)
            }
        };
        let sub_scales_at = runs * run_bytes;
        let sub_mins_at = sub_scales_at + subs * PANEL_ROWS;
        let d_at = sub_mins_at + if min { subs * PANEL_ROWS } else { 0 };
        let m_at = d_at + 2 * PANEL_ROWS;
        let bytes = m_at + if min { 2 * PANEL_ROWS } else { 0 };
        let m_at = if min { Some(m_at) } else { None };
        Some(Self {
            code_bits,
            runs,
            run_bytes,
            high_at,
            subs,
            sub_scales_at,
            sub_mins_at,
            d_at,
            m_at,
            bytes,
        })
    }
}

/// Bytes of one 16-row panel of `cols` weights a row, or `None` when a row is not whole quant
/// blocks or the size overflows.
pub fn panel_bytes(format: QuantFormat, cols: usize) -> Option<usize> {
    if !cols.is_multiple_of(format.block_weights()) {
        return None;
    }
    let block_bytes = match PanelLayout::of(format) {
        Some(layout) => layout.bytes,
        None => PANEL_ROWS * format.block_bytes(),
    };
    (cols / format.block_weights()).checked_mul(block_bytes)
}

/// Bytes of `rows` x `cols` weights in panel layout, rows padded up to whole panels, or `None`
/// when a row is not whole quant blocks or the size overflows.
pub fn packed_bytes(format: QuantFormat, rows: usize, cols: usize) -> Option<usize> {
    panel_bytes(format, cols)?.checked_mul(rows.div_ceil(PANEL_ROWS))
}

/// Packs up to 16 rows of `cols` weights into one panel; missing rows become zero weights. Writes
/// all of `out`, the same bytes on every tier.
///
/// `raw_rows` is 1 to 16 contiguous rows as the file has them.
///
/// # Panics
/// When `raw_rows` is not 1 to 16 rows of `cols` weights, or `out` not one panel.
pub fn pack_panel(isa: Isa, (format, cols): (QuantFormat, usize), raw_rows: &[u8], out: &mut [u8]) {
    let row_bytes = format
        .row_bytes(cols)
        .expect("the caller has checked the shape");
    assert_eq!(
        panel_bytes(format, cols),
        Some(out.len()),
        "one panel of {format}"
    );
    if row_bytes == 0 {
        return;
    }
    let rows = raw_rows.len() / row_bytes;
    assert!(
        raw_rows.len().is_multiple_of(row_bytes),
        "whole rows of {format}"
    );
    assert!((1..=PANEL_ROWS).contains(&rows), "{rows} rows in a panel");
    let Some((layout, codec)) = PanelLayout::of(format).zip(quant::codec(format)) else {
        if rows < PANEL_ROWS {
            out.fill(0);
        }
        match format {
            QuantFormat::F32 => pack_floats::<4>(raw_rows, cols, out),
            _ => pack_floats::<2>(raw_rows, cols, out),
        }
        return;
    };
    // Rows that are missing stay zero.
    let mut parts = [Parts::ZERO; PANEL_ROWS];
    // Block by block, so that what the rows share of a panel stays in the first-level cache.
    for (index, block) in out.chunks_exact_mut(layout.bytes).enumerate() {
        let at = index * format.block_bytes();
        for (raw_row, parts) in raw_rows.chunks_exact(row_bytes).zip(&mut parts) {
            (codec.split)(&raw_row[at..at + format.block_bytes()], parts);
        }
        let runs = block.chunks_exact_mut(layout.run_bytes).take(layout.runs);
        for (run, out) in runs.enumerate() {
            put_run(isa, &layout, (&parts, run), out);
        }
        for (row, parts) in parts.iter().enumerate() {
            put_scales(&layout, parts, row, block);
        }
    }
}

/// Columns that are transposed together: what the rows share of a panel stays in the first-level
/// cache.
const FLOAT_COLUMNS: usize = 128;

/// Transposes rows of `cols` weights of `BYTES` bytes to `[k][16 rows]`.
fn pack_floats<const BYTES: usize>(raw_rows: &[u8], cols: usize, out: &mut [u8]) {
    let (raw, _) = raw_rows.as_chunks::<BYTES>();
    let (weights, _) = out.as_chunks_mut::<BYTES>();
    let parts = weights.chunks_mut(FLOAT_COLUMNS * PANEL_ROWS);
    for (part, weights) in parts.enumerate() {
        let first = part * FLOAT_COLUMNS;
        for (row, raw_row) in raw.chunks_exact(cols).enumerate() {
            let columns = weights.chunks_exact_mut(PANEL_ROWS);
            for (column, weight) in columns.zip(&raw_row[first..]) {
                column[row] = *weight;
            }
        }
    }
}

/// Writes run `index` of a panel block: 32 codes of all rows.
fn put_run(
    isa: Isa,
    layout: &PanelLayout,
    (rows, index): (&[Parts; PANEL_ROWS], usize),
    run: &mut [u8],
) {
    #[cfg(target_arch = "x86_64")]
    if isa.has_avx2() {
        return x86::put_run(isa, rows, (index, layout.code_bits), run);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = isa;
    let put_codes = match layout.code_bits {
        4 => put_codes::<4>,
        5 => put_codes::<5>,
        6 => put_codes::<6>,
        _ => put_codes::<8>,
    };
    for (row, parts) in rows.iter().enumerate() {
        put_codes(&parts.codes.as_chunks::<32>().0[index], row, run);
    }
}

/// Writes what one row's quant block has beside its codes into a panel block.
fn put_scales(layout: &PanelLayout, parts: &Parts, row: usize, block: &mut [u8]) {
    for sub in 0..layout.subs {
        block[layout.sub_scales_at + sub * PANEL_ROWS + row] = parts.sub_scales[sub];
        if layout.m_at.is_some() {
            block[sub_min_at(layout, sub, row)] = parts.sub_mins[sub];
        }
    }
    put_u16(block, layout.d_at + 2 * row, parts.d);
    if let Some(m_at) = layout.m_at {
        put_u16(block, m_at + 2 * row, parts.m);
    }
}

/// Reads one row's quant block back out of a panel block.
pub(crate) fn take_block(layout: &PanelLayout, block: &[u8], row: usize, parts: &mut Parts) {
    let runs = block.chunks_exact(layout.run_bytes).take(layout.runs);
    for (run, codes) in runs.zip(parts.codes.chunks_exact_mut(32)) {
        take_run(layout, run, row, codes);
    }
    for sub in 0..layout.subs {
        parts.sub_scales[sub] = block[layout.sub_scales_at + sub * PANEL_ROWS + row];
        if layout.m_at.is_some() {
            parts.sub_mins[sub] = block[sub_min_at(layout, sub, row)];
        }
    }
    parts.d = u16_at(block, layout.d_at + 2 * row);
    if let Some(m_at) = layout.m_at {
        parts.m = u16_at(block, m_at + 2 * row);
    }
}

const fn sub_min_at(layout: &PanelLayout, sub: usize, row: usize) -> usize {
    layout.sub_mins_at + sub / 2 * 2 * PANEL_ROWS + 2 * row + sub % 2
}

/// Writes 32 codes of a row: four of them are a little-endian dword, the unit a group stores for each
/// row. A constant number of bits leaves shifts and masks of constants.
fn put_codes<const BITS: usize>(codes: &[u8; 32], row: usize, run: &mut [u8]) {
    let (groups, _) = codes.as_chunks::<4>();
    let mut stored = run.as_chunks_mut::<GROUP_BYTES>().0.iter_mut();
    let mut put = |dword: u32| {
        let group = stored.next().expect("a run has all its groups");
        group.as_chunks_mut::<4>().0[row] = dword.to_le_bytes();
    };
    if BITS == 8 {
        groups
            .iter()
            .for_each(|codes| put(u32::from_le_bytes(*codes)));
        return;
    }
    let mut high = [0u32; 2];
    for (pair, codes) in groups.as_chunks::<2>().0.iter().enumerate() {
        let [even, odd] = codes.map(u32::from_le_bytes);
        put((even & 0x0F0F_0F0F) | (odd & 0x0F0F_0F0F) << 4);
        let [even, odd] = [even >> 4, odd >> 4];
        match BITS {
            5 => high[0] |= ((even & 0x0101_0101) | (odd & 0x0101_0101) << 1) << (2 * pair),
            6 => {
                let bits = (even & 0x0303_0303) | (odd & 0x0303_0303) << 2;
                high[pair / 2] |= bits << (4 * (pair % 2));
            }
            _ => (),
        }
    }
    high[..BITS - 4].iter().for_each(|bits| put(*bits));
}

/// The reverse of [`put_codes`].
fn take_run(layout: &PanelLayout, run: &[u8], row: usize, codes: &mut [u8]) {
    let (dwords, _) = run.as_chunks::<4>();
    let (groups, _) = codes.as_chunks_mut::<4>();
    let dword = |index: usize| u32::from_le_bytes(dwords[index * PANEL_ROWS + row]);
    for (group, codes) in groups.iter_mut().enumerate() {
        let mut word = if layout.code_bits == 8 {
            dword(group)
        } else {
            (dword(group / 2) >> (4 * (group % 2))) & 0x0F0F_0F0F
        };
        let (index, shift, mask) = high_bits(layout, group);
        if mask != 0 {
            word |= ((dword(GROUPS / 2 + index) >> shift) & mask) << 4;
        }
        *codes = word.to_le_bytes();
    }
}

/// Where a group's high bits are: which 64 bytes, shifted by what, and the mask of one group.
const fn high_bits(layout: &PanelLayout, group: usize) -> (usize, usize, u32) {
    match layout.code_bits {
        5 => (0, group, 0x0101_0101),
        6 => (group / 4, 2 * (group % 4), 0x0303_0303),
        _ => (0, 0, 0),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

/// A matrix in panel layout: `rows` x `cols` weights W, for products y = W x.
#[derive(Clone, Copy, Debug)]
pub struct PanelMatrix<'a> {
    format: QuantFormat,
    rows: usize,
    cols: usize,
    data: &'a [u8],
}

impl<'a> PanelMatrix<'a> {
    /// A view of packed panels, or `None` when `data` is not exactly [`packed_bytes`] long.
    pub fn new(format: QuantFormat, rows: usize, cols: usize, data: &'a [u8]) -> Option<Self> {
        (packed_bytes(format, rows, cols)? == data.len()).then_some(Self {
            format,
            rows,
            cols,
            data,
        })
    }

    /// Rows: values a product gives per token.
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Columns: values a product takes per token.
    pub const fn cols(&self) -> usize {
        self.cols
    }

    /// How the weights are encoded.
    pub const fn format(&self) -> QuantFormat {
        self.format
    }

    /// Bytes of one panel.
    pub(crate) fn panel_bytes(&self) -> usize {
        self.data.len() / self.rows.div_ceil(PANEL_ROWS).max(1)
    }

    /// Panel `index`: rows `16 * index` and on.
    pub(crate) fn panel(&self, index: usize) -> &'a [u8] {
        let bytes = self.panel_bytes();
        &self.data[index * bytes..][..bytes]
    }

    /// Decodes one row: the values [`quant::decode_row`] gives for the file's bytes.
    ///
    /// # Panics
    /// When there is no such row, or `out` is not `cols` long.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        assert_eq!(out.len(), self.cols, "one row");
        let panel = self.panel(row / PANEL_ROWS);
        let row = row % PANEL_ROWS;
        let Some((layout, codec)) = PanelLayout::of(self.format).zip(quant::codec(self.format))
        else {
            let weights = panel.chunks_exact(self.format.block_bytes());
            for (value, raw) in out.iter_mut().zip(weights.skip(row).step_by(PANEL_ROWS)) {
                *value = quant::decode_float(self.format, raw);
            }
            return;
        };
        let mut parts = Parts::ZERO;
        let blocks = panel.chunks_exact(layout.bytes);
        for (values, block) in out
            .chunks_exact_mut(self.format.block_weights())
            .zip(blocks)
        {
            take_block(&layout, block, row, &mut parts);
            (codec.decode)(&parts, values);
        }
    }
}
