//! The process environment, read in one place and passed on as a value.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

/// Every environment variable kvist looks at.
#[derive(Clone, Default)]
pub struct Environment {
    /// `KVIST_CACHE_DIR`: holds everything kvist downloads, hub files included.
    pub kvist_cache_dir: Option<PathBuf>,
    /// `KVIST_ISA`: the instruction tier, where no flag names one.
    pub kvist_isa: Option<String>,
    /// `XDG_CACHE_HOME`.
    pub xdg_cache_home: Option<PathBuf>,
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// `HF_HOME`: where the hub's own tools keep their files.
    pub hf_home: Option<PathBuf>,
    /// `HF_ENDPOINT`: a mirror of the hub.
    pub hf_endpoint: Option<String>,
    /// `HF_TOKEN`: for models that need a login.
    pub hf_token: Option<String>,
    /// `PATH`: where Python is looked for.
    pub path: OsString,
    /// `NO_COLOR` is set, or `TERM` says that the terminal has none.
    pub no_color: bool,
}

impl Environment {
    /// The variables of this process. Empty ones count as unset.
    pub fn of_process() -> Self {
        let var = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        let text = |name: &str| var(name).and_then(|value| value.into_string().ok());
        Self {
            kvist_cache_dir: var("KVIST_CACHE_DIR").map(PathBuf::from),
            kvist_isa: var("KVIST_ISA").map(|name| name.to_string_lossy().into_owned()),
            // The XDG specification says that a relative path here is to be ignored.
            xdg_cache_home: var("XDG_CACHE_HOME")
                .map(PathBuf::from)
                .filter(|p| p.is_absolute()),
            home: var("HOME").map(PathBuf::from),
            hf_home: var("HF_HOME").map(PathBuf::from),
            hf_endpoint: text("HF_ENDPOINT"),
            hf_token: text("HF_TOKEN"),
            path: var("PATH").unwrap_or_default(),
            no_color: var("NO_COLOR").is_some() || var("TERM").is_some_and(|term| term == "dumb"),
        }
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment")
            .field("kvist_cache_dir", &self.kvist_cache_dir)
            .field("kvist_isa", &self.kvist_isa)
            .field("xdg_cache_home", &self.xdg_cache_home)
            .field("home", &self.home)
            .field("hf_home", &self.hf_home)
            .field("hf_endpoint", &self.hf_endpoint)
            // A secret: that it is set is all a log may say.
            .field("hf_token", &self.hf_token.as_ref().map(|_| "set"))
            .field("path", &self.path)
            .field("no_color", &self.no_color)
            .finish()
    }
}
