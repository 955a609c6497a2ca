//! vLLM's fields beside OpenAI's.

use kvist_engine::{EngineOptions, LOGPROB_TOKENS_MAX};
use kvist_server::{ServerConfig, UnknownFields};
use serde_json::{Value, json};

use crate::support::{Client as _, Server, config, options, with};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

fn completion() -> Value {
    json!({"prompt": "banana", "temperature": 0, "max_tokens": 6, "ignore_eos": true})
}

fn chat() -> Value {
    json!({
        "messages": [{"role": "user", "content": "hello"}],
        "temperature": 0, "max_tokens": 6, "ignore_eos": true,
    })
}

fn text(answer: &Value) -> &str {
    answer["choices"][0]["text"].as_str().unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    let ids = list(value).iter().map(|id| id.as_u64().unwrap() as u32);
    ids.collect()
}

#[tokio::test]
async fn token_ids_are_told_when_asked_for() {
    let server = Server::start();
    let asked = json!({"return_token_ids": true, "skip_special_tokens": false});
    let whole = server
        .ask(COMPLETIONS, &with(&completion(), asked.clone()))
        .await;
    let choice = &whole["choices"][0];
    let prompt = server
        .handle()
        .tokenize("banana", kvist_engine::SpecialText::Plain)
        .unwrap();
    let prompt: Vec<u32> = prompt.iter().map(|token| token.0).collect();
    assert_eq!(ids(&choice["prompt_token_ids"]), prompt);
    assert_eq!(ids(&choice["token_ids"]).len(), 6);
    assert_eq!(server.token_text(&ids(&choice["token_ids"])), text(&whole));
    // In pieces they are the same, and the prompt's come once.
    let events = server
        .stream(COMPLETIONS, &with(&completion(), asked.clone()))
        .await;
    assert_eq!(ids(&events[0]["choices"][0]["prompt_token_ids"]), prompt);
    let mut told = Vec::new();
    for event in &events {
        let choice = &event["choices"][0];
        if !choice["token_ids"].is_null() {
            assert!(choice["prompt_token_ids"].is_null());
            told.extend(ids(&choice["token_ids"]));
        }
    }
    assert_eq!(told, ids(&choice["token_ids"]));

    let whole = server.ask(CHAT, &with(&chat(), asked.clone())).await;
    let content = whole["choices"][0]["message"]["content"].as_str().unwrap();
    assert_eq!(
        server.token_text(&ids(&whole["choices"][0]["token_ids"])),
        content
    );
    let rendered = server.token_text(&ids(&whole["prompt_token_ids"]));
    assert_eq!(rendered, "user: hello\nassistant:");
    let events = server.stream(CHAT, &with(&chat(), asked)).await;
    assert_eq!(events[0]["prompt_token_ids"], whole["prompt_token_ids"]);
}

#[tokio::test]
async fn tokens_are_named_by_id_when_asked_for() {
    let server = Server::start();
    let asked = json!({
        "return_tokens_as_token_ids": true, "return_token_ids": true, "logprobs": 2,
    });
    let answer = server.ask(COMPLETIONS, &with(&completion(), asked)).await;
    let choice = &answer["choices"][0];
    let named: Vec<Value> = ids(&choice["token_ids"])
        .iter()
        .map(|id| json!(format!("token_id:{id}")))
        .collect();
    assert_eq!(choice["logprobs"]["tokens"], Value::Array(named.clone()));
    for (top, name) in list(&choice["logprobs"]["top_logprobs"]).iter().zip(&named) {
        assert!(top.get(name.as_str().unwrap()).is_some(), "{top}");
    }
}

#[tokio::test]
async fn a_stop_string_is_told_when_asked_for() {
    let server = Server::start();
    let whole = server.greedy("banana", 6);
    let stop: String = whole.chars().skip(3).take(2).collect();
    let at = whole.find(&stop).unwrap();
    for (body, expected) in [
        (json!({"stop": [stop]}), &whole[..at]),
        (
            json!({"stop": [stop], "include_stop_str_in_output": true}),
            &whole[..at + stop.len()],
        ),
    ] {
        let body = with(&completion(), body);
        let answer = server.ask(COMPLETIONS, &body).await;
        assert_eq!(text(&answer), expected);
        assert_eq!(answer["choices"][0]["stop_reason"], json!(stop));
        let events = server.stream(COMPLETIONS, &body).await;
        let pieces = events.iter().map(text);
        assert_eq!(pieces.collect::<String>(), expected);
    }
}

