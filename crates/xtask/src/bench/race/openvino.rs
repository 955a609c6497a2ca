//! OpenVINO GenAI as the peer: a Python package, driven by a script of ours.

use std::error::Error;
use std::path::PathBuf;

use serde::Deserialize;

use super::Entry;
use super::case::{Targets, Test};
use super::engines::{Course, undisturbed};
use super::outcome::{ModelRace, Tally};
use crate::command::{Run, target_dir};
use crate::root;

const PACKAGE: &str = "openvino-genai";
const SCRIPT: &str = "crates/xtask/data/openvino_speed.py";
/// Ratios aimed for: prefill, decode of one stream. It has no benchmark for more.
const TARGETS: &str = "2,3.5";

/// Tokens a second, as the script prints them.
#[derive(Debug, Deserialize, PartialEq)]
struct Speeds {
    prefill: f64,
    decode: f64,
}

/// Prefill and decode of one stream, each engine in turn.
pub fn race(entry: &Entry<'_>) -> Result<ModelRace, Box<dyn Error>> {
    let python = installed()?;
    let entry = Entry {
        targets: Targets::parse(TARGETS)?,
        ..entry.clone()
    };
    let course = &entry.course;
    let mut tally = Tally::new(course.sizes, &entry.targets);
    for round in 0..entry.rounds {
        eprintln!("round {} of {}", round + 1, entry.rounds);
        entry.run_kvist(&mut tally)?;
        let run = undisturbed(|| speeds(&python, course))?;
        let Speeds { prefill, decode } = run.result;
        tally.add_peer(Test::Prefill, &"fresh prompts", (&[prefill], run.stolen));
        tally.add_peer(Test::Decode(1), &"", (&[decode], run.stolen));
    }
    Ok(tally.finish(entry.name(), course.threads))
}

fn speeds(python: &PathBuf, course: &Course<'_>) -> Result<Speeds, Box<dyn Error>> {
    let sizes = course.sizes;
    let output = Run::new(python)
        .args([root().join(SCRIPT).as_os_str(), course.model.as_os_str()])
        .args([course.threads.to_string(), sizes.prompt.to_string()])
        .args([sizes.output.to_string()])
        .output()?;
    parse(&output)
}

/// The last line: the package may print something of its own before.
fn parse(output: &str) -> Result<Speeds, Box<dyn Error>> {
    let line = output.lines().last().ok_or("the script printed nothing")?;
    Ok(serde_json::from_str(line)?)
}

/// A Python with the package, installed below the target directory if it is not there yet.
fn installed() -> Result<PathBuf, Box<dyn Error>> {
    let venv = target_dir().join("openvino");
    let python = venv.join("bin/python");
    let has_package = || {
        let import = Run::new(&python).args(["-c", "import openvino_genai"]);
        python.is_file() && import.succeeds()
    };
    if has_package() {
        return Ok(python);
    }
    eprintln!("Installing {PACKAGE} below {}", venv.display());
    Run::new("python3")
        .args(["-m".as_ref(), "venv".as_ref(), venv.as_os_str()])
        .check()?;
    Run::new(&python)
        .args(["-m", "pip", "install", "--quiet", PACKAGE])
        .check()?;
    if has_package() {
        Ok(python)
    } else {
        Err(format!("{PACKAGE} was installed and cannot be imported").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_counts() {
        let output = "loading\n{\"prefill\": 445.5, \"decode\": 40.25}\n";
        let expected = Speeds {
            prefill: 445.5,
            decode: 40.25,
        };
        assert_eq!(parse(output).expect("speeds"), expected);
        assert!(parse("").is_err() && parse("Traceback\n").is_err());
    }
}
