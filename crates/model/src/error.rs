//! Why a model cannot be loaded or run.

use kvist_device::DeviceError;
use kvist_weights::WeightsError;
use thiserror::Error;

/// Why a model cannot be loaded or run.
#[derive(Debug, Error)]
#[allow(missing_docs)] // the messages are the documentation
pub enum ModelError {
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error("architecture {given:?} is not supported; supported: {supported}")]
    UnknownArchitecture {
        given: String,
        supported: &'static str,
    },
    #[error("{key} is {given}: {rule}")]
    BadParameter {
        key: String,
        given: String,
        rule: &'static str,
    },
    #[error("tensor {name} is missing; {architecture} needs it")]
    MissingTensor {
        name: String,
        architecture: &'static str,
    },
    #[error(
        "tensor {name} is {given:?}, but the hyper-parameters ask for {expected:?} (rows, columns)"
    )]
    WrongShape {
        name: String,
        expected: (usize, usize),
        given: (usize, usize),
    },
    #[error(
        "tensor {name} is no part of {architecture} as kvist implements it; ignoring it would change the model's answers"
    )]
    UnexpectedTensor {
        name: String,
        architecture: &'static str,
    },
    #[error("layer {given} is to be streamed, but the model has {limit}")]
    NoSuchLayer { given: u32, limit: usize },
    #[error("a step of {given} {what} exceeds the {limit} it was planned for")]
    StepTooLarge {
        what: &'static str,
        limit: usize,
        given: usize,
    },
}