#[tokio::test]
async fn a_stop_token_is_told_when_asked_for() {
    let server = Server::start();
    let asked = json!({"return_token_ids": true});
    let answer = server.ask(COMPLETIONS, &with(&completion(), asked)).await;
    let tokens = ids(&answer["choices"][0]["token_ids"]);
    let stop = tokens[3];
    let first = tokens.iter().position(|token| *token == stop).unwrap();
    for (include, shown) in [(false, &tokens[..first]), (true, &tokens[..=first])] {
        let body = json!({"stop_token_ids": [stop], "include_stop_str_in_output": include});
        let answer = server.ask(COMPLETIONS, &with(&completion(), body)).await;
        assert_eq!(answer["choices"][0]["stop_reason"], stop);
        assert_eq!(text(&answer), server.token_text(shown));
    }
}

#[tokio::test]
async fn only_allowed_tokens_come_and_no_bad_words() {
    let server = Server::start();
    let hot = json!({"temperature": 2, "seed": 1, "max_tokens": 40, "return_token_ids": true});
    let free = with(&completion(), hot);
    let allowed = json!({"allowed_token_ids": [300, 301, 302]});
    let answer = server.ask(COMPLETIONS, &with(&free, allowed.clone())).await;
    let mut seen = ids(&answer["choices"][0]["token_ids"]);
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, [300, 301, 302]);

    let word = server.token_text(&[301]);
    let bad = with(&with(&free, allowed), json!({"bad_words": [word]}));
    let answer = server.ask(COMPLETIONS, &bad).await;
    assert!(!ids(&answer["choices"][0]["token_ids"]).contains(&301));
    // Every token it would take is one it may take alone.
    let pair = server.token_text(&[300, 301]);
    let bad = with(&bad, json!({"bad_words": [pair]}));
    let answer = server.ask(COMPLETIONS, &bad).await;
    let tokens = ids(&answer["choices"][0]["token_ids"]);
    assert!(tokens.contains(&300) && tokens.contains(&301), "{tokens:?}");
    assert!(
        !tokens.windows(2).any(|pair| pair == [300, 301]),
        "{tokens:?}"
    );
}

#[tokio::test]
async fn named_tokens_have_their_log_probabilities_told() {
    let server = Server::start();
    let named = json!({"logprob_token_ids": [300, 7]});
    let body = with(&completion(), json!({"logprobs": 1}));
    let answer = server.ask(COMPLETIONS, &with(&body, named.clone())).await;
    let expected = [300, 7].map(|id| server.token_text(&[id]));
    for top in list(&answer["choices"][0]["logprobs"]["top_logprobs"]) {
        let keys: Vec<&String> = top.as_object().unwrap().keys().collect();
        assert!(expected.iter().all(|name| keys.contains(&name)), "{top}");
    }
    let body = with(&chat(), json!({"logprobs": true}));
    let answer = server.ask(CHAT, &with(&body, named)).await;
    for entry in list(&answer["choices"][0]["logprobs"]["content"]) {
        let names = list(&entry["top_logprobs"]).iter();
        let names: Vec<&str> = names.map(|each| each["token"].as_str().unwrap()).collect();
        assert_eq!(names, expected);
    }
}

#[tokio::test]
async fn a_prompt_is_shortened_on_either_side() {
    let server = Server::start();
    let long: Vec<u32> = (300..320).collect();
    let of =
        |prompt: &[u32], more: Value| with(&with(&completion(), json!({"prompt": prompt})), more);
    for (side, kept) in [
        (json!({}), &long[12..]),
        (json!({"truncation_side": "left"}), &long[12..]),
        (json!({"truncation_side": "right"}), &long[..8]),
    ] {
        let short = of(
            &long,
            with(&side, json!({"truncate_prompt_tokens": 8, "echo": true})),
        );
        let answer = server.ask(COMPLETIONS, &short).await;
        let whole = server
            .ask(COMPLETIONS, &of(kept, json!({"echo": true})))
            .await;
        assert_eq!(text(&answer), text(&whole));
        assert_eq!(answer["usage"]["prompt_tokens"], 8);
    }
    // -1: whatever leaves room for the output.
    let longer: Vec<u32> = (0..600).map(|n| 259 + n % 200).collect();
    let fits = of(&longer, json!({"truncate_prompt_tokens": -1}));
    let answer = server.ask(COMPLETIONS, &fits).await;
    assert_eq!(
        answer["usage"]["prompt_tokens"],
        crate::support::CONTEXT - 6
    );
    let conversation = with(&chat(), json!({"truncate_prompt_tokens": 3}));
    let answer = server.ask(CHAT, &conversation).await;
    assert_eq!(answer["usage"]["prompt_tokens"], 3);
}

