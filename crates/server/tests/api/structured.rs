//! Outputs of the form a request demands, in every spelling there is for it.

use kvist_engine::EngineOptions;
use kvist_engine::plan::Limits;
use serde_json::{Value, json};

use crate::support::{Client as _, Server, config, options, with};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

fn server() -> Server {
    let base = options();
    let limits = Limits {
        structured_outputs: true,
        ..base.limits.clone()
    };
    Server::with(config(), &EngineOptions { limits, ..base })
}

fn chat() -> Value {
    json!({"messages": [{"role": "user", "content": "hello"}], "max_tokens": 200, "seed": 5})
}

fn completion() -> Value {
    json!({"prompt": "banana", "max_tokens": 200, "seed": 5})
}

/// An object with one short member.
fn schema() -> Value {
    json!({"type": "object", "additionalProperties": false, "required": ["ok"],
        "properties": {"ok": {"type": "boolean"}}})
}

fn is_of_schema(text: &str) -> bool {
    let value: Value =
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text:?}"));
    value["ok"].is_boolean() && value.as_object().is_some_and(|object| object.len() == 1)
}

fn is_word(text: &str) -> bool {
    ["yes", "no"].contains(&text)
}

/// Whether a text is of a form.
type IsOfForm = fn(&str) -> bool;

/// Ways to ask, and how to tell that they were heard.
fn spellings() -> Vec<(Value, IsOfForm)> {
    let named = json!({"name": "answer", "strict": true, "description": "x", "schema": schema()});
    let grammar = "start: \"yes\" | \"no\"\n";
    vec![
        (
            json!({"response_format": {"type": "json_schema", "json_schema": named}}),
            is_of_schema,
        ),
        (
            json!({"structured_outputs": {"json": schema()}}),
            is_of_schema,
        ),
        (
            json!({"structured_outputs": {"json": schema().to_string()}}),
            is_of_schema,
        ),
        (json!({"guided_json": schema()}), is_of_schema),
        (json!({"guided_json": schema().to_string()}), is_of_schema),
        (json!({"structured_outputs": {"regex": "yes|no"}}), is_word),
        (json!({"guided_regex": "yes|no"}), is_word),
        (
            json!({"structured_outputs": {"choice": ["yes", "no"]}}),
            is_word,
        ),
        (json!({"guided_choice": ["yes", "no"]}), is_word),
        (json!({"structured_outputs": {"grammar": grammar}}), is_word),
        (json!({"guided_grammar": grammar}), is_word),
    ]
}

#[tokio::test]
async fn every_spelling_is_heard_on_both_endpoints() {
    let server = server();
    for (asked, holds) in spellings() {
        let reply = server.post(CHAT, &with(&chat(), asked.clone())).await;
        assert!(
            !reply.headers.contains_key("x-kvist-ignored-fields"),
            "{asked}"
        );
        let choice = &reply.json()["choices"][0];
        let text = choice["message"]["content"].as_str().unwrap();
        assert!(holds(text), "{asked}: {text:?}");
        assert_eq!(choice["finish_reason"], "stop");
        let answer = server
            .ask(COMPLETIONS, &with(&completion(), asked.clone()))
            .await;
        let text = answer["choices"][0]["text"].as_str().unwrap();
        assert!(holds(text), "{asked}: {text:?}");
    }
}

#[tokio::test]
async fn a_stream_says_the_same_as_the_whole() {
    let server = server();
    for (asked, holds) in spellings() {
        let body = with(&chat(), asked.clone());
        let whole = server.ask(CHAT, &body).await;
        let whole = whole["choices"][0]["message"]["content"].as_str().unwrap();
        let events = server.stream(CHAT, &body).await;
        let pieces = events
            .iter()
            .filter_map(|event| event["choices"][0]["delta"]["content"].as_str());
        let text: String = pieces.collect();
        assert!(holds(&text), "{asked}: {text:?}");
        assert_eq!(text, whole, "{asked}");
        assert_eq!(
            events.last().unwrap()["choices"][0]["finish_reason"],
            "stop"
        );
    }
}

