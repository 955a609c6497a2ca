//! Number formats of things that are not weights.

use std::fmt;

/// How a KV cache stores one value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KvDtype {
    /// IEEE half precision, 2 bytes.
    #[default]
    F16,
    /// Single precision, 4 bytes: for tests against f32 references.
    F32,
}

impl KvDtype {
    /// Bytes of one value.
    pub const fn value_bytes(self) -> u64 {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
        }
    }

    /// The name flags and reports use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }
}

impl fmt::Display for KvDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