#[tokio::test]
async fn an_answer_goes_on_where_the_conversation_ends() {
    let server = Server::start();
    let messages = json!([
        {"role": "user", "content": "hello"}, {"role": "assistant", "content": "ba be bi"},
    ]);
    let body = with(
        &chat(),
        json!({"messages": messages, "continue_final_message": true}),
    );
    let expected = server.greedy("user: hello\nassistant: ba be bi", 6);
    let content = |answer: &Value| {
        let content = &answer["choices"][0]["message"]["content"];
        content.as_str().unwrap().to_owned()
    };
    assert_eq!(content(&server.ask(CHAT, &body).await), expected);
    let echoed = with(&body, json!({"echo": true}));
    let whole = content(&server.ask(CHAT, &echoed).await);
    assert_eq!(whole, format!("ba be bi{expected}"));
    let events = server.stream(CHAT, &echoed).await;
    let pieces = events.iter().filter_map(|event| {
        let delta = &event["choices"][0]["delta"]["content"];
        delta.as_str()
    });
    assert_eq!(pieces.collect::<String>(), whole);
}

#[tokio::test]
async fn prompts_are_told_how_likely_they_are() {
    let server = Server::start();
    let prompt: Vec<u32> = (0..70).map(|n| 259 + (n * 37) % 200).collect();
    let body = with(
        &completion(),
        json!({"prompt": prompt, "prompt_logprobs": 3}),
    );
    let answer = server.ask(COMPLETIONS, &body).await;
    let told = list(&answer["choices"][0]["prompt_logprobs"]);
    assert_eq!(told.len(), 70);
    assert!(told[0].is_null());
    for (position, token) in prompt.iter().enumerate().skip(1) {
        let entry = told[position].as_object().unwrap();
        let own = &entry[&token.to_string()];
        assert!((3..=4).contains(&entry.len()), "{entry:?}");
        assert_eq!(own["decoded_token"], server.token_text(&[*token]));
        assert!(own["logprob"].as_f64().unwrap() < 0.0);
        let ranks: Vec<u64> = entry
            .values()
            .map(|each| each["rank"].as_u64().unwrap())
            .collect();
        assert!((1..=3).all(|rank| ranks.contains(&rank)), "{ranks:?}");
        // What is said of a token of the prompt is what would have been said of it as output.
        if position % 23 == 0 {
            let before = json!({
                "prompt": &prompt[..position], "max_tokens": 1, "logprobs": 0,
                "allowed_token_ids": [token],
            });
            let drawn = server.ask(COMPLETIONS, &with(&completion(), before)).await;
            let logprobs = &drawn["choices"][0]["logprobs"]["token_logprobs"][0];
            assert_eq!(logprobs, &own["logprob"], "position {position}");
        }
    }
    let plain = with(&completion(), json!({"prompt": prompt}));
    assert_eq!(text(&server.ask(COMPLETIONS, &plain).await), text(&answer));

    let chat_answer = server
        .ask(CHAT, &with(&chat(), json!({"prompt_logprobs": 0})))
        .await;
    let told = list(&chat_answer["prompt_logprobs"]);
    assert_eq!(
        told.len() as u64,
        chat_answer["usage"]["prompt_tokens"].as_u64().unwrap()
    );
    assert!(
        told[1..]
            .iter()
            .all(|entry| entry.as_object().unwrap().len() == 1)
    );
    server.settle().await;
}

