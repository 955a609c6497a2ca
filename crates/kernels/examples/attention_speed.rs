//! How fast attention and the thread pool are on this machine.
//!
//! `cargo run --release -p kvist-kernels --example attention_speed [threads]`

use std::num::NonZeroUsize;
use std::time::Instant;

use kvist_base::{KvDtype, mix64};
use kvist_kernels::{
    AttentionBatch, AttentionLimits, AttentionScratch, Isa, KvLayout, KvView, Pool, SequenceSpan,
    paged_attention,
};

/// Query heads, key heads and head size of some well-known models.
const MODELS: [(&str, usize, usize, usize); 4] = [
    ("smollm2-135m", 9, 3, 64),
    ("qwen2.5-0.5b", 14, 2, 64),
    ("qwen2-7b", 28, 4, 128),
    ("smollm2-1.7b", 32, 32, 64),
];

/// What a step holds: its sequences, the rows of each and the position of their first row.
const STEPS: [(&str, u32, u32, u32); 7] = [
    ("prefill 512", 1, 512, 0),
    ("prefill 512 at 1536", 1, 512, 1536),
    ("prefill 512 at 7680", 1, 512, 7680),
    ("decode at 512", 1, 1, 511),
    ("decode at 4096", 1, 1, 4095),
    ("decode at 8192", 1, 1, 8191),
    ("decode 8 at 1024", 8, 1, 1023),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let threads: NonZeroUsize = match std::env::args().nth(1) {
        Some(arg) => arg.parse()?,
        None => std::thread::available_parallelism()?,
    };
    let pool = Pool::new(threads)?;
    let empty = fastest(2000, || pool.run(threads.get(), &|_, _| ()));
    println!(
        "{threads} threads, {}; an empty run takes {:.2} us",
        Isa::detect(),
        empty * 1e6
    );
    for (model, heads, kv_heads, head_dim) in MODELS {
        for dtype in [KvDtype::F16, KvDtype::Q8_0] {
            let layout = KvLayout {
                block_size: 16,
                layers: 1,
                kv_heads,
                head_dim,
                dtype,
            };
            for step in STEPS {
                measure(&pool, model, heads, (layout, step));
            }
        }
    }
    Ok(())
}

fn measure(
    pool: &Pool,
    model: &str,
    heads: usize,
    (layout, (name, sequences, rows, first_position)): (KvLayout, (&str, u32, u32, u32)),
) {
    let positions = (first_position + rows) as usize;
    let blocks = positions.div_ceil(layout.block_size);
    let tables: Vec<u32> = (0..sequences * u32::try_from(blocks).unwrap_or(0)).collect();
    // Pseudo-random halves in 0.5..2.
    let half = |n: usize| 0x3800 | u16::try_from(mix64(n as u64) & 0x7FF).unwrap_or(0);
    let kv: Vec<u8> = (0..tables.len() * layout.block_bytes() / 2)
        .flat_map(|n| half(n).to_le_bytes())
        .collect();
    let q = vec![0.25; (sequences * rows) as usize * heads * layout.head_dim];
    let mut out = vec![0.0; q.len()];
    let span = |n| SequenceSpan {
        first_row: n * rows,
        rows,
        first_position,
        table_start: n * u32::try_from(blocks).unwrap_or(0),
    };
    let spans: Vec<SequenceSpan> = (0..sequences).map(span).collect();
    let batch = AttentionBatch {
        q: &q,
        sequences: &spans,
        block_tables: &tables,
        heads,
        scale: 0.125,
        layer: 0,
        kv: KvView { layout, bytes: &kv },
    };
    let mut scratch = AttentionScratch::new(&AttentionLimits {
        threads: pool.threads(),
        tokens_max: 512,
        context_max: 8192,
        heads,
        kv_heads: layout.kv_heads,
        head_dim: layout.head_dim,
    });
    let seconds = fastest(20, || {
        paged_attention(Isa::detect(), pool, &batch, &mut scratch, &mut out);
    });
    let seen = (0..rows)
        .map(|row| (first_position + row + 1) as usize)
        .sum::<usize>();
    // Multiply and add, for scores and for values.
    let flops = 4 * sequences as usize * seen * heads * layout.head_dim;
    let bytes = kv.len();
    println!(
        "{model:13} {:5} {name:20} {:9.1} us {:7.1} GFLOPS {:6.1} GB/s of KV",
        layout.dtype,
        seconds * 1e6,
        flops as f64 / seconds * 1e-9,
        bytes as f64 / seconds * 1e-9,
    );
}

/// The shortest of some runs, in seconds.
fn fastest(runs: usize, mut f: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..runs {
        let start = Instant::now();
        f();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}
