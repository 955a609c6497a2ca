//! Which instructions this CPU has, as a value.

use std::fmt;

/// An instruction tier. A value other than [`Isa::SCALAR`] exists only if [`Isa::detect`] saw
/// the CPU's support for it, so holding one is the proof that its kernels may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Tier);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tier {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl Isa {
    /// Plain Rust: slow, portable, the reference for every other tier.
    pub const SCALAR: Self = Self(Tier::Scalar);

    /// The best tier this CPU has.
    pub fn detect() -> Self {
        Self::available().last().copied().unwrap_or(Self::SCALAR)
    }

    /// Every tier this CPU has, slowest first; tests run each kernel on all of them.
    pub fn available() -> Vec<Self> {
        let mut tiers = vec![Self::SCALAR];
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2")
            && std::arch::is_x86_feature_detected!("fma")
            && std::arch::is_x86_feature_detected!("f16c")
        {
            tiers.push(Self(Tier::Avx2));
        }
        tiers
    }

    pub(crate) const fn tier(self) -> Tier {
        self.0
    }

    /// The name reports use.
    pub const fn name(self) -> &'static str {
        match self.0 {
            Tier::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => "avx2",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
