//! What makes two runs' KV content interchangeable.

use kvist_base::{KvDtype, Tokens};
use kvist_model::DecoderConfig;
use kvist_weights::{GgufFile, WeightsError};
use sha2::{Digest, Sha256};

use crate::tier::Identity;

/// Bytes taken from either end of a tensor: enough to tell fine-tunes apart without reading a file
/// of gigabytes.
const SAMPLE_BYTES: usize = 4096;

/// SHA-256 over the program's version, how KV is stored, the model's hyper-parameters, and every
/// tensor's name, shape, format and samples of its content.
pub(crate) fn identity(
    file: &GgufFile,
    config: &DecoderConfig,
    (dtype, block_size): (KvDtype, Tokens),
) -> Result<Identity, WeightsError> {
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    add(env!("CARGO_PKG_VERSION").as_bytes());
    add(format!("{dtype:?} {block_size:?} {config:?}").as_bytes());
    for tensor in file.tensors() {
        add(tensor.name.as_bytes());
        add(format!("{} {} {}", tensor.rows(), tensor.cols(), tensor.format()?).as_bytes());
        let data = file.data(tensor)?;
        let bytes: &[u8] = data.as_ref();
        let sample = SAMPLE_BYTES.min(bytes.len());
        add(&bytes[..sample]);
        add(&bytes[bytes.len() - sample..]);
    }
    Ok(Identity(hash.finalize().into()))
}
