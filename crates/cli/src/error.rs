//! Errors as the user sees them: what, why with numbers, and a way out to paste.

use std::fmt;
use std::io;

use kvist_engine::plan::{Plan, Verdict};
use kvist_engine::{
    EngineFault, ErrorClass, FleetError, FleetPlanError, LoadError, RequestError, ScoreError,
    SubmitError, WhatIfError,
};
use kvist_weights::WeightsError;

use crate::cache::NoCacheDir;
use crate::catalogue::DEFAULT_MODEL;
use crate::exit::Exit;
use crate::pull::{HubError, HubRefError, PullError, SourceError};
use crate::terminal::printable;

/// A command that failed. Printed as
///
/// ```text
/// WHAT
///   WHY
///   fix: A LINE
/// ```
#[derive(Debug)]
pub struct CliError {
    /// How the process ends.
    pub exit: Exit,
    /// What happened.
    pub what: String,
    /// Why, line by line.
    pub why: Vec<String>,
    /// Ways out, each enough on its own.
    pub fixes: Vec<String>,
}

impl CliError {
    /// An error with nothing but a message.
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self {
            exit,
            what: what.into(),
            why: Vec::new(),
            fixes: Vec::new(),
        }
    }

    /// Adds a reason.
    #[must_use]
    pub fn because(mut self, why: impl Into<String>) -> Self {
        self.why.push(why.into());
        self
    }

    /// Adds a way out.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fixes.push(fix.into());
        self
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.what))?;
        for why in &self.why {
            write!(f, "\n  {}", printable(why))?;
        }
        match self.fixes.as_slice() {
            [] => Ok(()),
            [fix] => write!(f, "\n  fix: {}", printable(fix)),
            several => {
                f.write_str("\n  fix, any one of:")?;
                several
                    .iter()
                    .try_for_each(|fix| write!(f, "\n    {}", printable(fix)))
            }
        }
    }
}

impl std::error::Error for CliError {}

impl From<LoadError> for CliError {
    fn from(error: LoadError) -> Self {
        if let LoadError::WhatIf(WhatIfError::NotServed { .. }) = error {
            return Self::new(Exit::Model, "the model cannot be served")
                .because(error.to_string())
                .fix("a GGUF file of this model: kvist pull hf:OWNER/NAME-GGUF")
                .fix("kvist plan MODEL    to see what it would take");
        }
        if let LoadError::Draft(reason) = &error {
            return Self::new(draft_exit(&error), "the draft model cannot be used")
                .because(reason.to_string())
                .fix("a smaller model of the same family, with the same vocabulary")
                .fix("leave --draft out");
        }
        match error.class() {
            ErrorClass::ModelMissing => Self::new(Exit::Model, "the model cannot be read")
                .because(error.to_string())
                .fix(format!("kvist pull {}", DEFAULT_MODEL.name)),
            ErrorClass::ModelBad => Self::new(Exit::Model, "the model cannot be served")
                .because(error.to_string())
                .fix("kvist inspect MODEL    to see what the file holds"),
            ErrorClass::Config => Self::new(Exit::Usage, "a limit cannot be used")
                .because(error.to_string())
                .fix("kvist help serve       to see what each flag takes"),
            ErrorClass::DoesNotFit => match error {
                LoadError::DoesNotFit(plan) => does_not_fit(&plan),
                other => Self::new(Exit::DoesNotFit, other.to_string()),
            },
            ErrorClass::Machine => Self::new(
                Exit::DoesNotFit,
                "the system refused what the plan counted on",
            )
            .because(error.to_string())
            .fix("free some memory, or plan with less: --memory SIZE"),
        }
    }
}

impl From<FleetPlanError> for CliError {
    fn from(error: FleetPlanError) -> Self {
        match error {
            FleetPlanError::Model { model, source } => {
                let error = Self::from(*source);
                let what = format!("{model}: {}", error.what);
                Self { what, ..error }
            }
            FleetPlanError::DoesNotFit { plan, .. } => does_not_fit(&plan),
            FleetPlanError::DraftModel => Self::new(Exit::Usage, error.to_string())
                .because("it has to have the vocabulary of each model it drafts for")
                .fix("serve one model, or leave --draft out"),
            FleetPlanError::NameTaken { name } => {
                Self::new(Exit::Usage, format!("two models are named {name}"))
                    .because("requests choose a model by its name")
                    .fix("--served-model-name NAME    gives the first one another")
            }
        }
    }
}

