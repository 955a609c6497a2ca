//! Outputs under a constraint: of the form that was asked for, whatever else happens.
#![allow(clippy::cast_possible_truncation)] // test sizes are small

mod common;

use common::{Answer, EOS, ModelFile, Stream, ask, ask_all, collect, greedy, shut_down, until};
use kvist_base::{Blocks, FinishReason, QuantFormat, TokenId, Tokens};
use kvist_engine::{
    Constraint, ConstraintError, EndTokens, EngineFault, EngineOptions, GenerateSpec, GrammarFault,
    RequestError, SamplingSpec, Speculation, SubmitError, TaggedJson, TaggedValue,
};
use kvist_testkit::schema::{is_of, schema};
use serde_json::{Value, json};

fn options() -> EngineOptions {
    let mut options = common::options();
    options.limits.structured_outputs = true;
    options
}

fn model() -> ModelFile {
    ModelFile::new("qwen2", QuantFormat::Q8_0)
}

/// A request of up to `output` tokens under a constraint, drawn at random but for seed 0.
fn under(constraint: Constraint, seed: u64, output: u32) -> GenerateSpec {
    let mut stream = Stream::new(seed);
    GenerateSpec {
        constraint: Some(constraint),
        sampling: SamplingSpec {
            temperature: if seed == 0 { 0.0 } else { 1.0 },
            seed,
            logprobs: Some(1),
            ..SamplingSpec::default()
        },
        ..greedy(stream.tokens(5), output)
    }
}

fn json_schema(schema: &Value) -> Constraint {
    Constraint::JsonSchema(schema.to_string())
}

fn regex(text: &str) -> Constraint {
    Constraint::Regex(text.to_owned())
}

/// Whether a text is of a form.
type IsOfForm = fn(&str) -> bool;

/// One of each kind that comes to an end soon, and how to tell.
fn kinds() -> Vec<(Constraint, IsOfForm)> {
    let object = json!({"type": "object", "additionalProperties": false, "required": ["n"],
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}}});
    let tagged = TaggedJson {
        alternatives: vec![TaggedValue {
            begin: "<call>".to_owned(),
            schema: r#"{"type":"array","items":{"type":"boolean"},"maxItems":2}"#.to_owned(),
            end: "</call>".to_owned(),
        }],
        separator: None,
    };
    vec![
        (json_schema(&object), |text| {
            let value: Value = serde_json::from_str(text).expect("JSON");
            value["n"].as_u64().is_some_and(|n| n <= 99)
        }),
        (regex("[a-c]{3,6}x"), |text| {
            let letters = text.strip_suffix('x').unwrap_or("");
            (3..=6).contains(&letters.len()) && letters.bytes().all(|b| (b'a'..=b'c').contains(&b))
        }),
        (
            Constraint::Choice(["yes", "no", "perhaps not"].map(str::to_owned).to_vec()),
            |text| ["yes", "no", "perhaps not"].contains(&text),
        ),
        (
            Constraint::Lark("start: N (\"+\" N)~2\nN: /[0-9]/\n".to_owned()),
            |text| text.split('+').count() == 3 && text.len() == 5,
        ),
        (Constraint::TaggedJson(tagged), |text| {
            let inner = text
                .strip_prefix("<call>")
                .and_then(|rest| rest.strip_suffix("</call>"));
            inner.is_some_and(|inner| serde_json::from_str::<Vec<bool>>(inner).is_ok())
        }),
    ]
}

#[test]
fn outputs_are_of_the_form_that_was_asked_for() {
    let file = model();
    let engine = file.start(&options());
    let handle = engine.handle();
    for (constraint, holds) in kinds() {
        for seed in 0..6 {
            let answer = ask(&handle, under(constraint.clone(), seed, 150));
            assert_eq!(
                answer.reason,
                FinishReason::Stop,
                "{constraint:?}: {:?}",
                answer.text
            );
            assert_eq!(answer.stopped_by, None);
            assert!(holds(&answer.text), "{constraint:?}: {:?}", answer.text);
        }
    }
    shut_down(engine);
}

