//! The same text through both engines' perplexity commands.

use std::error::Error;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::command::{Run, release_binary};
use crate::peer::{Peer, threads};
use crate::{Outcome, root};

/// Tokens of a window; both commands score its second half.
const WINDOW: &str = "512";
const TEXT: &str = "crates/xtask/data/perplexity.txt";

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A GGUF file
    model: PathBuf,
    /// A text of at least two windows of 512 tokens [default: our own, English, code and Chinese]
    text: Option<PathBuf>,
    /// Directory with llama.cpp's programs [default: installed below the target directory]
    #[arg(long)]
    peer_dir: Option<PathBuf>,
    /// Greatest relative difference that is still agreement
    #[arg(long, default_value_t = 0.01)]
    tolerance: f64,
}

pub fn run(arguments: &Arguments) -> Outcome {
    let peer = Peer::find(arguments.peer_dir.as_deref())?;
    let model = arguments.model.canonicalize()?;
    let text = match &arguments.text {
        Some(text) => text.canonicalize()?,
        None => default_text(),
    };
    let (ours, theirs) = both(&release_binary()?, &peer, (&model, &text))?;
    let difference = ours / theirs - 1.0;
    println!(
        "kvist      {ours:.4}\nllama.cpp  {theirs:.4}\ndifference {:+.3} %",
        difference * 100.0
    );
    if difference.abs() <= arguments.tolerance {
        Ok(())
    } else {
        Err(format!("more than {} % apart", arguments.tolerance * 100.0).into())
    }
}

/// The text that is scored when none is given.
pub fn default_text() -> PathBuf {
    root().join(TEXT)
}

/// The perplexity of a text by a model, as both engines compute it: ours, then llama.cpp's.
pub fn both(
    binary: &Path,
    peer: &Peer,
    (model, text): (&Path, &Path),
) -> Result<(f64, f64), Box<dyn Error>> {
    Ok((kvist(binary, model, text)?, llama_cpp(peer, model, text)?))
}

fn kvist(binary: &Path, model: &Path, text: &Path) -> Result<f64, Box<dyn Error>> {
    let output = Run::new(binary)
        .args([
            "perplexity".as_ref(),
            model.as_os_str(),
            "-f".as_ref(),
            text.as_os_str(),
        ])
        .args(["-c", WINDOW, "--json"])
        .output()?;
    let report: Value = serde_json::from_str(&output)?;
    report["perplexity"]
        .as_f64()
        .ok_or_else(|| format!("no perplexity in {output}").into())
}

fn llama_cpp(peer: &Peer, model: &Path, text: &Path) -> Result<f64, Box<dyn Error>> {
    let (out, log) = peer
        .program("llama-perplexity")
        .args([
            "-m".as_ref(),
            model.as_os_str(),
            "-f".as_ref(),
            text.as_os_str(),
        ])
        .args(["-c", WINDOW, "-t", &threads().to_string()])
        .both_outputs()?;
    final_estimate(&out)
        .or_else(|| final_estimate(&log))
        .ok_or_else(|| "no final estimate".into())
}

/// The number in `Final estimate: PPL = 12.3456 +/- 0.1`.
fn final_estimate(log: &str) -> Option<f64> {
    let (_, rest) = log.split_once("Final estimate: PPL = ")?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_final_estimate_is_found() {
        let log = "[1]9.1,[2]8.7,\nFinal estimate: PPL = 8.7345 +/- 0.31\n";
        assert_eq!(final_estimate(log), Some(8.7345));
        assert_eq!(final_estimate("[1]9.1,"), None);
    }
}
