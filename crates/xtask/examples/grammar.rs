//! Outputs drawn at random under JSON schemas: the engine's side of `cargo xtask bench grammar`.
//!
//! Argument: a model file, of which the vocabulary is read. Standard input: `{"schemas", "seeds",
//! "output_max"}`, all counts. Every allowed token is as likely as any other: what comes out is of its
//! schema because of the masks alone. Standard output: counts, and the times of compiling and of masks.

use std::env;
use std::error::Error;
use std::io;
use std::path::Path;
use std::time::Instant;

use kvist_base::{TokenId, TokenSet, mix64};
use kvist_engine::{Constraint, FileGrammars, GrammarProgress, GrammarState};
use kvist_testkit::schema::{is_of, schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Deserialize)]
struct Input {
    schemas: u64,
    seeds: u64,
    output_max: u64,
}

#[derive(Default, Serialize)]
struct Found {
    vocab_len: usize,
    prepare_ms: f64,
    compile_ms: Vec<f64>,
    mask_us: Vec<f64>,
    /// Outputs that came to an end and are of their schema.
    valid: u64,
    /// Those that are not, each with its schema.
    invalid: Vec<String>,
    /// Outputs that were as long as they may be before they came to an end.
    cut: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let model = env::args_os()
        .nth(1)
        .ok_or("usage: grammar MODEL < COUNTS")?;
    let input: Input = serde_json::from_reader(io::stdin())?;
    let begun = Instant::now();
    let grammars = FileGrammars::open(Path::new(&model))??;
    let mut found = Found {
        vocab_len: grammars.vocab_len(),
        prepare_ms: begun.elapsed().as_secs_f64() * 1e3,
        ..Found::default()
    };
    for number in 0..input.schemas {
        let schema = schema(number);
        let begun = Instant::now();
        let grammar = grammars.compile(&Constraint::JsonSchema(schema.to_string()))?;
        found.compile_ms.push(begun.elapsed().as_secs_f64() * 1e3);
        for seed in 0..input.seeds {
            let stream = mix64(number ^ mix64(seed));
            let mut state = grammar.begin();
            let mask_us = &mut found.mask_us;
            match draw(&grammars, (stream, input.output_max), &mut state, mask_us)? {
                None => found.cut += 1,
                Some(text) => match serde_json::from_slice::<Value>(&text) {
                    Ok(value) if is_of(&schema, &value) => found.valid += 1,
                    _ => {
                        let text = String::from_utf8_lossy(&text);
                        found.invalid.push(format!("{schema}: {text}"));
                    }
                },
            }
        }
    }
    println!("{}", serde_json::to_string(&found)?);
    Ok(())
}

/// The text of one output; `None` if it does not come to an end.
fn draw(
    grammars: &FileGrammars,
    (stream, output_max): (u64, u64),
    state: &mut GrammarState,
    mask_us: &mut Vec<f64>,
) -> Result<Option<Vec<u8>>, Box<dyn Error>> {
    let mut text = Vec::new();
    for step in 0..output_max {
        let begun = Instant::now();
        let allowed = state.allowed()?;
        mask_us.push(begun.elapsed().as_secs_f64() * 1e6);
        let token = pick(&allowed, mix64(stream ^ mix64(step)));
        let progress = state.advance(token)?;
        match grammars.token_bytes(token) {
            Some(bytes) => text.extend_from_slice(&bytes),
            None => return Ok(Some(text)),
        }
        if progress == GrammarProgress::Complete {
            return Ok(Some(text));
        }
    }
    Ok(None)
}

/// One of the allowed tokens, by its rank among them.
fn pick(allowed: &TokenSet, number: u64) -> TokenId {
    let mut rank = number % allowed.count() as u64;
    let ids = (0..u32::MAX).map(TokenId);
    let mut ids = ids.filter(|id| allowed.contains(*id));
    loop {
        let id = ids.next().expect("as many tokens as were counted");
        if rank == 0 {
            return id;
        }
        rank -= 1;
    }
}
