//! Identities. Each is its own type so that one can never be passed for another.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($repr:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(pub $repr);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

id! {
    /// An integer in a model's vocabulary.
    TokenId(u32)
}
id! {
    /// One stream of tokens being extended; unique for the life of an engine, never reused.
    SeqId(u64)
}
id! {
    /// A physical KV block: an index into the block pool.
    BlockId(u32)
}

impl TokenId {
    /// The id as an index into a vocabulary-sized table.
    pub const fn idx(self) -> usize {
        self.0 as usize
    }
}

impl BlockId {
    /// The id as an index into a pool-sized table.
    pub const fn idx(self) -> usize {
        self.0 as usize
    }
}
