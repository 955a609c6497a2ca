//! `GET /v1/memory/blocks`: every block of the KV pool, and whose it is.

use kvist_engine::{BlockMap, CellContent, MapCounts, MapSequence, MetricsSnapshot};
use serde::Serialize;

use crate::models::Mapped;

/// What codes below [`FIRST_SEQUENCE`] mean, in order.
const LEGEND: [&str; FIRST_SEQUENCE as usize] =
    ["uncommitted", "free", "cached", "shared", "undescribed"];
/// The code of what the first of the listed sequences owns.
const FIRST_SEQUENCE: u32 = 5;

/// What is answered.
#[derive(Debug, Serialize)]
pub(crate) struct MapAnswer<'a> {
    model: &'a str,
    /// Token positions of a block.
    block_size: u32,
    block_bytes: u64,
    /// Memory the pool takes now.
    committed: u64,
    blocks: u32,
    blocks_per_cell: u32,
    counts: Counts,
    /// What the codes of `runs` mean; a code beyond is a place in `sequences`.
    legend: [&'static str; FIRST_SEQUENCE as usize],
    /// Cells in the order of their blocks: how many, and the code of what is in them.
    runs: Vec<(u32, u32)>,
    running: usize,
    waiting: usize,
    sequences: Vec<Sequence>,
    counters: Counters,
}

#[derive(Debug, Serialize)]
struct Counts {
    uncommitted: u32,
    free: u32,
    cached: u32,
    shared: u32,
    owned: u32,
}

#[derive(Debug, Serialize)]
struct Sequence {
    id: u64,
    state: &'static str,
    prompt_len: u32,
    computed_len: u32,
    known_len: u32,
    len_max: u32,
    blocks: u32,
    prefix_hit_len: u32,
    preempted: u32,
    age_seconds: f64,
}

/// Counts since the model was loaded; rates are differences.
#[derive(Debug, Serialize)]
struct Counters {
    prompt_tokens: u64,
    output_tokens: u64,
    computed_tokens: u64,
    prefix_query_tokens: u64,
    prefix_hit_tokens: u64,
    preemptions: u64,
    steps: u64,
    finished: u64,
    /// First tokens, and the seconds waited for them, summed.
    ttft_count: u64,
    ttft_seconds: f64,
}

impl<'a> MapAnswer<'a> {
    pub(crate) fn new(mapped: &'a Mapped<'a>) -> Self {
        let Mapped {
            name,
            map,
            kv,
            metrics,
        } = mapped;
        let BlockMap {
            blocks,
            blocks_per_cell,
            counts,
            runs,
            sequences,
            running,
            waiting,
        } = &**map;
        Self {
            model: name,
            block_size: kv.block_size,
            block_bytes: kv.block_bytes.0,
            committed: kv.committed.0,
            blocks: blocks.0,
            blocks_per_cell: *blocks_per_cell,
            counts: counts.into(),
            legend: LEGEND,
            runs: runs.iter().map(|run| (run.0, code(run.1))).collect(),
            running: *running,
            waiting: *waiting,
            sequences: sequences.iter().map(Sequence::from).collect(),
            counters: metrics.into(),
        }
    }
}

fn code(content: CellContent) -> u32 {
    match content {
        CellContent::Uncommitted => 0,
        CellContent::Free => 1,
        CellContent::Cached => 2,
        CellContent::Shared => 3,
        CellContent::Undescribed => 4,
        CellContent::Sequence(place) => FIRST_SEQUENCE + u32::from(place),
    }
}

impl From<&MapCounts> for Counts {
    fn from(counts: &MapCounts) -> Self {
        Self {
            uncommitted: counts.uncommitted.0,
            free: counts.free.0,
            cached: counts.cached.0,
            shared: counts.shared.0,
            owned: counts.owned.0,
        }
    }
}

impl From<&MapSequence> for Sequence {
    fn from(sequence: &MapSequence) -> Self {
        Self {
            id: sequence.id.0,
            state: if sequence.is_running {
                "running"
            } else {
                "waiting"
            },
            prompt_len: sequence.prompt_len.0,
            computed_len: sequence.computed_len.0,
            known_len: sequence.known_len.0,
            len_max: sequence.len_max.0,
            blocks: sequence.blocks.0,
            prefix_hit_len: sequence.prefix_hit_len.0,
            preempted: sequence.preempted_count,
            age_seconds: sequence.age.as_secs_f64(),
        }
    }
}

impl From<&MetricsSnapshot> for Counters {
    fn from(now: &MetricsSnapshot) -> Self {
        let finished = now.finished;
        Self {
            prompt_tokens: now.prompt_tokens,
            output_tokens: now.output_tokens,
            computed_tokens: now.computed_tokens,
            prefix_query_tokens: now.prefix_query_tokens,
            prefix_hit_tokens: now.prefix_hit_tokens,
            preemptions: now.preemptions,
            steps: now.steps,
            finished: finished.stop + finished.length + finished.cancelled + finished.failed,
            ttft_count: now.ttft_seconds.count(),
            ttft_seconds: now.ttft_seconds.sum,
        }
    }
}
