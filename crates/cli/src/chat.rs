//! `kvist chat`: a conversation in the terminal, or line by line through a pipe.

use std::io::{self, BufRead, IsTerminal};
use std::thread;

use kvist_engine::{ChatMessage, EngineHandle, EngineOptions, GenerateSpec, Prompt};
use rustyline::error::ReadlineError;
use rustyline::history::MemHistory;
use rustyline::{Config, Editor};
use tokio::sync::mpsc;

use crate::answer::{self, AnswerEnd};
use crate::args::ChatArgs;
use crate::environment::Environment;
use crate::error::CliError;
use crate::exit::Exit;
use crate::model_ref;
use crate::session::{self, conversation, message};
use crate::signals::StopSignals;
use crate::terminal::{alarm, say};

const HELP: &str = "\
/help         this list
/reset        forget the conversation
/system TEXT  give instructions, and forget the conversation
Ctrl-C        stop the answer
Ctrl-D        leave";

pub(crate) fn run(args: &ChatArgs, environment: &Environment) -> Result<Exit, CliError> {
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
    let handle = engine.handle();
    if !handle.info().has_chat_template {
        return Err(
            CliError::new(Exit::Model, "this model has no chat template")
                .because("it continues texts, but was not made for conversations")
                .fix("kvist run MODEL --raw -p TEXT"),
        );
    }
    let mut chat = Chat {
        args,
        engine: handle,
        history: History::new(args.system.as_deref()),
    };
    let exit = session::runtime()?.block_on(async {
        let mut signals = StopSignals::listen().map_err(|error| session::system_error(&error))?;
        if io::stdin().is_terminal() && io::stdout().is_terminal() {
            chat.with_person(&mut signals, environment).await
        } else {
            chat.with_pipe(&mut signals).await
        }
    })?;
    session::shut_down(engine)?;
    Ok(exit)
}

/// What was said.
#[derive(Debug, Default, PartialEq)]
struct History {
    messages: Vec<ChatMessage>,
}

impl History {
    fn new(system: Option<&str>) -> Self {
        Self {
            messages: system
                .map(|text| message("system", text))
                .into_iter()
                .collect(),
        }
    }

    /// Forgets all but the instructions.
    fn reset(&mut self) {
        self.messages.retain(|message| message.role == "system");
    }
}

/// What a line from the user asks for.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Nothing,
    Say(&'a str),
    Help,
    Reset,
    System(&'a str),
    Unknown(&'a str),
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Self {
        let line = line.trim();
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match (word, rest.trim()) {
            ("", _) => Self::Nothing,
            ("/help" | "/?", "") => Self::Help,
            ("/reset", "") => Self::Reset,
            ("/system", text) if !text.is_empty() => Self::System(text),
            // A path or a comment may begin with a slash too: only one word in letters is a command.
            (word, _) if is_command(word) => Self::Unknown(word),
            _ => Self::Say(line),
        }
    }
}

fn is_command(word: &str) -> bool {
    let letters = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase());
    word.strip_prefix('/').is_some_and(letters)
}

/// Whether the conversation goes on.
enum Turn {
    Next,
    /// The user stopped the answer.
    Stopped,
}

struct Chat<'a> {
    args: &'a ChatArgs,
    engine: EngineHandle,
    history: History,
}