#[test]
fn schemas_at_random_are_kept_to_by_a_model_that_knows_no_json() {
    let file = model();
    let engine = file.start(&options());
    let handle = engine.handle();
    let (mut ended, mut cut) = (0, 0);
    for seed in 0..60 {
        let schema = schema(seed);
        let specs: Vec<_> = (0..3)
            .map(|draw| under(json_schema(&schema), 1 + seed * 3 + draw, 180))
            .collect();
        for collected in ask_all(&handle, &specs) {
            let answer = collected.answer;
            if answer.reason == FinishReason::Length {
                cut += 1;
                continue;
            }
            ended += 1;
            let value = serde_json::from_str(&answer.text)
                .unwrap_or_else(|error| panic!("seed {seed}: {error}: {:?}", answer.text));
            assert!(
                is_of(&schema, &value),
                "seed {seed}: {value} is not of {schema}"
            );
        }
    }
    assert!(ended > 9 * cut, "{ended} came to an end, {cut} did not");
    shut_down(engine);
}

/// Requests with and without constraints that one schedule can mix.
fn mixed() -> Vec<GenerateSpec> {
    let mut specs = common::workload(11, 4);
    for (idx, (constraint, _)) in kinds().into_iter().enumerate() {
        for seed in [0, 1 + idx as u64] {
            specs.push(under(constraint.clone(), seed, 60));
        }
    }
    // Repeats itself, so that drafts are found and some are accepted.
    let copying = greedy(Stream::new(3).tokens(6).repeat(4), 60);
    specs.push(GenerateSpec {
        constraint: Some(regex("(abc ){30}")),
        ..copying
    });
    specs
}

#[test]
fn no_schedule_no_draft_and_no_preemption_changes_a_bit() {
    let file = model();
    let specs = mixed();
    let engine = file.start(&options());
    let expected: Vec<Answer> = specs
        .iter()
        .map(|spec| ask(&engine.handle(), spec.clone()))
        .collect();
    shut_down(engine);

    let fixed = |len| Some(Speculation::fixed(len, (None, None)).expect("in range"));
    let narrow = |options: EngineOptions| EngineOptions {
        kv_blocks_max: Some(Blocks(14)),
        ..options
    };
    let variants = [
        options(),
        EngineOptions {
            chunk_max: Some(Tokens(7)),
            ..options()
        },
        EngineOptions {
            speculation: fixed(4),
            ..options()
        },
        narrow(options()),
        narrow(EngineOptions {
            speculation: fixed(3),
            ..options()
        }),
    ];
    let (mut accepted, mut preempted) = (0, 0);
    for options in variants {
        let engine = file.start(&options);
        let handle = engine.handle();
        for (idx, got) in ask_all(&handle, &specs).iter().enumerate() {
            assert_eq!(got.answer, expected[idx], "request {idx} with {options:?}");
        }
        accepted += handle.metrics().accepted_draft_tokens;
        preempted += handle.metrics().preemptions;
        shut_down(engine);
    }
    assert!(accepted > 0, "no draft was accepted");
    assert!(preempted > 0, "nobody was preempted");
}

#[test]
fn an_output_that_is_cut_says_so() {
    let file = model();
    let engine = file.start(&options());
    let answer = ask(&engine.handle(), under(regex("a{40}"), 1, 3));
    assert_eq!(answer.reason, FinishReason::Length);
    assert_eq!(answer.output, Tokens(3));
    // One that is complete with its last token has stopped.
    let answer = ask(&engine.handle(), under(regex("a{3}"), 1, 3));
    assert_eq!((answer.reason, &*answer.text), (FinishReason::Stop, "aaa"));
    shut_down(engine);
}

#[test]
fn end_tokens_come_where_the_output_may_end_and_nowhere_else() {
    let file = model();
    let engine = file.start(&options());
    let handle = engine.handle();
    // The model would end at once, and may not.
    let mut spec = under(regex("ab(ab)*"), 1, 20);
    // By single letters, of which two are at an end.
    let [a, b] = [TokenId(100), TokenId(101)];
    spec.sampling.logit_bias = vec![(EOS, 100.0), (a, 50.0), (b, 50.0)];
    for end_tokens in [EndTokens::Stop, EndTokens::Ignore] {
        let answer = ask(
            &handle,
            GenerateSpec {
                end_tokens,
                ..spec.clone()
            },
        );
        assert_eq!((answer.reason, &*answer.text), (FinishReason::Stop, "ab"));
        assert_eq!(answer.tokens, [a, b, EOS]);
    }
    // `min_tokens` holds as long as the grammar can go on.
    spec.sampling.min_tokens = 6;
    let answer = ask(&handle, spec);
    assert_eq!(
        (answer.reason, &*answer.text),
        (FinishReason::Stop, "ababab")
    );
    let mut spec = under(regex("ab"), 1, 20);
    spec.sampling.min_tokens = 6;
    let answer = ask(&handle, spec);
    assert_eq!((answer.reason, &*answer.text), (FinishReason::Stop, "ab"));
    shut_down(engine);
}

