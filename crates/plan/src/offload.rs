//! Which layers' weights are streamed from the file instead of kept in memory.
//!
//! A step reads every weight once, in the order of the layers. Of a streamed layer each thread reads
//! a panel of rows, uses it and forgets it, so what streaming saves is the layer's size, and what it
//! costs is its bytes from the file in every step. Whole layers are streamed, spread evenly: while a
//! resident layer computes, the system reads the next streamed one into its cache of the file.

use kvist_base::Bytes;
use serde::Serialize;

use crate::lines::{LineKind, PlanLine};
use crate::serial;
use crate::shape::{ModelShape, WeightLine};

/// The layers that are streamed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OffloadPlan {
    /// Their indices, ascending; empty when everything is resident.
    pub layers: Vec<u32>,
    /// What a step reads from the file for them.
    #[serde(serialize_with = "serial::bytes")]
    pub bytes: Bytes,
    /// The buffers they pass through.
    #[serde(serialize_with = "serial::bytes")]
    pub ring: Bytes,
    /// Whether the model fits without: then streaming was asked for, and costs time for nothing.
    pub is_idle: bool,
}

impl OffloadPlan {
    /// Streams `count` of the model's layers: layer `i` of `n` when `(i + 1) * count / n` is a whole
    /// number further than `i * count / n`.
    pub(crate) fn spread(
        model: &ModelShape,
        layer_bytes: &[Bytes],
        (count, ring): (u32, Bytes),
    ) -> Self {
        let (n, count) = (u64::from(model.layers), u64::from(count));
        let is_streamed = |layer: &u32| {
            let at = u64::from(*layer);
            (at + 1) * count / n > at * count / n
        };
        let layers: Vec<u32> = (0..model.layers).filter(is_streamed).collect();
        if layers.is_empty() {
            return Self::default();
        }
        let of_layer = |layer: &u32| layer_bytes.get(*layer as usize).copied();
        Self {
            bytes: layers.iter().filter_map(of_layer).sum(),
            ring,
            layers,
            is_idle: false,
        }
    }

    /// Whether nothing is streamed.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// What of `weights` is streamed.
    pub(crate) fn share_of(&self, weights: &WeightLine) -> Bytes {
        let of_layer = |layer: &u32| weights.by_layer.get(*layer as usize).copied();
        self.layers.iter().filter_map(of_layer).sum()
    }

    pub(crate) fn ring_line(&self, layers: u32) -> Option<PlanLine> {
        let (count, bytes) = (self.layers.len(), self.bytes);
        let note = format!("{count} of {layers} layers streamed, {bytes} a step from the file");
        (!self.is_empty())
            .then(|| PlanLine::new(LineKind::WeightsRing, "weights ring", self.ring, note))
    }
}
