//! `kvist memory`: the memory of a running server, shown and changed.

use std::fmt::Write as _;
use std::io::Read as _;
use std::time::Duration;

use kvist_base::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::args::{MemoryChange, MemoryCommandArgs};
use crate::error::{CliError, output_error};
use crate::exit::Exit;
use crate::serve::read_keys;
use crate::terminal::print;

/// A larger answer is no server of ours.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// A server that is asked to shrink finishes the step that runs; a long one takes seconds.
const TIME_MAX: Duration = Duration::from_secs(60);

pub(crate) fn run(args: &MemoryCommandArgs) -> Result<Exit, CliError> {
    let answer = ask(args)?;
    let text = if args.json {
        format!("{answer:#}\n")
    } else {
        let report = Report::deserialize(&answer).map_err(|error| strange(args, &error))?;
        table(&report)
    };
    print(&text).map_err(|error| output_error(&error))?;
    Ok(Exit::Ok)
}

/// What the server answers.
fn ask(args: &MemoryCommandArgs) -> Result<Value, CliError> {
    let url = format!("{}/v1/memory", args.url.trim_end_matches('/'));
    let key = read_keys(&args.keys)?.into_iter().next();
    let agent = ureq::Agent::config_builder()
        .timeout_global(Some(TIME_MAX))
        .http_status_as_error(false)
        .build()
        .new_agent();
    let bearer = key.map(|key| format!("Bearer {key}"));
    let sent = match args.change {
        None => {
            let request = agent.get(&url);
            match &bearer {
                Some(bearer) => request.header("authorization", bearer),
                None => request,
            }
            .call()
        }
        Some(MemoryChange::Set { budget }) => {
            let request = agent.put(&url).content_type("application/json");
            match &bearer {
                Some(bearer) => request.header("authorization", bearer),
                None => request,
            }
            .send(json!({"budget": budget.0}).to_string())
        }
    };
    let mut response = sent.map_err(|error| {
        CliError::new(Exit::Network, format!("no answer from {}", args.url))
            .because(error.to_string())
            .fix("kvist memory --url http://HOST:PORT    of a server that runs")
    })?;
    let status = response.status().as_u16();
    let mut text = String::new();
    let body = response.body_mut().as_reader();
    body.take(ANSWER_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|error| strange(args, &error))?;
    let answer: Value = serde_json::from_str(&text).map_err(|error| strange(args, &error))?;
    if status == 200 {
        return Ok(answer);
    }
    Err(refused(status, &answer))
}

fn strange(args: &MemoryCommandArgs, error: &dyn std::fmt::Display) -> CliError {
    CliError::new(
        Exit::Network,
        format!("{} does not answer as kvist does", args.url),
    )
    .because(error.to_string())
    .fix("kvist memory --url http://HOST:PORT")
}

/// The server's own words.
fn refused(status: u16, answer: &Value) -> CliError {
    let message = answer["error"]["message"]
        .as_str()
        .unwrap_or("no reason given");
    let (exit, what) = match status {
        401 => (Exit::Usage, "the server wants a key"),
        400 => (Exit::Usage, "the server refuses the budget"),
        409 => (Exit::Other, "the server cannot change the budget now"),
        404 | 405 => (Exit::Other, "the server does not know this request"),
        _ => (Exit::Other, "the server could not do it"),
    };
    let error = CliError::new(exit, what).because(message);
    match status {
        401 => error.fix("kvist memory --api-key-file FILE"),
        400 => error.fix("kvist memory set SIZE    with more"),
        409 => error.fix("try again when the requests being served are finished"),
        _ => error.fix("kvist memory --url http://HOST:PORT    of a server of this version"),
    }
}

/// The part of the answer that the table shows.
#[derive(Debug, Deserialize)]
struct Report {
    budget: u64,
    planned: u64,
    committed: u64,
    used: u64,
    lines: Vec<Line>,
    models: Vec<Model>,
    process: Option<Process>,
}

#[derive(Debug, Deserialize)]
struct Line {
    model: Option<String>,
    name: String,
    planned: u64,
    committed: u64,
    used: u64,
}

#[derive(Debug, Deserialize)]
struct Model {
    id: String,
    state: String,
    busy: bool,
    kv: Option<Kv>,
}

