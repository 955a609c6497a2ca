//! Zeroed memory straight from the system: large, page-aligned, committed on first touch.

use std::io;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};
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
/// 4 KiB stride would spend the step in the page-table walker. Smaller ones ask for none, whatever
/// the system does by default: a huge page would commit their neighbours too.
#[derive(Debug)]
pub(super) struct Arena<T: Plain> {
    base: NonNull<T>,
    len: usize,
    map: NonNull<libc::c_void>,
    map_bytes: usize,
    extent_bytes: usize,
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
        let advice = if huge {
            libc::MADV_HUGEPAGE
        } else {
            libc::MADV_NOHUGEPAGE
        };
        // SAFETY: advice on our own mapping; refused where there are no huge pages, so that pages
        // are small, which also works.
        unsafe { libc::madvise(base.as_ptr().cast(), bytes, advice) };
        Ok(Self {
            base,
            len,
            map,
            map_bytes,
            extent_bytes: if huge { HUGE_PAGE } else { page_bytes() },
            values: PhantomData,
        })
    }
}

impl Arena<u8> {
    /// What the system commits at a touch, at most: the arena begins with a whole one.
    pub(super) fn extent_bytes(&self) -> usize {
        self.extent_bytes
    }

    /// The arena's size in whole pages.
    pub(super) fn paged_bytes(&self) -> usize {
        self.len.next_multiple_of(page_bytes())
    }

    /// Gives a part of the memory back to the system. It reads as zeroes until written again.
    ///
    /// # Errors
    /// The system's, such as for locked memory; the content is untouched then.
    ///
    /// # Panics
    /// When the range does not begin and end at a page's edge within [`Self::paged_bytes`].
    pub(super) fn give_back(&mut self, bytes: Range<usize>) -> io::Result<()> {
        let page = page_bytes();
        assert!(bytes.start.is_multiple_of(page) && bytes.end.is_multiple_of(page));
        assert!(bytes.start <= bytes.end && bytes.end <= self.paged_bytes());
        // SAFETY: whole pages of our own mapping: `base` is page-aligned, and the mapping has whole
        // pages up to `paged_bytes`, which belong to no other value. `&mut self` excludes views of
        // them; zeroes are valid bytes.
        let refused = unsafe {
            let start = self.base.as_ptr().add(bytes.start);
            libc::madvise(start.cast(), bytes.len(), libc::MADV_DONTNEED)
        };
        if refused == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Bytes of the pages that are in memory, as the system says.
    #[cfg(test)]
    pub(super) fn resident_bytes(&self) -> usize {
        let page = page_bytes();
        let mut pages = vec![0u8; self.paged_bytes() / page];
        // SAFETY: the range is ours, as for `give_back`, and `pages` has a byte for each page of it.
        let refused = unsafe {
            libc::mincore(
                self.base.as_ptr().cast(),
                self.paged_bytes(),
                pages.as_mut_ptr(),
            )
        };
        assert_eq!(refused, 0, "{}", io::Error::last_os_error());
        pages.iter().filter(|page| **page & 1 == 1).count() * page
    }
}

/// Bytes of a page that is not huge.
fn page_bytes() -> usize {
    // SAFETY: asks for a constant of the system.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).expect("every system has a page size")
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

    #[test]
    fn memory_given_back_is_not_resident_and_reads_as_zeroes() {
        // Below a huge page; above, ending within one.
        for len in [(1 << 20) + 100, (9 << 20) + 5000] {
            let mut arena = Arena::<u8>::new("test", len).expect("memory for a test");
            assert_eq!(arena.resident_bytes(), 0);
            arena.fill(1);
            assert_eq!(arena.resident_bytes(), arena.paged_bytes());
            let extent = arena.extent_bytes();
            let last = len / extent * extent;
            arena.give_back(extent..2 * extent).expect("not locked");
            arena
                .give_back(last..arena.paged_bytes())
                .expect("not locked");
            let given = extent + arena.paged_bytes() - last;
            assert_eq!(arena.resident_bytes(), arena.paged_bytes() - given);
            let zeroes = arena.iter().filter(|byte| **byte == 0).count();
            assert_eq!(zeroes, extent + len - last);
        }
    }

    #[test]
    fn a_touch_commits_no_more_than_its_extent() {
        for len in [100_000, 8 << 20] {
            let mut arena = Arena::<u8>::new("test", len).expect("memory for a test");
            arena[len / 2] = 1;
            assert!(arena.resident_bytes() <= arena.extent_bytes());
        }
    }
}
