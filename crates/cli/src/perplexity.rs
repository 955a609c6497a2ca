//! `kvist perplexity`: how well a model predicts a text, by llama.cpp's method.
//!
//! The text is cut into windows of `ctx_size` tokens; what is left over at its end is not used. Each
//! window stands alone, its first token replaced by BOS where the model wants one:
//!
//! ```text
//! position      0 ........ half .............. ctx_size - 1
//!               |--given--||--predict the next of each--|      half = ctx_size / 2
//! ```
//!
//! The perplexity is `exp` of the mean negative log-likelihood of the predicted tokens, of all
//! windows together.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

use kvist_base::{TokenId, Tokens};
use kvist_engine::{ScoreError, ScoreOptions, Scorer};
use serde_json::{Value, json};

use crate::args::PerplexityArgs;
use crate::environment::Environment;
use crate::error::{CliError, output_error};
use crate::exit::Exit;
use crate::model_ref;
use crate::session;
use crate::terminal::{print, say};

pub(crate) fn run(args: &PerplexityArgs, environment: &Environment) -> Result<Exit, CliError> {
    let text = read_text(&args.file)?;
    let path = model_ref::resolve(&args.model, environment)?;
    let threads = match args.threads {
        Some(threads) => threads,
        None => session::machine()?.cores,
    };
    let threads = NonZeroUsize::new(threads as usize).unwrap_or(NonZeroUsize::MIN);
    let window = Tokens(args.ctx_size);
    let mut scorer = Scorer::load(
        &path,
        &ScoreOptions {
            threads,
            window,
            kv_dtype: args.kv_cache_dtype.dtype(),
            isa: args.compute.isa(environment)?,
        },
    )?;
    let tokens = scorer.tokenize(&text)?;
    if tokens.len() < 2 * window.len() {
        let what = format!("{} is too short", args.file.display());
        return Err(CliError::new(Exit::Usage, what)
            .because(format!(
                "it has {} tokens; two windows of {window} are needed",
                tokens.len()
            ))
            .fix("a longer text")
            .fix(format!("-c {}", tokens.len() / 2)));
    }
    let mut sum = NllSum::default();
    let count = tokens.len() / window.len();
    for (idx, window) in tokens.chunks_exact(window.len()).enumerate() {
        score_window(&mut scorer, window, &mut sum)?;
        say(&format!("window {}/{count}: {sum}", idx + 1));
    }
    let text = if args.json {
        format!("{:#}\n", as_json(&sum, args.ctx_size, count))
    } else {
        format!("perplexity {sum} over {} tokens\n", sum.count)
    };
    print(&text).map_err(|error| output_error(&error))?;
    Ok(Exit::Ok)
}

/// One line end at the end is not part of the text: editors add it.
fn read_text(path: &Path) -> Result<String, CliError> {
    let mut text = fs::read_to_string(path).map_err(|error| {
        CliError::new(Exit::Usage, format!("{} cannot be read", path.display()))
            .because(error.to_string())
    })?;
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}

/// Adds a window's second half to `sum`.
fn score_window(
    scorer: &mut Scorer,
    window: &[TokenId],
    sum: &mut NllSum,
) -> Result<(), ScoreError> {
    let mut tokens = window.to_vec();
    if let Some(bos) = scorer.bos_if_wanted() {
        tokens[0] = bos;
    }
    let nlls = scorer.score(&tokens)?;
    nlls[tokens.len() / 2..]
        .iter()
        .for_each(|nll| sum.add(*nll));
    Ok(())
}

fn as_json(sum: &NllSum, ctx_size: u32, windows: usize) -> Value {
    json!({
        "perplexity": sum.perplexity(),
        "standard_error": sum.standard_error(),
        "scored_tokens": sum.count,
        "windows": windows,
        "ctx_size": ctx_size,
    })
}

/// Negative log-likelihoods added up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct NllSum {
    count: u32,
    sum: f64,
    sum_of_squares: f64,
}

impl NllSum {
    fn add(&mut self, nll: f64) {
        self.count += 1;
        self.sum += nll;
        self.sum_of_squares += nll * nll;
    }

    fn perplexity(&self) -> f64 {
        (self.sum / f64::from(self.count)).exp()
    }

    /// Of the perplexity: the mean's standard error times the slope of `exp` there.
    fn standard_error(&self) -> f64 {
        let count = f64::from(self.count);
        let mean = self.sum / count;
        let variance = (self.sum_of_squares / count - mean * mean).max(0.0);
        (variance / (count - 1.0)).sqrt() * self.perplexity()
    }
}

impl std::fmt::Display for NllSum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.4} +/- {:.4}",
            self.perplexity(),
            self.standard_error()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perplexity_is_the_geometric_mean_of_the_choices() {
        let mut sum = NllSum::default();
        for choices in [2.0_f64, 8.0, 4.0] {
            sum.add(choices.ln());
        }
        assert!((sum.perplexity() - 4.0).abs() < 1e-12, "{sum}");
        // Deviations of ln 2, 0 and -ln 2: variance 2/3 (ln 2)^2, over n - 1 = 2.
        let expected = 2.0_f64.ln() / 3.0_f64.sqrt() * 4.0;
        assert!((sum.standard_error() - expected).abs() < 1e-9, "{sum}");
    }
}
