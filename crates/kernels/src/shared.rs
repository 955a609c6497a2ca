//! Writing one slice from many tasks: safe views whose parts are disjoint by construction.
//!
//! Every function here turns a task index into a part of the slice, a different part for each
//! index, and [`Pool::run`] hands each index out exactly once.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, TryLockError};

use crate::pool::Pool;

/// A pointer that tasks share; its users only make disjoint references from it.
#[derive(Debug)]
struct Base<T>(*mut T);

// SAFETY: sharing the pointer is sharing the right to make `&mut T` on another thread, which is
// what `T: Send` allows; disjointness is each user's duty.
unsafe impl<T: Send> Sync for Base<T> {}

impl<T> Base<T> {
    /// # Safety
    /// `start..start + len` is inside the slice the pointer came from, that slice is borrowed
    /// for `'a`, and no other reference to the range exists for `'a`.
    unsafe fn slice<'a>(&self, start: usize, len: usize) -> &'a mut [T] {
        // SAFETY: exactly the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}

/// Runs `f(chunk index, chunk)` for each `chunk_len` elements of `data`; the last chunk may be
/// shorter.
///
/// # Panics
/// When `chunk_len` is zero; and as [`Pool::run`].
pub fn for_each_chunk<T: Send>(
    pool: &Pool,
    data: &mut [T],
    chunk_len: usize,
    f: &(dyn Fn(usize, &mut [T]) + Sync),
) {
    for_each_chunk_on(pool, data, chunk_len, &|index, _, chunk| f(index, chunk));
}

/// As [`for_each_chunk`], with the worker's index: `f(chunk index, worker, chunk)`.
///
/// # Panics
/// As [`for_each_chunk`].
pub fn for_each_chunk_on<T: Send>(
    pool: &Pool,
    data: &mut [T],
    chunk_len: usize,
    f: &(dyn Fn(usize, usize, &mut [T]) + Sync),
) {
    assert!(chunk_len > 0, "a chunk holds at least one element");
    let len = data.len();
    let base = Base(data.as_mut_ptr());
    pool.run(len.div_ceil(chunk_len), &|index, worker| {
        let start = index * chunk_len;
        // SAFETY: chunk `index` starts inside `data`, is cut at its end, and overlaps no chunk
        // of another index; each index runs once, within the borrow of `data`.
        let chunk = unsafe { base.slice(start, chunk_len.min(len - start)) };
        f(index, worker, chunk);
    });
}

/// How a row-major matrix is cut into tiles.
///
/// ```text
/// column   0                               columns - tail      columns
///          |  tile_columns  |  tile_columns  | narrow | narrow | narrow |
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// Values from one row to the next.
    pub stride: usize,
    /// Columns that are cut into tiles, from the left; at most `stride`.
    pub columns: usize,
    /// Rows of a tile; the last tile may have fewer.
    pub tile_rows: usize,
    /// Columns of a tile; the last tile may have fewer.
    pub tile_columns: usize,
    /// The right end.
    pub tail: Tail,
}

/// Columns at the right end of a matrix that are cut finer: the last tasks of a run are then small, and
/// threads finish together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// How many, at least; all that are left of the first wide tile that does not fit before them.
    pub columns: usize,
    /// Columns of a tile there.
    pub tile_columns: usize,
}

impl Tiling {
    /// Wide tiles before the tail.
    fn wide(&self) -> usize {
        if self.tail.columns == 0 {
            return self.columns.div_ceil(self.tile_columns);
        }
        self.columns.saturating_sub(self.tail.columns) / self.tile_columns
    }

    fn column_tiles(&self) -> usize {
        let before = self.wide() * self.tile_columns;
        let tail = self.columns.saturating_sub(before);
        self.wide() + tail.div_ceil(self.tail.tile_columns)
    }

    /// The columns of tile `index`, counted from the left.
    fn columns_of(&self, index: usize) -> Range<usize> {
        let wide = self.wide();
        let (start, len) = match index.checked_sub(wide) {
            None => (index * self.tile_columns, self.tile_columns),
            Some(narrow) => (
                wide * self.tile_columns + narrow * self.tail.tile_columns,
                self.tail.tile_columns,
            ),
        };
        start..self.columns.min(start + len)
    }
}

