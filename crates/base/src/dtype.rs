//! Number formats of things that are not weights.

use std::fmt;

/// How a KV cache stores the values of a KV row: the key, or the value, of one token in one head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KvDtype {
    /// IEEE half precision, 2 bytes a value.
    #[default]
    F16,
    /// The upper half of single precision, 2 bytes a value: its range, an eighth of f16's
    /// precision.
    BF16,
    /// 8-bit codes with an f16 scale for each [`KvDtype::GROUP`] values.
    Q8_0,
    /// Single precision, 4 bytes a value: for tests against f32 references.
    F32,
}

impl KvDtype {
    /// Every dtype.
    pub const ALL: [Self; 4] = [Self::F16, Self::BF16, Self::Q8_0, Self::F32];

    /// Values that share a scale. A head's last group is shorter when the head is not whole groups.
    pub const GROUP: usize = 32;

    /// Bytes of one KV row of `head_dim` values, a multiple of 8.
    ///
    /// # Panics
    /// When they are beyond `usize`, in builds that check arithmetic.
    pub const fn row_bytes(self, head_dim: usize) -> usize {
        match self {
            Self::F16 | Self::BF16 => 2 * head_dim,
            Self::Q8_0 => head_dim + 2 * head_dim.div_ceil(Self::GROUP),
            Self::F32 => 4 * head_dim,
        }
    }

    /// The name flags and reports use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::F32 => "f32",
        }
    }
}

impl fmt::Display for KvDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_a_scale_for_each_group_it_begins() {
        let bytes = |dtype: KvDtype| [8, 32, 80, 128].map(|head_dim| dtype.row_bytes(head_dim));
        assert_eq!(bytes(KvDtype::F32), [32, 128, 320, 512]);
        assert_eq!(bytes(KvDtype::F16), [16, 64, 160, 256]);
        assert_eq!(bytes(KvDtype::BF16), bytes(KvDtype::F16));
        assert_eq!(bytes(KvDtype::Q8_0), [10, 34, 86, 136]);
    }
}
