//! What a process holds of the machine's memory, as the system counts it.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::Serialize;

/// How often the sampler looks.
const INTERVAL: Duration = Duration::from_millis(50);

/// Bytes of a process at one moment: the lines of `/proc/PID/smaps_rollup` that matter here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProcessMemory {
    /// Pages in its page table, shared ones in full.
    pub rss: u64,
    /// The same, shared pages divided among those who share them.
    pub pss: u64,
    /// The part of `pss` that belongs to files: the system takes it back when it needs it.
    pub pss_file: u64,
}

impl ProcessMemory {
    /// What the process holds now.
    pub fn of(pid: u32) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        Self::parse(&text).ok_or_else(|| io::Error::other("smaps_rollup has no Rss and Pss"))
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            let kib: u64 = line
                .strip_prefix(':')?
                .trim()
                .strip_suffix(" kB")?
                .parse()
                .ok()?;
            Some(kib << 10)
        };
        let (rss, pss) = (field("Rss")?, field("Pss")?);
        // Linux before 5.14 does not divide Pss; what is not anonymous is then a file's.
        let pss_file = match field("Pss_File") {
            Some(file) => file,
            None => pss.saturating_sub(field("Anonymous")?),
        };
        Some(Self { rss, pss, pss_file })
    }

    /// What it holds for itself: all but clean pages of files, which cost nobody anything.
    pub fn own(&self) -> u64 {
        self.pss.saturating_sub(self.pss_file)
    }
}

/// The most memory the process ever had in its page table, as the kernel keeps it.
pub fn high_water(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = status.lines().find_map(|line| {
        line.strip_prefix("VmHWM:")?
            .trim()
            .strip_suffix(" kB")?
            .parse::<u64>()
            .ok()
    });
    kib.map(|kib| kib << 10)
        .ok_or_else(|| io::Error::other("status has no VmHWM"))
}

/// One look at the process, so long after the sampler began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    pub at: Duration,
    pub memory: ProcessMemory,
}

/// A thread that looks at a process's memory until it is asked for what it saw.
#[derive(Debug)]
pub struct Sampler {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Series>,
}

impl Sampler {
    /// Begins to look. A process that ends ends the series.
    pub fn start(pid: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let begun = Instant::now();
            let mut samples = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                let Ok(memory) = ProcessMemory::of(pid) else {
                    break;
                };
                let at = begun.elapsed();
                samples.push(Sample { at, memory });
                thread::sleep(INTERVAL);
            }
            Series { samples }
        });
        Self { stop, thread }
    }

    /// Everything it saw.
    pub fn finish(self) -> Series {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the sampler does not panic")
    }
}

/// Samples in the order of time.
#[derive(Clone, Debug, Default)]
pub struct Series {
    samples: Vec<Sample>,
}

impl Series {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.samples.len()
    }

    /// The most that `what` ever was; 0 without samples.
    pub fn peak(&self, what: impl Fn(&ProcessMemory) -> u64) -> u64 {
        let values = self.samples.iter().map(|sample| what(&sample.memory));
        values.max().unwrap_or(0)
    }
}

/// Waits until the process's resident memory is at most `limit`, and says how long that took;
/// `None` when `patience` was over first, or the process ended.
pub fn await_rss(pid: u32, limit: u64, patience: Duration) -> Option<Duration> {
    let begun = Instant::now();
    loop {
        let memory = ProcessMemory::of(pid).ok()?;
        let waited = begun.elapsed();
        if memory.rss <= limit {
            return Some(waited);
        }
        if waited > patience {
            return None;
        }
        thread::sleep(INTERVAL);
    }
}

/// A control group of memory with a limit, and what the kernel counted in it. Removed on drop, when
/// nothing runs in it any more.
#[derive(Debug)]
pub struct Cgroup {
    dir: PathBuf,
    version: CgroupVersion,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CgroupVersion {
    V1,
    V2,
}

/// What happened in a control group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CgroupCounts {
    /// Most bytes charged at one time, page cache included.
    pub peak: u64,
    /// Times the limit was met, so that the kernel had to reclaim.
    pub limit_met: u64,
    /// Processes killed for want of memory.
    pub killed: u64,
}

