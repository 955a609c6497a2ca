//! Whether outputs may be put under a grammar.

use clap::Args;

/// Whether requests may demand JSON, a regular expression or a grammar of their output.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct StructuredArgs {
    /// Refuse `response_format` and `structured_outputs`, and keep the memory that grammars take.
    #[arg(long, help_heading = "Memory", hide_short_help = true)]
    pub no_structured_outputs: bool,
}

impl StructuredArgs {
    /// Whether the plan has room for grammars.
    pub fn is_on(self) -> bool {
        !self.no_structured_outputs
    }
}