#[test]
fn logprobs_are_of_the_model_before_the_mask() {
    let file = model();
    let engine = file.start(&options());
    let handle = engine.handle();
    let free = ask(
        &handle,
        GenerateSpec {
            constraint: None,
            ..under(regex("q"), 0, 1)
        },
    );
    let bound = ask(&handle, under(regex("q"), 0, 1));
    assert_eq!(bound.text, "q");
    assert_ne!(
        free.tokens, bound.tokens,
        "the model would have said something else"
    );
    // The likeliest token is listed whether it was allowed or not, with the same probability.
    assert!(bound.logprobs[0].contains(&free.logprobs[0][0]));
    shut_down(engine);
}

#[test]
fn a_dead_end_is_the_error_of_its_own_request() {
    let file = model();
    let engine = file.start(&options());
    let handle = engine.handle();
    // A byte that no token may spell.
    let dead = "%llguidance {\"allow_invalid_utf8\": true}\nstart: /a(?-u:\\xFF)/\n";
    let dead = handle.submit(under(Constraint::Lark(dead.to_owned()), 1, 20));
    let other = handle.submit(under(regex("a{20}"), 1, 20));
    assert_eq!(
        collect(dead.expect("its first token is there")).unwrap_err(),
        EngineFault::Grammar(GrammarFault::NothingAllowed)
    );
    let other = collect(other.expect("valid")).expect("no fault");
    assert_eq!(other.answer.text, "a".repeat(20));
    until(&handle, "all is over", |now| now.running + now.waiting == 0);
    assert_eq!(handle.metrics().finished.failed, 1);
    shut_down(engine);
}

#[test]
fn what_cannot_be_compiled_is_refused_at_the_door() {
    let file = model();
    let engine = file.start(&options());
    let handle = engine.handle();
    let refused = |constraint| match handle.submit(under(constraint, 1, 20)) {
        Err(SubmitError::Invalid(error @ RequestError::Constraint(_))) => error,
        other => panic!("{other:?}"),
    };
    for constraint in [
        regex("("),
        json_schema(&json!({"type": "no such type"})),
        Constraint::Lark("start: nothing".to_owned()),
        Constraint::Choice(Vec::new()),
    ] {
        assert_eq!(refused(constraint).field(), "constraint");
    }
    assert_eq!(
        refused(regex(&"a".repeat(5000))).to_string(),
        "the length of the regular expression in bytes must be at most 4096, but is 5000"
    );
    assert_eq!(handle.metrics().accepted, 0);
    shut_down(engine);
}

#[test]
fn an_engine_whose_plan_has_no_room_for_grammars_refuses_constraints() {
    let file = model();
    let engine = file.start(&common::options());
    let refused = engine.handle().submit(under(regex("a"), 1, 20));
    assert!(matches!(
        refused,
        Err(SubmitError::Invalid(RequestError::Constraint(
            ConstraintError::Off
        )))
    ));
    shut_down(engine);
}

#[test]
fn a_token_id_is_what_was_drawn() {
    // The answer's tokens spell the answer's text: nothing was put in between.
    let file = model();
    let engine = file.start(&options());
    let handle = engine.handle();
    let answer = ask(&handle, under(regex("[a-z ]{12}"), 5, 20));
    let spelled: Vec<u8> = answer
        .tokens
        .iter()
        .filter(|token| **token != EOS)
        .flat_map(|token: &TokenId| handle.token_bytes(*token))
        .collect();
    assert_eq!(spelled, answer.text.as_bytes());
    shut_down(engine);
}