impl Cgroup {
    /// A new group beside ours with this limit. Takes the right to make one, usually root's.
    pub fn new(limit: u64) -> io::Result<Self> {
        let mount = PathBuf::from("/sys/fs/cgroup");
        let (parent, version, limit_file) = if mount.join("memory").is_dir() {
            (
                mount.join("memory"),
                CgroupVersion::V1,
                "memory.limit_in_bytes",
            )
        } else {
            (mount, CgroupVersion::V2, "memory.max")
        };
        let dir = parent.join(format!("kvist-bench-{}", std::process::id()));
        let at = |error: io::Error| io::Error::other(format!("{}: {error}", dir.display()));
        fs::create_dir(&dir).map_err(at)?;
        let group = Self {
            dir: dir.clone(),
            version,
        };
        fs::write(dir.join(limit_file), limit.to_string()).map_err(at)?;
        Ok(group)
    }

    /// The file a process writes its id to in order to enter.
    pub fn door(&self) -> PathBuf {
        self.dir.join("cgroup.procs")
    }

    /// What happened so far.
    pub fn counts(&self) -> io::Result<CgroupCounts> {
        let read = |name: &str| fs::read_to_string(self.dir.join(name));
        let number = |text: &str| text.trim().parse().map_err(io::Error::other);
        let counter = |text: &str, name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name));
            value.map_or(Ok(0), number)
        };
        Ok(match self.version {
            CgroupVersion::V1 => CgroupCounts {
                peak: number(&read("memory.max_usage_in_bytes")?)?,
                limit_met: number(&read("memory.failcnt")?)?,
                killed: counter(&read("memory.oom_control")?, "oom_kill ")?,
            },
            CgroupVersion::V2 => {
                let events = read("memory.events")?;
                CgroupCounts {
                    peak: number(&read("memory.peak")?)?,
                    limit_met: counter(&events, "max ")?,
                    killed: counter(&events, "oom_kill ")?,
                }
            }
        })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that was just killed may take a moment to leave.
        for _ in 0..20 {
            if fs::remove_dir(&self.dir).is_ok() {
                return;
            }
            thread::sleep(INTERVAL);
        }
        eprintln!("warning: {} could not be removed", self.dir.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollup_is_read_on_new_and_old_kernels() {
        let new = "00-7f ---p 00000000 00:00 0    [rollup]\nRss:  1704 kB\nPss:  246 kB\n\
                   Pss_Dirty: 112 kB\nPss_Anon: 112 kB\nPss_File: 134 kB\nAnonymous: 112 kB\n";
        let memory = ProcessMemory::parse(new).expect("all lines are there");
        assert_eq!(memory.rss, 1704 << 10);
        assert_eq!(memory.own(), 112 << 10);
        let old = "Rss:  1704 kB\nPss:  246 kB\nAnonymous:  100 kB\n";
        let memory = ProcessMemory::parse(old).expect("all lines are there");
        assert_eq!(memory.own(), 100 << 10);
        for broken in ["", "Rss: 1 kB\n", "Rss: x kB\nPss: 1 kB\nAnonymous: 1 kB\n"] {
            assert_eq!(ProcessMemory::parse(broken), None, "{broken}");
        }
    }

    #[test]
    fn a_sampler_sees_what_the_process_touches() {
        let pid = std::process::id();
        let sampler = Sampler::start(pid);
        let touched = vec![1u8; 64 << 20];
        thread::sleep(4 * INTERVAL);
        assert_eq!(touched[touched.len() / 2], 1);
        drop(touched);
        let series = sampler.finish();
        assert!(series.count() > 0);
        assert!(series.peak(|memory| memory.rss) >= 64 << 20);
        assert!(high_water(pid).expect("our own") >= 64 << 20);
        assert_eq!(await_rss(pid, 0, Duration::ZERO), None);
        assert!(await_rss(pid, u64::MAX, Duration::ZERO).is_some());
    }
}
