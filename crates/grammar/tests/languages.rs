//! What each kind of constraint lets through.

mod common;

use common::{END, End, OTHER_END, TOOL, accepts, compiler, draw};
use kvist_base::TokenId;
use kvist_grammar::{Constraint, Grammar, Progress, TaggedJson, TaggedValue};
use serde_json::Value;

fn grammar(constraint: &Constraint) -> Grammar {
    compiler().compile(constraint).expect("a valid constraint")
}

fn schema(text: &str) -> Constraint {
    Constraint::JsonSchema(text.to_owned())
}

fn regex(text: &str) -> Constraint {
    Constraint::Regex(text.to_owned())
}

fn check(constraint: &Constraint, words: &[&str], others: &[&str]) {
    let grammar = grammar(constraint);
    for word in words {
        assert!(
            accepts(&grammar, word),
            "{constraint:?} must accept {word:?}"
        );
    }
    for other in others {
        assert!(
            !accepts(&grammar, other),
            "{constraint:?} must not accept {other:?}"
        );
    }
}

#[test]
fn a_regular_expression_is_matched_whole() {
    check(
        &regex("[a-c]{2,3}"),
        &["ab", "abc"],
        &["", "a", "abcc", "ad", "xab"],
    );
    // Anchors say the same again; a dollar sign that is meant stays one.
    check(&regex("^[0-9]+$"), &["7", "42"], &["", "4a", "$"]);
    check(&regex(r"[0-9]+\$"), &["7$"], &["7", "$"]);
    check(&regex(r"a\\$"), &[r"a\"], &["a", r"a\$"]);
    check(&regex("é|ß"), &["é", "ß"], &["e"]);
    check(&regex("a/b"), &["a/b"], &["a"]);
}

#[test]
fn a_choice_is_one_of_the_texts() {
    let texts = ["yes", "no", "no way", "say \"no\"\n", "\u{7F}", "π"];
    let constraint = Constraint::Choice(texts.map(str::to_owned).to_vec());
    check(&constraint, &texts, &["", "n", "nope", "yesno"]);
}

#[test]
fn a_schema_is_kept_to() {
    let point = schema(
        r#"{"type":"object","properties":{"x":{"type":"integer"},"tag":{"enum":["a","b"]}},
            "required":["x"],"additionalProperties":false}"#,
    );
    check(
        &point,
        &[r#"{"x":1}"#, "{ \"x\" : -20 ,\n \"tag\":\"b\"}"],
        &[
            "{}",
            r#"{"x":1.5}"#,
            r#"{"x":1,"tag":"c"}"#,
            r#"{"x":1,"y":2}"#,
            "1",
        ],
    );
    check(
        &schema(
            r##"{"$defs":{"t":{"type":"array","items":{"$ref":"#/$defs/t"}}},"$ref":"#/$defs/t"}"##,
        ),
        &["[]", "[[],[[]]]"],
        &["[1]", "{}"],
    );
    check(
        &Constraint::JsonObject,
        &["{}", r#"{"a":[1,{"b":null}]}"#],
        &["[]", "1", "{"],
    );
}

#[test]
fn space_in_json_is_bounded() {
    let space = |len: usize| format!("{{{}}}", " ".repeat(len));
    check(&Constraint::JsonObject, &[&space(32)], &[&space(33)]);
    // A client's own style does not count.
    let own = schema(r#"{"type":"object","x-guidance":{"whitespace_pattern":"x","lenient":true}}"#);
    check(&own, &[&space(32), "{}"], &[&space(33), "{x}"]);
}

#[test]
fn a_grammar_in_lark_is_kept_to() {
    let sum = "start: NUMBER (\"+\" NUMBER)*\nNUMBER: /[0-9]+/\n";
    check(
        &Constraint::Lark(sum.to_owned()),
        &["1", "1+22+3"],
        &["", "+1", "1+", "1++2"],
    );
}

#[test]
fn values_stand_between_their_tags() {
    let value = |name: &str, schema: &str| TaggedValue {
        begin: format!("<call>{{\"name\": \"{name}\", \"arguments\": "),
        schema: schema.to_owned(),
        end: "}</call>".to_owned(),
    };
    let alternatives = vec![
        value(
            "add",
            r#"{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"],"additionalProperties":false}"#,
        ),
        value("now", r#"{"type":"object","additionalProperties":false}"#),
    ];
    let add = r#"<call>{"name": "add", "arguments": {"n":3}}</call>"#;
    let now = r#"<call>{"name": "now", "arguments": {}}</call>"#;
    let mixed = r#"<call>{"name": "now", "arguments": {"n":3}}</call>"#;
    let mut tagged = TaggedJson {
        alternatives,
        separator: None,
    };
    check(
        &Constraint::TaggedJson(tagged.clone()),
        &[add, now],
        &[mixed, "", &format!("{add}{now}")],
    );
    tagged.separator = Some("\n".to_owned());
    check(
        &Constraint::TaggedJson(tagged),
        &[add, &format!("{add}\n{now}\n{now}")],
        &[&format!("{add}{now}"), &format!("{add}\n")],
    );
}

#[test]
fn a_tag_that_spells_a_control_token_is_that_token() {
    let tagged = TaggedJson {
        alternatives: vec![TaggedValue {
            begin: "<|tool|>ok:".to_owned(),
            schema: r#"{"const":1}"#.to_owned(),
            end: "<|end|>".to_owned(),
        }],
        separator: None,
    };
    let grammar = grammar(&Constraint::TaggedJson(tagged));
    let mut state = grammar.begin();
    let only = |state: &mut kvist_grammar::GrammarState, token: TokenId| {
        let allowed = state.allowed().expect("something may follow");
        assert!(allowed.contains(token));
        assert_eq!(allowed.count(), 1);
        state.advance(token).expect("it is allowed")
    };
    assert_eq!(only(&mut state, TOOL), Progress::Open);
    for byte in "ok:1".bytes() {
        assert_eq!(only(&mut state, TokenId(byte.into())), Progress::Open);
    }
    assert_eq!(only(&mut state, END), Progress::Complete);
}

#[test]
fn control_tokens_are_not_text() {
    // Their spelling is, byte by byte; the tokens themselves are not.
    let grammar = grammar(&regex("(?s:.*)"));
    assert!(accepts(&grammar, "<|tool|><|end|>"));
    let allowed = grammar.begin().allowed().expect("anything may follow");
    assert!(!allowed.contains(TOOL));
    assert!(allowed.contains(END) && allowed.contains(OTHER_END));
    // A byte that no text contains never is.
    assert!(!allowed.contains(TokenId(0xFF)));
}

#[test]
fn end_tokens_are_allowed_exactly_where_the_output_may_end() {
    let grammar = grammar(&regex("ab(ab)*"));
    let mut state = grammar.begin();
    for (idx, byte) in "ababab".bytes().enumerate() {
        let allowed = state.allowed().expect("something may follow");
        let may_end = idx > 0 && idx % 2 == 0;
        assert_eq!(allowed.contains(END), may_end, "after {idx}");
        assert_eq!(allowed.contains(OTHER_END), may_end, "after {idx}");
        state.advance(TokenId(byte.into())).expect("it is allowed");
    }
    assert_eq!(state.advance(OTHER_END), Ok(Progress::Complete));
}

#[test]
fn an_output_is_complete_where_nothing_can_follow() {
    let (text, end) = draw(&grammar(&regex("a{5}")), 1, 20);
    assert_eq!((text.as_slice(), end), (b"aaaaa".as_slice(), End::Complete));
    // An object is: behind it there is only space, which is no part of it.
    let object = grammar(&Constraint::JsonObject);
    let mut state = object.begin();
    state
        .advance(TokenId(b'{'.into()))
        .expect("an object begins");
    assert_eq!(state.advance(TokenId(b'}'.into())), Ok(Progress::Complete));
}

#[test]
fn states_of_one_grammar_know_nothing_of_each_other() {
    let grammar = grammar(&schema(
        r#"{"type":"array","items":{"type":"string","maxLength":5}}"#,
    ));
    let alone: Vec<_> = (0..4).map(|seed| draw(&grammar, seed, 60)).collect();
    assert_eq!(
        alone,
        (0..4)
            .map(|seed| draw(&grammar, seed, 60))
            .collect::<Vec<_>>()
    );
    let fresh = self::grammar(&schema(
        r#"{"type":"array","items":{"type":"string","maxLength":5}}"#,
    ));
    assert_eq!(alone[3], draw(&fresh, 3, 60));
}

#[test]
fn outputs_at_random_are_words_of_the_language() {
    let json = grammar(&schema(
        r#"{"type":"object","properties":{"a":{"type":"boolean"},"b":{"type":"array","maxItems":2,
            "items":{"type":"number","minimum":0,"maximum":9}}},"required":["a","b"],
            "additionalProperties":false}"#,
    ));
    let mut ended = 0;
    for seed in 0..40 {
        let (text, end) = draw(&json, seed, 400);
        match end {
            End::Complete | End::Token(_) => {
                ended += 1;
                let value: Value = serde_json::from_slice(&text).expect("JSON");
                assert!(value["a"].is_boolean(), "{value}");
                let items = value["b"].as_array().expect("an array");
                assert!(items.len() <= 2, "{value}");
                let in_range =
                    |item: &Value| item.as_f64().is_some_and(|n| (0.0..=9.0).contains(&n));
                assert!(items.iter().all(in_range), "{value}");
            }
            End::Length => {}
            End::Fault(fault) => panic!("{fault}"),
        }
    }
    assert!(ended > 30, "{ended} of 40 came to an end");
}
