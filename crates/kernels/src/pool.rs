//! Worker threads that run numbered tasks.
//!
//! A run is a *gate* that workers may enter while it is open. The caller opens it, works itself,
//! closes it when no task is left, and waits only for workers that did enter. A worker that is
//! still asleep or lost its core delays nobody: its share is taken by the others.

use std::any::Any;
use std::cell::UnsafeCell;
use std::io;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long an idle thread polls before it sleeps: longer than the serial work between two
/// runs of one layer, shorter than a scheduler's time slice.
const SPIN: Duration = Duration::from_micros(50);

/// Polls between two looks at the clock.
const POLLS_PER_LOOK: u32 = 32;

/// What a pool runs: called with (task index, worker index).
type Task<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// A set of threads that run the numbered tasks of one job at a time; the caller is worker 0.
///
/// Threads are joined on drop.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    threads: usize,
}

impl Pool {
    /// Starts `threads - 1` threads: the caller of [`Pool::run`] is the first worker.
    ///
    /// # Errors
    /// When the system refuses a thread; those already started are joined.
    pub fn new(threads: NonZeroUsize) -> io::Result<Self> {
        let threads = threads.get();
        if threads > Gate::WORKERS_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "too many threads for a pool",
            ));
        }
        let mut pool = Self {
            shared: Arc::new(Shared::new()),
            workers: Vec::new(),
            threads,
        };
        for worker in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let handle = thread::Builder::new()
                .name(format!("kvist-worker-{worker}"))
                .spawn(move || shared.work(worker))?;
            pool.workers.push(handle);
        }
        Ok(pool)
    }

    /// Workers, the caller included: worker indices are `0..threads()`.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `task(index, worker)` exactly once for each index in `0..tasks` and returns when all
    /// are done. Indices are claimed in ascending order by whichever worker is free; at any time
    /// a worker index is used by one thread only.
    ///
    /// # Panics
    /// With the payload of the first task that panicked, after every other task has run. Also
    /// when called from inside a task of the same pool, or from two threads at once.
    pub fn run(&self, tasks: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        let was_busy = self.shared.busy.swap(true, Ordering::Acquire);
        assert!(
            !was_busy,
            "Pool::run is not reentrant and serves one caller at a time"
        );
        let job = Job::new(tasks, task);
        if tasks > 1 && self.threads > 1 {
            self.shared.open(job);
            self.shared.claim_all(job, 0);
            self.shared.close();
        } else {
            (0..tasks).for_each(|index| self.shared.run_one(job, index, 0));
        }
        let panicked = lock(&self.shared.panicked).take();
        self.shared.busy.store(false, Ordering::Release);
        if let Some(payload) = panicked {
            resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        drop(lock(&self.shared.sleep));
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its tasks, so it has none of its own to report.
            let _ = worker.join();
        }
    }
}

/// A job with its lifetime erased: valid only between `open` and the return of `close`.
#[derive(Clone, Copy)]
struct Job {
    tasks: usize,
    task: *const Task<'static>,
}

impl Job {
    fn new(tasks: usize, task: &Task<'_>) -> Self {
        // SAFETY: only the lifetime changes. The pointer is followed by `Shared::run_one` alone,
        // on the caller's stack below `Pool::run` or by a worker inside the gate, and `run` does
        // not return (nor unwind: tasks' panics are caught) before `close` saw the gate empty.
        let task = unsafe { std::mem::transmute::<*const Task<'_>, *const Task<'static>>(task) };
        Self { tasks, task }
    }
}

/// The gate word: `| run number: 47 | open: 1 | workers inside: 16 |`.
struct Gate;

impl Gate {
    const INSIDE: u64 = 0xFFFF;
    const OPEN: u64 = 0x1_0000;
    const RUN: u64 = 0x2_0000;
    const WORKERS_MAX: usize = 0xFFFF;
}

/// Keeps a hot word from sharing a cache line (or a prefetched pair of lines) with another.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Lonely<T>(T);