#[tokio::test]
async fn an_echo_has_the_log_probabilities_of_its_prompt() {
    let server = Server::start();
    let prompt: Vec<u32> = (0..30).map(|n| 259 + (n * 37) % 200).collect();
    let scored = with(
        &completion(),
        json!({"prompt": prompt, "prompt_logprobs": 1}),
    );
    let scored = server.ask(COMPLETIONS, &scored).await;
    let scores = list(&scored["choices"][0]["prompt_logprobs"]);
    let body = with(
        &completion(),
        json!({"prompt": prompt, "echo": true, "logprobs": 1, "max_tokens": 1}),
    );
    let answer = server.ask(COMPLETIONS, &body).await;
    let lists = &answer["choices"][0]["logprobs"];
    for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(list(&lists[name]).len(), 31, "{name}");
    }
    assert!(lists["token_logprobs"][0].is_null() && lists["top_logprobs"][0].is_null());
    let mut offset = 0;
    for (position, token) in prompt.iter().enumerate() {
        let text = server.token_text(&[*token]);
        assert_eq!(lists["tokens"][position], json!(text));
        assert_eq!(lists["text_offset"][position], offset);
        offset += text.chars().count();
        if position > 0 {
            let score = &scores[position][token.to_string()]["logprob"];
            assert_eq!(&lists["token_logprobs"][position], score);
            assert_eq!(&lists["top_logprobs"][position][&text], score);
        }
    }
    // In pieces the lists are the same.
    let events = server.stream(COMPLETIONS, &body).await;
    for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        let pieces = events.iter().filter_map(|event| {
            let list = &event["choices"][0]["logprobs"][name];
            list.as_array().cloned()
        });
        let pieces: Vec<Value> = pieces.flatten().collect();
        assert_eq!(&Value::Array(pieces), &lists[name], "{name}");
    }
    // Nothing but the prompt.
    for more in [json!({}), json!({"logprobs": null})] {
        let alone = with(&with(&body, json!({"max_tokens": 0})), more);
        let answer = server.ask(COMPLETIONS, &alone).await;
        assert_eq!(text(&answer), server.token_text(&prompt));
        assert_eq!(answer["usage"]["completion_tokens"], 0);
        assert_eq!(answer["choices"][0]["finish_reason"], "length");
        if let Some(tokens) = answer["choices"][0]["logprobs"]["tokens"].as_array() {
            assert_eq!(tokens.len(), 30);
        }
    }
    // A prompt may fill the context if nothing is to follow.
    let full: Vec<u32> = (0..512).map(|n| 259 + n % 200).collect();
    let full = json!({"prompt": full, "echo": true, "max_tokens": 0, "logprobs": 0});
    let answer = server.ask(COMPLETIONS, &full).await;
    assert_eq!(answer["usage"]["prompt_tokens"], 512);
    server.settle().await;
}

#[tokio::test]
async fn scores_do_not_depend_on_the_schedule_and_change_no_other_answer() {
    let crowded = Server::start();
    let lonely = Server::with(
        config(),
        &EngineOptions {
            limits: kvist_engine::plan::Limits {
                running_max: 1,
                ..options().limits
            },
            prefix_caching: false,
            ..options()
        },
    );
    let prompt = |seed: u32| -> Vec<u32> { (0..90).map(|n| 259 + (n * 37 + seed) % 200).collect() };
    let scored = |seed| {
        with(
            &completion(),
            json!({"prompt": prompt(seed), "prompt_logprobs": 2}),
        )
    };
    let plain = |seed| {
        with(
            &completion(),
            json!({"prompt": prompt(seed), "max_tokens": 30}),
        )
    };
    let bodies = [plain(1), scored(1), scored(2), plain(2), scored(1)];
    let [first, second, third, fourth, fifth] = &bodies;
    let (a, b, c, d, e) = tokio::join!(
        crowded.ask(COMPLETIONS, first),
        crowded.ask(COMPLETIONS, second),
        crowded.ask(COMPLETIONS, third),
        crowded.ask(COMPLETIONS, fourth),
        crowded.ask(COMPLETIONS, fifth),
    );
    for (answer, body) in [a, b, c, d, e].iter().zip(&bodies) {
        let alone = lonely.ask(COMPLETIONS, body).await;
        assert_eq!(answer["choices"], alone["choices"]);
    }
}

#[tokio::test]
async fn words_and_tokens_are_so_many_and_no_more() {
    let server = Server::start();
    for (field, item, max) in [
        ("bad_words", json!("word"), 128),
        ("allowed_token_ids", json!(97), 4096),
        ("logprob_token_ids", json!(97), LOGPROB_TOKENS_MAX),
    ] {
        let asked = |count| {
            let items = vec![item.clone(); count];
            with(&completion(), json!({field: items, "logprobs": 1}))
        };
        let reply = server.post(COMPLETIONS, &asked(max)).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        let reply = server.post(COMPLETIONS, &asked(max + 1)).await;
        assert_eq!(reply.status, 400, "{}", reply.body);
        assert!(
            reply.message().contains(field) && reply.message().contains(&max.to_string()),
            "{}",
            reply.body
        );
    }
}

#[tokio::test]
async fn a_request_asks_for_so_many_scores_and_no_more() {
    let server = Server::start();
    let prompt: Vec<u32> = vec![300; 500];
    let body = |count: usize| {
        let prompts: Vec<_> = (0..count).map(|_| prompt.clone()).collect();
        with(
            &completion(),
            json!({"prompt": prompts, "prompt_logprobs": 20, "max_tokens": 1}),
        )
    };
    let reply = server.post(COMPLETIONS, &body(7)).await;
    assert_eq!(reply.error().3.as_deref(), Some("prompt_logprobs"));
    assert!(reply.message().contains("65536") && reply.message().contains("73500"));
    server.ask(COMPLETIONS, &body(1)).await;
    server.settle().await;
}

