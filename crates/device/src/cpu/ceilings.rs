//! What the machine gives at best, measured now: the figures that a run's own are held against.

use std::hint::black_box;
use std::time::{Duration, Instant};

use kvist_kernels::{DotProbe, Isa, Pool};

use crate::cpu::CpuOptions;
use crate::cpu::arena::Arena;
use crate::error::DeviceError;

/// Memory that is read: beyond any cache, and more where there are more threads and so caches. Code
/// that is not optimised is bound by itself, and no figure of its is worth the wait.
const READ_BYTES_MIN: usize = if cfg!(debug_assertions) { 4 } else { 256 } << 20;
const READ_BYTES_PER_THREAD: usize = READ_BYTES_MIN / 4;
/// Tasks for each thread in a pass: a core that is taken away for a while delays one of them.
const TASKS_PER_THREAD: usize = 8;
/// How long each of the two is tried; the best pass counts.
const PATIENCE: Duration = Duration::from_millis(300);
/// Work of one task of arithmetic, long beside the beginning and end of a pass.
const DOT_TASK: Duration = Duration::from_millis(1);

/// Rates that no computation on this machine exceeds for long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceilings {
    /// Bytes a second that all threads together read from memory in huge pages.
    pub read_bytes: f64,
    /// Integer additions and multiplications a second of all threads together: dot products of
    /// bytes in a cache, in the instructions of one tier.
    pub dot_ops: f64,
}

impl Ceilings {
    /// Measures for something more than half a second. Takes 256 MiB meanwhile, or 64 MiB for each thread if
    /// that is more.
    ///
    /// # Errors
    /// When the system refuses memory or threads.
    pub fn measure(options: CpuOptions) -> Result<Self, DeviceError> {
        let pool = Pool::new(options.threads).map_err(DeviceError::Threads)?;
        Ok(Self {
            read_bytes: read_rate(&pool)?,
            dot_ops: dot_rate(&pool, options.isa),
        })
    }

    /// The higher of each: two measurements err on one side.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            read_bytes: self.read_bytes.max(other.read_bytes),
            dot_ops: self.dot_ops.max(other.dot_ops),
        }
    }
}

fn read_rate(pool: &Pool) -> Result<f64, DeviceError> {
    let tasks = pool.threads() * TASKS_PER_THREAD;
    let bytes = READ_BYTES_MIN.max(pool.threads() * READ_BYTES_PER_THREAD);
    let mut memory = Arena::<u32>::new("memory to read", bytes / size_of::<u32>())?;
    // A page that was never written is nowhere.
    memory.fill(1);
    let part = memory.len() / tasks;
    // How many places of its part a thread reads at once. Which is fastest depends on the machine.
    let best = [1, 2, 4].map(|streams| {
        let pass = || {
            pool.run(tasks, &|task, _| {
                black_box(sum(&memory[task * part..][..part], streams));
            });
        };
        best_of(PATIENCE / 3, pass)
    });
    let least = best.into_iter().min().unwrap_or(PATIENCE);
    Ok(per_second((part * tasks * size_of::<u32>()) as u64, least))
}

/// Several chains of additions, so that memory and not the adder is what they wait for.
fn sum(values: &[u32], streams: usize) -> u32 {
    const CHAINS: usize = 64;
    let mut sums = [0u32; CHAINS];
    let stream = values.len() / streams;
    for at in (0..stream / CHAINS).map(|idx| idx * CHAINS) {
        for values in values.chunks_exact(stream) {
            for (sum, value) in sums.iter_mut().zip(&values[at..at + CHAINS]) {
                *sum = sum.wrapping_add(*value);
            }
        }
    }
    sums.into_iter().fold(0, u32::wrapping_add)
}

fn dot_rate(pool: &Pool, isa: Isa) -> f64 {
    let probe = DotProbe::default();
    let tasks = pool.threads() * TASKS_PER_THREAD;
    let rounds = rounds(|rounds| {
        let start = Instant::now();
        probe.run(isa, rounds);
        start.elapsed()
    });
    let least = best_of(PATIENCE, || {
        pool.run(tasks, &|_, _| {
            probe.run(isa, rounds);
        });
    });
    per_second(probe.run(isa, 1) * u64::from(rounds) * tasks as u64, least)
}

/// How many rounds take as long as a task should.
fn rounds(time: impl Fn(u32) -> Duration) -> u32 {
    let mut rounds = 64;
    while rounds < 1 << 24 && time(rounds) < DOT_TASK {
        rounds *= 2;
    }
    rounds
}

/// The shortest of the passes there was time for, one at least.
fn best_of(patience: Duration, pass: impl Fn()) -> Duration {
    let begin = Instant::now();
    let mut best = Duration::MAX;
    while best == Duration::MAX || begin.elapsed() < patience {
        let start = Instant::now();
        pass();
        best = best.min(start.elapsed());
    }
    best
}

#[allow(clippy::cast_precision_loss)] // a rate for people to read
fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_reads_every_value_in_any_number_of_streams() {
        let values: Vec<u32> = (0..1024).collect();
        for streams in [1, 2, 4] {
            assert_eq!(sum(&values, streams), 1024 * 1023 / 2);
        }
    }

    #[test]
    fn tasks_are_made_longer_until_they_last() {
        assert_eq!(rounds(|rounds| DOT_TASK * rounds / 1000), 1024);
        assert_eq!(rounds(|_| Duration::ZERO), 1 << 24);
    }

    #[test]
    fn the_best_pass_counts_and_there_is_one() {
        let runs = std::cell::Cell::new(0);
        let best = best_of(Duration::ZERO, || runs.set(runs.get() + 1));
        assert!(runs.get() == 1 && best < Duration::MAX);
    }

    #[test]
    fn two_measurements_are_the_higher_of_each() {
        let ceilings = |read_bytes, dot_ops| Ceilings {
            read_bytes,
            dot_ops,
        };
        assert_eq!(
            ceilings(1.0, 5.0).max(ceilings(2.0, 4.0)),
            ceilings(2.0, 5.0)
        );
    }
}
