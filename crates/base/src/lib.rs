//! The words every room shares: ids, sizes with units, weight formats, finish reasons.
//!
//! Data only: no behaviour beyond arithmetic, no dependencies, no I/O. If two rooms need the same
//! *noun* it lives here; if they need the same *code*, the boundary between them is wrong.

mod dtype;
mod finish;
mod format;
mod ids;
mod mix;
mod part;
mod size;
mod token_set;

pub use dtype::KvDtype;
pub use finish::FinishReason;
pub use format::QuantFormat;
pub use ids::{BlockId, SeqId, TokenId};
pub use mix::mix64;
pub use part::WeightPart;
pub use size::{Blocks, Bytes, ParseBytesError, Tokens};
pub use token_set::TokenSet;
