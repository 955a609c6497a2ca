//! The only place with intrinsics. Everything above calls it through an [`Isa`](crate::Isa).
#![allow(unsafe_code)]

#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon_f32;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_f32;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_f32_512;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_probe;
