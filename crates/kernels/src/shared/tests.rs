use super::*;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Nothing is cut finer.
const WHOLE: Tail = Tail {
    columns: 0,
    tile_columns: 1,
};

fn pools() -> impl Iterator<Item = Pool> {
    (1..=4).map(|n| Pool::new(NonZeroUsize::new(n).unwrap()).unwrap())
}

#[test]
fn chunks_cover_the_slice_once() {
    for pool in pools() {
        for len in [0, 1, 4, 5, 6, 97] {
            let mut data = vec![0usize; len];
            for_each_chunk(&pool, &mut data, 5, &|index, chunk| {
                for (offset, value) in chunk.iter_mut().enumerate() {
                    *value += index * 5 + offset + 1;
                }
            });
            assert!(data.iter().copied().eq(1..=len));
        }
    }
}

#[test]
fn tiles_cover_their_columns_once_and_leave_the_rest() {
    for (pool, tail) in pools().zip([0, 1, 5, 99]) {
        let tiling = Tiling {
            stride: 11,
            columns: 10,
            tile_rows: 2,
            tile_columns: 4,
            tail: Tail {
                columns: tail,
                tile_columns: 3,
            },
        };
        let other = Tiling {
            columns: 11,
            ..tiling
        };
        let (rows, mut data) = (5, [vec![0.5f32; 4 * 11 + 10], vec![0.5; 5 * 11]]);
        let [a, b] = &mut data;
        let tiles = [
            ColumnTiles::new(a, rows, tiling),
            ColumnTiles::new(b, rows, other),
        ];
        for_each_tile(&pool, tiles, &|matrix, _, view| {
            assert!(view.rows() <= 2 && view.columns() <= 4);
            for row in 0..view.rows() {
                let value = 100 * matrix + view.first_row() + row;
                view.row_mut(row)
                    .iter_mut()
                    .for_each(|v| *v += value as f32);
            }
        });
        for (matrix, (data, columns)) in data.iter().zip([10, 11]).enumerate() {
            for (index, value) in data.iter().enumerate() {
                let (row, column) = (index / 11, index % 11);
                let written = if column < columns {
                    100 * matrix + row
                } else {
                    0
                };
                assert_eq!(*value, 0.5 + written as f32, "row {row} column {column}");
            }
        }
    }
}

#[test]
fn a_tail_is_cut_finer_and_begins_where_wide_tiles_end() {
    let ranges = |columns, tail| {
        let tiling = Tiling {
            stride: columns,
            columns,
            tile_rows: 1,
            tile_columns: 8,
            tail: Tail {
                columns: tail,
                tile_columns: 3,
            },
        };
        let tiles = 0..tiling.column_tiles();
        tiles.map(|i| tiling.columns_of(i)).collect::<Vec<_>>()
    };
    assert_eq!(ranges(20, 0), [0..8, 8..16, 16..20]);
    assert_eq!(ranges(20, 5), [0..8, 8..11, 11..14, 14..17, 17..20]);
    assert_eq!(ranges(7, 99), [0..3, 3..6, 6..7]);
    assert_eq!(ranges(0, 4), []);
}

#[test]
fn a_row_outside_the_tile_is_refused() {
    let tiling = Tiling {
        stride: 4,
        columns: 4,
        tile_rows: 1,
        tile_columns: 2,
        tail: WHOLE,
    };
    let pool = pools().next().unwrap();
    let mut data = [0.0f32; 8];
    let raised = catch_unwind(AssertUnwindSafe(|| {
        for_each_tile(
            &pool,
            [ColumnTiles::new(&mut data, 2, tiling)],
            &|_, _, view| {
                view.row_mut(1)[0] = 1.0;
            },
        );
    }));
    assert!(raised.is_err());
    assert_eq!(data, [0.0; 8]);
}

#[test]
fn a_matrix_shorter_than_its_rows_is_refused() {
    let tiling = Tiling {
        stride: 4,
        columns: 3,
        tile_rows: 1,
        tile_columns: 2,
        tail: WHOLE,
    };
    let fits = |len: usize| {
        let mut data = vec![0.0; len];
        catch_unwind(AssertUnwindSafe(|| {
            ColumnTiles::new(&mut data, 2, tiling).rows
        }))
        .is_ok()
    };
    assert!(fits(7) && !fits(6));
}

#[test]
fn claimed_chunks_are_handed_out_once() {
    let mut claims = Claims::with_capacity(0);
    let mut data = [0; 14];
    for pool in pools() {
        let chunks = ClaimedChunks::new(&mut data, 4, &mut claims);
        pool.run(3, &|index, _| {
            chunks.claim(2 - index).fill(index + 1);
        });
        let again = catch_unwind(AssertUnwindSafe(|| chunks.claim(1)[0]));
        let beyond = catch_unwind(AssertUnwindSafe(|| chunks.claim(3)[0]));
        assert!(again.is_err() && beyond.is_err());
        assert_eq!(data, [3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0]);
    }
}

#[test]
fn worker_values_are_exclusive() {
    for pool in pools() {
        let mut counts = WorkerLocal::new(vec![0u32; pool.threads()]);
        pool.run(1000, &|_, worker| counts.with(worker, |count| *count += 1));
        assert_eq!(counts.iter_mut().map(|count| *count).sum::<u32>(), 1000);
    }
    let local = WorkerLocal::new(vec![0u32]);
    let nested = catch_unwind(AssertUnwindSafe(|| {
        local.with(0, |_| local.with(0, |value| *value += 1));
    }));
    assert!(nested.is_err());
}
