//! Outputs under a grammar: compiling at the door, masks beside the forward pass.
//!
//! ```text
//!  client's task          compiling thread     engine thread           mask thread
//!  Constraints::compile ─► Compiler::compile
//!  Arc<Grammar> ◄──────────────┘
//!  Constrained ──────────────────────────────► Live
//!                                              prepare ──────────────► GrammarState::allowed
//!                                              Model::forward             │
//!                                              allowed ◄──────────────────┘
//!                                              Sampler::draw_among
//!                                              advance
//! ```

mod compile;
mod file;
mod masks;
mod sequence;

pub(crate) use compile::Constraints;
pub use file::FileGrammars;
pub(crate) use sequence::Constrained;