#[tokio::test]
async fn the_likeliest_of_several_is_kept() {
    let server = Server::start();
    let hot = json!({"temperature": 1.5, "seed": 5, "max_tokens": 8});
    let hot = with(&completion(), hot);
    let all = server
        .ask(COMPLETIONS, &with(&hot, json!({"n": 5, "logprobs": 0})))
        .await;
    let mean = |choice: &Value| -> f64 {
        let logprobs = list(&choice["logprobs"]["token_logprobs"]);
        logprobs
            .iter()
            .map(|each| each.as_f64().unwrap())
            .sum::<f64>()
    };
    let mut choices = list(&all["choices"]).to_vec();
    choices.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
    let best = server
        .ask(COMPLETIONS, &with(&hot, json!({"n": 2, "best_of": 5})))
        .await;
    for (index, kept) in list(&best["choices"]).iter().enumerate() {
        assert_eq!(kept["index"], index);
        assert_eq!(kept["text"], choices[index]["text"]);
        assert!(kept["logprobs"].is_null());
    }
    assert_eq!(list(&best["choices"]).len(), 2);
    assert_eq!(best["usage"]["completion_tokens"], 40);
}

#[tokio::test]
async fn usage_is_told_all_along_when_asked_for() {
    let server = Server::start();
    for (path, body) in [(COMPLETIONS, completion()), (CHAT, chat())] {
        let whole = server.ask(path, &body).await;
        let asked =
            json!({"stream_options": {"include_usage": true, "continuous_usage_stats": true}});
        let events = server.stream(path, &with(&body, asked)).await;
        let mut told = 0;
        for event in &events {
            let usage = &event["usage"];
            let completion = usage["completion_tokens"].as_u64().unwrap();
            assert!(completion >= told, "{usage}");
            told = completion;
            assert_eq!(usage["prompt_tokens"], whole["usage"]["prompt_tokens"]);
            let total = usage["prompt_tokens"].as_u64().unwrap() + completion;
            assert_eq!(usage["total_tokens"], total);
        }
        assert_eq!(told, 6);
        // Alone it asks for nothing.
        let alone = json!({"stream_options": {"continuous_usage_stats": true}});
        let events = server.stream(path, &with(&body, alone)).await;
        assert!(events.iter().all(|event| event.get("usage").is_none()));
    }
}

#[tokio::test]
async fn an_id_of_the_clients_is_taken() {
    let server = Server::start();
    let id = json!({"request_id": "my-1"});
    let answer = server
        .ask(COMPLETIONS, &with(&completion(), id.clone()))
        .await;
    assert_eq!(answer["id"], "cmpl-my-1");
    let answer = server.ask(CHAT, &with(&chat(), id)).await;
    assert_eq!(answer["id"], "chatcmpl-my-1");
}

#[tokio::test]
async fn fingerprints_tell_models_apart() {
    let server = Server::start();
    let of = |answer: Value| answer["system_fingerprint"].clone();
    let first = of(server.ask(COMPLETIONS, &completion()).await);
    assert_eq!(of(server.ask(CHAT, &chat()).await), first);
    let events = server.stream(CHAT, &chat()).await;
    assert!(
        events
            .iter()
            .all(|event| event["system_fingerprint"] == first)
    );
    let file = crate::support::TempModel::new(|weight| weight * 0.5);
    let other = Server::over(file.path(), config(), &options());
    assert_ne!(of(other.ask(COMPLETIONS, &completion()).await), first);
}

#[tokio::test]
async fn a_strict_server_refuses_fields_it_does_not_know() {
    let server = Server::with_config(ServerConfig {
        unknown_fields: UnknownFields::Refuse,
        ..config()
    });
    for (path, body) in [(COMPLETIONS, completion()), (CHAT, chat())] {
        server
            .ask(path, &with(&body, json!({"metadata": {}})))
            .await;
        let reply = server
            .post(path, &with(&body, json!({"no_stop_trim": false})))
            .await;
        let (status, _, code, param) = reply.error();
        assert_eq!((status, code.as_str()), (400, "unsupported_parameter"));
        assert_eq!(param.as_deref(), Some("no_stop_trim"));
    }
    let nested = json!({"messages": [{"role": "user", "content": "hi", "mood": "good"}]});
    let reply = server.post(CHAT, &with(&chat(), nested)).await;
    assert_eq!(reply.error().3.as_deref(), Some("messages[0].mood"));
}