/// A `[rows][stride]` f32 matrix cut into tiles that tasks write independently.
#[derive(Debug)]
pub struct ColumnTiles<'a> {
    base: Base<f32>,
    rows: usize,
    tiling: Tiling,
    exclusive: PhantomData<&'a mut [f32]>,
}

impl<'a> ColumnTiles<'a> {
    /// Tiles over `rows` rows of `data`.
    ///
    /// # Panics
    /// When a tile side is zero, `columns` is beyond `stride`, or `data` is too short: the last
    /// row may end after `columns` values.
    pub fn new(data: &'a mut [f32], rows: usize, tiling: Tiling) -> Self {
        assert!(
            tiling.tile_rows > 0 && tiling.tile_columns > 0 && tiling.tail.tile_columns > 0,
            "a tile has both sides"
        );
        assert!(
            tiling.columns <= tiling.stride,
            "columns lie within the stride"
        );
        let needed = match rows {
            0 => Some(0),
            _ => tiling
                .stride
                .checked_mul(rows - 1)
                .and_then(|n| n.checked_add(tiling.columns)),
        };
        assert!(
            needed.is_some_and(|n| n <= data.len()),
            "the matrix holds all its rows"
        );
        Self {
            base: Base(data.as_mut_ptr()),
            rows,
            tiling,
            exclusive: PhantomData,
        }
    }

    fn row_tiles(&self) -> usize {
        self.rows.div_ceil(self.tiling.tile_rows)
    }

    fn tiles(&self) -> usize {
        self.row_tiles() * self.tiling.column_tiles()
    }

    /// # Safety
    /// Each index is used once within the borrow of the matrix.
    unsafe fn tile(&self, index: usize) -> TileMut<'_> {
        let row_tiles = self.row_tiles();
        let columns = self.tiling.columns_of(index / row_tiles);
        let first_row = index % row_tiles * self.tiling.tile_rows;
        TileMut {
            base: &self.base,
            stride: self.tiling.stride,
            first_row,
            rows: self.tiling.tile_rows.min(self.rows - first_row),
            first_column: columns.start,
            columns: columns.len(),
            exclusive: PhantomData,
        }
    }
}

/// Runs `f(matrix, worker, tile)` for each tile of each matrix, in one run of the pool: matrices in
/// order, and in each the tiles of one column range after each other, so that what belongs to those
/// columns (weights) is still in cache for the next rows.
///
/// # Panics
/// As [`Pool::run`].
#[allow(clippy::needless_pass_by_value)] // whoever has the matrices could hand out a tile twice
pub fn for_each_tile<const N: usize>(
    pool: &Pool,
    matrices: [ColumnTiles<'_>; N],
    f: &(dyn Fn(usize, usize, &mut TileMut<'_>) + Sync),
) {
    let counts = matrices.each_ref().map(ColumnTiles::tiles);
    pool.run(counts.iter().sum(), &|task, worker| {
        let (mut matrix, mut index) = (0, task);
        while index >= counts[matrix] {
            index -= counts[matrix];
            matrix += 1;
        }
        // SAFETY: tasks are as many as tiles, each runs once, and each gets a tile of its own.
        let mut tile = unsafe { matrices[matrix].tile(index) };
        f(matrix, worker, &mut tile);
    });
}

/// Exclusive access to one tile: some columns of some rows.
pub struct TileMut<'a> {
    base: &'a Base<f32>,
    stride: usize,
    first_row: usize,
    rows: usize,
    first_column: usize,
    columns: usize,
    exclusive: PhantomData<&'a mut f32>,
}

impl TileMut<'_> {
    /// The tile's first row in the matrix.
    pub fn first_row(&self) -> usize {
        self.first_row
    }

    /// Rows of this tile.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The tile's first column in the matrix.
    pub fn first_column(&self) -> usize {
        self.first_column
    }

    /// Columns of this tile.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The tile's columns of its row `row` (`0..rows()`).
    ///
    /// # Panics
    /// When `row` is not of this tile.
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.rows, "row {row} of a tile of {} rows", self.rows);
        let start = (self.first_row + row) * self.stride + self.first_column;
        // SAFETY: `ColumnTiles::new` checked that all tiles lie inside the data. Tiles are
        // disjoint rectangles, each made for one index of one run within the borrow of the
        // data, and `&mut self` keeps this tile's rows from being borrowed twice.
        unsafe { self.base.slice(start, self.columns) }
    }
}

