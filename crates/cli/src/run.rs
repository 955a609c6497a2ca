//! `kvist run`: one prompt, one answer.

use std::io::{self, IsTerminal, Read};

use kvist_engine::{EngineHandle, EngineOptions, GenerateSpec, Prompt};

use crate::answer::{self, AnswerEnd};
use crate::args::RunArgs;
use crate::environment::Environment;
use crate::error::CliError;
use crate::exit::Exit;
use crate::model_ref;
use crate::session::{self, conversation, message};
use crate::signals::StopSignals;
use crate::terminal::say;

/// Prompts on standard input beyond this are not read to their end: no context holds them.
const PROMPT_BYTES_MAX: u64 = 64 << 20;

pub(crate) fn run(args: &RunArgs, environment: &Environment) -> Result<Exit, CliError> {
    let prompt = read_prompt(args.prompt.as_deref())?;
    let path = model_ref::resolve(&args.model, environment)?;
    let machine = session::machine()?;
    let limits = args.memory.limits_for_one(&machine)?;
    let options = EngineOptions {
        limits,
        isa: args.compute.isa(environment)?,
        speculation: args.speculation.speculation(),
        draft: args.speculation.draft(args.model.network, environment)?,
        ..EngineOptions::default()
    };
    let engine = session::load(&path, &machine, &options)?;
    let spec = generate_spec(args, prompt, &engine.handle());

    let runtime = session::runtime()?;
    let answer = runtime.block_on(async {
        let mut signals = StopSignals::listen().map_err(|error| session::system_error(&error))?;
        answer::stream(&engine.handle(), spec, &mut signals).await
    })?;
    say(&answer.stats.to_string());
    session::shut_down(engine)?;
    Ok(match answer.end {
        AnswerEnd::Finished(_) => Exit::Ok,
        AnswerEnd::Stopped => Exit::Interrupted,
    })
}

fn generate_spec(args: &RunArgs, prompt: String, engine: &EngineHandle) -> GenerateSpec {
    let templated = !args.raw && engine.info().has_chat_template;
    if !args.raw && !templated {
        say("note: this model has no chat template; it continues the prompt as with --raw");
    }
    let prompt = if templated {
        let system = args.system.as_ref().map(|text| message("system", text));
        let messages = system
            .into_iter()
            .chain([message("user", prompt)])
            .collect();
        Prompt::Chat(Box::new(conversation(messages)))
    } else {
        // Without a template there are no roles: instructions are text like any other.
        let instructions = args.system.as_ref().map(|text| format!("{text}\n\n"));
        Prompt::Text(instructions.unwrap_or_default() + &prompt)
    };
    GenerateSpec {
        sampling: args.sampling.spec(),
        stop: args.sampling.stop.clone(),
        output_max: args.max_tokens,
        ..GenerateSpec::greedy(prompt)
    }
}

/// The prompt of the command line, else of standard input.
fn read_prompt(given: Option<&str>) -> Result<String, CliError> {
    match given {
        Some("-") => read_stdin(),
        Some(text) => Ok(text.to_owned()),
        None if !io::stdin().is_terminal() => read_stdin(),
        None => Err(CliError::new(Exit::Usage, "there is no prompt")
            .fix("kvist run -p \"Why is the sky blue?\"")
            .fix("echo \"Why is the sky blue?\" | kvist run")
            .fix("kvist chat")),
    }
}

fn read_stdin() -> Result<String, CliError> {
    let mut text = String::new();
    let mut stdin = io::stdin().lock().take(PROMPT_BYTES_MAX + 1);
    stdin.read_to_string(&mut text).map_err(|error| {
        CliError::new(Exit::Usage, "the prompt on standard input cannot be read")
            .because(error.to_string())
    })?;
    if text.len() as u64 > PROMPT_BYTES_MAX {
        let what = format!("the prompt on standard input has more than {PROMPT_BYTES_MAX} bytes");
        return Err(CliError::new(Exit::Usage, what).fix("a shorter prompt"));
    }
    // The line end that every line-based tool adds is not part of what was asked.
    let end = text.trim_end_matches(['\n', '\r']).len();
    text.truncate(end);
    Ok(text)
}
