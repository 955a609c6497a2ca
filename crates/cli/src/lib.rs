//! The command line of kvist: parses, prints, decides nothing.
//!
//! Each command is a module with one `run`. What they print on standard output is their result;
//! everything else goes to standard error. Errors carry their exit code (see [`exit::Exit`]) and
//! become text in one place, here.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod args;
pub mod cache;
pub mod catalogue;
pub mod environment;
pub mod error;
pub mod exit;
pub mod model_ref;
pub mod pull;

mod answer;
mod bench;
mod chat;
mod inspect;
mod logging;
mod memory;
mod perplexity;
mod plan;
mod pull_command;
mod run;
mod serve;
mod session;
mod signals;
mod split;
mod terminal;

use std::io::{self, Write};
use std::process::ExitCode;

use args::{Cli, Command};
use clap_complete::Shell;
use environment::Environment;
use error::{CliError, output_error};
use exit::Exit;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::of_process();
    let environment = Environment::of_process();
    logging::start(cli.log, cli.log_format);
    let exit = dispatch(&cli.command, &environment).unwrap_or_else(|error| {
        // A reader that has seen enough, as `head` does, is not an error worth words.
        if error.exit != Exit::Ok {
            let word = terminal::alarm("error", &environment);
            // Nobody is left to tell when standard error is closed.
            let _ = writeln!(io::stderr(), "{word}: {error}");
        }
        error.exit
    });
    exit.into()
}

fn dispatch(command: &Command, environment: &Environment) -> Result<Exit, CliError> {
    match command {
        Command::Serve(args) => serve::run(args, environment),
        Command::Memory(args) => memory::run(args),
        Command::Run(args) => run::run(args, environment),
        Command::Chat(args) => chat::run(args, environment),
        Command::Plan(args) => plan::run(args, environment),
        Command::Inspect(args) => inspect::run(args, environment),
        Command::Bench(args) => bench::run(args, environment),
        Command::Perplexity(args) => perplexity::run(args, environment),
        Command::Pull(args) => pull_command::run(args, environment),
        Command::Completions { shell } => completions(*shell),
    }
}

fn completions(shell: Shell) -> Result<Exit, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut args::command(), "kvist", &mut script);
    io::stdout()
        .write_all(&script)
        .map_err(|error| output_error(&error))?;
    Ok(Exit::Ok)
}
