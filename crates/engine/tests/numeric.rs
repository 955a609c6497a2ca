//! A logit that is not a number ends its own request and no other, then or later.

mod common;

use std::path::Path;

use common::{ModelFile, ask, collect, greedy, options, shut_down, until, workload};
use kvist_base::{Blocks, QuantFormat, TokenId};
use kvist_engine::{EngineFault, EngineOptions, EngineStatus, GenerateSpec};
use kvist_weights::GgufFile;

/// The token whose embedding is damaged.
const POISON: TokenId = TokenId(300);

/// Overwrites the poisonous token's row of the table with NaN.
fn poison(path: &Path) {
    let mut raw = std::fs::read(path).expect("just written");
    let row = {
        let file = GgufFile::open(path).expect("a valid file");
        let table = file
            .tensor("token_embd.weight")
            .expect("every model has one");
        let row_bytes = table.cols() * size_of::<f32>();
        let data = file.data(table).expect("complete");
        data[POISON.idx() * row_bytes..][..row_bytes].to_vec()
    };
    let at = raw
        .windows(row.len())
        .position(|bytes| bytes == row)
        .expect("it is in the file");
    for value in raw[at..at + row.len()].chunks_exact_mut(size_of::<f32>()) {
        value.copy_from_slice(&f32::NAN.to_le_bytes());
    }
    std::fs::write(path, raw).expect("a temporary file");
}

/// Requests that neither contain nor produce the poisonous token.
fn healthy() -> Vec<GenerateSpec> {
    let mut specs = workload(9, 8);
    for spec in &mut specs {
        spec.sampling.logit_bias = vec![(POISON, -100.0)];
        let kvist_engine::Prompt::Tokens(prompt) = &mut spec.prompt else {
            unreachable!()
        };
        for token in prompt.iter_mut().filter(|token| **token == POISON) {
            *token = TokenId(POISON.0 + 1);
        }
    }
    specs
}

#[test]
fn a_numeric_fault_ends_its_own_request_only() {
    let specs = healthy();
    let file = ModelFile::new("llama3", QuantFormat::F32);
    let engine = file.start(&options());
    let expected: Vec<_> = specs
        .iter()
        .map(|spec| ask(&engine.handle(), spec.clone()))
        .collect();
    shut_down(engine);

    poison(file.path());
    for prefix_caching in [false, true] {
        // A small pool, so that blocks which held NaN are soon someone else's.
        let kv_blocks_max = Some(Blocks(13));
        let engine = file.start(&EngineOptions {
            prefix_caching,
            kv_blocks_max,
            ..options()
        });
        let handle = engine.handle();
        for round in 0..6 {
            let mut poisoned = vec![TokenId(270 + round); 40];
            poisoned[usize::try_from(round).expect("small") * 7] = POISON;
            let mut requests = Vec::new();
            for (idx, spec) in specs.iter().enumerate() {
                if idx == 3 {
                    let first = handle.submit(greedy(poisoned.clone(), 5)).expect("a place");
                    let second = handle.submit(greedy(vec![POISON], 5)).expect("a place");
                    requests.extend([(None, first), (None, second)]);
                }
                requests.push((Some(idx), handle.submit(spec.clone()).expect("a place")));
            }
            for (idx, request) in requests {
                match (idx, collect(request)) {
                    (Some(idx), Ok(got)) => assert_eq!(got.answer, expected[idx]),
                    (None, Err(fault)) => {
                        assert!(matches!(fault, EngineFault::Numeric(_)), "{fault}");
                    }
                    (idx, other) => panic!("{idx:?} in round {round}: {other:?}"),
                }
            }
        }
        assert_eq!(handle.status(), EngineStatus::Ready);
        let metrics = handle.metrics();
        assert_eq!((metrics.finished.failed, metrics.accepted), (12, 60));
        until(&handle, "all blocks are back", |metrics| {
            metrics.blocks_held == 0
        });
        shut_down(engine);
    }
}
