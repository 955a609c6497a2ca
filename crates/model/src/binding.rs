//! Tensor names to fields: every tensor is found by name, checked against the hyper-parameters,
//! and accounted for.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use kvist_device::{
    Buf, BufSpec, Device, Element, Residence, SharedBytes, SourceError, Weight, WeightBytes,
    WeightShape, WeightSource,
};
use kvist_weights::{GgufFile, TensorData, TensorInfo, WeightsError};

use crate::error::ModelError;
use crate::family::{Placement, WeightUse, weight_uses};
use crate::parts::layer_of;

/// A tensor of a file as the source of a weight.
struct FileBytes(TensorData);

impl WeightBytes for FileBytes {
    fn byte_len(&self) -> usize {
        self.0.len()
    }

    fn read_at(&self, at: usize, out: &mut [u8]) -> Result<(), SourceError> {
        let path = || self.0.path().to_path_buf();
        self.0.read_at(at, out).map_err(|source| {
            let action = "read weights";
            WeightsError::Io {
                path: path(),
                action,
                source,
            }
            .into()
        })
    }

    fn will_need(&self, part: Range<usize>) {
        // Advice: what it would have brought, reading brings too.
        let _ = self.0.will_need(part);
    }

    fn check(&self) -> Result<(), SourceError> {
        Ok(self.0.check_unchanged()?)
    }
}

/// The matrices of a file that will be packed.
fn packed(file: &GgufFile, placement: &Placement) -> Result<Vec<WeightShape>, ModelError> {
    let is_packed = |weight: &WeightUse<'_>| {
        let layer = layer_of(&weight.tensor.name);
        weight.residence == Some(Residence::Packed)
            && layer.is_none_or(|layer| placement.of_layer(layer) == Residence::Packed)
    };
    weight_uses(file)
        .iter()
        .filter(|weight| is_packed(weight))
        .map(|WeightUse { tensor, .. }| {
            Ok(WeightShape {
                format: tensor.format()?,
                rows: tensor.rows(),
                cols: tensor.cols(),
            })
        })
        .collect()
}

/// Hands out tensors of one file as weights of one device.
pub(crate) struct Binder<'a> {
    file: &'a GgufFile,
    device: &'a mut dyn Device,
    architecture: &'static str,
    placement: &'a Placement,
    bound: BTreeSet<String>,
}

impl<'a> Binder<'a> {
    pub(crate) fn new(
        file: &'a GgufFile,
        device: &'a mut dyn Device,
        (architecture, placement): (&'static str, &'a Placement),
    ) -> Result<Self, ModelError> {
        device.expect_packed(&packed(file, placement)?)?;
        Ok(Self {
            file,
            device,
            architecture,
            placement,
            bound: BTreeSet::new(),
        })
    }

    /// A matrix of `rows` output and `cols` input features, part of a layer.
    pub(crate) fn layer_matrix(
        &mut self,
        layer: usize,
        name: &str,
        shape: (usize, usize),
    ) -> Result<Weight, ModelError> {
        let residence = self.placement.of_layer(layer);
        self.weight(name, shape, residence)
    }

    /// The embedding table and the output head: one weight when the file ties them.
    pub(crate) fn embedding_and_head(
        &mut self,
        shape: (usize, usize),
    ) -> Result<(Weight, Weight), ModelError> {
        const TABLE: &str = "token_embd.weight";
        const HEAD: &str = "output.weight";
        if self.file.tensor(HEAD).is_none() {
            let tied = self.weight(TABLE, shape, Residence::Packed)?;
            return Ok((tied, tied));
        }
        Ok((
            self.weight(TABLE, shape, Residence::Mapped)?,
            self.weight(HEAD, shape, Residence::Packed)?,
        ))
    }

    /// A vector of f32, whatever format the file has it in.
    pub(crate) fn vector(&mut self, name: &str, len: usize) -> Result<Buf, ModelError> {
        let values = self.values(name, len)?;
        self.upload("norms and biases", &values)
    }

    /// Values as a buffer of the device.
    pub(crate) fn upload(
        &mut self,
        label: &'static str,
        values: &[f32],
    ) -> Result<Buf, ModelError> {
        let spec = BufSpec {
            label,
            element: Element::F32,
            len: values.len(),
        };
        let buf = self.device.alloc(spec)?;
        self.device.write_f32(buf, values)?;
        Ok(buf)
    }

    /// The device being bound to.
    pub(crate) fn device(&mut self) -> &mut dyn Device {
        self.device
    }

    /// A vector that files of this family may leave out.
    pub(crate) fn opt_vector(&mut self, name: &str, len: usize) -> Result<Option<Buf>, ModelError> {
        match self.file.tensor(name) {
            Some(_) => self.vector(name, len).map(Some),
            None => Ok(None),
        }
    }

    /// The values of a vector.
    pub(crate) fn values(&mut self, name: &str, len: usize) -> Result<Vec<f32>, ModelError> {
        let tensor = self.find(name, (1, len))?;
        let mut values = vec![0.0; len];
        kvist_device::decode_row(
            tensor.format()?,
            self.file.data(tensor)?.as_ref(),
            &mut values,
        );
        Ok(values)
    }

    /// Values that files of this family may leave out.
    pub(crate) fn opt_values(
        &mut self,
        name: &str,
        len: usize,
    ) -> Result<Option<Vec<f32>>, ModelError> {
        match self.file.tensor(name) {
            Some(_) => self.values(name, len).map(Some),
            None => Ok(None),
        }
    }

    /// Every tensor of the file must have been asked for: one that is not would be silently ignored.
    pub(crate) fn finish(self) -> Result<(), ModelError> {
        match self
            .file
            .tensors()
            .iter()
            .find(|tensor| !self.bound.contains(&*tensor.name))
        {
            Some(stray) => Err(ModelError::UnexpectedTensor {
                name: stray.name.to_string(),
                architecture: self.architecture,
            }),
            None => Ok(()),
        }
    }

    fn weight(
        &mut self,
        name: &str,
        shape: (usize, usize),
        residence: Residence,
    ) -> Result<Weight, ModelError> {
        let tensor = self.find(name, shape)?;
        let bytes: SharedBytes = Arc::new(FileBytes(self.file.data(tensor)?));
        let source = WeightSource {
            format: tensor.format()?,
            rows: shape.0,
            cols: shape.1,
            bytes,
        };
        Ok(self.device.prepare(source, residence)?)
    }

    fn find(&mut self, name: &str, expected: (usize, usize)) -> Result<&'a TensorInfo, ModelError> {
        let tensor = self
            .file
            .tensor(name)
            .ok_or_else(|| ModelError::MissingTensor {
                name: name.to_owned(),
                architecture: self.architecture,
            })?;
        let given = (tensor.rows(), tensor.cols());
        if given != expected {
            return Err(ModelError::WrongShape {
                name: name.to_owned(),
                expected,
                given,
            });
        }
        self.bound.insert(name.to_owned());
        Ok(tensor)
    }
}
