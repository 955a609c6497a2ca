//! Runs a target on one input after another.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, io};

use crate::mutate::{Dice, input};
use crate::targets::Target;

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After so many inputs beside the seeds.
    Runs(u64),
    /// After so long.
    Time(Duration),
}

/// What was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Inputs from files.
    pub seeds: usize,
    /// Inputs made.
    pub runs: u64,
}

/// An input for which the property does not hold.
#[derive(Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whose property.
    pub target: &'static str,
    /// The input.
    pub input: Vec<u8>,
    /// Which of the inputs made, if it was not a seed.
    pub run: Option<u64>,
    /// What the panic said.
    pub said: String,
}

impl fmt::Debug for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            target, run, said, ..
        } = self;
        let input = self.input.escape_ascii();
        write!(f, "{target}, input {run:?}: {said}\ninput: b\"{input}\"")
    }
}

/// Runs `target` on its seeds in `seed_dir`, in order of their names, then on inputs made of them.
/// Input number `n` depends on `seed` and `n` alone.
///
/// # Errors
/// When the seeds cannot be read.
///
/// The inner error is the first input for which the property does not hold.
pub fn drive(
    target: &Target,
    seed_dir: &Path,
    (seed, until): (u64, Until),
) -> io::Result<Result<Report, Finding>> {
    let mut seeds: Vec<Vec<u8>> = (target.seeds)();
    let made = seeds.len();
    if seed_dir.is_dir() {
        let mut paths: Vec<_> = fs::read_dir(seed_dir)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()?;
        paths.sort();
        for path in paths {
            seeds.push(fs::read(path)?);
        }
    }
    for bytes in &seeds {
        if let Err(finding) = attempt(target, bytes, None) {
            return Ok(Err(finding));
        }
    }
    let begun = Instant::now();
    let mut runs = 0;
    loop {
        let is_over = match until {
            Until::Runs(max) => runs >= max,
            Until::Time(max) => begun.elapsed() >= max,
        };
        if is_over {
            return Ok(Ok(Report {
                seeds: seeds.len() - made,
                runs,
            }));
        }
        let mut dice = Dice::new(seed.wrapping_mul(0x9e37_79b9).wrapping_add(runs));
        let bytes = input(&mut dice, (&seeds, target.words), target.len_max);
        if let Err(finding) = attempt(target, &bytes, Some(runs)) {
            return Ok(Err(finding));
        }
        runs += 1;
    }
}

fn attempt(target: &Target, bytes: &[u8], run: Option<u64>) -> Result<(), Finding> {
    catch_unwind(AssertUnwindSafe(|| (target.run)(bytes))).map_err(|panic| Finding {
        target: target.name,
        input: bytes.to_vec(),
        run,
        said: said(&*panic),
    })
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragile(bytes: &[u8]) {
        assert!(!bytes.contains(&b'!'), "an exclamation mark");
    }

    const FRAGILE: Target = Target {
        name: "fragile",
        run: fragile,
        seeds: || vec![b"plain".to_vec()],
        words: &[b"x", b"!"],
        len_max: 100,
    };

    #[test]
    fn what_breaks_a_property_is_found_and_found_again() {
        let none = Path::new("/nonexistent");
        let find = || drive(&FRAGILE, none, (1, Until::Runs(10_000))).unwrap();
        let finding = find().expect_err("one of ten thousand has one");
        assert!(finding.input.contains(&b'!'));
        assert_eq!(finding.said, "an exclamation mark");
        assert_eq!(find(), Err(finding));
    }

    #[test]
    fn time_ends_it_too() {
        let target = Target {
            run: |_| {},
            ..FRAGILE
        };
        let until = Until::Time(Duration::from_millis(5));
        let report = drive(&target, Path::new("/nonexistent"), (1, until)).unwrap();
        assert!(report.expect("nothing can break").runs > 0);
    }
}