impl From<FleetError> for CliError {
    fn from(error: FleetError) -> Self {
        match error {
            FleetError::Load { model, source } => {
                let error = Self::from(*source);
                let what = format!("{model}: {}", error.what);
                Self { what, ..error }
            }
            FleetError::NoRoom { .. } => Self::new(Exit::DoesNotFit, error.to_string()),
            FleetError::Stopped { .. } => Self::new(Exit::EngineFault, error.to_string()),
            FleetError::Draining => Self::new(Exit::Other, error.to_string()),
        }
    }
}

/// A draft model that is missing or damaged is a model error, one that does not go with the model or
/// the flags a usage error.
fn draft_exit(error: &LoadError) -> Exit {
    match error.class() {
        ErrorClass::ModelMissing | ErrorClass::ModelBad => Exit::Model,
        ErrorClass::Config => Exit::Usage,
        ErrorClass::DoesNotFit | ErrorClass::Machine => Exit::DoesNotFit,
    }
}

/// The refusal of a plan, with its numbers and its ways out.
pub(crate) fn does_not_fit(plan: &Plan) -> CliError {
    let Verdict::DoesNotFit {
        needed,
        available,
        shortfall,
        largest_line,
        ways_out,
    } = &plan.verdict
    else {
        return CliError::new(Exit::DoesNotFit, format!("{} does not fit", plan.model));
    };
    let what = format!(
        "{} does not fit: {needed} needed, {available} allowed, {shortfall} short",
        plan.model
    );
    let error = CliError::new(Exit::DoesNotFit, what)
        .because(format!("allowed: {}", plan.budget_source))
        .because(format!(
            "most goes to {} ({})",
            largest_line.name, largest_line.bytes
        ));
    ways_out
        .iter()
        .fold(error, |error, way_out| error.fix(way_out.to_string()))
}

impl From<WeightsError> for CliError {
    fn from(error: WeightsError) -> Self {
        LoadError::from(error).into()
    }
}

impl From<SubmitError> for CliError {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Invalid(error) => error.into(),
            SubmitError::Stopped(fault) => fault.into(),
            SubmitError::Overloaded { .. }
            | SubmitError::TooManyTokensWaiting { .. }
            | SubmitError::Draining => {
                Self::new(Exit::Other, "the engine takes no request").because(error.to_string())
            }
        }
    }
}

impl From<RequestError> for CliError {
    fn from(error: RequestError) -> Self {
        let refused = Self::new(Exit::Usage, format!("{} cannot be used", error.field()));
        let refused = refused.because(error.to_string());
        match error {
            RequestError::ContextExceeded { .. } | RequestError::PromptTooLarge { .. } => {
                refused.fix("a shorter prompt, or fewer tokens: -n COUNT")
            }
            RequestError::PoolExceeded { .. } => refused.fix("more memory: --memory SIZE"),
            RequestError::NoChatTemplate => refused.fix("kvist run MODEL --raw -p TEXT"),
            _ => refused.fix("kvist help run    to see what each flag takes"),
        }
    }
}

impl From<ScoreError> for CliError {
    fn from(error: ScoreError) -> Self {
        let exit = match error {
            ScoreError::Text(_)
            | ScoreError::WindowExceeded { .. }
            | ScoreError::TokenOutOfRange { .. } => Exit::Usage,
            ScoreError::NotFinite { .. } | ScoreError::Model(_) => Exit::EngineFault,
        };
        Self::new(exit, "the text cannot be scored").because(error.to_string())
    }
}

impl From<EngineFault> for CliError {
    fn from(fault: EngineFault) -> Self {
        Self::new(Exit::EngineFault, "the engine failed")
            .because(fault.to_string())
            .fix("this is a bug: please report it with the command line and the model's name")
    }
}

