//! An allocator that counts what each thread holds.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Meter;

#[global_allocator]
static METER: Meter = Meter;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

/// The most memory `work` held at once beyond what was held before, and its largest allocation.
pub struct Usage {
    pub peak: usize,
    pub largest: usize,
}

pub fn measure<T>(work: impl FnOnce() -> T) -> (T, Usage) {
    let before = LIVE.get();
    PEAK.set(before);
    LARGEST.set(0);
    let result = work();
    let peak = usize::try_from(PEAK.get() - before).unwrap();
    (
        result,
        Usage {
            peak,
            largest: LARGEST.get(),
        },
    )
}

fn grow(bytes: usize) {
    LIVE.set(LIVE.get() + bytes.cast_signed());
    PEAK.set(PEAK.get().max(LIVE.get()));
    LARGEST.set(LARGEST.get().max(bytes));
}

fn shrink(bytes: usize) {
    LIVE.set(LIVE.get() - bytes.cast_signed());
}

// SAFETY: every call goes to the system's allocator unchanged; the counters are thread-local
// cells without destructors, which never allocate.
unsafe impl GlobalAlloc for Meter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's duties are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        shrink(layout.size());
        // SAFETY: the caller's duties are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        grow(new_size); // both may exist while the content moves
        shrink(layout.size());
        // SAFETY: the caller's duties are passed on.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[test]
fn the_meter_counts() {
    let (kept, usage) = measure(|| {
        drop(vec![0u8; 5000]);
        vec![0u8; 3000]
    });
    assert_eq!(kept.len(), 3000);
    assert_eq!((usage.peak, usage.largest), (5000, 5000));
}
