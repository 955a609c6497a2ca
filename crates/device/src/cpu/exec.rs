//! One function an operation: check sizes and indices at the door, then trust the kernel.

use kvist_kernels::{self as kernels, for_each_chunk};

use super::CpuDevice;
use super::slabs::{Lent, front};
use crate::error::DeviceError;
use crate::ops::{Buf, Op, RopeOp};

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
            Op::Qkv(op) => self.qkv(&op),
            Op::Gated(op) => self.gated(&op),
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
    pub(super) fn writing(
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

    pub(super) fn f32(
        &self,
        op: &'static str,
        buf: Buf,
        len: usize,
    ) -> Result<&[f32], DeviceError> {
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
