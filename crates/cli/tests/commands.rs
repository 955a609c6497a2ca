//! The program as users and scripts meet it: what it prints where, and how it ends.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::TempDir;
use kvist_base::QuantFormat;
use kvist_testkit::tiny::TinyModel;
use kvist_weights::write::GgufWriter;
use serde_json::Value;

/// A folder with a tiny model in it.
struct Stage {
    dir: TempDir,
}

impl Stage {
    fn new() -> Self {
        let dir = TempDir::new();
        TinyModel::load("llama3").write_gguf(&dir.path().join("tiny.gguf"), QuantFormat::F32);
        Self { dir }
    }

    fn model(&self) -> PathBuf {
        self.dir.path().join("tiny.gguf")
    }

    /// The program with nothing of this machine's settings, and nothing to read.
    fn kvist(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kvist"));
        command
            .args(args)
            .env_clear()
            .env("KVIST_CACHE_DIR", self.dir.path().join("cache"));
        command.current_dir(self.dir.path());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.kvist(args).output().unwrap()
    }

    fn run_with_stdin(&self, args: &[&str], input: &str) -> Output {
        let mut child = self.kvist(args).stdin(Stdio::piped()).spawn().unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        child.wait_with_output().unwrap()
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The exit code, after showing what was printed if it is another.
fn assert_code(output: &Output, code: i32) {
    let said = (stdout(output), stderr(output));
    assert_eq!(output.status.code(), Some(code), "{said:#?}");
}

/// An error says what, why and how to go on.
fn assert_refused(output: &Output, code: i32, words: &[&str]) {
    assert_code(output, code);
    let said = stderr(output);
    assert!(
        said.starts_with("error: ") && said.contains("fix"),
        "{said}"
    );
    for word in words {
        assert!(said.contains(word), "{word:?} missing in {said}");
    }
    assert_eq!(stdout(output), "");
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .arg(format!("-{name}"))
        .arg(child.id().to_string())
        .status();
    assert!(sent.unwrap().success());
}

#[test]
fn a_plan_is_a_table_or_json_with_the_same_numbers() {
    let stage = Stage::new();
    let table = stage.run(&["plan", "tiny.gguf", "--memory", "200MiB"]);
    assert_code(&table, 0);
    for word in ["kv pool", "KV per token", "\nfits: ", "200.0"] {
        assert!(
            stdout(&table).contains(word),
            "{word:?} missing in {}",
            stdout(&table)
        );
    }
    let json = stage.run(&["plan", "tiny.gguf", "--memory", "200MiB", "--json"]);
    assert_code(&json, 0);
    let plan: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(plan["plan"]["budget"], 200 << 20);
    assert_eq!(plan["fits"], true);
    let lines = plan["plan"]["lines"].as_array().unwrap();
    let sum: u64 = lines
        .iter()
        .map(|line| line["bytes"].as_u64().unwrap())
        .sum();
    assert_eq!(plan["plan"]["total"], sum);
}

#[test]
fn what_does_not_fit_ends_with_78_and_computed_ways_out() {
    let stage = Stage::new();
    let plan = stage.run(&["plan", "tiny.gguf", "--memory", "1MiB"]);
    assert_code(&plan, 78);
    assert!(stdout(&plan).contains("--memory "));
    let last = stdout(&plan).lines().last().unwrap().to_owned();
    assert!(last.starts_with("does not fit: "), "{last}");
    let both = [
        "plan",
        "tiny.gguf",
        "--memory",
        "1GiB",
        "--gpu-memory-utilization",
        "0.4",
    ];
    assert_refused(
        &stage.run(&both),
        2,
        &["1.00 GiB", "0.4", "both set the budget"],
    );
    let pool = [
        "plan",
        "tiny.gguf",
        "--memory",
        "200MiB",
        "--kv-cache-memory-bytes",
        "300MiB",
    ];
    let pool = stage.run(&pool);
    assert_code(&pool, 78);
    assert!(
        stdout(&pool).contains("--kv-cache-memory-bytes "),
        "{}",
        stdout(&pool)
    );
    let run = stage.run(&["run", "tiny.gguf", "-p", "x", "--memory", "1MiB"]);
    assert_refused(&run, 78, &["1.0 MiB allowed", "--memory "]);
    let serve = stage.run(&["serve", "tiny.gguf", "--port", "0", "--memory", "1MiB"]);
    assert_refused(&serve, 78, &["1.0 MiB allowed", "--memory "]);
}

#[test]
fn a_hub_folder_can_be_planned_but_not_served() {
    let stage = Stage::new();
    let folder = stage.dir.path().join("hub");
    fs::create_dir(&folder).unwrap();
    let config = r#"{"model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": 100, "max_position_embeddings": 512, "torch_dtype": "bfloat16",
        "tie_word_embeddings": true}"#;
    fs::write(folder.join("config.json"), config).unwrap();
    for model in ["hub", "hub/config.json"] {
        let plan = stage.run(&["plan", model, "--memory", "200MiB"]);
        assert_code(&plan, 0);
        assert!(
            stdout(&plan).contains("planned but not served yet"),
            "{}",
            stdout(&plan)
        );
        let serve = stage.run(&["serve", model, "--port", "0"]);
        assert_refused(&serve, 3, &["Hugging Face", "GGUF", "kvist plan"]);
    }
    let devices = [
        "--device-memory",
        "2GiB",
        "--devices",
        "2",
        "--quantize",
        "gptq",
        "--json",
    ];
    let plan = stage.run(&[&["plan", "hub"][..], &devices].concat());
    assert_code(&plan, 0);
    let plan: Value = serde_json::from_slice(&plan.stdout).unwrap();
    assert_eq!(plan["plan"]["devices"]["count"], 2);
    assert_eq!(plan["plan"]["budget"], (2u64 << 30) * 9 / 10);
    let many = stage.run(&["plan", "hub", "--device-memory", "2GiB", "--devices", "3"]);
    assert_refused(&many, 2, &["devices must be a divisor of 4 heads"]);
    assert_code(&stage.run(&["plan", "hub", "--devices", "2"]), 2);
    let damaged = config.replace("hidden_size", "hidden");
    fs::write(folder.join("config.json"), damaged).unwrap();
    assert_refused(
        &stage.run(&["plan", "hub"]),
        3,
        &["config.json has no hidden_size"],
    );
}

#[test]
fn a_file_that_is_cut_off_can_be_planned_but_not_served() {
    let stage = Stage::new();
    let whole = fs::read(stage.model()).unwrap();
    fs::write(
        stage.dir.path().join("cut.gguf"),
        &whole[..whole.len() - 100],
    )
    .unwrap();
    let plan = stage.run(&["plan", "cut.gguf", "--json"]);
    assert_code(&plan, 0);
    let plan: Value = serde_json::from_slice(&plan.stdout).unwrap();
    assert_eq!(plan["file"]["is_complete"], false);
    assert_refused(
        &stage.run(&["run", "cut.gguf", "-p", "x"]),
        3,
        &["cut.gguf", "missing"],
    );
}

#[test]
fn files_that_are_no_models_are_told_apart_from_missing_ones() {
    let stage = Stage::new();
    fs::write(
        stage.dir.path().join("page.gguf"),
        "<!DOCTYPE html><html>log in</html>",
    )
    .unwrap();
    assert_refused(&stage.run(&["run", "page.gguf", "-p", "x"]), 3, &["HTML"]);
    assert_refused(
        &stage.run(&["run", "no.gguf", "-p", "x"]),
        3,
        &["there is no model no.gguf"],
    );
    // The default model is not there and may not be downloaded.
    let offline = stage.run(&["run", "-p", "x", "--offline"]);
    assert_refused(&offline, 3, &["smollm2-135m", "--offline", "kvist pull"]);
    assert_refused(
        &stage.run(&["pull", "no-such-name"]),
        2,
        &["kvist pull smollm2-135m"],
    );
    assert_refused(&stage.run(&["pull", "hf:../../etc"]), 2, &["hf:owner/name"]);
}

#[test]
fn limits_out_of_range_are_usage_errors_that_name_the_flag() {
    let stage = Stage::new();
    let too_long = stage.run(&["plan", "tiny.gguf", "--max-model-len", "16k"]);
    assert_refused(&too_long, 2, &["max_model_len", "16384", "512"]);
    let share = stage.run(&["plan", "tiny.gguf", "--gpu-memory-utilization", "1.5"]);
    assert_refused(&share, 2, &["gpu_memory_utilization", "1.5"]);
    let hot = stage.run(&["run", "tiny.gguf", "-p", "x", "--temperature", "3"]);
    assert_refused(&hot, 2, &["temperature"]);
    assert_code(&stage.run(&["run", "tiny.gguf", "--no-such-flag"]), 2);
}

#[test]
fn inspection_shows_keys_and_tensors_and_nothing_a_terminal_obeys() {
    let stage = Stage::new();
    let text = stage.run(&["inspect", "tiny.gguf", "--tensors"]);
    assert_code(&text, 0);
    for word in [
        "general.architecture",
        "llama",
        "tokenizer.ggml.tokens",
        "blk.0.attn_q.weight",
    ] {
        assert!(stdout(&text).contains(word), "{word:?} missing");
    }
    let json = stage.run(&["inspect", "tiny.gguf", "--json", "--tensors"]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["metadata"]["general.architecture"], "llama");
    assert_eq!(
        json["tensor_count"],
        json["tensors"].as_array().unwrap().len()
    );

    let mut hostile = GgufWriter::new();
    hostile.key("general.name", "\x1b[2J\x07evil").unwrap();
    hostile
        .write_file(&stage.dir.path().join("hostile.gguf"))
        .unwrap();
    let shown = stage.run(&["inspect", "hostile.gguf"]);
    assert_code(&shown, 0);
    assert!(stdout(&shown).contains("evil") && !stdout(&shown).contains('\x1b'));
}

#[test]
fn a_seed_fixes_the_answer_and_the_report_goes_to_standard_error() {
    let stage = Stage::new();
    let run = |seed: &str| {
        let args = [
            "run",
            "tiny.gguf",
            "-p",
            "hello",
            "-n",
            "24",
            "--temperature",
            "1.5",
        ];
        let output = stage.run(&[&args[..], &["--seed", seed]].concat());
        assert_code(&output, 0);
        assert!(
            stderr(&output).contains("tokens") && stderr(&output).contains(&format!("seed {seed}"))
        );
        output.stdout
    };
    assert_eq!(run("1"), run("1"));
    assert_ne!(run("1"), run("2"));
}

#[test]
fn a_prompt_may_come_through_a_pipe_and_raw_leaves_the_template_out() {
    let stage = Stage::new();
    let args = ["run", "tiny.gguf", "-n", "8", "--temperature", "0"];
    let given = stage.run(&[&args[..], &["-p", "hello"]].concat());
    let piped = stage.run_with_stdin(&args, "hello\n");
    let dashed = stage.run_with_stdin(&[&args[..], &["-p", "-"]].concat(), "hello\n");
    assert_eq!(given.stdout, piped.stdout);
    assert_eq!(given.stdout, dashed.stdout);
    let prompt_len = |output: &Output| -> u32 {
        let said = stderr(output);
        let (_, rest) = said.split_once("prompt ").unwrap();
        rest.split(' ').next().unwrap().parse().unwrap()
    };
    let raw = stage.run(&[&args[..], &["-p", "hello", "--raw"]].concat());
    assert_code(&raw, 0);
    assert!(
        prompt_len(&raw) < prompt_len(&given),
        "{} {}",
        stderr(&raw),
        stderr(&given)
    );
}

#[test]
fn a_prompt_that_is_empty_or_too_long_is_the_users_mistake() {
    let stage = Stage::new();
    let long = "word ".repeat(4000);
    let output = stage.run_with_stdin(&["run", "tiny.gguf", "--raw"], &long);
    assert_code(&output, 2);
    assert!(stderr(&output).contains("512"), "{}", stderr(&output));
    assert_code(&stage.run_with_stdin(&["run", "tiny.gguf", "--raw"], ""), 2);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let stage = Stage::new();
    let mut child = stage
        .kvist(&["inspect", "tiny.gguf", "--tensors"])
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_code(&output, 0);
    assert_eq!(stderr(&output), "");
}

#[test]
fn a_conversation_works_through_a_pipe() {
    let stage = Stage::new();
    let lines = "hello\n/nonsense\n\nand again\n/reset\nhello\n";
    let args = ["chat", "tiny.gguf", "-n", "6", "--temperature", "0"];
    let output = stage.run_with_stdin(&args, lines);
    assert_code(&output, 0);
    let said = stderr(&output);
    let prompts: Vec<&str> = said.lines().filter(|line| line.starts_with('[')).collect();
    assert_eq!(prompts.len(), 3, "{said}");
    assert!(said.contains("/nonsense is no command"), "{said}");
    // After a reset the conversation is as short as at first.
    let len = |line: &str| {
        line.split("prompt ")
            .nth(1)
            .unwrap()
            .split(' ')
            .next()
            .unwrap()
            .to_owned()
    };
    assert_eq!(len(prompts[0]), len(prompts[2]));
    assert_ne!(len(prompts[0]), len(prompts[1]));
}

#[test]
fn a_signal_ends_a_conversation_that_waits_for_its_next_line() {
    let stage = Stage::new();
    let args = ["chat", "tiny.gguf", "-n", "2"];
    let mut child = stage.kvist(&args).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "hello").unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with('[') {
        line.clear();
        assert_ne!(said.read_line(&mut line).unwrap(), 0, "no answer");
    }
    signal(&child, "INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    drop(stdin);
}

#[test]
fn a_benchmark_reports_every_test_it_was_asked_for() {
    let stage = Stage::new();
    // Enough tokens that they arrive in several pieces even on a busy machine.
    let args = [
        "bench",
        "tiny.gguf",
        "-p",
        "32",
        "-n",
        "400",
        "--batch",
        "1,3",
        "--depth",
        "0,40",
        "-r",
        "2",
    ];
    let output = stage.run(&[&args[..], &["--json"]].concat());
    assert_code(&output, 0);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let results = report["results"].as_array().unwrap();
    let names: Vec<&str> = results
        .iter()
        .map(|r| r["test"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "pp32",
            "tg400",
            "tg400 @ 3",
            "pp32 d40",
            "tg400 d40",
            "tg400 @ 3 d40"
        ]
    );
    for result in results {
        let number = |key: &str| result[key].as_f64().unwrap();
        assert!(
            0.0 < number("min") && number("min") <= number("tokens_per_second"),
            "{result}"
        );
        assert!(number("tokens_per_second") <= number("max"), "{result}");
        assert_eq!(result["runs"].as_array().unwrap().len(), 2);
        assert!(number("gops") > 0.0 && number("gops_share") > 0.0);
        let is_decode = result["kind"] == "decode";
        assert_eq!(result["gb_per_second"].is_number(), is_decode, "{result}");
    }
    let ceilings = &report["ceilings"];
    assert!(
        ceilings["read_gb_per_second"].as_f64() > Some(0.0)
            && ceilings["gops"].as_f64() > Some(0.0)
    );
    assert!(report["weight_bytes_per_step"].as_u64().unwrap() > 0);
    let table = stage.run(&args);
    assert!(
        stdout(&table).contains("| tg400 @ 3 "),
        "{}",
        stdout(&table)
    );
}

#[test]
fn completions_and_version_need_no_model() {
    let stage = Stage::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = stage.run(&["completions", shell]);
        assert_code(&script, 0);
        assert!(stdout(&script).contains("max-model-len"), "{shell}");
    }
    let version = stage.run(&["--version"]);
    assert_eq!(
        stdout(&version),
        format!("kvist {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn doors_that_are_open_or_taken_are_refused_before_anything_is_loaded() {
    let stage = Stage::new();
    // No model is there, and none is looked for.
    let open = stage.run(&["serve", "--offline", "--host", "0.0.0.0", "--port", "0"]);
    assert_refused(
        &open,
        2,
        &["without a key", "--api-key-file", "--insecure-no-auth"],
    );
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let busy = stage.run(&["serve", "--offline", "--port", &port]);
    assert_refused(&busy, 5, &["another program listens there", "--port"]);
    let swallowed = stage.run(&["serve", "--served-model-name", "small", "tiny.gguf"]);
    assert_refused(
        &swallowed,
        2,
        &["kvist serve tiny.gguf --served-model-name"],
    );
    let empty = stage.dir.path().join("keys");
    fs::write(&empty, "\n").unwrap();
    let keyless = stage.run(&[
        "serve",
        "--offline",
        "--port",
        "0",
        "--api-key-file",
        "keys",
    ]);
    assert_refused(&keyless, 2, &["no key"]);
}

/// A server under test.
struct Server {
    child: Child,
    address: String,
    said: BufReader<std::process::ChildStderr>,
}

impl Server {
    fn start(stage: &Stage, args: &[&str]) -> Self {
        let all = [&["serve", "tiny.gguf", "--port", "0"], args].concat();
        let mut child = stage.kvist(&all).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert_ne!(said.read_line(&mut line).unwrap(), 0, "the server ended");
            if let Some((_, rest)) = line.split_once("http://") {
                break rest.split('/').next().unwrap().to_owned();
            }
        };
        Self {
            child,
            address,
            said,
        }
    }

    fn send(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    fn get(&self, path: &str, header: &str) -> String {
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{header}\r\n");
        let mut answer = String::new();
        self.send(&request).read_to_string(&mut answer).unwrap();
        answer
    }

    /// How it ended, and the rest of what it said.
    fn end(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.said.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest)
    }
}

#[test]
fn limits_are_printed_as_the_flags_set_them() {
    let stage = Stage::new();
    let printed = stage.run(&["serve", "--print-limits", "--queue-timeout", "7s"]);
    assert_code(&printed, 0);
    let table = stdout(&printed);
    let row = |name: &str| {
        let found = table.lines().find(|line| line.starts_with(name));
        found.unwrap_or_else(|| panic!("no {name} in\n{table}"))
    };
    assert!(row("time in the queue").contains("7s  429"), "{table}");
    assert!(
        row("time in the queue").ends_with("--queue-timeout"),
        "{table}"
    );
    assert!(row("connections").contains("1024"), "{table}");
}

#[test]
fn certificates_that_cannot_be_used_are_refused_before_anything_is_loaded() {
    let stage = Stage::new();
    fs::write(stage.dir.path().join("not.pem"), "not a certificate").unwrap();
    let args = [
        "serve",
        "absent.gguf",
        "--port",
        "0",
        "--tls-cert",
        "not.pem",
        "--tls-key",
        "not.pem",
    ];
    let refused = stage.run(&args);
    assert_code(&refused, 2);
    assert!(
        stderr(&refused).contains("not.pem holds no certificate"),
        "{}",
        stderr(&refused)
    );
}

#[test]
fn a_server_serves_and_a_signal_ends_it_with_every_block_free() {
    let stage = Stage::new();
    let server = Server::start(&stage, &["--served-model-name", "small", "tiny"]);
    assert!(server.get("/health", "").starts_with("HTTP/1.1 200"));
    let models = server.get("/v1/models", "");
    assert!(models.contains(r#""id":"small""#), "{models}");
    let body = r#"{"model":"tiny","prompt":"hello","max_tokens":4}"#;
    let mut answer = String::new();
    let length = body.len();
    let request = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    server.send(&request).read_to_string(&mut answer).unwrap();
    assert!(answer.contains(r#""completion_tokens":4"#), "{answer}");
    // One asks for the state, the other asks for nothing; serving goes on.
    signal(&server.child, "QUIT");
    signal(&server.child, "HUP");
    assert!(server.get("/health", "").starts_with("HTTP/1.1 200"));
    signal(&server.child, "TERM");
    let (code, rest) = server.end();
    assert_eq!(code, Some(0), "{rest}");
    assert!(
        rest.contains(": Ready, 0 running, 0 waiting, step none"),
        "{rest}"
    );
    let last = rest.lines().last().unwrap();
    assert!(
        last.starts_with("stopped: 1 requests, 0 failed, KV blocks "),
        "{rest}"
    );
    let (free, total) = last
        .rsplit_once("blocks ")
        .unwrap()
        .1
        .split_once('/')
        .unwrap();
    assert_eq!(format!("{free} free"), total);
}

#[test]
fn a_key_file_closes_the_api() {
    let stage = Stage::new();
    fs::write(stage.dir.path().join("keys"), "# for tests\nopen-sesame\n").unwrap();
    let server = Server::start(&stage, &["--host", "0.0.0.0", "--api-key-file", "keys"]);
    assert!(server.get("/v1/models", "").starts_with("HTTP/1.1 401"));
    let opened = server.get("/v1/models", "authorization: Bearer open-sesame\r\n");
    assert!(opened.starts_with("HTTP/1.1 200"), "{opened}");
    assert!(opened.contains(r#""id":"tiny""#), "{opened}");
    signal(&server.child, "INT");
    assert_eq!(server.end().0, Some(0));
}

#[test]
fn two_models_share_a_budget_that_is_shown_and_changed_from_outside() {
    let stage = Stage::new();
    let second = stage.dir.path().join("second.gguf");
    fs::copy(stage.dir.path().join("tiny.gguf"), &second).unwrap();
    fs::write(stage.dir.path().join("keys"), "open-sesame\n").unwrap();
    let keys = ["--api-key-file", "keys"];
    let args = [&["second.gguf", "--memory", "256MiB"][..], &keys].concat();
    let server = Server::start(&stage, &args);
    let url = format!("http://{}", server.address);
    let memory = |more: &[&str]| {
        let args = [&["memory", "--url", &url][..], more].concat();
        stage.run(&args)
    };
    let shown = memory(&keys);
    assert_code(&shown, 0);
    let table = stdout(&shown);
    for part in [
        "tiny: kv pool",
        "second: weights",
        "tiny: ready",
        "second: ready",
        "256.0",
    ] {
        assert!(table.contains(part), "{part} missing in {table}");
    }
    let changed = memory(&[&keys[..], &["set", "200MiB"]].concat());
    assert_code(&changed, 0);
    assert!(stdout(&changed).contains("200.0"), "{}", stdout(&changed));
    let json = memory(&[&keys[..], &["--json"]].concat());
    assert!(
        stdout(&json).contains(&format!("\"budget\": {}", 200 << 20)),
        "{}",
        stdout(&json)
    );

    let small = memory(&[&keys[..], &["set", "1MiB"]].concat());
    assert_refused(&small, 2, &["at least", "1048576 bytes"]);
    assert_refused(&memory(&[]), 2, &["--api-key-file"]);
    signal(&server.child, "TERM");
    let (code, rest) = server.end();
    assert_eq!(code, Some(0), "{rest}");
    assert_refused(&memory(&[]), 6, &["no answer", "--url"]);

    let same = stage.run(&["serve", "tiny.gguf", "tiny.gguf", "--port", "0"]);
    assert_refused(&same, 2, &["two models are named tiny"]);
    let large = [
        "serve",
        "tiny.gguf",
        "second.gguf",
        "--port",
        "0",
        "--memory",
        "1MiB",
    ];
    assert_refused(&stage.run(&large), 78, &["1.0 MiB allowed"]);
    let keyless = ["serve", "tiny.gguf", "--port", "0", "--fair-share", "key"];
    assert_refused(&stage.run(&keyless), 2, &["--api-key-file"]);
}

#[test]
fn a_second_signal_stops_a_drain_that_waits() {
    let stage = Stage::new();
    let server = Server::start(&stage, &[]);
    // A request whose body never comes keeps the first signal waiting.
    let waiting = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                   content-length: 10\r\n\r\n";
    let _open = server.send(waiting);
    // Accepted once a later connection has been answered.
    server.get("/health", "");
    signal(&server.child, "INT");
    thread::sleep(Duration::from_millis(200));
    let begun = Instant::now();
    signal(&server.child, "INT");
    let (code, rest) = server.end();
    assert_eq!(code, Some(130), "{rest}");
    assert!(
        rest.contains("draining") && begun.elapsed() < Duration::from_secs(5),
        "{rest}"
    );
}

#[test]
fn a_model_is_found_in_a_folder_and_no_path_is_special() {
    let stage = Stage::new();
    let folder = stage.dir.path().join("mes modèles");
    fs::create_dir(&folder).unwrap();
    fs::copy(stage.model(), folder.join("the one.gguf")).unwrap();
    let output = stage.run(&["plan", Path::new("mes modèles").to_str().unwrap()]);
    assert_code(&output, 0);
    assert!(stdout(&output).contains("the one.gguf"));
}

#[test]
fn a_second_model_drafts_or_is_refused_before_anything_is_loaded() {
    let stage = Stage::new();
    let file = fs::read(stage.model()).unwrap();
    let at = file.windows(8).position(|bytes| bytes == b"[PAD480]");
    let mut other = file.clone();
    other[at.unwrap() + 3] = b'X';
    fs::write(stage.dir.path().join("other.gguf"), other).unwrap();
    let run = [
        "run",
        "tiny.gguf",
        "--raw",
        "-p",
        "ba be bi",
        "-n",
        "12",
        "--seed",
        "5",
    ];
    let with = |more: &[&str]| stage.run(&[&run[..], more].concat());

    let alone = with(&["--speculative", "off"]);
    assert_code(&alone, 0);
    let config = r#"{"method": "draft_model", "model": "tiny.gguf", "num_speculative_tokens": 3}"#;
    for flags in [["--draft", "tiny.gguf"], ["--speculative-config", config]] {
        let drafted = with(&flags);
        assert_code(&drafted, 0);
        assert_eq!(stdout(&drafted), stdout(&alone), "{flags:?}");
        let plan = stage.run(&[&["plan", "tiny.gguf"], &flags[..]].concat());
        assert_code(&plan, 0);
        for line in ["draft weights", "draft kv pool", "draft activations"] {
            assert!(
                stdout(&plan).contains(line),
                "{line:?} in {}",
                stdout(&plan)
            );
        }
    }

    let differs = ["token 480 is \"[PAD480]\" in the model and \"[PAX480]\""];
    for command in ["run", "plan", "serve", "chat"] {
        let more: &[&str] = match command {
            "run" => &["-p", "ba"],
            "serve" => &["--port", "0"],
            _ => &[],
        };
        let args = [&[command, "tiny.gguf", "--draft", "other.gguf"], more].concat();
        assert_refused(&stage.run(&args), 2, &differs);
    }
    let missing = with(&["--draft", "none.gguf"]);
    assert_refused(&missing, 3, &["none.gguf"]);
    let off = with(&["--speculative", "off", "--draft", "tiny.gguf"]);
    assert_refused(&off, 2, &["speculation, which is off"]);
    let twice = with(&["--draft", "tiny.gguf", "--speculative-config", config]);
    assert_code(&twice, 2);
    let several = "serve tiny.gguf other.gguf --draft tiny.gguf --port 0";
    let several: Vec<&str> = several.split(' ').collect();
    assert_refused(&stage.run(&several), 2, &["for one model, not for several"]);
    let devices = [
        "plan",
        "tiny.gguf",
        "--draft",
        "tiny.gguf",
        "--device-memory",
        "1GiB",
    ];
    assert_refused(&stage.run(&devices), 2, &["leave --draft out"]);
}
