//! The only place with intrinsics. Everything above calls it through an [`Isa`](crate::Isa).
#![allow(unsafe_code)]
