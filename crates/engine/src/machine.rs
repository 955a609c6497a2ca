//! Reads what the machine and its control groups allow. The parsing is `plan`'s; only the files are
//! touched here.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kvist_plan::{
    CgroupMemory, Machine, parse_cgroup_v1, parse_cgroup_v2, parse_meminfo, parse_reclaimable,
};

use crate::cores::Cores;

const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// The machine as this process may use it.
///
/// # Errors
/// When `/proc/meminfo` cannot be read or understood. Control groups that cannot be read set no
/// limit: on most machines there are none.
pub fn read_machine() -> io::Result<Machine> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let memory = parse_meminfo(&meminfo).map_err(io::Error::other)?;
    Ok(Machine::new(
        memory,
        &cgroup_levels(),
        Cores::of_process().default,
    ))
}

/// Every level of the memory control group this process is in, from its own up to the root:
/// each one's limit applies.
fn cgroup_levels() -> Vec<CgroupMemory> {
    let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut levels = Vec::new();
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let relative = path.trim_start_matches('/');
        if controllers.is_empty() {
            levels
                .extend(up_from(Path::new(CGROUP_ROOT), relative).filter_map(|dir| level_v2(&dir)));
        } else if controllers
            .split(',')
            .any(|controller| controller == "memory")
        {
            let root = Path::new(CGROUP_ROOT).join("memory");
            levels.extend(up_from(&root, relative).filter_map(|dir| level_v1(&dir)));
        }
    }
    levels
}

/// `root/a/b`, `root/a`, `root`. Inside a container the path may not exist below the mounted root;
/// the root itself then is the container's own group.
fn up_from(root: &Path, relative: &str) -> impl Iterator<Item = PathBuf> {
    let root = root.to_owned();
    let depth = Path::new(relative).components().count();
    let leaf = root.join(relative);
    leaf.ancestors()
        .take(depth + 1)
        .map(Path::to_owned)
        .collect::<Vec<_>>()
        .into_iter()
}

fn level_v2(dir: &Path) -> Option<CgroupMemory> {
    let max = fs::read_to_string(dir.join("memory.max")).ok()?;
    let current = fs::read_to_string(dir.join("memory.current")).ok()?;
    with_reclaimable(parse_cgroup_v2(&max, &current).ok()?, dir)
}

fn level_v1(dir: &Path) -> Option<CgroupMemory> {
    let limit = fs::read_to_string(dir.join("memory.limit_in_bytes")).ok()?;
    let usage = fs::read_to_string(dir.join("memory.usage_in_bytes")).ok()?;
    with_reclaimable(parse_cgroup_v1(&limit, &usage).ok()?, dir)
}

/// File pages counted against the group go when memory is needed.
fn with_reclaimable(level: CgroupMemory, dir: &Path) -> Option<CgroupMemory> {
    let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
    Some(level.without(parse_reclaimable(&stat)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_up_to_the_mount_is_visited_once() {
        let levels: Vec<_> = up_from(Path::new("/sys/fs/cgroup"), "a/b").collect();
        let expected = ["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a", "/sys/fs/cgroup"];
        assert_eq!(levels, expected.map(PathBuf::from));
        assert_eq!(up_from(Path::new("/r"), "").count(), 1);
    }

    #[test]
    fn this_machine_has_memory_and_cores() {
        let machine = read_machine().expect("Linux has /proc/meminfo");
        assert!(machine.mem_total.0 > 0 && machine.cores > 0);
        assert!(machine.available() <= machine.total());
    }
}
