//! A draft model's file: the header as the planner takes it, checked against the served model's.

use std::path::Path;

use kvist_model::DecoderConfig;
use kvist_plan::ModelShape;
use kvist_weights::{GgufFile, Metadata};

use super::error::DraftError;
use super::vocabulary::check_same;
use crate::load::LoadError;
use crate::shape::model_shape;
use crate::what_if::refuse_hf;

/// A draft model's file, open.
#[derive(Debug)]
pub(crate) struct DraftFile {
    pub(crate) file: GgufFile,
    pub(crate) config: DecoderConfig,
    pub(crate) shape: ModelShape,
}

impl DraftFile {
    /// Opens the file of a model that is to draft for one with the vocabulary in `served`.
    pub(crate) fn open(path: &Path, served: &Metadata) -> Result<Self, LoadError> {
        Self::check(path, GgufFile::open, served)
    }

    fn check(
        path: &Path,
        open: impl FnOnce(&Path) -> Result<GgufFile, kvist_weights::WeightsError>,
        served: &Metadata,
    ) -> Result<Self, LoadError> {
        let blamed = |source: LoadError| DraftError::Model {
            path: path.to_owned(),
            source: Box::new(source),
        };
        let read = || -> Result<Self, LoadError> {
            refuse_hf(path)?;
            let file = open(path)?;
            let config = kvist_model::open(&file)?;
            let shape = model_shape(&file, &config)?;
            Ok(Self {
                file,
                config,
                shape,
            })
        };
        let read = read().map_err(blamed)?;
        check_same(served, read.file.metadata())?;
        Ok(read)
    }
}

/// What the planner takes of a model that is to draft for another, from the headers of both.
///
/// # Errors
/// One of them is not a model kvist can serve, or their vocabularies differ.
pub fn draft_shape(draft: &Path, served: &Path) -> Result<ModelShape, LoadError> {
    refuse_hf(served)?;
    let served = GgufFile::open_header(served)?;
    let read = DraftFile::check(draft, GgufFile::open_header, served.metadata())?;
    Ok(read.shape)
}
