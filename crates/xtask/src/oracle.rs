//! Greedy output of kvist and of llama.cpp, token by token, from the same prompt tokens.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Outcome;
use crate::command::Run;
use crate::compare::{Agreement, Comparison, Position, Summary, divergence};
use crate::http::Server;
use crate::peer::{FlashAttention, Peer, Serving, threads};

const PROMPTS: &str = include_str!("../data/prompts.json");
/// Its beginning is the long prompt.
const LONG_TEXT: &str = include_str!("../data/perplexity.txt");
const LONG_PROMPT_CHARS: usize = 6000;
/// Room for the long prompt and its output.
const CONTEXT: usize = 4096;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A GGUF file
    model: PathBuf,
    /// Directory with llama.cpp's programs [default: installed below the target directory]
    #[arg(long)]
    peer_dir: Option<PathBuf>,
    /// Tokens to produce for each prompt
    #[arg(long, default_value_t = 64)]
    tokens: usize,
    /// Gap between the two best log-probabilities up to which another choice is a matter of rounding
    #[arg(long, default_value_t = 0.5)]
    tie: f64,
    /// Also write the report to this file as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// A prompt to try.
#[derive(Clone, Debug, Deserialize, PartialEq)]
struct Prompt {
    name: String,
    text: String,
}

/// A prompt as the peer cuts it.
#[derive(Debug, Serialize)]
struct Task {
    #[serde(skip)]
    name: String,
    text: String,
    /// Without special tokens: to be compared with ours.
    #[serde(skip)]
    text_tokens: Vec<u32>,
    /// With the model's begin token where it wants one: what both engines continue.
    tokens: Vec<u32>,
}

/// What `examples/greedy.rs` says about one task.
#[derive(Debug, Deserialize)]
struct Answer {
    text_tokens: Vec<u32>,
    prompt_len: usize,
    output: Vec<Position>,
}

pub fn run(arguments: &Arguments) -> Outcome {
    let peer = Peer::find(arguments.peer_dir.as_deref())?;
    let model = arguments.model.canonicalize()?;
    let server = peer.serve(&model, Serving::one(CONTEXT, FlashAttention::Auto))?;
    let tasks: Vec<Task> = prompts()?
        .into_iter()
        .map(|prompt| task(server.http, prompt))
        .collect::<Result<_, _>>()?;
    let answers = kvist_answers(&model, &tasks, arguments.tokens)?;
    let theirs = peer_outputs(server.http, &tasks, arguments.tokens)?;
    drop(server);
    let mut comparisons = Vec::new();
    for ((task, answer), theirs) in tasks.iter().zip(&answers).zip(&theirs) {
        let comparison = compare(task, answer, theirs);
        println!("{comparison}");
        comparisons.push(comparison);
    }
    let server = peer.serve(&model, Serving::one(CONTEXT, FlashAttention::Off))?;
    let otherwise = peer_outputs(server.http, &tasks, arguments.tokens)?;
    drop(server);
    let summary = Summary::new(&comparisons, arguments.tie);
    println!("\n{summary}");
    let itself = Agreement::new(theirs.iter().zip(&otherwise));
    println!("llama.cpp against itself, its other attention kernel: {itself}");
    if let Some(path) = &arguments.json {
        let report = json!({
            "summary": summary, "peer_against_itself": itself, "prompts": comparisons
        });
        fs::write(path, serde_json::to_string_pretty(&report)?)?;
    }
    if summary.tokenised_alike < summary.prompts || summary.unexplained > 0 {
        return Err("the engines disagree by more than rounding".into());
    }
    Ok(())
}

fn prompts() -> Result<Vec<Prompt>, serde_json::Error> {
    let mut prompts: Vec<Prompt> = serde_json::from_str(PROMPTS)?;
    let text = LONG_TEXT.chars().take(LONG_PROMPT_CHARS).collect();
    prompts.push(Prompt {
        name: "long".to_owned(),
        text,
    });
    Ok(prompts)
}

fn task(peer: Server, prompt: Prompt) -> Result<Task, Box<dyn Error>> {
    let Prompt { name, text } = prompt;
    let tokenize = |add_special: bool| -> Result<Vec<u32>, Box<dyn Error>> {
        let body = json!({ "content": text, "add_special": add_special, "parse_special": false });
        let answer = peer.post("/tokenize", &body)?;
        Ok(Vec::deserialize(&answer["tokens"])?)
    };
    let (text_tokens, tokens) = (tokenize(false)?, tokenize(true)?);
    Ok(Task {
        name,
        text,
        text_tokens,
        tokens,
    })
}

