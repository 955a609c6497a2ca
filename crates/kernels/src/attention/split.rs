//! Cutting a step's attention into pieces that threads take.

use std::ops::Range;

use super::{AttentionBatch, PARTITION, QUERY_TILE, SequenceSpan};

/// Pieces per thread that a span must yield by its rows alone, or else its partitions are
/// computed apart.
const PIECES_PER_THREAD: usize = 4;

/// Some rows of one sequence and some of their partitions. One task for each key head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// The rows of the batch.
    pub rows: Range<usize>,
    /// The position of the first row.
    pub first_position: usize,
    /// Where the sequence's block table begins.
    pub table_start: usize,
    pub partitions: Range<usize>,
    /// Where partial results go, counted in (row, all key heads), when partitions are apart.
    /// Partition `p` of row `r` of the unit is at `partial + p * rows + r`.
    pub partial: Option<usize>,
}

/// The pieces of one step.
#[derive(Debug)]
pub(super) struct Split {
    pub pieces: Vec<Piece>,
    /// The units whose partitions are apart, to be folded when all pieces are done.
    pub merges: Vec<Piece>,
}

impl Split {
    pub(super) fn with_capacity(pieces: usize) -> Self {
        Self {
            pieces: Vec::with_capacity(pieces),
            merges: Vec::with_capacity(pieces),
        }
    }

    pub(super) fn bytes(pieces: usize) -> usize {
        2 * pieces * size_of::<Piece>()
    }

    /// Cuts the batch. `partial_rows` is how many rows' partial results there is room for; what
    /// does not fit is not split, which changes no result.
    pub(super) fn plan(&mut self, batch: &AttentionBatch<'_>, threads: usize, partial_rows: usize) {
        self.pieces.clear();
        self.merges.clear();
        let rows_max = (QUERY_TILE / batch.group()).max(1);
        let mut partial = 0;
        for span in batch.sequences {
            let tiles = (span.rows as usize).div_ceil(rows_max) * batch.kv.layout.kv_heads;
            let is_narrow = threads > 1 && tiles < PIECES_PER_THREAD * threads;
            for unit in units(span, rows_max) {
                let needed = unit.rows.len() * unit.partitions.len();
                if is_narrow && unit.partitions.len() > 1 && partial + needed <= partial_rows {
                    self.push_apart(unit, partial);
                    partial += needed;
                } else {
                    self.pieces.push(unit);
                }
            }
        }
    }

    fn push_apart(&mut self, unit: Piece, partial: usize) {
        let unit = Piece {
            partial: Some(partial),
            ..unit
        };
        for partition in unit.partitions.clone() {
            self.pieces.push(Piece {
                partitions: partition..partition + 1,
                ..unit.clone()
            });
        }
        self.merges.push(unit);
    }
}

/// A span in runs of at most `rows_max` rows, each with all partitions up to its last row.
fn units(span: &SequenceSpan, rows_max: usize) -> impl Iterator<Item = Piece> {
    let (first_row, rows) = (span.first_row as usize, span.rows as usize);
    let (first_position, table_start) = (span.first_position as usize, span.table_start as usize);
    (0..rows).step_by(rows_max).map(move |start| {
        let end = (start + rows_max).min(rows);
        Piece {
            rows: first_row + start..first_row + end,
            first_position: first_position + start,
            table_start,
            partitions: 0..(first_position + end).div_ceil(PARTITION),
            partial: None,
        }
    })
}
