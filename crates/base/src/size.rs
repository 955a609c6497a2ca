//! Quantities with their unit in the type: bytes, token counts, block counts.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Mul, Sub};
use std::str::FromStr;

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident($repr:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(pub $repr);

        impl $name {
            /// Nothing of it.
            pub const ZERO: Self = Self(0);

            /// `self + other`, or `None` on overflow: for numbers that come from outside.
            pub const fn checked_add(self, other: Self) -> Option<Self> {
                match self.0.checked_add(other.0) { Some(n) => Some(Self(n)), None => None }
            }

            /// `self * factor`, or `None` on overflow: for numbers that come from outside.
            pub const fn checked_mul(self, factor: $repr) -> Option<Self> {
                match self.0.checked_mul(factor) { Some(n) => Some(Self(n)), None => None }
            }

            /// `self - other`, or zero when `other` is larger.
            pub const fn saturating_sub(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }
        }

        impl Add for $name {
            type Output = Self;
            fn add(self, other: Self) -> Self { Self(self.0 + other.0) }
        }

        impl AddAssign for $name {
            fn add_assign(&mut self, other: Self) { self.0 += other.0; }
        }

        impl Sub for $name {
            type Output = Self;
            fn sub(self, other: Self) -> Self { Self(self.0 - other.0) }
        }

        impl Mul<$repr> for $name {
            type Output = Self;
            fn mul(self, factor: $repr) -> Self { Self(self.0 * factor) }
        }

        impl Sum for $name {
            fn sum<I: Iterator<Item = Self>>(iter: I) -> Self { iter.fold(Self::ZERO, Add::add) }
        }
    };
}

quantity! {
    /// A number of bytes.
    Bytes(u64)
}
quantity! {
    /// A number of token positions. Lengths of sequences, chunks and contexts.
    Tokens(u32)
}
quantity! {
    /// A number of KV blocks.
    Blocks(u32)
}

impl Bytes {
    /// One kibibyte.
    pub const KIB: Self = Self(1 << 10);
    /// One mebibyte.
    pub const MIB: Self = Self(1 << 20);
    /// One gibibyte.
    pub const GIB: Self = Self(1 << 30);

    /// The size of something in memory.
    pub const fn of_len(len: usize) -> Self {
        Self(len as u64)
    }

    /// In mebibytes, for reports.
    #[allow(clippy::cast_precision_loss)] // a report's third decimal, not arithmetic
    pub fn as_mib(self) -> f64 {
        self.0 as f64 / Self::MIB.0 as f64
    }
}

impl Tokens {
    /// As an index or a slice length.
    pub const fn len(self) -> usize {
        self.0 as usize
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many blocks of `block_size` tokens hold these tokens, the last one possibly in part.
    ///
    /// `block_size` is never zero: configuration refuses it.
    pub const fn div_ceil(self, block_size: Tokens) -> Blocks {
        Blocks(self.0.div_ceil(block_size.0))
    }
}

impl Blocks {
    /// As a slice length.
    pub const fn len(self) -> usize {
        self.0 as usize
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many tokens fit into these blocks, or `None` beyond what a token count can say.
    pub const fn capacity(self, block_size: Tokens) -> Option<Tokens> {
        block_size.checked_mul(self.0)
    }
}

impl fmt::Display for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tokens", self.0)
    }
}

impl fmt::Display for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} blocks", self.0)
    }
}

impl fmt::Display for Bytes {
    /// The largest binary unit that keeps at least one whole: `56.0 KiB`, `4.36 GiB`, `12 B`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[allow(clippy::cast_precision_loss)] // display only
        let in_unit = |unit: Bytes| self.0 as f64 / unit.0 as f64;
        match self.0 {
            n if n >= Self::GIB.0 => write!(f, "{:.2} GiB", in_unit(Self::GIB)),
            n if n >= Self::MIB.0 => write!(f, "{:.1} MiB", in_unit(Self::MIB)),
            n if n >= Self::KIB.0 => write!(f, "{:.1} KiB", in_unit(Self::KIB)),
            n => write!(f, "{n} B"),
        }
    }
}

/// Why a text is not a number of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseBytesError {
    given: String,
}

impl fmt::Display for ParseBytesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a size: use a number with a unit, such as 6GiB, 512MiB, 1.5GB or 1048576",
            self.given
        )
    }
}

impl std::error::Error for ParseBytesError {}

impl FromStr for Bytes {
    type Err = ParseBytesError;

    /// `6GiB`, `1.5 GB`, `512M` (binary, as container tools read it), `1048576`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let err = || ParseBytesError {
            given: text.to_owned(),
        };
        let trimmed = text.trim();
        let digits_end = trimmed
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits_end);
        let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "ki" | "kib" => 1 << 10,
            "m" | "mi" | "mib" => 1 << 20,
            "g" | "gi" | "gib" => 1 << 30,
            "t" | "ti" | "tib" => 1 << 40,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            _ => return Err(err()),
        };
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(factor).map(Bytes).ok_or_else(err);
        }
        let fraction: f64 = number.parse().map_err(|_| err())?;
        #[allow(clippy::cast_precision_loss)]
        let bytes = fraction * factor as f64;
        #[allow(clippy::cast_precision_loss)]
        if !bytes.is_finite() || bytes >= u64::MAX as f64 {
            return Err(err());
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // checked just above
        Ok(Bytes(bytes as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_round_up_and_capacity_is_checked() {
        let block_size = Tokens(16);
        let cases = [(0, 0), (1, 1), (15, 1), (16, 1), (17, 2), (32, 2), (33, 3)];
        for (tokens, blocks) in cases {
            assert_eq!(Tokens(tokens).div_ceil(block_size), Blocks(blocks));
        }
        assert_eq!(Blocks(3).capacity(block_size), Some(Tokens(48)));
        assert_eq!(Blocks(u32::MAX).capacity(block_size), None);
    }

    #[test]
    fn sizes_parse_with_binary_and_decimal_units() {
        let cases = [
            ("6GiB", 6 << 30),
            ("6g", 6 << 30),
            ("1.5 GB", 1_500_000_000),
            ("512MiB", 512 << 20),
            ("1048576", 1 << 20),
            ("0", 0),
        ];
        for (text, bytes) in cases {
            assert_eq!(text.parse::<Bytes>(), Ok(Bytes(bytes)), "{text}");
        }
        for bad in [
            "",
            "GiB",
            "6 parsecs",
            "-1",
            "1e3",
            "99999999999 TiB",
            "1.2.3",
        ] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad:?} should be refused");
        }
    }

    #[test]
    fn bytes_print_in_the_largest_whole_unit() {
        assert_eq!(Bytes(57_344).to_string(), "56.0 KiB");
        assert_eq!(Bytes(12).to_string(), "12 B");
        assert_eq!((Bytes::GIB * 4).to_string(), "4.00 GiB");
    }

    #[test]
    fn arithmetic_from_outside_is_checked() {
        assert_eq!(Bytes(u64::MAX).checked_add(Bytes(1)), None);
        assert_eq!(Tokens(7).checked_mul(u32::MAX), None);
        assert_eq!(Tokens(3).saturating_sub(Tokens(5)), Tokens::ZERO);
        assert_eq!([Bytes(1), Bytes(2)].into_iter().sum::<Bytes>(), Bytes(3));
    }
}