/// Runs all tasks through the engine, in a process of its own.
fn kvist_answers(
    model: &Path,
    tasks: &[Task],
    output_len: usize,
) -> Result<Vec<Answer>, Box<dyn Error>> {
    let input = json!({ "output_len": output_len, "threads": threads(), "tasks": tasks });
    let output = Run::cargo()
        .args([
            "run",
            "--quiet",
            "--package",
            "xtask",
            "--example",
            "greedy",
            "--",
        ])
        .args([model])
        .filter(&input.to_string())?;
    let answers: Vec<Answer> = serde_json::from_str(&output)?;
    if answers.len() == tasks.len() {
        Ok(answers)
    } else {
        Err(format!("{} answers to {} tasks", answers.len(), tasks.len()).into())
    }
}

fn peer_outputs(
    peer: Server,
    tasks: &[Task],
    output_len: usize,
) -> Result<Vec<Vec<Position>>, Box<dyn Error>> {
    tasks
        .iter()
        .map(|task| peer_output(peer, &task.tokens, output_len))
        .collect()
}

fn peer_output(
    peer: Server,
    prompt: &[u32],
    output_len: usize,
) -> Result<Vec<Position>, Box<dyn Error>> {
    let body = json!({
        "prompt": prompt,
        "n_predict": output_len,
        "temperature": 0,
        "top_k": 1,
        "n_probs": 2,
        "return_tokens": true,
        "cache_prompt": false,
    });
    peer_positions(&peer.post("/completion", &body)?)
}

/// Reads llama-server's answer. It gives probabilities for text: a token that ends within a character
/// is in `tokens`, but may have no entry in `completion_probabilities`.
fn peer_positions(answer: &Value) -> Result<Vec<Position>, Box<dyn Error>> {
    #[derive(Deserialize)]
    struct Candidate {
        logprob: f64,
    }
    #[derive(Deserialize)]
    struct Chosen {
        id: u32,
        top_logprobs: Vec<Candidate>,
    }
    let tokens: Vec<u32> = Vec::deserialize(&answer["tokens"])?;
    let chosen: Vec<Chosen> = Vec::deserialize(&answer["completion_probabilities"])?;
    let mut chosen = chosen.into_iter().peekable();
    let positions = tokens.into_iter().map(|token| {
        let gap = chosen
            .next_if(|chosen| chosen.id == token)
            .and_then(|chosen| {
                let [first, second, ..] = &chosen.top_logprobs[..] else {
                    return None;
                };
                Some(first.logprob - second.logprob)
            });
        Position { token, gap }
    });
    Ok(positions.collect())
}

fn compare(task: &Task, ours: &Answer, theirs: &[Position]) -> Comparison {
    let divergence = divergence(&ours.output, theirs);
    let common_len = ours.output.len().min(theirs.len());
    Comparison {
        name: task.name.clone(),
        prompt_len: task.tokens.len(),
        tokenised_alike: ours.text_tokens == task.text_tokens
            && ours.prompt_len == task.tokens.len(),
        equal_len: divergence.map_or(common_len, |divergence| divergence.position),
        common_len,
        divergence,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_prompts_are_many_and_of_many_kinds() {
        let prompts = prompts().expect("the file is a list of prompts");
        let names: BTreeSet<&str> = prompts.iter().map(|prompt| prompt.name.as_str()).collect();
        assert!(prompts.len() >= 20 && names.len() == prompts.len());
        let has = |is: fn(char) -> bool| prompts.iter().any(|prompt| prompt.text.contains(is));
        assert!(has(|c| ('\u{4E00}'..='\u{9FFF}').contains(&c)), "Chinese");
        assert!(has(|c| c >= '\u{1F300}'), "emoji");
        assert!(
            prompts.iter().any(|prompt| prompt.text.contains("fn ")),
            "code"
        );
        assert!(
            prompts.iter().any(|prompt| prompt.text.len() > 5000),
            "a long one"
        );
    }

    #[test]
    fn the_peers_answer_is_read_with_the_gaps_it_has() {
        let answer = json!({ "tokens": [5, 9, 7], "completion_probabilities": [
            { "id": 5, "logprob": -0.5, "top_logprobs": [
                { "id": 5, "logprob": -0.5 }, { "id": 6, "logprob": -1.75 } ] },
            { "id": 7, "logprob": 0.0, "top_logprobs": [{ "id": 7, "logprob": 0.0 }] },
        ]});
        let positions = peer_positions(&answer).expect("a well-formed answer");
        let expected = [(5, Some(1.25)), (9, None), (7, None)];
        assert_eq!(
            positions,
            expected.map(|(token, gap)| Position { token, gap })
        );
        assert!(peer_positions(&json!({})).is_err());
    }
}