struct Shared {
    gate: Lonely<AtomicU64>,
    /// The next unclaimed index of the current job.
    next: Lonely<AtomicUsize>,
    /// Written by the caller while the gate is closed and empty, read by workers inside it.
    job: UnsafeCell<Option<Job>>,
    /// Whether a run is under way.
    busy: AtomicBool,
    stop: AtomicBool,
    /// Threads asleep on `wake` or `emptied`, or about to be; changed under `sleep`.
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
    emptied: Condvar,
    panicked: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is the only field that is not `Sync`. It is written by the one caller that holds
// `busy`, while the gate is closed and no worker is inside; it is read by workers that entered
// the open gate. Entering (acquire) follows opening (release), and the next write follows the
// last leaving (release) seen by `close` (acquire). The task it points to is itself `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer in `job` is never followed outside a run.
unsafe impl Send for Shared {}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("gate", &self.gate.0)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn new() -> Self {
        Self {
            gate: Lonely::default(),
            next: Lonely::default(),
            job: UnsafeCell::new(None),
            busy: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
            emptied: Condvar::new(),
            panicked: Mutex::new(None),
        }
    }

    /// Publishes a job and lets workers in. Only for the holder of `busy`, gate closed and empty.
    fn open(&self, job: Job) {
        // SAFETY: the gate is closed and empty, so no worker reads the cell (see `Sync`).
        unsafe { *self.job.get() = Some(job) };
        self.next.0.store(0, Ordering::Relaxed);
        let closed = self.gate.0.load(Ordering::Relaxed);
        debug_assert_eq!(closed & (Gate::OPEN | Gate::INSIDE), 0);
        let opened = closed.wrapping_add(Gate::RUN) | Gate::OPEN;
        self.gate.0.store(opened, Ordering::SeqCst);
        // Sequentially consistent with `rest`: either the sleeper is counted here, or it sees
        // the open gate before it sleeps.
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.sleep));
            self.wake.notify_all();
        }
    }

    /// Shuts the gate and waits for the workers inside to leave.
    fn close(&self) {
        self.gate.0.fetch_and(!Gate::OPEN, Ordering::SeqCst);
        let is_empty = || self.gate.0.load(Ordering::SeqCst) & Gate::INSIDE == 0;
        if !spin_until(is_empty) {
            self.rest(&self.emptied, is_empty);
        }
    }

    /// A worker thread's life.
    fn work(&self, worker: usize) {
        let mut last_run = 0;
        loop {
            let is_due = || self.is_open_after(last_run) || self.stop.load(Ordering::SeqCst);
            if !spin_until(is_due) {
                self.rest(&self.wake, is_due);
            }
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            if let Some((run, job)) = self.enter(last_run) {
                last_run = run;
                self.claim_all(job, worker);
                self.leave();
            }
        }
    }

    fn is_open_after(&self, last_run: u64) -> bool {
        let gate = self.gate.0.load(Ordering::SeqCst);
        gate & Gate::OPEN != 0 && gate / Gate::RUN != last_run
    }

    /// Enters an open gate; `None` when it shut first.
    fn enter(&self, last_run: u64) -> Option<(u64, Job)> {
        let admit = |gate: u64| {
            let is_new = gate & Gate::OPEN != 0 && gate / Gate::RUN != last_run;
            is_new.then_some(gate + 1)
        };
        let gate = self
            .gate
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, admit)
            .ok()?;
        // SAFETY: this thread is counted inside the gate, so the caller does not write the cell
        // until it has left (see `Sync`).
        let job = unsafe { *self.job.get() }?;
        Some((gate / Gate::RUN, job))
    }

    fn leave(&self) {
        let before = self.gate.0.fetch_sub(1, Ordering::SeqCst);
        let was_last = before & (Gate::OPEN | Gate::INSIDE) == 1;
        if was_last && self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.sleep));
            self.emptied.notify_all();
        }
    }

    fn claim_all(&self, job: Job, worker: usize) {
        loop {
            let index = self.next.0.fetch_add(1, Ordering::Relaxed);
            if index >= job.tasks {
                return;
            }
            self.run_one(job, index, worker);
        }
    }

    fn run_one(&self, job: Job, index: usize, worker: usize) {
        // SAFETY: this thread is the caller inside `Pool::run` or a worker inside the gate, so
        // the borrow that `Job::new` erased is still live.
        let task = unsafe { &*job.task };
        // The payload is re-raised by `run`: the caller decides what a broken state means.
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| task(index, worker))) {
            lock(&self.panicked).get_or_insert(payload);
        }
    }

    /// Sleeps until `is_due`; whoever makes it true looks at `sleepers` after doing so.
    fn rest(&self, signal: &Condvar, is_due: impl Fn() -> bool) {
        let mut guard = lock(&self.sleep);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while !is_due() {
            guard = signal.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Polls for at most [`SPIN`]; says whether the condition came true.
fn spin_until(is_due: impl Fn() -> bool) -> bool {
    let mut since: Option<Instant> = None;
    loop {
        for _ in 0..POLLS_PER_LOOK {
            if is_due() {
                return true;
            }
            std::hint::spin_loop();
        }
        if since.get_or_insert_with(Instant::now).elapsed() >= SPIN {
            return false;
        }
    }
}

/// Locks whatever a panicking holder left: none of these mutexes guards a broken invariant.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    fn pool(threads: usize) -> Pool {
        Pool::new(NonZeroUsize::new(threads).unwrap()).unwrap()
    }

    #[test]
    fn every_index_runs_exactly_once() {
        for threads in [1, 2, 3, 4, 9] {
            let pool = pool(threads);
            assert_eq!(pool.threads(), threads);
            for tasks in [0, 1, 2, 3, 7, 64, 1000] {
                let runs: Vec<AtomicU32> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
                pool.run(tasks, &|index, worker| {
                    assert!(worker < threads);
                    runs[index].fetch_add(1, Ordering::Relaxed);
                });
                assert!(runs.iter().all(|n| n.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn ten_thousand_tiny_runs_lose_nothing() {
        for threads in [2, 4] {
            let pool = pool(threads);
            let total = AtomicUsize::new(0);
            for _ in 0..10_000 {
                pool.run(5, &|index, _| {
                    total.fetch_add(index + 1, Ordering::Relaxed);
                });
            }
            assert_eq!(total.into_inner(), 10_000 * 15);
        }
    }

    #[test]
    fn sleeping_workers_wake_up() {
        let pool = pool(3);
        for _ in 0..20 {
            thread::sleep(SPIN * 4);
            let workers = Mutex::new(std::collections::BTreeSet::new());
            pool.run(3, &|_, worker| {
                workers.lock().unwrap().insert(worker);
                // Long enough that the others arrive and take their share.
                thread::sleep(Duration::from_millis(5));
            });
            assert!(workers.into_inner().unwrap().len() > 1);
        }
    }

    #[test]
    fn a_worker_index_is_never_shared() {
        let pool = pool(4);
        let inside: Vec<AtomicBool> = (0..4).map(|_| AtomicBool::new(false)).collect();
        for _ in 0..200 {
            pool.run(50, &|_, worker| {
                assert!(!inside[worker].swap(true, Ordering::SeqCst));
                std::hint::spin_loop();
                inside[worker].store(false, Ordering::SeqCst);
            });
        }
    }

    #[test]
    fn a_panic_is_raised_after_all_tasks_and_the_pool_lives_on() {
        for threads in [1, 2, 4] {
            let pool = pool(threads);
            let done = AtomicUsize::new(0);
            let raised = catch_unwind(AssertUnwindSafe(|| {
                pool.run(100, &|index, _| {
                    if index == 40 {
                        resume_unwind(Box::new("task 40"));
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                });
            }));
            assert_eq!(raised.unwrap_err().downcast_ref::<&str>(), Some(&"task 40"));
            assert_eq!(done.load(Ordering::Relaxed), 99);
            pool.run(10, &|_, _| {
                done.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(done.into_inner(), 109);
        }
    }

    #[test]
    fn a_nested_run_is_refused() {
        for threads in [1, 2] {
            let pool = pool(threads);
            let raised = catch_unwind(AssertUnwindSafe(|| {
                pool.run(2, &|_, _| pool.run(2, &|_, _| ()));
            }));
            let payload = raised.unwrap_err();
            let message = payload.downcast_ref::<&str>().copied().unwrap_or_default();
            assert!(message.contains("not reentrant"), "{message:?}");
            pool.run(2, &|_, _| ());
        }
    }
}
