//! What the planner knows about the machine, and how to read it from Linux's text files.

use kvist_base::Bytes;

use crate::error::ProbeError;

/// A cgroup v1 without a limit reports the largest multiple of a page below 2^63.
const CGROUP_V1_UNLIMITED: u64 = 1 << 62;

/// The memory and cores a process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Memory of the machine.
    pub mem_total: Bytes,
    /// Memory the kernel could hand out now without swapping.
    pub mem_available: Bytes,
    /// The container's limit, when there is one.
    pub cgroup_limit: Option<Bytes>,
    /// What the container holds and cannot give back.
    pub cgroup_used: Option<Bytes>,
    /// Cores the process may run on.
    pub cores: u32,
}

impl Machine {
    /// A machine seen from inside nested control groups, in any order. Every level binds, so
    /// the limit is the smallest and what is free is the smallest headroom of any level.
    pub fn new(memory: MemInfo, levels: &[CgroupMemory], cores: u32) -> Self {
        let limits = levels.iter().filter_map(|level| level.limit);
        let headrooms = levels
            .iter()
            .filter_map(|level| Some(level.limit?.saturating_sub(level.used)));
        let cgroup_limit = limits.min();
        let cgroup_used = cgroup_limit
            .zip(headrooms.min())
            .map(|(limit, headroom)| limit.saturating_sub(headroom));
        let MemInfo { total, available } = memory;
        Self {
            mem_total: total,
            mem_available: available,
            cgroup_limit,
            cgroup_used,
            cores,
        }
    }

    /// Memory a fraction is of: the machine's, or the container's when that is less.
    pub fn total(&self) -> Bytes {
        self.cgroup_limit
            .map_or(self.mem_total, |limit| limit.min(self.mem_total))
    }

    /// Memory that can be had now, inside the container's limit.
    pub fn available(&self) -> Bytes {
        let used = self.cgroup_used.unwrap_or(Bytes::ZERO);
        let headroom = self.cgroup_limit.map(|limit| limit.saturating_sub(used));
        headroom.map_or(self.mem_available, |headroom| {
            headroom.min(self.mem_available)
        })
    }

    /// This machine with so much available, and no container's limit in the way.
    pub(crate) fn with_available(self, available: Bytes) -> Self {
        Self {
            mem_total: self.mem_total.max(available),
            mem_available: available,
            cgroup_limit: None,
            cgroup_used: None,
            ..self
        }
    }

    /// Whether a container's limit, not the machine, bounds the memory.
    pub(crate) fn is_contained(&self) -> bool {
        self.cgroup_limit
            .is_some_and(|limit| limit < self.mem_total)
    }
}

/// The two numbers of `/proc/meminfo` a plan needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemInfo {
    /// `MemTotal`.
    pub total: Bytes,
    /// `MemAvailable`.
    pub available: Bytes,
}

/// One level of control group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CgroupMemory {
    /// Its limit, when it has one.
    pub limit: Option<Bytes>,
    /// What it holds. The kernel counts file pages it could drop at once;
    /// [`without`](Self::without) takes them off.
    pub used: Bytes,
}

impl CgroupMemory {
    /// The same level, not counting `reclaimable` bytes as used.
    pub fn without(self, reclaimable: Bytes) -> Self {
        Self {
            used: self.used.saturating_sub(reclaimable),
            ..self
        }
    }
}

/// Reads `/proc/meminfo`. Kernels older than 3.14 have no `MemAvailable`: an error.
pub fn parse_meminfo(text: &str) -> Result<MemInfo, ProbeError> {
    let field = |name: &'static str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let given = line.unwrap_or_default().trim();
        given
            .strip_suffix("kB")
            .and_then(|number| number.trim().parse::<u64>().ok())
            .and_then(|kib| Bytes(kib).checked_mul(1024))
            .ok_or_else(|| ProbeError {
                field: name,
                given: given.to_owned(),
            })
    };
    Ok(MemInfo {
        total: field("MemTotal")?,
        available: field("MemAvailable")?,
    })
}

/// Reads one level of cgroup v2 from the text of `memory.max` (a number or `max`) and
/// `memory.current`.
pub fn parse_cgroup_v2(max: &str, current: &str) -> Result<CgroupMemory, ProbeError> {
    let limit = match max.trim() {
        "max" => None,
        number => Some(parse_bytes("memory.max", number)?),
    };
    Ok(CgroupMemory {
        limit,
        used: parse_bytes("memory.current", current)?,
    })
}

/// Reads one level of cgroup v1 from the text of `memory.limit_in_bytes` and
/// `memory.usage_in_bytes`.
pub fn parse_cgroup_v1(limit: &str, usage: &str) -> Result<CgroupMemory, ProbeError> {
    let limit = parse_bytes("memory.limit_in_bytes", limit)?;
    let limit = (limit.0 < CGROUP_V1_UNLIMITED).then_some(limit);
    Ok(CgroupMemory {
        limit,
        used: parse_bytes("memory.usage_in_bytes", usage)?,
    })
}

