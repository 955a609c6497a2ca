//! Plans of models that are not served as they are: from the Hugging Face hub, in other encodings, on
//! other devices.

use std::path::{Path, PathBuf};

use kvist_model::{HfConfig, HfConfigError};
use kvist_plan::{Devices, Limits, Machine, ModelShape, WeightScheme, plan, plan_devices};
use kvist_weights::GgufFile;
use kvist_weights::hf::{HfError, HfFolder, is_hf};
use thiserror::Error;

use crate::hf_shape::hf_model_shape;
use crate::load::{LoadError, PlannedModel};
use crate::shape::model_shape;

/// Below this many bits a weight, encoding again would not start from the model but from a copy.
const SOURCE_BITS_MIN: f64 = 8.0;

/// What to plan instead of the model as it is, on this machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WhatIf {
    /// Its matrices encoded otherwise.
    pub scheme: Option<WeightScheme>,
    /// On devices with memory of their own.
    pub devices: Option<Devices>,
}

/// Why a plan alone, or what it was asked for, cannot be had.
#[derive(Debug, Error)]
pub enum WhatIfError {
    /// The folder's files are damaged.
    #[error(transparent)]
    Folder(#[from] HfError),
    /// Its configuration is not understood.
    #[error(transparent)]
    Config(#[from] HfConfigError),
    /// Quantised, but neither its files nor their index say how large it is.
    #[error("{}: weights of {method} without their files or index have no known size", path.display())]
    NoSize {
        /// The folder.
        path: PathBuf,
        /// How they are quantised.
        method: String,
    },
    /// It can be planned, but not served.
    #[error(
        "{}: Hugging Face models can be planned but not served yet: kvist serves GGUF files",
        path.display()
    )]
    NotServed {
        /// What was to be served.
        path: PathBuf,
    },
    /// There are no weights of at least 8 bits to encode.
    #[error("{scheme} would be made from 16-bit or 8-bit weights, and these have {given}")]
    AlreadyQuantised {
        /// What was asked for.
        scheme: &'static str,
        /// What the weights have.
        given: String,
    },
}

/// Only GGUF files can be served.
pub(crate) fn refuse_hf(path: &Path) -> Result<(), WhatIfError> {
    if is_hf(path) {
        let path = path.to_owned();
        return Err(WhatIfError::NotServed { path });
    }
    Ok(())
}

/// Plans a model, or a variant of it, from headers alone: a GGUF file, or a folder of the Hugging
/// Face hub given by itself or one of its files.
///
/// # Errors
/// When the model is not understood, or a limit makes no sense. That it does not fit is in the plan.
pub fn plan_what_if(
    path: &Path,
    machine: &Machine,
    limits: &Limits,
    what_if: WhatIf,
) -> Result<PlannedModel, LoadError> {
    let (mut shape, is_complete, notes) = read_shape(path)?;
    if let Some(scheme) = what_if.scheme {
        shape = requantised(&shape, scheme)?;
    }
    let plan = match what_if.devices {
        Some(devices) => plan_devices(&shape, devices, limits)?,
        None => plan(&shape, machine, limits)?,
    };
    Ok(PlannedModel {
        shape,
        plan,
        is_complete,
        notes,
    })
}

fn read_shape(path: &Path) -> Result<(ModelShape, bool, Vec<String>), LoadError> {
    if !is_hf(path) {
        let file = GgufFile::open_header(path)?;
        let config = kvist_model::open(&file)?;
        return Ok((
            model_shape(&file, &config)?,
            file.is_complete(),
            config.notes,
        ));
    }
    let folder = HfFolder::open(path).map_err(WhatIfError::from)?;
    let config = HfConfig::parse(&folder.config).map_err(WhatIfError::from)?;
    let mut notes = vec!["Hugging Face models can be planned but not served yet".to_owned()];
    notes.extend(folder.notes.iter().chain(&config.notes).cloned());
    let shape = hf_model_shape(&folder, &config, &mut notes)?;
    // Headers without their tensors are cut off; a folder without files says so in its notes.
    let is_complete = folder.is_complete || folder.tensors.is_empty();
    Ok((shape, is_complete, notes))
}

fn requantised(shape: &ModelShape, scheme: WeightScheme) -> Result<ModelShape, WhatIfError> {
    match shape.bits_per_weight() {
        Some(bits) if bits >= SOURCE_BITS_MIN => Ok(shape.quantised(scheme)),
        bits => Err(WhatIfError::AlreadyQuantised {
            scheme: scheme.name(),
            given: bits.map_or("another encoding".to_owned(), |bits| {
                format!("{bits:.1} bits")
            }),
        }),
    }
}
