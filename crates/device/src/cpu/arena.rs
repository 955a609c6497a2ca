//! Zeroed memory straight from the system: large, page-aligned, committed on first touch.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;

use kvist_base::Bytes;

use crate::error::DeviceError;

/// Plain values for which all-zero bytes are valid and which need no drop.
///
/// # Safety
/// Implementors promise exactly that.
pub(super) unsafe trait Plain: Copy + Send + Sync + 'static {}

// SAFETY: primitive numbers are valid for every bit pattern.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for f32 {}

const HUGE_PAGE: usize = 2 << 20;

/// A fixed-length array in an anonymous mapping of its own.
///
/// Pages cost nothing until they are written, so a KV pool can be reserved at its cap. Mappings of
/// a huge page or more ask for huge pages: packed weights are read front to back every step, and a
/// 4 KiB stride would spend the step in the page-table walker.
#[derive(Debug)]
pub(super) struct Arena<T: Plain> {
    base: NonNull<T>,
    len: usize,
    map: NonNull<libc::c_void>,
    map_bytes: usize,
    values: PhantomData<T>,
}

// SAFETY: the mapping is owned by this value alone and `T: Send`.
unsafe impl<T: Plain> Send for Arena<T> {}
// SAFETY: shared access gives `&[T]` only and `T: Sync`.
unsafe impl<T: Plain> Sync for Arena<T> {}

impl<T: Plain> Arena<T> {
    /// `len` zeroes. `label` names the memory in the error.
    pub(super) fn new(label: &'static str, len: usize) -> Result<Self, DeviceError> {
        let refused = |bytes: usize| DeviceError::OutOfMemory {
            label,
            wanted: Bytes::of_len(bytes),
        };
        let bytes = len
            .checked_mul(size_of::<T>())
            .ok_or_else(|| refused(usize::MAX))?;
        let huge = bytes >= HUGE_PAGE;
        let slack = if huge { HUGE_PAGE } else { 0 };
        let map_bytes = bytes
            .max(1)
            .checked_add(slack)
            .ok_or_else(|| refused(bytes))?;
        // SAFETY: a fresh anonymous private mapping; no existing memory is involved.
        let map = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                map_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        let map = NonNull::new(map)
            .filter(|map| map.as_ptr() != libc::MAP_FAILED)
            .ok_or_else(|| refused(bytes))?;
        let offset = if huge {
            map.as_ptr().align_offset(HUGE_PAGE)
        } else {
            0
        };
        // SAFETY: offset < HUGE_PAGE = slack, so the result and `bytes` after it lie in the mapping;
        // the mapping is page-aligned, which satisfies every `Plain` type.
        let base = unsafe { map.byte_add(offset).cast::<T>() };
        if huge {
            // SAFETY: advice on our own mapping; a refusal leaves small pages, which also work.
            unsafe { libc::madvise(base.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
        }
        Ok(Self {
            base,
            len,
            map,
            map_bytes,
            values: PhantomData,
        })
    }
}

impl<T: Plain> Deref for Arena<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `base` points to `len` values inside our mapping, zeroed by the system and so valid.
        unsafe { slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }
}

impl<T: Plain> DerefMut for Arena<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for `deref`; `&mut self` makes it the only view.
        unsafe { slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }
}

impl<T: Plain> Drop for Arena<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping came from `mmap` with this length and no view outlives `self`.
        unsafe { libc::munmap(self.map.as_ptr(), self.map_bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_arenas_are_zeroed_and_writable() {
        for len in [0, 1, 1000, (5 << 20) / 4] {
            let mut arena = Arena::<f32>::new("test", len).expect("memory for a test");
            assert_eq!(arena.len(), len);
            assert!(arena.iter().all(|value| *value == 0.0));
            if let Some(last) = arena.last_mut() {
                *last = 1.0;
                assert_eq!(arena.last(), Some(&1.0));
            }
        }
    }

    #[test]
    fn an_impossible_size_is_refused_with_its_label() {
        let refused = Arena::<f32>::new("kv pool", usize::MAX / 8);
        assert!(matches!(
            refused,
            Err(DeviceError::OutOfMemory {
                label: "kv pool",
                ..
            })
        ));
        let refused = Arena::<f32>::new("kv pool", usize::MAX / 2);
        assert!(matches!(
            refused,
            Err(DeviceError::OutOfMemory {
                label: "kv pool",
                ..
            })
        ));
    }
}
