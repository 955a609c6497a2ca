//! Number formats of things that are not weights.

use std::fmt;

/// How a KV cache stores the values of one head of one token: a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KvDtype {
    /// IEEE half precision, 2 bytes a value.
    #[default]
    F16,
    /// Single precision, 4 bytes a value: for tests against f32 references.
    F32,
}

impl KvDtype {
    /// Bytes of one row: the key, or the value, of one token in one head of `head_dim` values.
    ///
    /// # Panics
    /// When they are beyond `usize`, in builds that check arithmetic.
    pub const fn row_bytes(self, head_dim: usize) -> usize {
        match self {
            Self::F16 => 2 * head_dim,
            Self::F32 => 4 * head_dim,
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
