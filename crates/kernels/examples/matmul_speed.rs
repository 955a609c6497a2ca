//! How fast matrix products are here: weights streamed for one token, operations a second for a
//! prompt.
//!
//! `cargo run --release -p kvist-kernels --example matmul_speed [THREADS] [TIER|FORMAT]...`

use std::error::Error;
use std::time::{Duration, Instant};

use kvist_base::{QuantFormat, mix64};
use kvist_kernels::{
    ActWidths, Activations, Epilogue, Isa, PANEL_ROWS, PanelMatrix, Pool, Product, Rows,
    act_format, matmul, pack_panel, packed_bytes, quant,
};

const COLS: usize = 2048;
/// Rows and tokens: weights beyond any cache for few tokens, within it for many.
const CASES: [(usize, usize); 6] = [
    (49152, 1),
    (49152, 2),
    (49152, 4),
    (4096, 8),
    (4096, 16),
    (512, 512),
];
const MIN_TIME: Duration = Duration::from_millis(300);

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let threads = match args.first() {
        Some(count) => count.parse()?,
        None => std::thread::available_parallelism()?,
    };
    let pool = Pool::new(threads)?;
    let wanted = |name: &str, all: &[&str]| {
        let mut given = args
            .iter()
            .skip(1)
            .filter(|arg| all.contains(&arg.as_str()));
        given.clone().next().is_none() || given.any(|arg| arg == name)
    };
    let tiers: Vec<Isa> = Isa::available().into_iter().skip(1).collect();
    let tier_names: Vec<&str> = tiers.iter().map(|isa| isa.name()).collect();
    let format_names = QuantFormat::ALL.map(QuantFormat::name);
    println!("{} threads, {COLS} columns", pool.threads());
    println!("format tier     rows x tokens     ms     GB/s     GOPS");
    for format in QuantFormat::ALL {
        if !wanted(format.name(), &format_names) {
            continue;
        }
        for (isa, (rows, tokens)) in CASES
            .into_iter()
            .flat_map(|case| tiers.iter().map(move |isa| (*isa, case)))
        {
            if !wanted(isa.name(), &tier_names) {
                continue;
            }
            let (seconds, bytes) = measure(isa, &pool, format, (rows, tokens))?;
            let operations = 2.0 * rows as f64 * COLS as f64 * tokens as f64;
            println!(
                "{format:6} {isa:7} {rows:6} x {tokens:<5} {:8.3} {:8.1} {:8.1}",
                seconds * 1e3,
                bytes as f64 / seconds * 1e-9,
                operations / seconds * 1e-9,
            );
        }
    }
    Ok(())
}

/// Seconds of the fastest product, preparing the activations included, and bytes of weights.
fn measure(
    isa: Isa,
    pool: &Pool,
    format: QuantFormat,
    (rows, tokens): (usize, usize),
) -> Result<(f64, usize), Box<dyn Error>> {
    let packed = weights(format, rows).ok_or("the matrix has whole panels")?;
    let weights = PanelMatrix::new(format, rows, COLS, &packed).ok_or("one matrix")?;
    let product = Product {
        weights,
        bias: None,
        epilogue: Epilogue::Store,
    };
    let x = noise(tokens * COLS);
    let mut widths = ActWidths::default();
    widths.include(format, COLS);
    let mut acts = Activations::with_capacity(tokens, widths);
    let mut out = vec![0.0; tokens * rows];
    let mut best = Duration::MAX;
    let begin = Instant::now();
    while begin.elapsed() < MIN_TIME {
        let start = Instant::now();
        acts.prepare(
            isa,
            pool,
            act_format(format),
            Rows {
                values: &x,
                cols: COLS,
            },
        );
        matmul(isa, pool, &product, &acts, &mut out);
        best = best.min(start.elapsed());
    }
    Ok((best.as_secs_f64(), packed.len()))
}

/// One panel of noise, as often as the rows need it.
fn weights(format: QuantFormat, rows: usize) -> Option<Vec<u8>> {
    let mut raw = vec![0; format.row_bytes(COLS)? * PANEL_ROWS];
    let values = noise(COLS * PANEL_ROWS);
    for (raw, values) in raw
        .chunks_exact_mut(format.row_bytes(COLS)?)
        .zip(values.chunks(COLS))
    {
        quant::encode_row(format, values, raw);
    }
    let mut panel = vec![0; packed_bytes(format, PANEL_ROWS, COLS)?];
    pack_panel(Isa::detect(), (format, COLS), &raw, &mut panel);
    Some(panel.repeat(rows.div_ceil(PANEL_ROWS)))
}

fn noise(len: usize) -> Vec<f32> {
    (0..len as u64)
        .map(|n| (mix64(n) >> 40) as f32 / (1 << 23) as f32 - 1.0)
        .collect()
}
