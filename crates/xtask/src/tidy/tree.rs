//! The files of the project.

use std::fs;
use std::io;
use std::path::Path;

use super::source::Source;

/// Directories that hold no source of ours.
const SKIPPED: [&str; 3] = ["target", ".git", ".scratch"];

/// Every text file of the project, in order of their paths.
#[derive(Debug, Default)]
pub struct Tree {
    /// The files.
    pub files: Vec<File>,
}

/// A text file.
#[derive(Debug)]
pub struct File {
    /// Its path from the root, with `/`.
    pub path: String,
    /// What it says.
    pub text: String,
    /// Its layers, if it is Rust.
    pub source: Option<Source>,
}

impl File {
    /// A file of this text.
    pub fn new(path: &str, text: &str) -> Self {
        let source = path.ends_with(".rs").then(|| Source::new(text));
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            source,
        }
    }

    /// The crate it belongs to: `sched` for `crates/sched/src/lib.rs`.
    pub fn room(&self) -> Option<&str> {
        self.path.strip_prefix("crates/")?.split('/').next()
    }

    /// Whether it is compiled into a product: not a test, an example or a tool.
    pub fn is_product(&self) -> bool {
        let is_tool = matches!(self.room(), None | Some("xtask" | "testkit" | "fuzzing"));
        !is_tool && self.path.contains("/src/") && !self.is_test_file()
    }

    /// Whether all of it is tests, by the name of the file or of a directory above it.
    pub fn is_test_file(&self) -> bool {
        self.path
            .split('/')
            .any(|part| matches!(part, "tests" | "tests.rs"))
    }
}

impl Tree {
    /// Reads the project below `root`. Files that are not UTF-8 are data and left out.
    pub fn read(root: &Path) -> io::Result<Self> {
        let mut tree = Self::default();
        tree.read_dir(root, "")?;
        tree.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(tree)
    }

    fn read_dir(&mut self, dir: &Path, prefix: &str) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{prefix}{name}");
            if SKIPPED.contains(&name.as_str()) {
                // In a linked work tree `.git` is a file.
                continue;
            }
            if entry.file_type()?.is_dir() {
                self.read_dir(&entry.path(), &format!("{path}/"))?;
            } else if let Ok(text) = String::from_utf8(fs::read(entry.path())?) {
                self.files.push(File::new(&path, &text));
            }
        }
        Ok(())
    }

    /// The file with this path.
    pub fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Every Rust file with its layers.
    pub fn sources(&self) -> impl Iterator<Item = (&File, &Source)> {
        self.files
            .iter()
            .filter_map(|file| Some((file, file.source.as_ref()?)))
    }

    /// Every crate's name and manifest.
    pub fn manifests(&self) -> impl Iterator<Item = (&str, &File)> {
        self.files.iter().filter_map(|file| {
            let room = file.room()?;
            (file.path == format!("crates/{room}/Cargo.toml")).then_some((room, file))
        })
    }
}

/// A tree of these files, for testing checks.
#[cfg(test)]
pub fn tree_of(files: &[(&str, &str)]) -> Tree {
    Tree {
        files: files
            .iter()
            .map(|(path, text)| File::new(path, text))
            .collect(),
    }
}
