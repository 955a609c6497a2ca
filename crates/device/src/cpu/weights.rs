//! Taking over weights, and looking rows up in them.
//!
//! File bytes are read panel by panel into memory of the worker that packs them, never through a
//! mapping: loading leaves no pages of the file behind in this process, and a file that is cut off
//! meanwhile is an error.

use kvist_base::Bytes;
use kvist_kernels::{self as kernels, PanelMatrix, for_each_chunk_on};

use super::arena::Arena;
use super::slabs::Lent;
use super::stream::{FirstError, PanelReader, PanelSizes};
use super::{CpuDevice, handle};
use crate::error::DeviceError;
use crate::ops::{Buf, Weight};
use crate::{Residence, SharedBytes, WeightSource};

/// A weight as this device keeps it.
pub(super) enum Prepared {
    Packed(Arena<u8>),
    Mapped(SharedBytes),
    Streamed(WeightSource),
}

impl CpuDevice {
    pub(super) fn take_weight(
        &mut self,
        source: WeightSource,
        residence: Residence,
    ) -> Result<Weight, DeviceError> {
        let given = source.bytes.byte_len();
        let row_bytes = source.format.row_bytes(source.cols);
        let expected = row_bytes.and_then(|row| row.checked_mul(source.rows));
        let (Some(row_bytes), true) = (row_bytes, expected == Some(given)) else {
            return Err(bad_weight(&source));
        };
        let weight = Weight {
            idx: handle(self.weights.len()),
            rows: source.rows,
            cols: source.cols,
            format: source.format,
        };
        let prepared = match residence {
            Residence::Packed => {
                let packed = self.pack(&source)?;
                self.weight_bytes += Bytes::of_len(packed.len());
                self.widths.include(source.format, source.cols);
                Prepared::Packed(packed)
            }
            Residence::Mapped => {
                let row = &mut self.scratch.table_row;
                row.resize(row.len().max(row_bytes), 0);
                Prepared::Mapped(source.bytes)
            }
            Residence::Streamed => {
                let sizes = PanelSizes::of(&source).ok_or_else(|| bad_weight(&source))?;
                self.stream.admit(sizes)?;
                self.widths.include(source.format, source.cols);
                Prepared::Streamed(source)
            }
        };
        self.weights.push(prepared);
        Ok(weight)
    }

    fn pack(&mut self, source: &WeightSource) -> Result<Arena<u8>, DeviceError> {
        let packed_len = kernels::packed_bytes(source.format, source.rows, source.cols);
        let sizes = PanelSizes::of(source);
        let (Some(packed_len), Some(sizes)) = (packed_len, sizes) else {
            return Err(bad_weight(source));
        };
        let mut packed = Arena::new("packed weights", packed_len)?;
        source.bytes.will_need(0..source.bytes.byte_len());
        let buffers = self.stream.loading_buffers(self.pool.threads(), sizes)?;
        let failure = FirstError::default();
        let reader = PanelReader::new(self.isa, source, sizes);
        let chunk = sizes.packed.max(1);
        for_each_chunk_on(&self.pool, &mut packed, chunk, &|panel, worker, out| {
            buffers.with(worker, |buffer| {
                failure.watch(|| {
                    let raw = reader.fetch(panel, buffer)?;
                    reader.pack(raw, out);
                    Ok(())
                });
            });
        });
        failure.into_result()?;
        Ok(packed)
    }

    pub(super) fn matrix(
        &self,
        op: &'static str,
        weight: Weight,
    ) -> Result<PanelMatrix<'_>, DeviceError> {
        match &self.weights[weight.idx as usize] {
            Prepared::Packed(data) => {
                PanelMatrix::new(weight.format, weight.rows, weight.cols, data)
            }
            Prepared::Mapped(_) | Prepared::Streamed(_) => None,
        }
        .ok_or(DeviceError::NotAMatrix { op })
    }

    pub(super) fn embed(
        &mut self,
        table: Weight,
        tokens: Buf,
        out: &mut Lent,
        n: usize,
    ) -> Result<(), DeviceError> {
        // Taken out meanwhile: everything else of the device is only read.
        let mut raw = std::mem::take(&mut self.scratch.table_row);
        let result = self.embed_rows((table, tokens), out, n, &mut raw);
        self.scratch.table_row = raw;
        result
    }

    fn embed_rows(
        &self,
        (table, tokens): (Weight, Buf),
        out: &mut Lent,
        n: usize,
        raw: &mut [u8],
    ) -> Result<(), DeviceError> {
        const OP: &str = "embed";
        let dim = table.cols;
        let tokens = self.indices(OP, tokens, (n, "token", table.rows))?;
        let mut rows = out.front(OP, n * dim)?.chunks_exact_mut(dim).zip(tokens);
        match &self.weights[table.idx as usize] {
            Prepared::Packed(_) => {
                let matrix = self.matrix(OP, table)?;
                rows.for_each(|(row, token)| matrix.decode_row(*token as usize, row));
                Ok(())
            }
            Prepared::Mapped(bytes) => {
                let raw = &mut raw[..bytes.byte_len() / table.rows.max(1)];
                rows.try_for_each(|(row, token)| {
                    bytes.read_at(*token as usize * raw.len(), raw)?;
                    kernels::quant::decode_row(table.format, raw, row);
                    Ok(())
                })
                .map_err(DeviceError::Unreadable)
            }
            Prepared::Streamed(_) => Err(DeviceError::NotATable { op: OP }),
        }
    }
}

fn bad_weight(source: &WeightSource) -> DeviceError {
    let row_bytes = source.format.row_bytes(source.cols);
    DeviceError::BadWeight {
        format: source.format,
        rows: source.rows,
        cols: source.cols,
        expected: row_bytes.and_then(|row| row.checked_mul(source.rows)),
        given: source.bytes.byte_len(),
    }
}
