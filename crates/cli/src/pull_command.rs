//! `kvist pull`: a model's file, downloaded where it is missing, and its path on standard output.

use crate::args::PullArgs;
use crate::environment::Environment;
use crate::error::{CliError, output_error};
use crate::exit::Exit;
use crate::model_ref::ModelRef;
use crate::pull;
use crate::terminal::print;

pub(crate) fn run(args: &PullArgs, environment: &Environment) -> Result<Exit, CliError> {
    let model = match ModelRef::parse(Some(&args.name))? {
        ModelRef::Path(path) => {
            return Err(
                CliError::new(Exit::Usage, format!("{} cannot be pulled", path.display()))
                    .because("it is neither a catalogue name nor a hub model")
                    .fix(format!(
                        "kvist pull {}",
                        crate::catalogue::DEFAULT_MODEL.name
                    ))
                    .fix("kvist pull hf:OWNER/NAME"),
            );
        }
        model => model,
    };
    let network = args.network.network();
    let path = model.resolve(environment, network, &mut *pull::for_stderr())?;
    print(&format!("{}\n", path.display())).map_err(|error| output_error(&error))?;
    Ok(Exit::Ok)
}
