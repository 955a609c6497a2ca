//! The real vocabulary and chat template, through the engine.

use kvist_base::Tokens;
use kvist_engine::{ChatInput, ChatMessage, Prompt, SpecialText};
use serde_json::Value;

use crate::golden::greedy;
use crate::{Output, ids, load, options, shut_down};

fn rows(json: &str) -> Vec<Value> {
    serde_json::from_str(json).unwrap()
}

fn message(role: &str, content: &str) -> ChatMessage {
    ChatMessage {
        role: role.to_owned(),
        content: Some(content.to_owned()),
        ..ChatMessage::default()
    }
}

/// The conversation of a golden; `None` when it has more than roles and texts.
fn conversation(json: &Value) -> Option<ChatInput> {
    let plain = |value: &Value| {
        let fields = value.as_object().filter(|fields| fields.len() == 2)?;
        Some(message(
            fields.get("role")?.as_str()?,
            fields.get("content")?.as_str()?,
        ))
    };
    let messages = json["messages"].as_array()?.iter().map(plain);
    let only = ["messages", "add_generation_prompt"];
    let more = json
        .as_object()?
        .keys()
        .any(|key| !only.contains(&key.as_str()));
    (!more).then_some(ChatInput {
        messages: messages.collect::<Option<_>>()?,
        add_generation_prompt: json["add_generation_prompt"] == true,
        ..ChatInput::default()
    })
}

#[test]
fn vocabulary_and_template_are_the_published_ones_and_a_chat_is_answered() {
    let engine = load(&options());
    let handle = engine.handle();

    let texts = rows(include_str!("../../../text/tests/data/smollm2_ids.json"));
    assert!(texts.len() >= 60);
    for row in &texts {
        let text = row["text"].as_str().unwrap();
        let tokens = handle.tokenize(text, SpecialText::Parse).unwrap();
        assert_eq!(tokens, ids(&row["ids"]), "{text:?}");
        if let Some(plain) = row.get("plain_ids") {
            let tokens = handle.tokenize(text, SpecialText::Plain).unwrap();
            assert_eq!(tokens, ids(plain), "{text:?}");
        }
    }

    let mut compared = 0;
    for row in rows(include_str!("../../../text/tests/data/chat_goldens.json")) {
        if row["template"] == "smollm2"
            && let Some(input) = conversation(&row["input"])
            && let Some(expected) = row["text"].as_str()
        {
            assert_eq!(
                handle.render_chat(&input).unwrap(),
                expected,
                "{}",
                row["case"]
            );
            compared += 1;
        }
    }
    assert!(compared >= 4, "{compared}");

    let input = ChatInput {
        messages: vec![message("user", "What is 2+2?")],
        add_generation_prompt: true,
        ..ChatInput::default()
    };
    let mut spec = greedy(Prompt::Chat(Box::new(input)));
    spec.output_max = Some(Tokens(24));
    let answer = Output::of(handle.submit(spec).unwrap());
    // Not a question of facts: in this format the model's answers to those turn on rounding.
    assert!(answer.text.contains('4'), "{}", answer.text);
    shut_down(engine, 1);
}