#[tokio::test]
async fn a_json_object_may_hold_anything() {
    let server = server();
    for asked in [
        json!({"response_format": {"type": "json_object"}}),
        json!({"structured_outputs": {"json_object": true}}),
    ] {
        // A model that knows no JSON seldom comes to an end; what it says begins like an object.
        let answer = server.ask(CHAT, &with(&chat(), asked)).await;
        let choice = &answer["choices"][0];
        let text = choice["message"]["content"].as_str().unwrap();
        match choice["finish_reason"].as_str().unwrap() {
            "stop" => assert!(serde_json::from_str::<Value>(text).unwrap().is_object()),
            "length" => assert!(text.trim_start().starts_with('{'), "{text:?}"),
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn an_output_that_is_cut_has_length_as_its_reason() {
    let server = server();
    let asked = json!({"guided_regex": "a{50}", "max_tokens": 4});
    let answer = server.ask(CHAT, &with(&chat(), asked)).await;
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 4);
}

#[tokio::test]
async fn all_alternatives_are_of_the_form() {
    let server = server();
    let asked = json!({"guided_regex": "[a-z]{8}", "n": 4});
    let answer = server.ask(CHAT, &with(&chat(), asked)).await;
    let texts: Vec<&str> = answer["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|choice| choice["message"]["content"].as_str().unwrap())
        .collect();
    assert_eq!(texts.len(), 4);
    for text in &texts {
        assert!(
            text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_lowercase()),
            "{text:?}"
        );
    }
    assert!(
        texts.iter().any(|text| *text != texts[0]),
        "they are drawn each by itself"
    );
}

#[tokio::test]
async fn what_asks_for_nothing_is_taken() {
    let server = server();
    for asked in [
        json!({"response_format": {"type": "text"}}),
        json!({"response_format": null, "structured_outputs": null, "guided_choice": null}),
        json!({"structured_outputs": {}}),
        json!({"structured_outputs": {"json_object": false, "disable_any_whitespace": false}}),
        json!({"guided_choice": [], "guided_regex": "", "guided_grammar": ""}),
    ] {
        let free = server
            .ask(CHAT, &with(&chat(), json!({"max_tokens": 9})))
            .await;
        let same = server
            .ask(CHAT, &with(&with(&chat(), json!({"max_tokens": 9})), asked))
            .await;
        assert_eq!(free["choices"], same["choices"]);
    }
}

async fn refused(server: &Server, asked: Value) -> (String, Option<String>, String) {
    let what = asked.to_string();
    let reply = server.post(CHAT, &with(&chat(), asked)).await;
    let (status, kind, code, param) = reply.error();
    assert_eq!((status, &*kind), (400, "invalid_request_error"), "{what}");
    (code, param, reply.message())
}

#[tokio::test]
async fn each_limit_is_named_with_its_field_and_what_was_given() {
    let server = server();
    let deep = (0..65).fold(json!(true), |inner, _| json!({"items": inner}));
    let cases = [
        (
            json!({"guided_regex": "a".repeat(4097)}),
            "guided_regex: the length of the regular expression in bytes must be at most 4096, but is 4097",
        ),
        (
            json!({"structured_outputs": {"choice": vec!["a"; 1025]}}),
            "structured_outputs.choice: the number of choices must be at most 1024, but is 1025",
        ),
        (
            json!({"guided_choice": ["a".repeat(65_537)]}),
            "guided_choice: the length of all choices together in bytes must be at most 65536, but is 65537",
        ),
        (
            json!({"guided_choice": ["a", ""]}),
            "guided_choice: each choice must not be empty",
        ),
        (
            json!({"structured_outputs": {"choice": []}}),
            "structured_outputs.choice: the list of choices must not be empty",
        ),
        (
            json!({"guided_grammar": "#".repeat(32_769)}),
            "guided_grammar: the length of the grammar in bytes must be at most 32768, but is 32769",
        ),
        (
            // As text, which does not count into how deep the body is.
            json!({"guided_json": deep.to_string()}),
            "guided_json: the depth of the JSON schema must be at most 64, but is 65",
        ),
        (
            json!({"response_format": {"type": "json_schema", "json_schema":
                {"name": "x", "schema": {"description": "y".repeat(65_536)}}}}),
            "response_format.json_schema.schema: the length of the JSON schema in bytes must be at most \
             65536, but is 65554",
        ),
    ];
    for (asked, expected) in cases {
        let (code, param, message) = refused(&server, asked).await;
        assert_eq!(message, expected);
        assert_eq!(code, "invalid_value");
        assert_eq!(param.as_deref(), expected.split(": ").next());
    }
}

#[tokio::test]
async fn what_is_not_valid_is_refused_at_the_door() {
    let server = server();
    for (asked, field) in [
        (json!({"guided_regex": "("}), "guided_regex"),
        (json!({"guided_regex": "a(?=b)"}), "guided_regex"),
        (json!({"guided_json": "{"}), "guided_json"),
        (json!({"guided_json": {"type": "nothing"}}), "guided_json"),
        (
            json!({"guided_json": {"type": "object", "unheardOf": 1, "if": {}}}),
            "guided_json",
        ),
        (
            json!({"guided_json": {"$ref": "#/$defs/missing"}}),
            "guided_json",
        ),
        (
            json!({"guided_json": {"$ref": "https://example.com/x.json"}}),
            "guided_json",
        ),
        (
            json!({"guided_grammar": "root ::= \"a\""}),
            "guided_grammar",
        ),
        (
            json!({"guided_grammar": "start: missing"}),
            "guided_grammar",
        ),
    ] {
        let (code, param, message) = refused(&server, asked.clone()).await;
        assert_eq!(
            (&*code, param.as_deref()),
            ("invalid_value", Some(field)),
            "{asked}"
        );
        assert!(message.starts_with(&format!("{field}: the ")), "{message}");
        assert!(message.contains("cannot be used: "), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }
    for (asked, code, field) in [
        (
            json!({"response_format": {"type": "xml"}}),
            "invalid_value",
            "response_format.type",
        ),
        (
            json!({"response_format": {"type": "json_schema"}}),
            "missing_required_parameter",
            "response_format.json_schema.schema",
        ),
        (
            json!({"response_format": {"type": "json_object"}, "guided_regex": "a"}),
            "invalid_value",
            "guided_regex",
        ),
        (
            json!({"structured_outputs": {"json": {}, "regex": "a"}}),
            "invalid_value",
            "structured_outputs.regex",
        ),
        (
            json!({"structured_outputs": {"structural_tag": {}}}),
            "unsupported_parameter",
            "structured_outputs.structural_tag",
        ),
        (
            json!({"structured_outputs": {"disable_any_whitespace": true}}),
            "unsupported_parameter",
            "structured_outputs.disable_any_whitespace",
        ),
        (
            json!({"structured_outputs": 1}),
            "invalid_type",
            "structured_outputs",
        ),
        (
            json!({"guided_choice": "a"}),
            "invalid_type",
            "guided_choice",
        ),
    ] {
        let found = refused(&server, asked.clone()).await;
        assert_eq!(
            (&*found.0, found.1.as_deref()),
            (code, Some(field)),
            "{asked}"
        );
    }
    server.settle().await;
    assert_eq!(server.handle().metrics().accepted, 0);
}

#[tokio::test]
async fn a_dead_end_is_told_and_harms_nobody() {
    let server = server();
    let dead = "%llguidance {\"allow_invalid_utf8\": true}\nstart: /a(?-u:\\xFF)/\n";
    let (code, _, message) = refused(&server, json!({"guided_grammar": dead})).await;
    assert_eq!(code, "constraint_failed");
    assert!(
        message.starts_with("the output cannot go on: "),
        "{message}"
    );
    let body = with(&chat(), json!({"guided_grammar": dead, "stream": true}));
    let reply = server.post(CHAT, &body).await;
    assert!(reply.body.contains("constraint_failed"), "{}", reply.body);
    server.settle().await;
    let answer = server
        .ask(CHAT, &with(&chat(), json!({"guided_regex": "ok"})))
        .await;
    assert_eq!(answer["choices"][0]["message"]["content"], "ok");
}

#[tokio::test]
async fn a_server_without_them_says_so() {
    let server = Server::start();
    let (code, param, message) = refused(&server, json!({"guided_regex": "a"})).await;
    assert_eq!(
        (&*code, param.as_deref()),
        ("invalid_value", Some("guided_regex"))
    );
    assert_eq!(
        message,
        "guided_regex: this server was started without structured outputs"
    );
}
