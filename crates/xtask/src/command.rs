//! Other programs, run from the workspace's root.

use std::env;
use std::error::Error;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::{Outcome, root};

/// A program about to be run.
#[derive(Debug)]
pub struct Run {
    command: Command,
}

impl Run {
    /// A program and no arguments yet.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            command: Command::new(program),
        }
    }

    /// The cargo that runs us.
    pub fn cargo() -> Self {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        Self::new(cargo).in_root()
    }

    /// Appends arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it from the workspace's root, instead of from where we are.
    pub fn in_root(mut self) -> Self {
        self.command.current_dir(root());
        self
    }

    /// Runs it with our standard streams; an unsuccessful end is an error.
    pub fn check(mut self) -> Outcome {
        let status = self
            .command
            .status()
            .map_err(|error| self.describe(&error))?;
        if status.success() {
            Ok(())
        } else {
            Err(self.describe(&status))
        }
    }

    /// Runs it and says whether it ended well; what it writes is of no interest.
    pub fn succeeds(self) -> bool {
        self.spawn()
            .and_then(|mut child| child.wait())
            .is_ok_and(|status| status.success())
    }

    /// What it writes to standard output. What it writes to standard error is shown if it fails.
    pub fn output(self) -> Result<String, Box<dyn Error>> {
        self.both_outputs().map(|(out, _)| out)
    }

    /// What it writes to standard output and to standard error.
    pub fn both_outputs(mut self) -> Result<(String, String), Box<dyn Error>> {
        let output = self
            .command
            .output()
            .map_err(|error| self.describe(&error))?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            Ok((String::from_utf8(output.stdout)?, errors))
        } else {
            eprint!("{errors}");
            Err(self.describe(&output.status))
        }
    }

    /// What it writes to standard output when it reads `input`. Standard error is ours.
    pub fn filter(mut self, input: &str) -> Result<String, Box<dyn Error>> {
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = self
            .command
            .spawn()
            .map_err(|error| self.describe(&error))?;
        // Dropped after the write: the end of the input is what the program waits for.
        child
            .stdin
            .take()
            .ok_or("no standard input")?
            .write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        if output.status.success() {
            Ok(String::from_utf8(output.stdout)?)
        } else {
            Err(self.describe(&output.status))
        }
    }

    /// Starts it in the background with its output thrown away.
    pub fn spawn(mut self) -> io::Result<Child> {
        self.command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .stdin(Stdio::null())
            .spawn()
    }

    fn describe(&self, problem: &dyn std::fmt::Display) -> Box<dyn Error> {
        format!("{}: {problem}", self.command.get_program().display()).into()
    }
}

/// Builds the `kvist` binary as users run it, and says where it is.
pub fn release_binary() -> Result<PathBuf, Box<dyn Error>> {
    Run::cargo()
        .args(["build", "--release", "--package", "kvist-cli"])
        .check()?;
    Ok(target_dir().join("release").join("kvist"))
}

/// Where cargo puts what it builds.
pub fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}
