//! What others take of the machine.

use std::fs;

/// Programs that wanted to run, on average over the last minute; 0 where the system does not say.
pub fn load_average() -> f64 {
    fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|text| first_number(&text))
        .unwrap_or(0.0)
}

fn first_number(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok()
}

/// Processor time since start-up, in ticks, as `/proc/stat` counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuTimes {
    total: u64,
    stolen: u64,
}

impl CpuTimes {
    /// The counters now; zeroes where the system has none.
    pub fn now() -> Self {
        fs::read_to_string("/proc/stat")
            .ok()
            .and_then(|stat| Self::parse(&stat))
            .unwrap_or(NONE)
    }

    /// From the `cpu` line: user nice system idle iowait irq softirq steal, then times counted in
    /// user already.
    fn parse(stat: &str) -> Option<Self> {
        let fields = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks: Vec<u64> = fields
            .split_whitespace()
            .map_while(|n| n.parse().ok())
            .take(8)
            .collect();
        Some(Self {
            total: ticks.iter().sum(),
            stolen: *ticks.get(7)?,
        })
    }

    /// The part of the time since `earlier` that the hypervisor gave to others, 0 to 1.
    #[allow(clippy::cast_precision_loss)] // ticks of one run
    pub fn stolen_since(self, earlier: Self) -> f64 {
        let total = self.total.saturating_sub(earlier.total).max(1);
        self.stolen.saturating_sub(earlier.stolen) as f64 / total as f64
    }
}

const NONE: CpuTimes = CpuTimes {
    total: 0,
    stolen: 0,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steal_time_is_a_share_of_all_time() {
        let before = CpuTimes::parse("cpu  100 0 50 800 0 0 0 10 7 7\ncpu0 1 2 3\n");
        let after = CpuTimes::parse("cpu  150 0 60 830 0 0 0 20 9 9\ncpu0 1 2 3\n");
        let (before, after) = (before.expect("a cpu line"), after.expect("a cpu line"));
        assert!((after.stolen_since(before) - 0.1).abs() < 1e-12);
        assert!(after.stolen_since(after).abs() < 1e-12);
        assert_eq!(CpuTimes::parse("intr 1 2\n"), None);
    }

    #[test]
    fn the_load_of_the_last_minute_comes_first() {
        assert_eq!(first_number("1.25 0.80 0.50 2/300 4711\n"), Some(1.25));
        assert_eq!(first_number(""), None);
    }
}
