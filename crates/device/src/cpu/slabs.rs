//! The device's buffers, and how an operation borrows one for writing and others for reading.

use crate::cpu::arena::Arena;
use crate::error::DeviceError;
use crate::ops::Buf;

/// One buffer's memory.
pub(super) enum Slab {
    F32(Arena<f32>),
    U32(Arena<u32>),
    /// An operation is writing it. Reading it meanwhile is an aliasing fault, found here.
    Lent,
}

#[derive(Default)]
pub(super) struct Slabs(Vec<Slab>);

impl Slabs {
    pub(super) fn push(&mut self, slab: Slab) -> Buf {
        self.0.push(slab);
        Buf(super::handle(self.0.len() - 1))
    }

    pub(super) fn f32(&self, op: &'static str, buf: Buf) -> Result<&[f32], DeviceError> {
        match &self.0[buf.0 as usize] {
            Slab::F32(values) => Ok(values),
            Slab::U32(_) | Slab::Lent => Err(DeviceError::WrongBuffer { op, buf: buf.0 }),
        }
    }

    pub(super) fn u32(&self, op: &'static str, buf: Buf) -> Result<&[u32], DeviceError> {
        match &self.0[buf.0 as usize] {
            Slab::U32(values) => Ok(values),
            Slab::F32(_) | Slab::Lent => Err(DeviceError::WrongBuffer { op, buf: buf.0 }),
        }
    }

    pub(super) fn f32_mut(
        &mut self,
        op: &'static str,
        buf: Buf,
    ) -> Result<&mut [f32], DeviceError> {
        match &mut self.0[buf.0 as usize] {
            Slab::F32(values) => Ok(values),
            Slab::U32(_) | Slab::Lent => Err(DeviceError::WrongBuffer { op, buf: buf.0 }),
        }
    }

    pub(super) fn u32_mut(
        &mut self,
        op: &'static str,
        buf: Buf,
    ) -> Result<&mut [u32], DeviceError> {
        match &mut self.0[buf.0 as usize] {
            Slab::U32(values) => Ok(values),
            Slab::F32(_) | Slab::Lent => Err(DeviceError::WrongBuffer { op, buf: buf.0 }),
        }
    }

    /// Takes an f32 buffer out for writing; [`Self::give_back`] returns it.
    pub(super) fn lend(&mut self, op: &'static str, buf: Buf) -> Result<Lent, DeviceError> {
        match std::mem::replace(&mut self.0[buf.0 as usize], Slab::Lent) {
            Slab::F32(values) => Ok(Lent { buf, values }),
            other => {
                self.0[buf.0 as usize] = other;
                Err(DeviceError::WrongBuffer { op, buf: buf.0 })
            }
        }
    }

    pub(super) fn give_back(&mut self, lent: Lent) {
        self.0[lent.buf.0 as usize] = Slab::F32(lent.values);
    }
}

/// A buffer an operation is writing.
#[must_use]
pub(super) struct Lent {
    buf: Buf,
    values: Arena<f32>,
}

impl Lent {
    pub(super) fn front(
        &mut self,
        op: &'static str,
        needed: usize,
    ) -> Result<&mut [f32], DeviceError> {
        front_mut(op, self.buf, &mut self.values, needed)
    }
}

/// The first `needed` elements.
pub(super) fn front<'a, T>(
    op: &'static str,
    buf: Buf,
    values: &'a [T],
    needed: usize,
) -> Result<&'a [T], DeviceError> {
    let have = values.len();
    values.get(..needed).ok_or(DeviceError::TooShort {
        op,
        buf: buf.0,
        have,
        needed,
    })
}

/// The first `needed` elements, for writing.
pub(super) fn front_mut<'a, T>(
    op: &'static str,
    buf: Buf,
    values: &'a mut [T],
    needed: usize,
) -> Result<&'a mut [T], DeviceError> {
    let have = values.len();
    values.get_mut(..needed).ok_or(DeviceError::TooShort {
        op,
        buf: buf.0,
        have,
        needed,
    })
}
