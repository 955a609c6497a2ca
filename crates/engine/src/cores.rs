//! How many threads compute on this machine when nobody says: one for each core, of one memory node.
//!
//! Two hardware threads of a core share its multipliers and its caches, which a product keeps busy
//! from one thread alone; a second only makes the barriers between products longer. And weights lie in
//! the memory of one node: threads on another read them over the link between the two, and every
//! barrier waits for the slowest.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;
use std::thread;

/// Cores this process may use, and those it computes on by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cores {
    /// Threads by default: cores of one memory node, at most as many as CPU quotas allow. At least 1.
    pub default: u32,
    /// As many as could be on all nodes.
    pub all: u32,
    /// Memory nodes that the allowed CPUs belong to.
    pub nodes: u32,
}

impl Cores {
    /// Cores of the CPUs that this process's affinity allows, and no more than its control groups' CPU
    /// quotas.
    pub fn of_process() -> Self {
        // Affinity and the quotas of every level of control group, rounded down: read by the library.
        let threads = thread::available_parallelism().map_or(1, |threads| threads.get());
        match Topology::read(Path::new("/")) {
            Some(topology) => topology.cores(threads),
            None => Self {
                default: narrow(threads),
                all: narrow(threads),
                nodes: 1,
            },
        }
    }

    /// Whether cores of other nodes are left idle by default.
    pub fn leaves_nodes_idle(self) -> bool {
        self.default < self.all
    }
}

/// What an operator should know of the default: only of interest where it leaves nodes idle.
impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            default,
            all,
            nodes,
        } = self;
        write!(
            f,
            "{default} threads, the cores of one of {nodes} memory nodes: start it with numactl \
             --cpunodebind and --membind to keep it there, or use all with --threads {all}"
        )
    }
}

/// The CPUs a process may use, as far as the system says how they belong together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Topology {
    /// By CPU: the first of the CPUs that share its core, and its memory node.
    cpus: BTreeMap<u32, (u32, Option<u32>)>,
}

impl Topology {
    /// From the files below `root`; `None` when they do not say which CPUs are allowed.
    fn read(root: &Path) -> Option<Self> {
        let status = fs::read_to_string(root.join("proc/self/status")).ok()?;
        let allowed = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
            .and_then(parse_cpus)?;
        let nodes = nodes(root);
        let node_of = |cpu: u32| {
            let has = |cpus: &[RangeInclusive<u32>]| cpus.iter().any(|range| range.contains(&cpu));
            nodes
                .iter()
                .find(|(_, cpus)| has(cpus))
                .map(|(node, _)| *node)
        };
        let cpus = allowed.into_iter().flatten().map(|cpu| {
            let core = first_sibling(root, cpu).unwrap_or(cpu);
            (cpu, (core, node_of(cpu)))
        });
        let cpus: BTreeMap<_, _> = cpus.collect();
        (!cpus.is_empty()).then_some(Self { cpus })
    }

    /// Cores to use where quotas allow `quota` CPUs: those of the node that has most.
    fn cores(&self, quota: usize) -> Cores {
        let mut by_node: BTreeMap<Option<u32>, BTreeSet<u32>> = BTreeMap::new();
        for (core, node) in self.cpus.values() {
            by_node.entry(*node).or_default().insert(*core);
        }
        let counts = by_node.values().map(BTreeSet::len);
        let [most, all] = [counts.clone().max(), Some(counts.sum())]
            .map(|count| narrow(count.unwrap_or(1).min(quota).max(1)));
        Cores {
            default: most,
            all,
            nodes: narrow(by_node.len()),
        }
    }
}

