//! Matrix products: the input quantised once for all products that share it, then panels from memory
//! or from their file.

use kvist_kernels::{self as kernels, ActFormat, FedProduct, GatedProduct, Product, act_format};

use super::slabs::{Lent, front};
use super::weights::Prepared;
use super::{CpuDevice, Scratch};
use crate::error::DeviceError;
use crate::ops::{Buf, Epilogue, GatedOp, MatmulOp, Projection, QkvOp, Weight};

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

/// The rows a product is computed for.
#[derive(Clone, Copy)]
struct Input {
    x: Buf,
    n: usize,
}

impl CpuDevice {
    pub(super) fn matmul(&mut self, op: &MatmulOp) -> Result<(), DeviceError> {
        const OP: &str = "matmul";
        self.prepare_input(OP, Input { x: op.x, n: op.n }, op.weight)?;
        if let Prepared::Streamed(source) = &self.weights[op.weight.idx as usize] {
            self.stream
                .advance(source.bytes.byte_len(), &self.weights)?;
        }
        self.writing(OP, op.out, |device, out| device.multiply(op, out))
    }

    fn multiply(&self, op: &MatmulOp, out: &mut Lent) -> Result<(), DeviceError> {
        const OP: &str = "matmul";
        let bias = self.bias(OP, (op.weight, op.bias))?;
        let epilogue = match op.epilogue {
            Epilogue::Store => kernels::Epilogue::Store,
            Epilogue::Accumulate => kernels::Epilogue::Accumulate,
            Epilogue::Gate => kernels::Epilogue::Gate,
        };
        let x = &self.scratch.activations;
        if let Prepared::Streamed(source) = &self.weights[op.weight.idx as usize] {
            let feed = self.stream.feed(self.isa, source)?;
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

    pub(super) fn qkv(&mut self, op: &QkvOp) -> Result<(), DeviceError> {
        const OP: &str = "qkv";
        let [q, k, v] = op.projections;
        let input = Input { x: op.x, n: op.n };
        if !self.share_a_run(op.projections.map(|projection| projection.weight)) {
            return op.projections.iter().try_for_each(|projection| {
                self.matmul(&MatmulOp {
                    weight: projection.weight,
                    bias: projection.bias,
                    x: op.x,
                    out: projection.out,
                    n: op.n,
                    epilogue: Epilogue::Store,
                })
            });
        }
        self.prepare_input(OP, input, q.weight)?;
        self.writing(OP, q.out, |device, q_out| {
            device.writing(OP, k.out, |device, k_out| {
                device.writing(OP, v.out, |device, v_out| {
                    let products = [
                        (
                            device.projection(&q)?,
                            q_out.front(OP, op.n * q.weight.rows)?,
                        ),
                        (
                            device.projection(&k)?,
                            k_out.front(OP, op.n * k.weight.rows)?,
                        ),
                        (
                            device.projection(&v)?,
                            v_out.front(OP, op.n * v.weight.rows)?,
                        ),
                    ];
                    let x = &device.scratch.activations;
                    kernels::matmul_each(device.isa, &device.pool, products, x);
                    Ok(())
                })
            })
        })
    }

    fn projection(&self, projection: &Projection) -> Result<Product<'_>, DeviceError> {
        const OP: &str = "qkv";
        Ok(Product {
            weights: self.matrix(OP, projection.weight)?,
            bias: self.bias(OP, (projection.weight, projection.bias))?,
            epilogue: kernels::Epilogue::Store,
        })
    }

    pub(super) fn gated(&mut self, op: &GatedOp) -> Result<(), DeviceError> {
        const OP: &str = "gated";
        let (gate, up) = (op.gate, op.up);
        for (what, limit, given) in [
            ("rows of up", gate.rows, up.rows),
            ("columns of up", gate.cols, up.cols),
        ] {
            if limit != given {
                return Err(DeviceError::OutOfRange {
                    op: OP,
                    what,
                    limit,
                    given,
                });
            }
        }
        if !self.share_a_run([gate, up]) {
            return self.gated_apart(op);
        }
        self.prepare_input(OP, Input { x: op.x, n: op.n }, gate)?;
        self.writing(OP, op.out, |device, out| {
            let product = GatedProduct {
                gate: device.matrix(OP, gate)?,
                up: device.matrix(OP, up)?,
            };
            let out = out.front(OP, op.n * gate.rows)?;
            let x = &device.scratch.activations;
            kernels::matmul_gated(device.isa, &device.pool, product, x, out);
            Ok(())
        })
    }

    /// One after the other: each is streamed, or wants the input in a form of its own.
    fn gated_apart(&mut self, op: &GatedOp) -> Result<(), DeviceError> {
        for (weight, epilogue) in [(op.gate, Epilogue::Store), (op.up, Epilogue::Gate)] {
            self.matmul(&MatmulOp {
                weight,
                bias: None,
                x: op.x,
                out: op.out,
                n: op.n,
                epilogue,
            })?;
        }
        Ok(())
    }

    /// Whether products with these matrices can be one run: all in memory, one form of the input.
    fn share_a_run<const N: usize>(&self, weights: [Weight; N]) -> bool {
        let form = |weight: Weight| (act_format(weight.format), weight.cols);
        weights.iter().all(|weight| {
            let is_streamed = matches!(self.weights[weight.idx as usize], Prepared::Streamed(_));
            !is_streamed && form(*weight) == form(weights[0])
        })
    }

    fn bias(
        &self,
        op: &'static str,
        (weight, bias): (Weight, Option<Buf>),
    ) -> Result<Option<&[f32]>, DeviceError> {
        let values = bias.map(|bias| front(op, bias, self.slabs.f32(op, bias)?, weight.rows));
        values.transpose()
    }

    /// Quantises the product's input, unless the last product had the same one.
    fn prepare_input(
        &mut self,
        op: &'static str,
        Input { x, n }: Input,
        weight: Weight,
    ) -> Result<(), DeviceError> {
        let (format, cols) = (act_format(weight.format), weight.cols);
        let wanted = PreparedInput {
            buf: x,
            format,
            n,
            cols,
        };
        if self.scratch.prepared != Some(wanted) {
            let values = front(op, x, self.slabs.f32(op, x)?, n * cols)?;
            let rows = kernels::Rows { values, cols };
            self.scratch
                .activations
                .prepare(self.isa, &self.pool, format, rows);
            self.scratch.prepared = Some(wanted);
        }
        Ok(())
    }
}
