//! Matrix products: the input quantised once for all products that share it, then panels from memory
//! or from their file.

use kvist_kernels::{self as kernels, ActFormat, FedProduct, Product, act_format};

use super::slabs::{Lent, front};
use super::weights::Prepared;
use super::{CpuDevice, Scratch};
use crate::error::DeviceError;
use crate::ops::{Buf, Epilogue, MatmulOp};

/// Which buffer the scratch activations were made from, and how.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct PreparedInput {
    buf: Buf,
    format: ActFormat,
    n: usize,
    cols: usize,
}

impl Scratch {
    /// `buf` is about to change: what was prepared from it is stale.
    pub(super) fn forget(&mut self, buf: Buf) {
        if self.prepared.is_some_and(|prepared| prepared.buf == buf) {
            self.prepared = None;
        }
    }
}

impl CpuDevice {
    pub(super) fn matmul(&mut self, op: &MatmulOp) -> Result<(), DeviceError> {
        self.prepare_input(op)?;
        if let Prepared::Streamed(source) = &self.weights[op.weight.idx as usize] {
            self.stream
                .advance(source.bytes.byte_len(), &self.weights)?;
        }
        self.writing("matmul", op.out, |device, out| device.multiply(op, out))
    }

    fn multiply(&self, op: &MatmulOp, out: &mut Lent) -> Result<(), DeviceError> {
        const OP: &str = "matmul";
        let bias = op.bias.map(|bias| {
            let values = self.slabs.f32(OP, bias)?;
            front(OP, bias, values, op.weight.rows)
        });
        let bias = bias.transpose()?;
        let epilogue = match op.epilogue {
            Epilogue::Store => kernels::Epilogue::Store,
            Epilogue::Accumulate => kernels::Epilogue::Accumulate,
        };
        let x = &self.scratch.activations;
        if let Prepared::Streamed(source) = &self.weights[op.weight.idx as usize] {
            let feed = self.stream.feed(source)?;
            let product = FedProduct {
                format: op.weight.format,
                rows: op.weight.rows,
                cols: op.weight.cols,
                feed: &feed,
                bias,
                epilogue,
            };
            let out = out.front(OP, op.n * op.weight.rows)?;
            kernels::matmul_fed(self.isa, &self.pool, &product, x, out);
            return feed.finish();
        }
        let product = Product {
            weights: self.matrix(OP, op.weight)?,
            bias,
            epilogue,
        };
        let out = out.front(OP, op.n * op.weight.rows)?;
        kernels::matmul(self.isa, &self.pool, &product, x, out);
        Ok(())
    }

    /// Quantises the product's input, unless the last product had the same one.
    fn prepare_input(&mut self, op: &MatmulOp) -> Result<(), DeviceError> {
        let cols = op.weight.cols;
        let format = act_format(op.weight.format);
        let wanted = PreparedInput {
            buf: op.x,
            format,
            n: op.n,
            cols,
        };
        if self.scratch.prepared != Some(wanted) {
            let values = front("matmul", op.x, self.slabs.f32("matmul", op.x)?, op.n * cols)?;
            let rows = kernels::Rows { values, cols };
            self.scratch
                .activations
                .prepare(self.isa, &self.pool, format, rows);
            self.scratch.prepared = Some(wanted);
        }
        Ok(())
    }
}