/// Bytes a control group would give back under pressure, from the text of its `memory.stat`:
/// file pages not used lately. A model that was just downloaded or read is mostly these. 0 when
/// the file does not say.
pub fn parse_reclaimable(stat: &str) -> Bytes {
    let value = |name: &str| {
        let line = stat
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|number| number.trim().parse().ok())
            .map(Bytes)
    };
    // v1 has both names; there the one without the prefix leaves child groups out.
    value("total_inactive_file")
        .or_else(|| value("inactive_file"))
        .unwrap_or_default()
}

fn parse_bytes(field: &'static str, text: &str) -> Result<Bytes, ProbeError> {
    let text = text.trim();
    text.parse().map(Bytes).map_err(|_| ProbeError {
        field,
        given: text.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:       24615796 kB\nMemFree:         1048576 kB\n\
                           MemAvailable:   20971520 kB\nBuffers:            1024 kB\n";

    #[test]
    fn meminfo_is_read_in_kib() {
        let expected = MemInfo {
            total: Bytes(24_615_796 * 1024),
            available: Bytes::GIB * 20,
        };
        assert_eq!(parse_meminfo(MEMINFO), Ok(expected));
    }

    #[test]
    fn a_bad_meminfo_names_the_line() {
        let cases = [
            ("", "MemTotal", ""),
            ("MemTotal: 5 kB\n", "MemAvailable", ""),
            ("MemTotal: -5 kB\nMemAvailable: 1 kB\n", "MemTotal", "-5 kB"),
            ("MemTotal: 5 kB\nMemAvailable: 5\n", "MemAvailable", "5"),
            (
                "MemTotal: 18446744073709551615 kB\n",
                "MemTotal",
                "18446744073709551615 kB",
            ),
        ];
        for (text, field, given) in cases {
            let err = ProbeError {
                field,
                given: given.to_owned(),
            };
            assert_eq!(parse_meminfo(text), Err(err), "{text:?}");
        }
    }

    #[test]
    fn cgroup_files_of_both_versions_are_read() {
        let level = |limit, used| {
            Ok(CgroupMemory {
                limit,
                used: Bytes(used),
            })
        };
        assert_eq!(parse_cgroup_v2("max\n", "4096\n"), level(None, 4096));
        assert_eq!(
            parse_cgroup_v2("8589934592\n", "4096\n"),
            level(Some(Bytes::GIB * 8), 4096)
        );
        assert_eq!(
            parse_cgroup_v1("9223372036854771712\n", "7\n"),
            level(None, 7)
        );
        assert_eq!(
            parse_cgroup_v1("1073741824\n", "7\n"),
            level(Some(Bytes::GIB), 7)
        );
        assert_eq!(
            parse_cgroup_v2("lots", "1").unwrap_err().field,
            "memory.max"
        );
        assert_eq!(
            parse_cgroup_v2("max", "").unwrap_err().field,
            "memory.current"
        );
        assert_eq!(
            parse_cgroup_v1("max", "1").unwrap_err().field,
            "memory.limit_in_bytes"
        );
    }

    #[test]
    fn reclaimable_pages_are_not_counted_as_used() {
        let v2 = "anon 100\ninactive_anon 9\nactive_file 7\ninactive_file 300\n";
        let v1 = "inactive_file 300\ntotal_inactive_anon 4\ntotal_inactive_file 500\n";
        assert_eq!(parse_reclaimable(v2), Bytes(300));
        assert_eq!(parse_reclaimable(v1), Bytes(500));
        assert_eq!(parse_reclaimable("anon 100\n"), Bytes::ZERO);
        let level = CgroupMemory {
            limit: None,
            used: Bytes(450),
        };
        assert_eq!(level.without(Bytes(300)).used, Bytes(150));
    }

    #[test]
    fn every_level_of_nested_groups_binds() {
        let gib = |n: u64| Bytes::GIB * n;
        let level = |limit: u64, used: u64| CgroupMemory {
            limit: Some(gib(limit)),
            used: gib(used),
        };
        let open = CgroupMemory {
            limit: None,
            used: gib(30),
        };
        let memory = MemInfo {
            total: gib(24),
            available: gib(20),
        };
        // levels, total, available
        let cases: [(&[CgroupMemory], u64, u64); 5] = [
            (&[], 24, 20),
            (&[open], 24, 20),
            (&[level(8, 1), open], 8, 7),
            // The smaller limit is inside; the outer level is nearly full.
            (&[level(8, 1), level(16, 13)], 8, 3),
            (&[level(64, 1)], 24, 20),
        ];
        for (levels, total, available) in cases {
            let machine = Machine::new(memory, levels, 4);
            assert_eq!(machine.total(), gib(total), "{levels:?}");
            assert_eq!(machine.available(), gib(available), "{levels:?}");
        }
    }
}
