//! One function an operation: check sizes and indices at the door, then trust the kernel.

use kvist_kernels::{self as kernels, ActFormat, Product, act_format, for_each_chunk};

use super::slabs::{Lent, front};
use super::{CpuDevice, Prepared, Scratch};
use crate::error::DeviceError;
use crate::ops::{Buf, Epilogue, MatmulOp, Op, RopeOp, Weight};

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
    pub(super) fn execute(&mut self, op: &Op) -> Result<(), DeviceError> {
        match *op {
            Op::Embed {
                table,
                tokens,
                out,
                n,
            } => self.writing("embed", out, |device, out| {
                device.embed(table, tokens, out, n)
            }),
            Op::RmsNorm {
                x,
                weight,
                out,
                n,
                dim,
                eps,
            } => self.writing("rms_norm", out, |device, out| {
                device.rms_norm((x, weight), out, (n, dim), eps)
            }),
            Op::Matmul(op) => self.matmul(&op),
            Op::RopeAngles {
                positions,
                inv_freq,
                cos,
                sin,
                n,
                half,
            } => self.writing("rope_angles", cos, |device, cos| {
                device.writing("rope_angles", sin, |device, sin| {
                    device.rope_angles((positions, inv_freq), (cos, sin), (n, half))
                })
            }),
            Op::Rope(op) => self.writing("rope", op.x, |device, x| device.rope(&op, x)),
            Op::KvWrite(op) => self.kv_write(&op),
            Op::Attention(op) => self.writing("attention", op.out, |device, out| {
                device.attention(&op, out)
            }),
            Op::SiluMul { gate, up, len } => self.writing("silu_mul", gate, |device, gate| {
                device.silu_mul(gate, up, len)
            }),
            Op::GatherRows {
                x,
                rows,
                out,
                n,
                dim,
            } => self.writing("gather_rows", out, |device, out| {
                device.gather_rows((x, rows), out, (n, dim))
            }),
        }
    }

    /// Runs `f` with `out` taken from the buffers, and puts it back whatever happens.
    fn writing(
        &mut self,
        op: &'static str,
        out: Buf,
        f: impl FnOnce(&mut Self, &mut Lent) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        self.scratch.forget(out);
        let mut lent = self.slabs.lend(op, out)?;
        let result = f(self, &mut lent);
        self.slabs.give_back(lent);
        result
    }

    fn f32(&self, op: &'static str, buf: Buf, len: usize) -> Result<&[f32], DeviceError> {
        front(op, buf, self.slabs.f32(op, buf)?, len)
    }

    /// The first `len` indices of `buf`, each below `limit`.
    pub(super) fn indices(
        &self,
        op: &'static str,
        buf: Buf,
        (len, what, limit): (usize, &'static str, usize),
    ) -> Result<&[u32], DeviceError> {
        let indices = front(op, buf, self.slabs.u32(op, buf)?, len)?;
        match indices.iter().find(|idx| **idx as usize >= limit) {
            Some(idx) => Err(DeviceError::OutOfRange {
                op,
                what,
                limit,
                given: *idx as usize,
            }),
            None => Ok(indices),
        }
    }

    fn embed(
        &self,
        table: Weight,
        tokens: Buf,
        out: &mut Lent,
        n: usize,
    ) -> Result<(), DeviceError> {
        let dim = table.cols;
        let tokens = self.indices("embed", tokens, (n, "token", table.rows))?;
        let rows = out
            .front("embed", n * dim)?
            .chunks_exact_mut(dim)
            .zip(tokens);
        match &self.weights[table.idx as usize] {
            Prepared::Packed(_) => {
                let matrix = self.matrix("embed", table)?;
                rows.for_each(|(row, token)| matrix.decode_row(*token as usize, row));
            }
            Prepared::Mapped(bytes) => {
                let bytes: &[u8] = (**bytes).as_ref();
                let row_bytes = bytes.len() / table.rows;
                for (row, token) in rows {
                    let start = *token as usize * row_bytes;
                    kernels::quant::decode_row(table.format, &bytes[start..start + row_bytes], row);
                }
            }
        }
        Ok(())
    }

    fn rms_norm(
        &self,
        (x, weight): (Buf, Buf),
        out: &mut Lent,
        (n, dim): (usize, usize),
        eps: f32,
    ) -> Result<(), DeviceError> {
        let x = self.f32("rms_norm", x, n * dim)?;
        let weight = self.f32("rms_norm", weight, dim)?;
        for_each_chunk(
            &self.pool,
            out.front("rms_norm", n * dim)?,
            dim,
            &|i, row| {
                kernels::rms_norm(self.isa, &x[i * dim..(i + 1) * dim], weight, eps, row);
            },
        );
        Ok(())
    }

    fn matmul(&mut self, op: &MatmulOp) -> Result<(), DeviceError> {
        self.prepare_input(op)?;
        self.writing("matmul", op.out, |device, out| {
            let weights = match &device.weights[op.weight.idx as usize] {
                Prepared::Packed(data) => kernels::PanelMatrix::new(
                    op.weight.format,
                    op.weight.rows,
                    op.weight.cols,
                    data,
                ),
                Prepared::Mapped(_) => None,
            };
            let weights = weights.ok_or(DeviceError::NotAMatrix { op: "matmul" })?;
            let rows = op.weight.rows;
            let bias = match op.bias {
                Some(bias) => Some(front(
                    "matmul",
                    bias,
                    device.slabs.f32("matmul", bias)?,
                    rows,
                )?),
                None => None,
            };
            let epilogue = match op.epilogue {
                Epilogue::Store => kernels::Epilogue::Store,
                Epilogue::Accumulate => kernels::Epilogue::Accumulate,
            };
            let product = Product {
                weights,
                bias,
                epilogue,
            };
            let out = out.front("matmul", op.n * rows)?;
            kernels::matmul(
                device.isa,
                &device.pool,
                &product,
                &device.scratch.activations,
                out,
            );
            Ok(())
        })
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

    fn rope_angles(
        &self,
        (positions, inv_freq): (Buf, Buf),
        (cos, sin): (&mut Lent, &mut Lent),
        (n, half): (usize, usize),
    ) -> Result<(), DeviceError> {
        let positions =
            self.indices("rope_angles", positions, (n, "position", u32::MAX as usize))?;
        let inv_freq = self.f32("rope_angles", inv_freq, half)?;
        let cos = cos.front("rope_angles", n * half)?.chunks_exact_mut(half);
        let sin = sin.front("rope_angles", n * half)?.chunks_exact_mut(half);
        for ((position, cos), sin) in positions.iter().zip(cos).zip(sin) {
            kernels::rope_angles(*position, inv_freq, cos, sin);
        }
        Ok(())
    }

    fn rope(&self, op: &RopeOp, x: &mut Lent) -> Result<(), DeviceError> {
        let half = op.head_dim / 2;
        let dim = op.heads * op.head_dim;
        let cos = self.f32("rope", op.cos, op.n * half)?;
        let sin = self.f32("rope", op.sin, op.n * half)?;
        for_each_chunk(&self.pool, x.front("rope", op.n * dim)?, dim, &|i, row| {
            let angles = i * half..(i + 1) * half;
            let (cos, sin) = (&cos[angles.clone()], &sin[angles]);
            let rotation = kernels::Rotation {
                style: op.style,
                cos,
                sin,
            };
            kernels::rope_row(self.isa, op.head_dim, rotation, row);
        });
        Ok(())
    }

    fn silu_mul(&self, gate: &mut Lent, up: Buf, len: usize) -> Result<(), DeviceError> {
        /// Values a task takes: some microseconds of work.
        const CHUNK: usize = 4096;
        let up = self.f32("silu_mul", up, len)?;
        for_each_chunk(
            &self.pool,
            gate.front("silu_mul", len)?,
            CHUNK,
            &|i, gate| {
                let start = i * CHUNK;
                kernels::silu_mul(self.isa, gate, &up[start..start + gate.len()]);
            },
        );
        Ok(())
    }

    fn gather_rows(
        &self,
        (x, rows): (Buf, Buf),
        out: &mut Lent,
        (n, dim): (usize, usize),
    ) -> Result<(), DeviceError> {
        let x = self.slabs.f32("gather_rows", x)?;
        let rows = self.indices("gather_rows", rows, (n, "row", x.len() / dim))?;
        for (out, row) in out
            .front("gather_rows", n * dim)?
            .chunks_exact_mut(dim)
            .zip(rows)
        {
            let start = *row as usize * dim;
            out.copy_from_slice(&x[start..start + dim]);
        }
        Ok(())
    }
}