impl Chat<'_> {
    /// A person: mistakes are told, and the conversation goes on.
    async fn with_person(
        &mut self,
        signals: &mut StopSignals,
        environment: &Environment,
    ) -> Result<Exit, CliError> {
        let mut editor: Editor<(), MemHistory> =
            Editor::with_history(Config::default(), MemHistory::new()).map_err(no_terminal)?;
        let info = self.engine.info();
        say(&format!(
            "{}, {} of context. /help lists the commands.",
            info.name, info.model_len
        ));
        loop {
            // Blocks this thread, and with it the runtime: nothing else runs on it meanwhile.
            let line = match editor.readline("> ") {
                Ok(line) => line,
                Err(ReadlineError::Eof) => return Ok(Exit::Ok),
                Err(ReadlineError::Interrupted) => {
                    say("Ctrl-D leaves.");
                    continue;
                }
                Err(error) => return Err(no_terminal(error)),
            };
            if !line.trim().is_empty() {
                // Only the comfort of the arrow keys is lost when it cannot be kept.
                let _ = editor.add_history_entry(&line);
            }
            match self.take(&line, signals).await {
                Ok(Turn::Next | Turn::Stopped) => {}
                Err(error) if error.exit == Exit::Usage => {
                    say(&format!("{}: {error}", alarm("error", environment)));
                    say("/reset forgets the conversation.");
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// A pipe: the first mistake ends it.
    async fn with_pipe(&mut self, signals: &mut StopSignals) -> Result<Exit, CliError> {
        let mut lines = stdin_lines();
        loop {
            let line = tokio::select! {
                biased;
                () = signals.next() => return Ok(Exit::Interrupted),
                line = lines.recv() => line,
            };
            let Some(line) = line else {
                return Ok(Exit::Ok);
            };
            let line = line.map_err(|error| session::system_error(&error))?;
            if let Turn::Stopped = self.take(&line, signals).await? {
                return Ok(Exit::Interrupted);
            }
        }
    }

    async fn take(&mut self, line: &str, signals: &mut StopSignals) -> Result<Turn, CliError> {
        match Line::parse(line) {
            Line::Nothing => {}
            Line::Say(text) => return self.answer(text, signals).await,
            Line::Help => say(HELP),
            Line::Reset => self.history.reset(),
            Line::System(text) => self.history = History::new(Some(text)),
            Line::Unknown(word) => say(&format!("{word} is no command; /help lists them.")),
        }
        Ok(Turn::Next)
    }

    async fn answer(&mut self, text: &str, signals: &mut StopSignals) -> Result<Turn, CliError> {
        self.history.messages.push(message("user", text));
        let input = conversation(self.history.messages.clone());
        let spec = GenerateSpec {
            sampling: self.args.sampling.spec(),
            stop: self.args.sampling.stop.clone(),
            output_max: self.args.max_tokens,
            ..GenerateSpec::greedy(Prompt::Chat(Box::new(input)))
        };
        let answer = answer::stream(&self.engine, spec, signals)
            .await
            .inspect_err(|_| {
                // What was not answered was not said: the next line starts from the same place.
                self.history.messages.pop();
            })?;
        say(&answer.stats.to_string());
        // A stopped answer stays: the person has read it and may refer to it.
        self.history
            .messages
            .push(message("assistant", answer.text));
        Ok(match answer.end {
            AnswerEnd::Finished(_) => Turn::Next,
            AnswerEnd::Stopped => Turn::Stopped,
        })
    }
}

/// Lines of standard input, read by a thread of their own: a blocked read cannot be woken by a
/// signal. The thread ends with the process.
fn stdin_lines() -> mpsc::Receiver<io::Result<String>> {
    let (sender, receiver) = mpsc::channel(1);
    thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            if sender.blocking_send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

#[allow(clippy::needless_pass_by_value)] // the shape `map_err` wants
fn no_terminal(error: ReadlineError) -> CliError {
    CliError::new(Exit::Other, "the terminal cannot be used")
        .because(error.to_string())
        .fix("kvist run -p TEXT")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_words_and_everything_else_is_said() {
        assert_eq!(Line::parse("  "), Line::Nothing);
        assert_eq!(Line::parse(" /help "), Line::Help);
        assert_eq!(Line::parse("/reset"), Line::Reset);
        assert_eq!(
            Line::parse("/system  Be  brief."),
            Line::System("Be  brief.")
        );
        assert_eq!(Line::parse("/exit"), Line::Unknown("/exit"));
        assert_eq!(Line::parse("/system"), Line::Unknown("/system"));
        for said in [
            "hello",
            "/usr/bin/env is what?",
            "// a comment",
            "/ 2",
            "/Help",
        ] {
            assert_eq!(Line::parse(said), Line::Say(said));
        }
    }

    #[test]
    fn a_reset_keeps_the_instructions() {
        let mut history = History::new(Some("Be brief."));
        history.messages.push(message("user", "hello"));
        history.messages.push(message("assistant", "hi"));
        history.reset();
        assert_eq!(history, History::new(Some("Be brief.")));
    }
}
