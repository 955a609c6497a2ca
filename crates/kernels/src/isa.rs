//! Which instructions this CPU has, as a value.

use std::error::Error;
use std::fmt;

/// An instruction tier. A value other than [`Isa::SCALAR`] exists only if [`Isa::available`] saw
/// the CPU's support for it, so holding one is the proof that its kernels may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Tier);

/// The tiers, slowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tier {
    Scalar,
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// And AVX-VNNI.
    #[cfg(target_arch = "x86_64")]
    AvxVnni(VnniEncoding),
    /// Those of [`Tier::Avx2`], and AVX-512 F, BW, DQ, VL and VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// NEON and its dot products (Armv8.2).
    #[cfg(target_arch = "aarch64")]
    Neon,
}

/// How the dot product of AVX-VNNI is encoded.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VnniEncoding {
    /// As AVX-VNNI has it.
    Vex,
    /// As AVX-512-VNNI has it: the tier's kernels, on CPUs that have their instruction otherwise.
    #[cfg(test)]
    Evex,
}

/// A tier this CPU does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsaError {
    /// The name asked for.
    pub given: String,
}

impl fmt::Display for IsaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = Isa::available().into_iter().map(Isa::name).collect();
        let (given, names) = (&self.given, names.join(", "));
        write!(
            f,
            "no instruction tier {given:?} on this CPU; it has {names}"
        )
    }
}

impl Error for IsaError {}

impl Isa {
    /// Plain Rust: slow, portable, the reference for every other tier.
    pub const SCALAR: Self = Self(Tier::Scalar);

    /// The best tier this CPU has.
    pub fn detect() -> Self {
        Self::available().last().copied().unwrap_or(Self::SCALAR)
    }

    /// The tier of that name.
    ///
    /// # Errors
    /// When this CPU has no such tier; the message lists those it has.
    pub fn named(name: &str) -> Result<Self, IsaError> {
        let given = || IsaError {
            given: name.to_owned(),
        };
        let mut tiers = Self::available().into_iter();
        tiers.find(|isa| isa.name() == name).ok_or_else(given)
    }

    /// Every tier this CPU has, slowest first; tests run each kernel on all of them.
    pub fn available() -> Vec<Self> {
        let mut tiers = vec![Self::SCALAR];
        tiers.extend(tiers_of_cpu());
        tiers
    }

    pub(crate) const fn tier(self) -> Tier {
        self.0
    }

    /// Whether the CPU was seen to have AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    pub(crate) const fn has_avx2(self) -> bool {
        matches!(self.0, Tier::Avx2 | Tier::AvxVnni(_) | Tier::Avx512)
    }

    /// Whether the CPU was seen to have NEON and its dot products.
    #[cfg(target_arch = "aarch64")]
    pub(crate) const fn has_neon(self) -> bool {
        matches!(self.0, Tier::Neon)
    }

    /// The name reports use.
    pub const fn name(self) -> &'static str {
        match self.0 {
            Tier::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Tier::AvxVnni(VnniEncoding::Vex) => "avxvnni",
            #[cfg(all(target_arch = "x86_64", test))]
            Tier::AvxVnni(VnniEncoding::Evex) => "avxvnni-evex",
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 => "avx512",
            #[cfg(target_arch = "aarch64")]
            Tier::Neon => "neon",
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn tiers_of_cpu() -> Vec<Isa> {
    use std::arch::is_x86_feature_detected as has;
    let mut tiers = Vec::new();
    if !(has!("avx2") && has!("fma") && has!("f16c")) {
        return tiers;
    }
    tiers.push(Isa(Tier::Avx2));
    if has!("avxvnni") {
        tiers.push(Isa(Tier::AvxVnni(VnniEncoding::Vex)));
    }
    let foundation = has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl");
    if foundation && has!("avx512vnni") {
        #[cfg(test)]
        tiers.push(Isa(Tier::AvxVnni(VnniEncoding::Evex)));
        tiers.push(Isa(Tier::Avx512));
    }
    tiers
}

#[cfg(target_arch = "aarch64")]
fn tiers_of_cpu() -> Option<Isa> {
    use std::arch::is_aarch64_feature_detected as has;
    (has!("neon") && has!("dotprod")).then_some(Isa(Tier::Neon))
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn tiers_of_cpu() -> Option<Isa> {
    None
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tier_goes_by_its_name() {
        for isa in Isa::available() {
            assert_eq!(Isa::named(isa.name()), Ok(isa));
        }
        assert_eq!(Isa::available()[0], Isa::SCALAR);
        assert_eq!(Isa::available().last(), Some(&Isa::detect()));
    }

    #[test]
    fn a_test_run_says_which_tiers_it_covers() {
        let names: Vec<&str> = Isa::available().into_iter().map(Isa::name).collect();
        println!(
            "tiers of this CPU, which all tests run: {}",
            names.join(" ")
        );
        assert_eq!(names[0], "scalar");
    }

    #[test]
    fn a_name_this_cpu_does_not_have_is_refused_with_those_it_has() {
        let error = Isa::named("amx").map_err(|error| error.to_string());
        let has_scalar = |text: &String| text.contains("\"amx\"") && text.contains("has scalar");
        assert!(error.is_err_and(|text| has_scalar(&text)));
    }
}
