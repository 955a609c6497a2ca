//! `kvist memory`.

use clap::{Args, Subcommand};
use kvist_base::Bytes;

use super::ApiKeyArgs;

/// Show where the memory of a running server is, or change how much it may have.
#[derive(Args, Debug)]
#[command(before_help = "\
Examples:
  kvist memory
  kvist memory --url http://127.0.0.1:9000 --json
  kvist memory set 3GiB")]
pub struct MemoryCommandArgs {
    /// Where the server is.
    #[arg(long, global = true, default_value = "http://127.0.0.1:8000")]
    pub url: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub keys: ApiKeyArgs,
    /// Print the server's answer as it is, in JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to change; nothing if left out.
    #[command(subcommand)]
    pub change: Option<MemoryChange>,
}

/// What to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum MemoryChange {
    /// Let the server hold this much from now on. Nothing is lost: caches shrink, and requests wait.
    Set {
        /// Such as 3GiB.
        #[arg(value_name = "SIZE")]
        budget: Bytes,
    },
}
