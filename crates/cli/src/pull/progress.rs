//! Showing a download: a bar for people, lines for logs, nothing for tests.

use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};
use kvist_base::Bytes;

/// Somebody who wants to know how a download goes.
pub trait Progress {
    /// A stage begins; it will handle `total` bytes.
    fn start(&mut self, stage: &str, total: Bytes);
    /// So many bytes of the stage are done.
    fn at(&mut self, done: Bytes);
    /// The stage is complete.
    fn finish(&mut self);
    /// Something to be told in words.
    fn note(&mut self, text: &str);
}

/// A bar when standard error is a terminal, else lines.
pub fn for_stderr() -> Box<dyn Progress> {
    if io::stderr().is_terminal() {
        Box::new(Bar::default())
    } else {
        Box::new(Lines)
    }
}

/// Shows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn start(&mut self, _stage: &str, _total: Bytes) {}
    fn at(&mut self, _done: Bytes) {}
    fn finish(&mut self) {}
    fn note(&mut self, _text: &str) {}
}

/// A line when a stage begins, for logs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lines;

impl Progress for Lines {
    fn start(&mut self, stage: &str, total: Bytes) {
        self.note(&format!("{stage} ({total})"));
    }
    fn at(&mut self, _done: Bytes) {}
    fn finish(&mut self) {}
    fn note(&mut self, text: &str) {
        // Nobody is left to tell when standard error is closed.
        let _ = writeln!(io::stderr(), "kvist: {text}");
    }
}

/// A bar with rate and time left.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
}

impl Default for Bar {
    fn default() -> Self {
        Self {
            bar: ProgressBar::hidden(),
        }
    }
}

impl Progress for Bar {
    fn start(&mut self, stage: &str, total: Bytes) {
        let template = "  {msg:12} {bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left";
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.bar = ProgressBar::new(total.0)
            .with_style(style)
            .with_message(stage.to_owned());
    }

    fn at(&mut self, done: Bytes) {
        // A source that restarts a transfer must not make the bar run backwards.
        if done.0 > self.bar.position() {
            self.bar.set_position(done.0);
        }
    }

    fn finish(&mut self) {
        self.bar.finish_and_clear();
    }

    fn note(&mut self, text: &str) {
        self.bar.suspend(|| Lines.note(text));
    }
}
