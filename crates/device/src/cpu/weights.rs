//! Taking over weights, and looking rows up in them.
//!
//! File bytes are read panel by panel into memory of the worker that packs them, never through a
//! mapping: loading leaves no pages of the file behind in this process, and a file that is cut off
//! meanwhile is an error.

use std::ops::Range;

use kvist_base::Bytes;
use kvist_kernels::{self as kernels, PanelMatrix, for_each_chunk_on};

use super::arena::Arena;
use super::slabs::Lent;
use super::stream::{FirstError, PanelReader, PanelSizes};
use super::{CpuDevice, handle};
use crate::error::DeviceError;
use crate::ops::{Buf, Weight};
use crate::{Residence, SharedBytes, WeightShape, WeightSource};

const LABEL: &str = "packed weights";

/// A weight as this device keeps it.
pub(super) enum Prepared {
    Packed(Place),
    Mapped(SharedBytes),
    Streamed(WeightSource),
}

/// Where a packed weight is.
pub(super) enum Place {
    Shelf(Range<usize>),
    Own(Arena<u8>),
}

/// Memory in which packed weights stand side by side. Most matrices of a small model are smaller than a
/// huge page, and none is a whole number of them: in memory of its own each would be read through
/// small pages, at a fraction of the speed.
#[derive(Default)]
pub(super) struct Shelf {
    memory: Option<Arena<u8>>,
    used: usize,
}

impl Shelf {
    /// Weights begin where a cache line does.
    const ALIGN: usize = 64;

    fn new(lens: impl Iterator<Item = usize>) -> Result<Self, DeviceError> {
        let len = lens.fold(0usize, |sum, len| {
            sum.saturating_add(len.next_multiple_of(Self::ALIGN))
        });
        Ok(Self {
            memory: Some(Arena::new(LABEL, len)?),
            used: 0,
        })
    }

    /// Room for `len` bytes, or `None` when there is too little left.
    fn take(&mut self, len: usize) -> Option<Range<usize>> {
        let place = self.used..self.used.checked_add(len)?;
        if place.end > self.memory.as_ref()?.len() {
            return None;
        }
        self.used = place.end.next_multiple_of(Self::ALIGN);
        Some(place)
    }

    fn bytes<'a>(&'a self, place: &'a Place) -> Option<&'a [u8]> {
        match place {
            Place::Own(bytes) => Some(bytes),
            Place::Shelf(place) => self.memory.as_ref()?.get(place.clone()),
        }
    }

    fn bytes_mut<'a>(&'a mut self, place: &'a mut Place) -> Option<&'a mut [u8]> {
        match place {
            Place::Own(bytes) => Some(bytes),
            Place::Shelf(place) => self.memory.as_mut()?.get_mut(place.clone()),
        }
    }
}

impl CpuDevice {
    pub(super) fn make_shelf(&mut self, shapes: &[WeightShape]) -> Result<(), DeviceError> {
        let len = |shape: &WeightShape| {
            kernels::packed_bytes(shape.format, shape.rows, shape.cols).unwrap_or(0)
        };
        self.shelf = Shelf::new(shapes.iter().map(len))?;
        Ok(())
    }

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

    fn pack(&mut self, source: &WeightSource) -> Result<Place, DeviceError> {
        let packed_len = kernels::packed_bytes(source.format, source.rows, source.cols);
        let sizes = PanelSizes::of(source);
        let (Some(packed_len), Some(sizes)) = (packed_len, sizes) else {
            return Err(bad_weight(source));
        };
        let mut place = match self.shelf.take(packed_len) {
            Some(place) => Place::Shelf(place),
            None => Place::Own(Arena::new(LABEL, packed_len)?),
        };
        let packed = self
            .shelf
            .bytes_mut(&mut place)
            .expect("the shelf gave the place");
        source.bytes.will_need(0..source.bytes.byte_len());
        let buffers = self.stream.loading_buffers(self.pool.threads(), sizes)?;
        let failure = FirstError::default();
        let reader = PanelReader::new(self.isa, source, sizes);
        let chunk = sizes.packed.max(1);
        for_each_chunk_on(&self.pool, packed, chunk, &|panel, worker, out| {
            buffers.with(worker, |buffer| {
                failure.watch(|| {
                    let raw = reader.fetch(panel, buffer)?;
                    reader.pack(raw, out);
                    Ok(())
                });
            });
        });
        failure.into_result()?;
        self.weight_bytes += Bytes::of_len(packed_len);
        Ok(place)
    }

    pub(super) fn matrix(
        &self,
        op: &'static str,
        weight: Weight,
    ) -> Result<PanelMatrix<'_>, DeviceError> {
        match &self.weights[weight.idx as usize] {
            Prepared::Packed(place) => self
                .shelf
                .bytes(place)
                .and_then(|data| PanelMatrix::new(weight.format, weight.rows, weight.cols, data)),
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn weights_stand_side_by_side_and_those_beyond_the_shelf_do_not() {
        let mut shelf = Shelf::new([100, 64, 30].into_iter()).unwrap();
        assert_eq!(shelf.take(100), Some(0..100));
        assert_eq!(shelf.take(200), None, "more than is left");
        assert_eq!(shelf.take(64), Some(128..192), "at a cache line");
        assert_eq!(shelf.take(30), Some(192..222));
        assert_eq!(shelf.take(65), None);
        assert_eq!(shelf.take(usize::MAX), None);
        assert_eq!(shelf.memory.as_ref().unwrap().len(), 128 + 64 + 64);
        assert_eq!(Shelf::default().take(1), None, "nothing was announced");
    }

    #[test]
    fn a_place_is_read_where_it_was_written() {
        let mut shelf = Shelf::new([100, 64].into_iter()).unwrap();
        let mut places = [
            Place::Shelf(shelf.take(100).unwrap()),
            Place::Shelf(shelf.take(64).unwrap()),
            Place::Own(Arena::new(LABEL, 10).unwrap()),
        ];
        for (value, place) in (1..).zip(&mut places) {
            shelf.bytes_mut(place).unwrap().fill(value);
        }
        for ((value, len), place) in [(1, 100), (2, 64), (3, 10)].iter().zip(&places) {
            assert_eq!(shelf.bytes(place).unwrap(), vec![*value; *len]);
        }
    }
}