impl fmt::Debug for TileMut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rows, columns) = (self.rows, self.columns);
        write!(
            f,
            "TileMut({rows}x{columns} at {}, {})",
            self.first_row, self.first_column
        )
    }
}

/// Flags for [`ClaimedChunks`], reused from run to run.
#[derive(Debug)]
pub(crate) struct Claims(Vec<AtomicBool>);

impl Claims {
    /// Bytes of one flag.
    pub(crate) const FLAG_BYTES: usize = size_of::<AtomicBool>();

    pub(crate) fn with_capacity(chunks: usize) -> Self {
        Self(Vec::with_capacity(chunks))
    }

    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// `chunks` flags, none of them claimed.
    fn reset(&mut self, chunks: usize) -> &[AtomicBool] {
        self.0.clear();
        self.0.resize_with(chunks, AtomicBool::default);
        &self.0
    }
}

/// Equal chunks of a slice that tasks take in any order: each at most once, which is checked.
pub(crate) struct ClaimedChunks<'a, T> {
    base: Base<T>,
    chunk_len: usize,
    claimed: &'a [AtomicBool],
    exclusive: PhantomData<&'a mut [T]>,
}

impl<'a, T: Send> ClaimedChunks<'a, T> {
    /// The whole chunks of `data`.
    pub(crate) fn new(data: &'a mut [T], chunk_len: usize, claims: &'a mut Claims) -> Self {
        assert!(chunk_len > 0, "a chunk holds at least one element");
        let claimed = claims.reset(data.len() / chunk_len);
        Self {
            base: Base(data.as_mut_ptr()),
            chunk_len,
            claimed,
            exclusive: PhantomData,
        }
    }

    /// Takes a chunk for good.
    ///
    /// # Panics
    /// When there is no such chunk or it is taken.
    pub(crate) fn claim(&self, index: usize) -> &'a mut [T] {
        // Relaxed is enough: the flag orders nothing, it only lets one caller through.
        let was_claimed = self.claimed[index].swap(true, Ordering::Relaxed);
        assert!(!was_claimed, "chunk {index} is claimed twice");
        // SAFETY: the data has one whole chunk for each flag; it is borrowed for `'a`, as are
        // the flags, so nobody resets them and no chunk is handed out twice.
        unsafe { self.base.slice(index * self.chunk_len, self.chunk_len) }
    }
}

/// One value per worker, for scratch memory that tasks reuse.
#[derive(Debug)]
pub struct WorkerLocal<S> {
    slots: Vec<Slot<S>>,
}

/// On its own cache lines: neighbours write at the same time.
#[derive(Debug)]
#[repr(align(128))]
struct Slot<S>(Mutex<S>);

impl<S> WorkerLocal<S> {
    /// One value for each worker, by worker index: as many as the pool has threads.
    pub fn new(values: Vec<S>) -> Self {
        Self {
            slots: values
                .into_iter()
                .map(|value| Slot(Mutex::new(value)))
                .collect(),
        }
    }

    /// How many workers it serves.
    pub fn workers(&self) -> usize {
        self.slots.len()
    }

    /// Lends the worker's value for the length of the call.
    ///
    /// # Panics
    /// When there is no value for `worker`, or it is lent already: a task passed another
    /// worker's index, or nested two calls.
    pub fn with<R>(&self, worker: usize, f: impl FnOnce(&mut S) -> R) -> R {
        let mut value = match self.slots[worker].0.try_lock() {
            Ok(value) => value,
            // Scratch has no invariant that a panicking task could have broken.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => panic!("the scratch of worker {worker} is lent"),
        };
        f(&mut value)
    }

    /// All values, between runs.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut S> {
        self.slots
            .iter_mut()
            .map(|slot| slot.0.get_mut().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests;
