//! Likelihoods of given texts, against the engine's own log-probabilities and llama.cpp's perplexity.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::Command;

use kvist_base::{KvDtype, Tokens};
use kvist_engine::{Prompt, ScoreOptions, Scorer};
use serde_json::Value;

use crate::golden::{goldens, greedy};
use crate::{Output, ids, load, model, options, shut_down};

#[test]
fn a_text_is_as_likely_as_when_it_was_generated() {
    let case = &goldens()[0];
    let prompt = ids(&case["prompt_ids"]);
    let engine = load(&options());
    let mut spec = greedy(Prompt::Tokens(prompt.clone()));
    spec.output_max = Some(Tokens(20));
    let output = Output::of(engine.handle().submit(spec).unwrap());
    shut_down(engine, 1);

    let scoring = ScoreOptions {
        threads: NonZeroUsize::MIN,
        window: Tokens(64),
        kv_dtype: KvDtype::default(),
        isa: None,
    };
    let mut scorer = Scorer::load(model(), &scoring).unwrap();
    let text: Vec<_> = prompt.iter().chain(&output.tokens).copied().collect();
    let nlls = scorer.score(&text).unwrap();
    assert_eq!(nlls.len(), text.len() - 1);
    for (nll, position) in nlls[prompt.len() - 1..].iter().zip(&output.logprobs) {
        let logprob = f64::from(position.chosen.logprob);
        assert!((nll + logprob).abs() < 1e-5, "{nll} {logprob}");
    }
    // Nothing is left over from an earlier text.
    assert_eq!(scorer.score(&text).unwrap(), nlls);
    let beyond = vec![prompt[0]; 65];
    assert!(
        scorer
            .score(&beyond)
            .unwrap_err()
            .to_string()
            .contains("65")
    );
}

fn long_text() -> String {
    let cases = goldens();
    let long = cases.iter().find(|case| case["name"] == "long").unwrap();
    long["text"].as_str().unwrap().to_owned()
}

#[test]
fn perplexity_is_llama_cpps() {
    /// `llama-perplexity -c 128` on the longest of the texts.
    const THEIRS: f64 = 23.0237;
    let text = Path::new(env!("CARGO_TARGET_TMPDIR")).join("perplexity.txt");
    fs::write(&text, long_text()).unwrap();
    let run = Command::new(env!("CARGO_BIN_EXE_kvist"))
        .arg("perplexity")
        .arg(model())
        .arg("-f")
        .arg(&text)
        .args(["-c", "128", "--threads", "1", "--json"])
        .output()
        .unwrap();
    assert!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
    let report: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(report["windows"], 10);
    assert_eq!(report["scored_tokens"], 10 * 63);
    let ours = report["perplexity"].as_f64().unwrap();
    assert!((ours / THEIRS - 1.0).abs() < 0.01, "{ours} {THEIRS}");
}
