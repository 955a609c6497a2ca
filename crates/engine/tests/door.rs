//! What is refused at the door, and with which numbers.

mod common;

use std::path::Path;

use common::{EOS, ModelFile, VOCAB_LEN, ask, greedy, machine, options, shut_down};
use kvist_base::{Blocks, Bytes, QuantFormat, TokenId, Tokens};
use kvist_engine::{
    ChatInput, ChatMessage, Engine, EngineHandle, EngineOptions, GenerateSpec, Prompt,
    RequestError, SamplingSpec, SpecialText, SubmitError,
};

/// Starts an engine for sequences of 200 tokens in a pool of 160.
fn start(file: &ModelFile) -> Engine {
    file.start(&EngineOptions {
        kv_blocks_max: Some(Blocks(10)),
        ..options()
    })
}

fn refusal(handle: &EngineHandle, spec: GenerateSpec) -> RequestError {
    match handle.submit(spec).expect_err("to be refused") {
        SubmitError::Invalid(error) => error,
        other => panic!("refused for another reason: {other}"),
    }
}

fn prompt(len: usize) -> Vec<TokenId> {
    vec![TokenId(300); len]
}

#[test]
fn lengths_are_refused_with_their_limits() {
    let file = ModelFile::new("llama3", QuantFormat::F32);
    let engine = start(&file);
    let handle = engine.handle();

    let error = refusal(&handle, greedy(Vec::new(), 1));
    assert!(matches!(error, RequestError::EmptyPrompt), "{error}");
    let error = refusal(&handle, GenerateSpec::greedy(Prompt::Text(String::new())));
    assert!(matches!(error, RequestError::EmptyPrompt), "{error}");

    let error = refusal(&handle, greedy(prompt(3), 0));
    assert!(matches!(error, RequestError::NoOutput), "{error}");
    assert_eq!(error.field(), "max_tokens");

    for (len, output) in [(100, 101), (200, 1), (1000, 1)] {
        let error = refusal(&handle, greedy(prompt(len), output));
        let RequestError::ContextExceeded {
            limit,
            prompt,
            output: asked,
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!((limit.0, prompt.len(), asked.0), (200, len, output));
    }
    // Without a limit of its own a prompt that fills the context is refused for the one token.
    let error = refusal(&handle, GenerateSpec::greedy(Prompt::Tokens(prompt(200))));
    assert!(
        matches!(
            error,
            RequestError::ContextExceeded {
                output: Tokens(1),
                ..
            }
        ),
        "{error}"
    );

    let error = refusal(&handle, greedy(prompt(150), 12));
    let RequestError::PoolExceeded { needed, total } = error else {
        panic!("{error}")
    };
    assert_eq!((needed.0, total.0), (11, 10));
    // One less fits, to the last slot.
    assert_eq!(ask(&handle, greedy(prompt(150), 11)).output.0, 11);

    let text = "x".repeat(200 * 7 + 1);
    let longest = (0..VOCAB_LEN)
        .map(|id| handle.token_bytes(TokenId(id)).len())
        .max();
    assert!(
        longest.expect("tokens") <= 8,
        "the text below is too short to be refused"
    );
    let error = refusal(&handle, GenerateSpec::greedy(Prompt::Text(text.repeat(2))));
    let RequestError::PromptTooLarge { limit, given } = error else {
        panic!("{error}")
    };
    assert_eq!((limit, given), (Tokens(200), Bytes(2802)));
    assert!(
        handle
            .tokenize(&text.repeat(2), SpecialText::Plain)
            .is_err()
    );
    shut_down(engine);
}

#[test]
fn parameters_are_refused_by_name() {
    let file = ModelFile::new("llama3", QuantFormat::F32);
    let engine = start(&file);
    let handle = engine.handle();

    let error = refusal(&handle, greedy(vec![TokenId(5), TokenId(VOCAB_LEN)], 1));
    let RequestError::TokenOutOfRange { limit, given } = error else {
        panic!("{error}")
    };
    assert_eq!((limit, given), (512, 512));

    let sampled = |sampling| GenerateSpec {
        sampling,
        ..greedy(prompt(3), 1)
    };
    let error = refusal(
        &handle,
        sampled(SamplingSpec {
            temperature: 2.5,
            ..SamplingSpec::default()
        }),
    );
    assert_eq!(error.field(), "temperature");
    assert_eq!(
        error.to_string(),
        "temperature must be between 0 and 2, but is 2.5"
    );
    let bias = vec![(TokenId(VOCAB_LEN), 1.0)];
    let error = refusal(
        &handle,
        sampled(SamplingSpec {
            logit_bias: bias,
            ..SamplingSpec::default()
        }),
    );
    assert_eq!(error.field(), "logit_bias");

    let stopping = |stop| GenerateSpec {
        stop,
        ..greedy(prompt(3), 1)
    };
    let error = refusal(&handle, stopping(vec!["x".to_owned(); 17]));
    let RequestError::TooManyStops { limit, given } = error else {
        panic!("{error}")
    };
    assert_eq!((limit, given), (16, 17));
    let error = refusal(&handle, stopping(vec!["x".to_owned(), String::new()]));
    assert_eq!(error.field(), "stop");
    assert!(handle.submit(stopping(vec!["x".to_owned(); 16])).is_ok());

    let stop_tokens = vec![EOS, TokenId(VOCAB_LEN)];
    let error = refusal(
        &handle,
        GenerateSpec {
            stop_tokens,
            ..greedy(prompt(3), 1)
        },
    );
    assert!(error.to_string().contains("512"), "{error}");
    shut_down(engine);
}

fn conversation() -> ChatInput {
    ChatInput {
        messages: vec![ChatMessage {
            role: "user".to_owned(),
            content: Some("ba be".to_owned()),
            ..ChatMessage::default()
        }],
        add_generation_prompt: true,
        ..ChatInput::default()
    }
}

#[test]
fn a_conversation_needs_a_template() {
    let file = ModelFile::new("llama3", QuantFormat::F32);
    let engine = start(&file);
    let handle = engine.handle();
    let text = handle
        .render_chat(&conversation())
        .expect("the tiny model has a template");
    assert_eq!(text, "user: ba be\nassistant:");
    let chat = || GenerateSpec {
        output_max: Some(Tokens(3)),
        ..GenerateSpec::greedy(Prompt::Chat(Box::new(conversation())))
    };
    let tokens = handle
        .tokenize(&text, SpecialText::Parse)
        .expect("plain text");
    assert_eq!(ask(&handle, chat()).prompt.len(), tokens.len());
    shut_down(engine);

    rename_key(
        file.path(),
        "tokenizer.chat_template",
        "tokenizer.chat_temptation",
    );
    let engine = start(&file);
    assert!(!engine.handle().info().has_chat_template);
    let error = refusal(&engine.handle(), chat());
    assert!(matches!(error, RequestError::NoChatTemplate), "{error}");
    assert_eq!(error.field(), "messages");
    shut_down(engine);
}

/// Overwrites a metadata key by as much of another as there is room for.
fn rename_key(path: &Path, key: &str, other: &str) {
    let mut raw = std::fs::read(path).expect("just written");
    let at = raw
        .windows(key.len())
        .position(|bytes| bytes == key.as_bytes());
    let at = at.expect("the file has the key");
    raw[at..at + key.len()].copy_from_slice(&other.as_bytes()[..key.len()]);
    std::fs::write(path, raw).expect("a temporary file");
}

#[test]
fn a_model_that_does_not_fit_is_not_loaded() {
    let file = ModelFile::new("llama3", QuantFormat::F32);
    let mut options = options();
    options.limits.memory = kvist_engine::plan::MemoryLimit::Absolute(Bytes(1 << 20));
    let error = Engine::load(file.path(), &machine(), &options).expect_err("one MiB");
    assert_eq!(error.class(), kvist_engine::ErrorClass::DoesNotFit);
    let error = Engine::load(Path::new("/nonexistent.gguf"), &machine(), &options);
    assert_eq!(
        error.expect_err("no file").class(),
        kvist_engine::ErrorClass::ModelMissing
    );
}