#[derive(Debug, Deserialize)]
struct Kv {
    blocks_limit: u64,
    blocks_free: u64,
    blocks_held: u64,
    blocks_cached: u64,
}

#[derive(Debug, Deserialize)]
struct Process {
    resident: u64,
    anonymous: u64,
}

fn table(report: &Report) -> String {
    let mut text = String::new();
    let mib = |bytes: u64| Bytes(bytes).as_mib();
    let several = report.models.len() > 1;
    let mut row = |name: &str, [planned, committed, used]: [u64; 3]| {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  {name:<32} {:>12.1} {:>12.1} {:>12.1}",
            mib(planned),
            mib(committed),
            mib(used)
        );
    };
    for line in &report.lines {
        let name = match &line.model {
            Some(model) if several => format!("{model}: {}", line.name),
            _ => line.name.clone(),
        };
        row(&name, [line.planned, line.committed, line.used]);
    }
    row("total", [report.planned, report.committed, report.used]);
    let mut head = format!(
        "  {:<32} {:>12} {:>12} {:>12}\n",
        "MiB", "planned", "committed", "used"
    );
    head.push_str(&text);
    let _ = writeln!(head, "  {:<32} {:>12.1}", "budget", mib(report.budget));
    if let Some(Process {
        resident,
        anonymous,
    }) = report.process
    {
        let _ = writeln!(
            head,
            "  {:<32} {:>12} {:>12.1}\n  {:<32} {:>12} {:>12.1}",
            "process resident",
            "",
            mib(resident),
            "  of it not in files",
            "",
            mib(anonymous)
        );
    }
    head.push('\n');
    for model in &report.models {
        let busy = if model.busy { ", busy" } else { "" };
        let _ = write!(head, "  {}: {}{busy}", model.id, model.state);
        if let Some(kv) = &model.kv {
            let _ = write!(
                head,
                ", {} KV blocks: {} held, {} cached, {} free",
                kv.blocks_limit, kv.blocks_held, kv.blocks_cached, kv.blocks_free
            );
        }
        head.push('\n');
    }
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_the_model_only_where_there_are_several() {
        let line = |model: Value| {
            json!({"model": model, "kind": "kv_pool", "name": "kv pool",
                   "planned": 3 << 20, "committed": 2 << 20, "used": 1 << 20})
        };
        let model = |id: &str| {
            json!({"id": id, "state": "ready", "busy": true, "kv": {
            "blocks_limit": 9, "blocks_free": 4, "blocks_held": 3, "blocks_cached": 2}, "plan": {}})
        };
        let mut answer = json!({
            "budget": 4 << 20, "planned": 3 << 20, "committed": 2 << 20, "used": 1 << 20,
            "lines": [line(Value::Null)], "models": [model("a")],
            "process": {"resident": 5 << 20, "anonymous": 2 << 20},
        });
        let one = table(&Report::deserialize(&answer).unwrap());
        let row = |name: &str| -> Vec<String> {
            let line = one.lines().find_map(|line| line.trim().strip_prefix(name));
            let words = line.unwrap_or_else(|| panic!("no {name} in {one}"));
            words.split_whitespace().map(str::to_owned).collect()
        };
        assert_eq!(row("kv pool"), ["3.0", "2.0", "1.0"]);
        assert_eq!(row("process resident"), ["5.0"]);
        let blocks = "a: ready, busy, 9 KV blocks: 3 held, 2 cached, 4 free";
        assert!(one.contains(blocks), "{one}");
        answer["lines"] = json!([line(json!("a"))]);
        answer["models"] =
            json!([model("a"), {"id": "b", "state": "unloaded", "busy": false, "kv": null}]);
        let two = table(&Report::deserialize(&answer).unwrap());
        assert!(
            two.contains("  a: kv pool  ") && two.contains("  b: unloaded\n"),
            "{two}"
        );
    }

    #[test]
    fn refusals_are_told_in_the_servers_words() {
        let answer = json!({"error": {"message": "budget must be at least 9"}});
        let error = refused(400, &answer);
        assert_eq!(error.exit, Exit::Usage);
        assert!(error.to_string().contains("at least 9"), "{error}");
        assert!(refused(401, &answer).to_string().contains("--api-key-file"));
        assert_eq!(refused(409, &answer).exit, Exit::Other);
    }
}
