//! Where downloads live.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::environment::Environment;

/// The folders kvist downloads into.
///
/// ```text
/// root/models/NAME/FILE.gguf    complete and checked: a file is only ever renamed to here
/// root/models/NAME.part/        a download under way or interrupted
/// root/models/NAME.lock         held by the process that downloads
/// hub/                          files from the model hub, in the layout its own tools use
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheDir {
    root: PathBuf,
    hub: PathBuf,
}

/// No variable says where a cache could be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("there is no place for downloads: neither KVIST_CACHE_DIR, XDG_CACHE_HOME nor HOME is set")]
pub struct NoCacheDir;

impl CacheDir {
    /// A cache that keeps everything below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        Self {
            hub: root.join("hub"),
            root,
        }
    }

    /// `KVIST_CACHE_DIR`, else `kvist` in the user's cache folder. Without `KVIST_CACHE_DIR` files
    /// from the hub go where its other tools keep them, so that none is downloaded twice.
    ///
    /// # Errors
    /// When no variable names a place.
    pub fn locate(environment: &Environment) -> Result<Self, NoCacheDir> {
        if let Some(root) = &environment.kvist_cache_dir {
            return Ok(Self::new(root));
        }
        let user_cache = environment
            .xdg_cache_home
            .clone()
            .or_else(|| Some(environment.home.as_ref()?.join(".cache")))
            .ok_or(NoCacheDir)?;
        let hf_home = environment
            .hf_home
            .clone()
            .unwrap_or_else(|| user_cache.join("huggingface"));
        Ok(Self {
            root: user_cache.join("kvist"),
            hub: hf_home.join("hub"),
        })
    }

    /// The folder of catalogue models.
    pub fn models(&self) -> PathBuf {
        self.root.join("models")
    }

    /// The folder of files from the hub.
    pub fn hub(&self) -> &Path {
        &self.hub
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Environment {
        Environment {
            home: Some("/home/u".into()),
            ..Environment::default()
        }
    }

    #[test]
    fn the_most_specific_variable_wins() {
        let home = CacheDir::locate(&environment()).unwrap();
        assert_eq!(home.models(), Path::new("/home/u/.cache/kvist/models"));
        assert_eq!(home.hub(), Path::new("/home/u/.cache/huggingface/hub"));

        let xdg = Environment {
            xdg_cache_home: Some("/x".into()),
            ..environment()
        };
        assert_eq!(
            CacheDir::locate(&xdg).unwrap().models(),
            Path::new("/x/kvist/models")
        );

        let hf = Environment {
            hf_home: Some("/hf".into()),
            ..environment()
        };
        assert_eq!(CacheDir::locate(&hf).unwrap().hub(), Path::new("/hf/hub"));

        let own = Environment {
            kvist_cache_dir: Some("/k".into()),
            ..hf
        };
        assert_eq!(CacheDir::locate(&own), Ok(CacheDir::new("/k")));
        assert_eq!(CacheDir::new("/k").hub(), Path::new("/k/hub"));
    }

    #[test]
    fn no_variable_is_an_error_not_the_current_folder() {
        assert_eq!(CacheDir::locate(&Environment::default()), Err(NoCacheDir));
    }
}
