//! Where the bytes are: what callers see of the ledger, the pool and the process.

use std::fs;

use kvist_base::Bytes;
use kvist_plan::{LedgerLine, Plan};
use serde::Serialize;
use thiserror::Error;

/// A model's memory as of the last step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MemoryReport {
    /// What the engine may hold.
    #[serde(serialize_with = "bytes")]
    pub budget: Bytes,
    /// Planned, committed and used, by line.
    pub lines: Vec<LedgerLine>,
    /// The KV pool.
    pub kv: KvReport,
    /// The whole process as the system counts it; `None` where it does not say.
    pub process: Option<ProcessMemory>,
    /// The plan in force.
    pub plan: Plan,
}

/// The KV pool in blocks and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KvReport {
    /// Keys and values of one block.
    #[serde(serialize_with = "bytes")]
    pub block_bytes: Bytes,
    /// Token positions of a block.
    pub block_size: u32,
    /// Blocks there may be under the budget.
    pub blocks_limit: u32,
    /// Without content worth keeping.
    pub blocks_free: u32,
    /// In use by a sequence.
    pub blocks_held: u32,
    /// Reusable as a prefix, in use by none.
    pub blocks_cached: u32,
    /// Memory the pool takes now.
    #[serde(serialize_with = "bytes")]
    pub committed: Bytes,
}

/// A process's resident memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProcessMemory {
    /// All resident pages.
    #[serde(serialize_with = "bytes")]
    pub resident: Bytes,
    /// Those that belong to no file: what cannot be dropped.
    #[serde(serialize_with = "bytes")]
    pub anonymous: Bytes,
}

impl ProcessMemory {
    /// Of this process, from `/proc/self/status`.
    pub fn read() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/self/status").ok()?)
    }

    fn parse(status: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
            Bytes(kib).checked_mul(1024)
        };
        Some(Self {
            resident: field("VmRSS:")?,
            anonymous: field("RssAnon:")?,
        })
    }
}

/// Why a budget was not changed. Nothing is then.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum BudgetError {
    /// Weights and working memory alone take more, or leave no room for one sequence.
    #[error("a budget of {given} is too small: this model needs at least {needed}")]
    TooSmall {
        /// The least budget.
        needed: Bytes,
        /// The budget asked for.
        given: Bytes,
    },
    /// A request that is being served could not be finished in it.
    #[error(
        "a budget of {given} is too small for now: a request being served needs {needed}; \
         try again when it is finished"
    )]
    Busy {
        /// The least budget while that request lives.
        needed: Bytes,
        /// The budget asked for.
        given: Bytes,
    },
    /// The engine serves nothing any more.
    #[error("the engine has stopped")]
    Stopped,
}

/// Why the prefix cache was not reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ResetError {
    /// Requests being served hold parts of it.
    #[error(transparent)]
    InUse(#[from] kvist_sched::CacheInUse),
    /// The engine serves nothing any more.
    #[error("the engine has stopped")]
    Stopped,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the signature serde asks for
fn bytes<S: serde::Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(bytes.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_in_kib() {
        let status =
            "Name:\tkvist\nVmRSS:\t    2048 kB\nRssAnon:\t    1024 kB\nRssFile:\t 1024 kB\n";
        let expected = ProcessMemory {
            resident: Bytes::MIB * 2,
            anonymous: Bytes::MIB,
        };
        assert_eq!(ProcessMemory::parse(status), Some(expected));
        assert_eq!(ProcessMemory::parse("Name:\tkvist\n"), None);
        let own = ProcessMemory::read().expect("Linux has /proc/self/status");
        assert!(own.anonymous <= own.resident && own.resident.0 > 0);
    }
}
