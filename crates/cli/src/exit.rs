//! Exit codes: what a script may rely on.

use std::fmt::Write as _;
use std::process::ExitCode;

/// How the process ends. The number of each is part of the command line's contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Ok,
    /// Something no other code describes.
    Other,
    /// The command line or the configuration is wrong.
    Usage,
    /// The model is missing, damaged or not supported.
    Model,
    /// Another program listens on the address.
    AddressInUse,
    /// A download failed.
    Network,
    /// The engine failed: our bug.
    EngineFault,
    /// The disk is full or refused.
    Disk,
    /// The model cannot fit into the memory it may use.
    DoesNotFit,
    /// Stopped by the user.
    Interrupted,
}

impl Exit {
    /// Every code, ascending.
    pub const ALL: [Self; 10] = [
        Self::Ok,
        Self::Other,
        Self::Usage,
        Self::Model,
        Self::AddressInUse,
        Self::Network,
        Self::EngineFault,
        Self::Disk,
        Self::DoesNotFit,
        Self::Interrupted,
    ];

    /// The number the shell sees.
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Other => 1,
            Self::Usage => 2,
            Self::Model => 3,
            Self::AddressInUse => 5,
            Self::Network => 6,
            Self::EngineFault => 70,
            Self::Disk => 74,
            Self::DoesNotFit => 78,
            Self::Interrupted => 130,
        }
    }

    const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "done",
            Self::Other => "an error no other code describes",
            Self::Usage => "wrong command line or configuration",
            Self::Model => "model missing, damaged or not supported",
            Self::AddressInUse => "address already in use",
            Self::Network => "download failed",
            Self::EngineFault => "engine fault: a bug in kvist",
            Self::Disk => "disk full or not writable",
            Self::DoesNotFit => "the model does not fit into memory",
            Self::Interrupted => "interrupted",
        }
    }

    /// The table the long help ends with.
    pub fn help_table() -> String {
        Self::ALL
            .iter()
            .fold(String::from("Exit codes:\n"), |mut table, exit| {
                // Writing to a String cannot fail.
                let _ = writeln!(table, "  {:>3}  {}", exit.code(), exit.meaning());
                table
            })
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_lists_every_code_once_and_ascending() {
        let codes: Vec<u8> = Exit::ALL.iter().map(|exit| exit.code()).collect();
        assert!(codes.is_sorted_by(|a, b| a < b), "{codes:?}");
        let table = Exit::help_table();
        assert_eq!(table.lines().count(), Exit::ALL.len() + 1);
        assert!(table.contains(" 78  the model does not fit"));
    }
}
