//! How fast file rows become panels: file bytes a second on one thread, by format and tier.
//!
//! `cargo run --release -p kvist-kernels --example pack_speed [FORMAT]...`

use std::time::{Duration, Instant};

use kvist_base::{QuantFormat, mix64};
use kvist_kernels::{Isa, PANEL_ROWS, pack_panel, packed_bytes};

const COLS: usize = 4096;
const MIN_TIME: Duration = Duration::from_millis(200);

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    println!("format  tier     GB/s");
    for format in QuantFormat::ALL {
        if !wanted.is_empty() && !wanted.iter().any(|name| name == format.name()) {
            continue;
        }
        let sizes = format
            .row_bytes(COLS)
            .zip(packed_bytes(format, PANEL_ROWS, COLS));
        let Some((row_bytes, panel_bytes)) = sizes else {
            continue;
        };
        let raw: Vec<u8> = (0..(row_bytes * PANEL_ROWS) as u64)
            .map(|at| mix64(at).to_le_bytes()[0])
            .collect();
        let mut panel = vec![0; panel_bytes];
        for isa in Isa::available() {
            let mut best = Duration::MAX;
            let begin = Instant::now();
            while begin.elapsed() < MIN_TIME {
                let start = Instant::now();
                pack_panel(isa, (format, COLS), &raw, &mut panel);
                best = best.min(start.elapsed());
            }
            let speed = raw.len() as f64 / best.as_secs_f64() * 1e-9;
            println!("{format:7} {isa:7} {speed:6.1}");
        }
    }
}
