//! How many threads compute on this machine when nobody says: one for each core.
//!
//! Two hardware threads of a core share its multipliers and its caches, which a product keeps busy
//! from one thread alone; a second only makes the barriers between products longer.

use std::collections::BTreeSet;
use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;
use std::thread;

/// Cores this process may use: those of the CPUs its affinity allows, and no more than its control
/// groups' CPU quotas. At least 1.
pub(crate) fn cores() -> u32 {
    // Affinity and the quotas of every level of control group, rounded down: read by the library.
    let threads = thread::available_parallelism().map_or(1, |threads| threads.get());
    let cores = physical(Path::new("/")).map_or(threads, |physical| physical.min(threads));
    u32::try_from(cores).unwrap_or(u32::MAX)
}

/// Cores that the CPUs allowed to this process belong to, from the files below `root`; `None` when
/// they do not say which CPUs those are.
fn physical(root: &Path) -> Option<usize> {
    let status = fs::read_to_string(root.join("proc/self/status")).ok()?;
    let allowed = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .and_then(parse_cpus)?;
    let cores: BTreeSet<u32> = allowed
        .into_iter()
        .flatten()
        .map(|cpu| first_sibling(root, cpu).unwrap_or(cpu))
        .collect();
    (!cores.is_empty()).then_some(cores.len())
}

/// The first of the CPUs that share a core with `cpu`; `None` where the system does not say.
fn first_sibling(root: &Path, cpu: u32) -> Option<u32> {
    let file = format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    let siblings = parse_cpus(&fs::read_to_string(root.join(file)).ok()?)?;
    siblings.into_iter().map(|range| *range.start()).min()
}

/// Most CPUs a list may name: more than any kernel can be built for.
const CPUS_MAX: u32 = 1 << 16;

/// Reads a list as the kernel writes them, such as `0-3,8`.
fn parse_cpus(list: &str) -> Option<Vec<RangeInclusive<u32>>> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        (first <= last && last < CPUS_MAX).then_some(first..=last)
    };
    list.trim().split(',').map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// A directory that goes with the value.
    struct Root(PathBuf);

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// A root with this affinity, and siblings by CPU.
    fn root(case: usize, allowed: &str, siblings: &[&str]) -> Root {
        let name = format!("kvist-cores-{case}-{}", std::process::id());
        let root = Root(std::env::temp_dir().join(name));
        let write = |path: &str, text: String| {
            let path = root.0.join(path);
            fs::create_dir_all(path.parent().expect("a file below the root")).expect("writable");
            fs::write(path, text).expect("writable");
        };
        let status = format!("Name:\tkvist\nCpus_allowed_list:\t{allowed}\nThreads:\t1\n");
        write("proc/self/status", status);
        for (cpu, siblings) in siblings.iter().enumerate() {
            let file = format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
            write(&file, format!("{siblings}\n"));
        }
        root
    }

    #[test]
    fn cpus_of_one_core_count_once() {
        let pairs = ["0,4", "1,5", "2,6", "3,7", "0,4", "1,5", "2,6", "3,7"];
        let neighbours = ["0-1", "0-1", "2-3", "2-3"];
        let cases: [(&str, &[&str], Option<usize>); 8] = [
            ("0-7", &pairs, Some(4)),
            ("0-1,4-5", &pairs, Some(2)),
            ("4-7", &pairs, Some(4)),
            ("0-3", &neighbours, Some(2)),
            ("1", &neighbours, Some(1)),
            // Where the system does not say, each CPU is a core.
            ("0-3", &[], Some(4)),
            ("none", &pairs, None),
            ("3-1", &pairs, None),
        ];
        for (case, (allowed, siblings, cores)) in cases.into_iter().enumerate() {
            let root = root(case, allowed, siblings);
            assert_eq!(physical(&root.0), cores, "{allowed}");
        }
        assert_eq!(physical(Path::new("/nowhere")), None);
    }

    #[test]
    fn a_list_of_cpus_is_bounded() {
        assert_eq!(parse_cpus("0-3,8\n"), Some(vec![0..=3, 8..=8]));
        assert_eq!(parse_cpus("0-4294967295"), None);
        assert_eq!(parse_cpus(""), None);
    }

    #[test]
    fn this_machine_has_a_core() {
        assert!(cores() >= 1);
    }
}
