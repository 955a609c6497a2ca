//! Greedy output for many prompts, as JSON: kvist's side of `cargo xtask oracle`.
//!
//! Argument: a model file. Standard input: `{"output_len", "threads", "tasks": [{"text", "tokens"}]}`.
//! Standard output: for each task the tokens of its text, the length of the text as a prompt, and
//! what follows its `tokens`.

use std::env;
use std::error::Error;
use std::io;
use std::path::Path;

use kvist_base::{TokenId, Tokens};
use kvist_engine::{
    Engine, EngineHandle, EngineOptions, GenerateSpec, Prompt, SamplingSpec, SpecialText,
    StreamEvent, TokenLogprobs, read_machine,
};
use serde::Deserialize;
use serde_json::{Value, json};

const CONTEXT: Tokens = Tokens(4096);

#[derive(Deserialize)]
struct Input {
    output_len: u32,
    threads: u32,
    tasks: Vec<Task>,
}

#[derive(Deserialize)]
struct Task {
    text: String,
    tokens: Vec<u32>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let model = env::args_os().nth(1).ok_or("usage: greedy MODEL < TASKS")?;
    let input: Input = serde_json::from_reader(io::stdin())?;
    let mut options = EngineOptions::default();
    options.limits.threads = input.threads;
    options.limits.running_max = 1;
    let machine = read_machine()?;
    let header = kvist_engine::plan_file(Path::new(&model), &machine, &options.limits)?;
    options.limits.model_len = Some(header.shape.context_max.min(CONTEXT));
    let engine = Engine::load(Path::new(&model), &machine, &options)?;
    let answers: Vec<Value> = input
        .tasks
        .iter()
        .map(|task| answer(&engine.handle(), task, input.output_len))
        .collect::<Result<_, _>>()?;
    println!("{}", Value::from(answers));
    Ok(())
}

fn answer(engine: &EngineHandle, task: &Task, output_len: u32) -> Result<Value, Box<dyn Error>> {
    let text_tokens = engine.tokenize(&task.text, SpecialText::Plain)?;
    let text_tokens: Vec<u32> = text_tokens.iter().map(|token| token.0).collect();
    // Dropped at once: all that is wanted is how long the prompt came out.
    let prompt_len = engine
        .submit(GenerateSpec::greedy(Prompt::Text(task.text.clone())))?
        .prompt_len();
    let spec = GenerateSpec {
        sampling: SamplingSpec {
            temperature: 0.0,
            logprobs: Some(2),
            ..SamplingSpec::default()
        },
        output_max: Some(Tokens(output_len)),
        ..GenerateSpec::greedy(Prompt::Tokens(
            task.tokens.iter().copied().map(TokenId).collect(),
        ))
    };
    let mut request = engine.submit(spec)?;
    let mut output = Vec::new();
    while let Some(event) = request.recv() {
        match event {
            StreamEvent::Delta(delta) => output.extend(delta.logprobs.iter().map(position)),
            StreamEvent::Finished(_) => {}
            StreamEvent::Failed(fault) => return Err(fault.to_string().into()),
        }
    }
    Ok(json!({ "text_tokens": text_tokens, "prompt_len": prompt_len.0, "output": output }))
}

fn position(logprobs: &TokenLogprobs) -> Value {
    let gap = match &logprobs.top[..] {
        [first, second, ..] => f64::from(first.logprob) - f64::from(second.logprob),
        _ => return json!({ "token": logprobs.chosen.token.0 }),
    };
    json!({ "token": logprobs.chosen.token.0, "gap": gap })
}
