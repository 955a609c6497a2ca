//! An allocator that counts what the whole process asks for.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

struct Meter;

#[global_allocator]
static METER: Meter = Meter;

static BYTES: AtomicUsize = AtomicUsize::new(0);

/// Begins anew, and returns the bytes asked for until now, whether freed since or not.
pub fn reset() -> usize {
    BYTES.swap(0, Ordering::Relaxed)
}

fn count(bytes: usize) {
    BYTES.fetch_add(bytes, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator unchanged; the counters are atomics, which
// never allocate.
unsafe impl GlobalAlloc for Meter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's duties are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's duties are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size);
        // SAFETY: the caller's duties are passed on.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}