/// The CPUs of each memory node, as far as the system says. Nodes of memory alone have none.
fn nodes(root: &Path) -> Vec<(u32, Vec<RangeInclusive<u32>>)> {
    let Ok(entries) = fs::read_dir(root.join("sys/devices/system/node")) else {
        return Vec::new();
    };
    let node = |entry: fs::DirEntry| {
        let name = entry.file_name();
        let number = name.to_str()?.strip_prefix("node")?.parse().ok()?;
        let cpus = fs::read_to_string(entry.path().join("cpulist")).ok()?;
        Some((number, parse_cpus(&cpus)?))
    };
    entries.filter_map(|entry| node(entry.ok()?)).collect()
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

fn narrow(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
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

    /// A root with this affinity, siblings by CPU, and CPUs by node.
    fn root(case: &str, allowed: &str, (siblings, nodes): (&[&str], &[&str])) -> Root {
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
        for (node, cpus) in nodes.iter().enumerate() {
            let file = format!("sys/devices/system/node/node{node}/cpulist");
            write(&file, format!("{cpus}\n"));
        }
        root
    }

    const PAIRS: [&str; 8] = ["0,4", "1,5", "2,6", "3,7", "0,4", "1,5", "2,6", "3,7"];

    #[test]
    fn cpus_of_one_core_count_once() {
        let neighbours = ["0-1", "0-1", "2-3", "2-3"];
        let cases: [(&str, &[&str], Option<u32>); 8] = [
            ("0-7", &PAIRS, Some(4)),
            ("0-1,4-5", &PAIRS, Some(2)),
            ("4-7", &PAIRS, Some(4)),
            ("0-3", &neighbours, Some(2)),
            ("1", &neighbours, Some(1)),
            // Where the system does not say, each CPU is a core.
            ("0-3", &[], Some(4)),
            ("none", &PAIRS, None),
            ("3-1", &PAIRS, None),
        ];
        for (case, (allowed, siblings, cores)) in cases.into_iter().enumerate() {
            let root = root(&case.to_string(), allowed, (siblings, &[]));
            let found = Topology::read(&root.0).map(|topology| topology.cores(64));
            assert_eq!(found.map(|cores| cores.default), cores, "{allowed}");
            assert!(!found.is_some_and(Cores::leaves_nodes_idle), "one node");
        }
        assert_eq!(Topology::read(Path::new("/nowhere")), None);
    }

    #[test]
    fn nodes_are_read_from_the_system() {
        // The third node is memory alone.
        let root = root("nodes", "0-7", (&PAIRS, &["0-1,4-5", "2-3,6-7", ""]));
        let topology = Topology::read(&root.0).expect("it says");
        let nodes: Vec<_> = topology.cpus.values().map(|(_, node)| *node).collect();
        let [a, b] = [Some(0), Some(1)];
        assert_eq!(nodes, [a, a, b, b, a, a, b, b]);
    }

    /// CPUs, each a core of its own, by their nodes.
    fn topology(nodes: &[u32]) -> Topology {
        let cpus = (0..)
            .zip(nodes)
            .map(|(cpu, node)| (cpu, (cpu, Some(*node))));
        Topology {
            cpus: cpus.collect(),
        }
    }

    #[test]
    fn the_node_with_most_cores_is_the_default_and_quotas_limit_it() {
        type Case = (&'static [u32], usize, (u32, u32, u32));
        let cases: [Case; 6] = [
            (&[0, 0, 0, 0], 64, (4, 4, 1)),
            (&[0, 0, 1, 1], 64, (2, 4, 2)),
            (&[0, 1, 1, 1], 64, (3, 4, 2)),
            (&[0, 0, 1, 1], 3, (2, 3, 2)),
            (&[0, 0, 1, 1], 1, (1, 1, 2)),
            (&[5], 0, (1, 1, 1)),
        ];
        for (nodes, quota, (default, all, count)) in cases {
            let expected = Cores {
                default,
                all,
                nodes: count,
            };
            assert_eq!(topology(nodes).cores(quota), expected, "{nodes:?} {quota}");
        }
        let two = topology(&[0, 0, 1, 1]).cores(64);
        assert!(two.leaves_nodes_idle());
        let said = two.to_string();
        assert!(
            said.starts_with("2 threads, the cores of one of 2 memory nodes"),
            "{said}"
        );
        assert!(said.ends_with("--threads 4"), "{said}");
    }

    #[test]
    fn a_list_of_cpus_is_bounded() {
        assert_eq!(parse_cpus("0-3,8\n"), Some(vec![0..=3, 8..=8]));
        assert_eq!(parse_cpus("0-4294967295"), None);
        assert_eq!(parse_cpus(""), None);
    }

    #[test]
    fn this_machine_has_a_core() {
        let cores = Cores::of_process();
        assert!(cores.default >= 1 && cores.default <= cores.all && cores.nodes >= 1);
    }
}
