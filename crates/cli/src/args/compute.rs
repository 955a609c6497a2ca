//! How products are computed.

use clap::Args;
use kvist_engine::Isa;

use crate::environment::Environment;
use crate::error::CliError;
use crate::exit::Exit;

/// How products are computed, whatever the command.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct ComputeArgs {
    /// Instruction tier: scalar, or what the CPU has of avx2, avxvnni, avx512, neon; all give the
    /// same output [default: KVIST_ISA, else the best].
    #[arg(long, value_name = "NAME", value_parser = Isa::named, hide_short_help = true)]
    pub isa: Option<Isa>,
}

impl ComputeArgs {
    /// The tier that was asked for: by the flag, else by the environment.
    ///
    /// # Errors
    /// When this CPU does not have the one `KVIST_ISA` names.
    pub fn isa(self, environment: &Environment) -> Result<Option<Isa>, CliError> {
        let (None, Some(name)) = (self.isa, &environment.kvist_isa) else {
            return Ok(self.isa);
        };
        Isa::named(name).map(Some).map_err(|error| {
            CliError::new(Exit::Usage, format!("KVIST_ISA: {error}"))
                .fix("one of those, or unset KVIST_ISA")
        })
    }
}
