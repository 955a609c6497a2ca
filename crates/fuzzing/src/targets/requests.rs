//! What clients send, and what they are sent.

use kvist_server::fuzzing::{Endpoint, check, stream_of};
use serde_json::Value;

pub(super) const WORDS: &[&[u8]] = &[
    b"\"prompt\":",
    b"\"messages\":[",
    b"\"role\":\"user\"",
    b"\"content\":",
    b"\"max_tokens\":",
    b"\"stop\":",
    b"\"logit_bias\":{\"1\":1}",
    b"\"n\":2",
    b"\"seed\":",
    b"\"temperature\":",
    b"\"stream\":true",
    b"\"stream_options\":{\"include_usage\":true}",
    b"\"logprobs\":",
    b"\"top_logprobs\":",
    b"\"budget\":",
    b"null",
    b"true",
    b"-1",
    b"1e400",
    b"9223372036854775808",
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b"\\ud800",
    b"\"",
];

/// Any bytes are a request or an error of OpenAI's shape, at every endpoint.
pub(super) fn request(bytes: &[u8]) {
    for endpoint in Endpoint::ALL {
        let Err((status, error)) = check(endpoint, bytes) else {
            continue;
        };
        assert_eq!(status, 400, "{error}");
        let object = error["error"].as_object().expect("an error object");
        let mut keys: Vec<&str> = object.keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["code", "message", "param", "type"]);
        assert_eq!(object["type"], "invalid_request_error");
        let message = object["message"].as_str().expect("a message");
        assert!((1..=1003).contains(&message.chars().count()), "{message:?}");
        assert!(matches!(object["param"], Value::Null | Value::String(_)));
    }
}

/// A stream of any texts can be read back event by event.
pub(super) fn sse(bytes: &[u8]) {
    let texts: Vec<String> = bytes
        .split(|byte| *byte == 0)
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect();
    let stream = stream_of(&texts);
    let stream = std::str::from_utf8(&stream).expect("a stream is text");
    let body = stream
        .strip_suffix("\n\n")
        .expect("the last event is whole");
    let mut events = body.split("\n\n");
    for text in &texts {
        let data = events.next().and_then(|event| event.strip_prefix("data: "));
        let value: Value = serde_json::from_str(data.expect("an event a text")).expect("JSON");
        assert_eq!(value["choices"][0]["delta"]["content"], *text);
    }
    assert_eq!(events.next(), Some("data: [DONE]"));
    assert_eq!(events.next(), None);
}
