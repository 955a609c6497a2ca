//! Draws from rows of a large vocabulary, to count the instructions they take:
//!
//! ```sh
//! cargo build --release -p kvist-sample --example draw_cost
//! valgrind --tool=callgrind target/release/examples/draw_cost top_p
//! ```
//!
//! Argument: `none`, `greedy`, `top_k`, `top_p`, `min_p` or `qwen`, the filters that Qwen2.5 recommends.

use std::env;
use std::error::Error;

use kvist_base::mix64;
use kvist_sample::{Sampler, SamplerState, SamplingParams, SamplingSpec};

const VOCAB_LEN: usize = 152_064;
const DRAWS: u64 = 20;

fn main() -> Result<(), Box<dyn Error>> {
    let filters = env::args().nth(1).unwrap_or_default();
    let mut spec = SamplingSpec::default();
    match &*filters {
        "none" => {}
        "greedy" => spec.temperature = 0.0,
        "top_k" => spec.top_k = 50,
        "top_p" => spec.top_p = 0.95,
        "min_p" => spec.min_p = 0.05,
        "qwen" => (spec.temperature, spec.top_k, spec.top_p) = (0.7, 20, 0.8),
        other => return Err(format!("no such filters: {other:?}").into()),
    }
    let params = SamplingParams::new(spec, VOCAB_LEN)?;
    let mut sampler = Sampler::new(VOCAB_LEN);
    let mut state = SamplerState::new(&[]);
    let mut row = vec![0.0; VOCAB_LEN];
    let mut sum = 0;
    for draw in 0..DRAWS {
        fill(&mut row, draw);
        sum += u64::from(sampler.draw(&row, &params, &mut state)?.token.0);
    }
    println!("{filters}: {DRAWS} draws, ids add up to {sum}");
    Ok(())
}

/// A bell curve, as logits of a model are for most tokens, with a few tokens far above it.
#[inline(never)]
fn fill(row: &mut [f32], draw: u64) {
    for (idx, logit) in row.iter_mut().enumerate() {
        let bits = mix64(draw << 32 ^ idx as u64);
        let bytes = bits.to_le_bytes();
        let bell: u32 = bytes.iter().map(|&byte| u32::from(byte)).sum();
        #[allow(clippy::cast_precision_loss)] // eight bytes add up to little
        let bell = bell as f32 / 100.0 - 10.2;
        *logit = if bits.is_multiple_of(5000) {
            bell + 8.0
        } else {
            bell
        };
    }
}
