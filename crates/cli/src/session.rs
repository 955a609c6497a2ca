//! What the commands that generate have in common: the machine, the engine, the runtime.

use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use kvist_base::Tokens;
use kvist_engine::plan::{Machine, Plan};
use kvist_engine::{ChatInput, ChatMessage, Engine, EngineOptions, ShutdownReport, read_machine};
use tokio::runtime::{Builder, Runtime};

use crate::error::CliError;
use crate::exit::Exit;

/// The machine as this process may use it.
pub(crate) fn machine() -> Result<Machine, CliError> {
    read_machine().map_err(|error| {
        CliError::new(Exit::Other, "this machine's memory cannot be read")
            .because(error.to_string())
    })
}

/// The runtime of the main thread. The engine has its own threads.
pub(crate) fn runtime() -> Result<Runtime, CliError> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| system_error(&error))
}

/// Something the operating system refused that no other error names.
pub(crate) fn system_error(error: &io::Error) -> CliError {
    CliError::new(Exit::Other, "the system refused").because(error.to_string())
}

/// Loads a model.
pub(crate) fn load(
    path: &Path,
    machine: &Machine,
    options: &EngineOptions,
) -> Result<Engine, CliError> {
    Ok(Engine::load(path, machine, options)?)
}

/// Stops the engine.
pub(crate) fn shut_down(engine: Engine) -> Result<ShutdownReport, CliError> {
    checked(engine.shutdown())
}

/// Blocks that did not come back are our bug.
pub(crate) fn checked(report: ShutdownReport) -> Result<ShutdownReport, CliError> {
    let drafts = (report.draft_blocks_free, report.draft_blocks_total);
    if report.blocks_free == report.blocks_total && drafts.0 == drafts.1 {
        return Ok(report);
    }
    let what = format!(
        "KV blocks {}/{} free after the last request, {}/{} of the draft model",
        report.blocks_free.0, report.blocks_total.0, drafts.0.0, drafts.1.0
    );
    Err(CliError::new(Exit::EngineFault, what).fix("this is a bug: please report it"))
}

/// Tokens of a KV block of this plan.
pub(crate) fn block_size(plan: &Plan) -> Tokens {
    // A planned block is whole tokens, and at least one.
    let tokens = plan.kv.block_bytes.0 / plan.kv.bytes_per_token.0.max(1);
    Tokens(u32::try_from(tokens).unwrap_or(u32::MAX).max(1))
}

/// A message of a conversation.
pub(crate) fn message(role: &str, content: impl Into<String>) -> ChatMessage {
    ChatMessage {
        role: role.to_owned(),
        content: Some(content.into()),
        ..ChatMessage::default()
    }
}

/// A conversation for the model to continue, as of now.
pub(crate) fn conversation(messages: Vec<ChatMessage>) -> ChatInput {
    let mut input = ChatInput {
        messages,
        add_generation_prompt: true,
        ..ChatInput::default()
    };
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    input.now.0 = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    input
}
