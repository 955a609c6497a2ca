//! What MODEL on the command line means, and where its file is.

use std::fs;
use std::path::{Path, PathBuf};

use crate::args::{ModelArgs, NetworkArgs};
use crate::cache::CacheDir;
use crate::catalogue::{self, CATALOGUE, CatalogueEntry, DEFAULT_MODEL};
use crate::environment::Environment;
use crate::error::CliError;
use crate::exit::Exit;
use crate::pull::{self, HubRef, Network, Progress, Sources};
use crate::split::SplitPart;

/// A model as the user named it.
#[derive(Debug, PartialEq, Eq)]
pub enum ModelRef {
    /// One of the catalogue.
    Named(&'static CatalogueEntry),
    /// A file of the hub.
    Hub(HubRef),
    /// A file, or a folder with one.
    Path(PathBuf),
}

impl ModelRef {
    /// What `text` means; the default model when there is none. A file that is there wins over a
    /// catalogue name.
    ///
    /// # Errors
    /// When it can mean nothing.
    pub fn parse(text: Option<&str>) -> Result<Self, CliError> {
        let Some(text) = text else {
            return Ok(Self::Named(DEFAULT_MODEL));
        };
        if text.starts_with("hf:") {
            return Ok(Self::Hub(text.parse()?));
        }
        let path = Path::new(text);
        match catalogue::find(text) {
            Some(entry) if !path.exists() => Ok(Self::Named(entry)),
            _ => Ok(Self::Path(path.to_owned())),
        }
    }

    /// The model's file, downloaded first where that is needed and allowed. Of a split model it is
    /// the first part.
    ///
    /// # Errors
    /// When there is no such file and it cannot be had.
    pub fn resolve(
        &self,
        environment: &Environment,
        network: Network,
        progress: &mut dyn Progress,
    ) -> Result<PathBuf, CliError> {
        let sources = || Sources::of(environment, network);
        match self {
            Self::Path(path) => find_file(path),
            Self::Named(entry) => {
                let cache = CacheDir::locate(environment)?;
                Ok(pull::pull_entry(entry, &cache, &sources(), progress)?)
            }
            Self::Hub(reference) => {
                let cache = CacheDir::locate(environment)?;
                Ok(pull::pull_hub(reference, &cache, &sources(), progress)?)
            }
        }
    }
}

/// The file the model arguments mean.
///
/// # Errors
/// As [`ModelRef::resolve`].
pub fn resolve(args: &ModelArgs, environment: &Environment) -> Result<PathBuf, CliError> {
    resolve_text(args.model.as_deref(), args.network, environment)
}

/// The file that `text` means; the default model's when there is none.
///
/// # Errors
/// As [`ModelRef::resolve`].
pub fn resolve_text(
    text: Option<&str>,
    network: NetworkArgs,
    environment: &Environment,
) -> Result<PathBuf, CliError> {
    let model = ModelRef::parse(text)?;
    model.resolve(environment, network.network(), &mut *pull::for_stderr())
}

fn find_file(path: &Path) -> Result<PathBuf, CliError> {
    if path.is_dir() {
        return only_model(path);
    }
    if path.exists() {
        return Ok(path.to_owned());
    }
    let names: Vec<&str> = CATALOGUE.iter().map(|entry| entry.name).collect();
    Err(
        CliError::new(Exit::Model, format!("there is no model {}", path.display()))
            .because("no such file, and no such name in the catalogue")
            .fix(format!("a catalogue name: {}", names.join(", ")))
            .fix("the path of a GGUF file")
            .fix("a hub model: hf:OWNER/NAME"),
    )
}

/// The one model in a folder. The parts of a split model are one.
fn only_model(folder: &Path) -> Result<PathBuf, CliError> {
    let unreadable = |error: std::io::Error| {
        CliError::new(Exit::Model, format!("{} cannot be read", folder.display()))
            .because(error.to_string())
    };
    let mut models = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let later_part = SplitPart::parse(&name).is_some_and(|part| part.number != 1);
        if name.ends_with(".gguf") && !later_part {
            models.push(path);
        }
    }
    models.sort();
    let shown = |path: &PathBuf| format!("{}", path.display());
    match models.as_slice() {
        [model] => Ok(model.clone()),
        // A folder of the hub: it can be planned, and whoever serves it says what it cannot.
        [] if folder.join("config.json").is_file() => Ok(folder.to_owned()),
        [] => Err(
            CliError::new(Exit::Model, format!("{} holds no model", folder.display()))
                .because("no file in it ends in .gguf")
                .fix("the path of a GGUF file"),
        ),
        several => {
            let what = format!("{} holds {} models", folder.display(), several.len());
            let error = CliError::new(Exit::Usage, what).because("it is not clear which is meant");
            Err(several
                .iter()
                .fold(error, |error, path| error.fix(shown(path))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pull::Silent;

    fn resolve(text: &str) -> Result<PathBuf, CliError> {
        let model = ModelRef::parse(Some(text))?;
        model.resolve(&Environment::default(), Network::Offline, &mut Silent)
    }

    #[test]
    fn a_text_means_a_name_a_hub_file_or_a_path() {
        assert_eq!(
            ModelRef::parse(None).unwrap(),
            ModelRef::Named(DEFAULT_MODEL)
        );
        assert_eq!(
            ModelRef::parse(Some("smollm2-135m")).unwrap(),
            ModelRef::Named(DEFAULT_MODEL)
        );
        assert!(matches!(
            ModelRef::parse(Some("hf:o/n")).unwrap(),
            ModelRef::Hub(_)
        ));
        assert_eq!(
            ModelRef::parse(Some("hf:../x")).unwrap_err().exit,
            Exit::Usage
        );
        assert_eq!(
            ModelRef::parse(Some("x")).unwrap(),
            ModelRef::Path("x".into())
        );
    }

    #[test]
    fn a_folder_stands_for_its_only_model() {
        let folder = std::env::temp_dir().join(format!("kvist-model-ref-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let text = folder.to_str().unwrap();
        let touch = |name: &str| fs::write(folder.join(name), b"").unwrap();

        touch("README.md");
        assert_eq!(resolve(text).unwrap_err().exit, Exit::Model);
        touch("a-00002-of-00002.gguf");
        touch("a-00001-of-00002.gguf");
        assert_eq!(resolve(text).unwrap(), folder.join("a-00001-of-00002.gguf"));
        touch("b.gguf");
        let error = resolve(text).unwrap_err();
        assert_eq!((error.exit, error.fixes.len()), (Exit::Usage, 2));
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_is_not_there_is_an_error_that_lists_the_catalogue() {
        let error = resolve("no-such-model").unwrap_err();
        assert_eq!(error.exit, Exit::Model);
        assert!(error.to_string().contains(DEFAULT_MODEL.name), "{error}");
        // A name without a cache to look in.
        assert_eq!(resolve(DEFAULT_MODEL.name).unwrap_err().exit, Exit::Usage);
    }
}
