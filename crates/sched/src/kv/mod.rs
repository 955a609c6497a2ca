//! KV blocks: who holds them, what is in them, and which may be evicted.
//!
//! ```text
//!            extend                  release, last holder, indexed
//!   free ───────────► held ────────────────────────────────────────► cached
//!    ▲                 │ ▲                                            │  │
//!    └─────────────────┘ └────────────────────────────────────────────┘  │
//!      release, not indexed        share (a prefix hit)                  │
//!    ▲                                                                   │
//!    └───────────────────────────────────────────────────────────────────┘
//!                     evict (at once held again), reset
//! ```
//!
//! A block is indexed when all its positions are computed, and then never changes until it is
//! evicted. That is why it may be in several tables at once. Three rules keep the index sound:
//!
//! 1. The indexed blocks form a forest: the parent of an indexed block is indexed. A table holds a
//!    block only together with all blocks before it, and releases the last block first, so the least
//!    recently released block is always a leaf and eviction never orphans a block.
//! 2. One content, one block. When two sequences computed the same block at the same time, the
//!    second to be indexed gives its own back and holds the first (`Indexed::Merged`). A content
//!    has a number of its own (`ContentId`), so that it stays itself when it moves to another block.
//!    A block that was computed in part when its sequence let go of it is indexed as a *tail*, unless
//!    another begins the same: it is never shared, never a parent, and copied by whoever goes on
//!    from there.
//! 3. A hit compares the parent and the tokens. The hash only finds the candidate: a collision, even
//!    a made one, costs a miss and cannot serve foreign content.

mod chain;
mod hit;
mod ids;
mod index;
mod persist;
mod pool;
mod resize;
mod spill;
mod table;
#[cfg(test)]
mod tests;
mod tier;

pub(crate) use chain::{ChainHash, ChainHasher};
pub(crate) use hit::PrefixHit;
pub(crate) use index::{FullBlock, Parent};
pub use persist::{TierEntry, TierEntryError};
#[cfg(any(test, feature = "sim"))]
pub(crate) use pool::PlantedBug;
pub(crate) use pool::{BlockPool, Indexed, PoolSizes};
pub use pool::{BlockState, PoolCounts};
pub use resize::BlockCopy;
pub(crate) use table::BlockTable;
pub use tier::{Restore, Spill, TierSlot};