impl From<NoCacheDir> for CliError {
    fn from(error: NoCacheDir) -> Self {
        Self::new(Exit::Usage, error.to_string())
            .fix("KVIST_CACHE_DIR=/some/folder kvist …")
            .fix("give the path of a GGUF file")
    }
}

impl From<HubRefError> for CliError {
    fn from(error: HubRefError) -> Self {
        PullError::from(HubError::from(error)).into()
    }
}

impl From<PullError> for CliError {
    fn from(error: PullError) -> Self {
        let refused = Self::new(error.exit(), error.to_string());
        match &error {
            PullError::Offline { name, looked_in } => refused
                .because(format!("looked in {}", looked_in.display()))
                .fix(format!("kvist pull {name}"))
                .fix("give the path of a GGUF file"),
            PullError::SourcesFailed { attempts, .. } => {
                let refused = attempts.iter().fold(refused, |refused, attempt| {
                    refused.because(format!("{}: {}", attempt.source, attempt.error))
                });
                let no_pip = attempts
                    .iter()
                    .any(|a| matches!(a.error, SourceError::NoPip));
                let refused = if no_pip {
                    refused.fix("install pip, and try again")
                } else {
                    refused
                };
                refused
                    .fix("check the network or the proxy, and try again: downloads are resumed")
                    .fix("give the path of a GGUF file")
            }
            PullError::DiskFull { .. } => {
                refused.fix("free some space, or KVIST_CACHE_DIR=/other/disk kvist …")
            }
            PullError::Disk { .. } => refused.fix("KVIST_CACHE_DIR=/a/folder/you/own kvist …"),
            PullError::Hub(HubError::Unauthorised { .. }) => {
                refused.fix("accept the licence on the model's page, then HF_TOKEN=… kvist …")
            }
            PullError::Hub(HubError::Transport { .. } | HubError::Status { .. }) => {
                refused.fix("try again: downloads are resumed")
            }
            PullError::Hub(HubError::Offline { .. }) => refused.fix("leave out --offline"),
            PullError::Hub(HubError::Disk { .. }) => {
                refused.fix("free some space, or KVIST_CACHE_DIR=/other/disk kvist …")
            }
            PullError::Hub(HubError::Reference(_)) => {
                refused.fix("kvist pull hf:OWNER/NAME:FILE.gguf")
            }
            PullError::Hub(HubError::NotFound { .. }) => {
                refused.fix("check owner, name and file: hf:OWNER/NAME:FILE.gguf")
            }
            PullError::Hub(HubError::Damaged { .. } | HubError::BadAnswer { .. }) => {
                refused.fix("try again; with a mirror in HF_ENDPOINT, try without it")
            }
        }
    }
}

/// What an output that cannot be written means: a closed pipe is how `head` says it has enough.
pub(crate) fn output_error(error: &io::Error) -> CliError {
    let exit = match error.kind() {
        io::ErrorKind::BrokenPipe => Exit::Ok,
        io::ErrorKind::StorageFull => Exit::Disk,
        _ => Exit::Other,
    };
    CliError::new(exit, "standard output cannot be written").because(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_what_why_and_a_fix_or_several() {
        let one = CliError::new(Exit::Model, "no\x1b[2J model")
            .because("12 of 34")
            .fix("pull it");
        assert_eq!(
            one.to_string(),
            "no\u{fffd}[2J model\n  12 of 34\n  fix: pull it"
        );
        let two = one.fix("or not");
        assert!(
            two.to_string()
                .ends_with("\n  fix, any one of:\n    pull it\n    or not")
        );
    }

    #[test]
    fn classes_of_load_errors_have_their_exit_codes() {
        let missing = kvist_weights::GgufFile::open("/no/such/file.gguf".as_ref()).unwrap_err();
        let error = CliError::from(missing);
        assert_eq!(error.exit, Exit::Model);
        assert!(!error.fixes.is_empty() && error.to_string().contains("/no/such/file.gguf"));
    }
}
