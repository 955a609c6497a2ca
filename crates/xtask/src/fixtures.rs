//! Checked-in fixtures, computed again.

use std::error::Error;
use std::path::PathBuf;

use crate::Outcome;
use crate::command::{Run, target_dir};

/// Computes the tiny models' logits and greedy tokens from their definition, with numpy.
const SCRIPT: &str = "crates/xtask/data/golden.py";
const FIXTURES: &str = "crates/testkit/fixtures";

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Replace the checked-in outputs instead of comparing with them
    #[arg(long)]
    write: bool,
}

pub fn run(arguments: &Arguments) -> Outcome {
    let action = if arguments.write {
        "--write"
    } else {
        "--check"
    };
    Run::new(python_with_numpy()?)
        .args([SCRIPT, FIXTURES, action])
        .in_root()
        .check()
}

/// The system's Python if it has numpy, else one of our own.
fn python_with_numpy() -> Result<PathBuf, Box<dyn Error>> {
    let system = PathBuf::from("python3");
    if Run::new(&system).args(["-c", "import numpy"]).succeeds() {
        return Ok(system);
    }
    let venv = target_dir().join("reference");
    let python = venv.join("bin").join("python");
    if !python.is_file() {
        Run::new(&system)
            .args(["-m".as_ref(), "venv".as_ref(), venv.as_os_str()])
            .check()?;
    }
    Run::new(&python)
        .args(["-m", "pip", "install", "--quiet", "numpy"])
        .check()?;
    Ok(python)
}
