//! Files as they come, and as nobody should send them. The checklist names what each kind of
//! damage must answer; the corpus damages valid files in thousands of places and asks only for
//! an answer, within bounded memory.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod checklist;
mod corpus;
mod meter;
mod raw;
mod roundtrip;
mod sample;
mod split;
mod temporary;
