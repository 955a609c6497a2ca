//! What is refused, and that what is hostile comes to an end.

mod common;

use std::sync::Arc;
use std::thread;

use common::{END, End, compiler, compiler_of, draw, refusal, vocabulary};
use kvist_base::TokenId;
use kvist_grammar::{
    ALTERNATIVES_MAX, CHOICE_BYTES_MAX, CHOICES_MAX, Cache, Compiler, Constraint, ConstraintError,
    Grammar, GrammarFault, LARK_BYTES_MAX, LARK_RULES_MAX, REGEX_BYTES_MAX, SCHEMA_BYTES_MAX,
    SCHEMA_DEPTH_MAX, TAGGED_BYTES_MAX, TaggedJson, TaggedValue, TokenRole,
};

fn regex(text: impl Into<String>) -> Constraint {
    Constraint::Regex(text.into())
}

fn schema(text: impl Into<String>) -> Constraint {
    Constraint::JsonSchema(text.into())
}

fn lark(text: impl Into<String>) -> Constraint {
    Constraint::Lark(text.into())
}

fn tagged(alternatives: usize, begin: &str, schema: &str) -> Constraint {
    let value = TaggedValue {
        begin: begin.to_owned(),
        schema: schema.to_owned(),
        end: String::new(),
    };
    Constraint::TaggedJson(TaggedJson {
        alternatives: vec![value; alternatives],
        separator: None,
    })
}

/// Compiles with as much stack as the engine gives it.
fn compile(constraint: Constraint) -> Result<Grammar, ConstraintError> {
    let work = move || compiler().compile(&constraint);
    let thread = thread::Builder::new().stack_size(64 << 20);
    thread
        .spawn(work)
        .expect("a thread")
        .join()
        .expect("no panic")
}

/// Levels of lists in a schema that means nothing by them.
fn deep(levels: usize) -> Constraint {
    let lists = levels - 1;
    schema(format!(
        "{{\"description\":{}{}}}",
        "[".repeat(lists),
        "]".repeat(lists)
    ))
}

#[test]
fn each_bound_has_its_two_sides() {
    let compiler = compiler();
    let filler = |len: usize| schema(format!("{{\"description\":\"{}\"}}", "x".repeat(len - 18)));
    let rules = |count: usize| {
        let rest: String = (1..count).map(|n| format!("r{n}: \"a\"\n")).collect();
        lark(format!("start: \"a\"\n{rest}"))
    };
    let choices = |count: usize, len: usize| Constraint::Choice(vec!["a".repeat(len); count]);
    let cases: [(usize, &dyn Fn(usize) -> Constraint); 9] = [
        (REGEX_BYTES_MAX, &|len| regex("a".repeat(len))),
        (SCHEMA_BYTES_MAX, &filler),
        (SCHEMA_DEPTH_MAX, &deep),
        (CHOICES_MAX, &|count| choices(count, 1)),
        (CHOICE_BYTES_MAX, &|len| choices(1, len)),
        (LARK_BYTES_MAX, &|len| {
            lark(format!("start: \"a\"\n#{}", "x".repeat(len - 12)))
        }),
        (LARK_RULES_MAX, &rules),
        (ALTERNATIVES_MAX, &|count| {
            tagged(count, "a", "{\"const\":1}")
        }),
        (TAGGED_BYTES_MAX, &|len| {
            let schema = format!("{{\"description\":\"{}\"}}", "x".repeat(60_000 - 18));
            tagged(4, &"b".repeat(len / 4 - 60_000), &schema).with_rest(len % 4)
        }),
    ];
    for (limit, constraint) in cases {
        if let Err(error) = compile(constraint(limit)) {
            panic!("{limit}: {error}");
        }
        match refusal(&compiler, &constraint(limit + 1)) {
            ConstraintError::TooLarge {
                limit: told, given, ..
            } => {
                assert_eq!((told, given), (limit, limit + 1));
            }
            other => panic!("{limit}: {other}"),
        }
    }
}

/// Adds bytes to the last text of alternatives.
trait WithRest {
    fn with_rest(self, len: usize) -> Self;
}

impl WithRest for Constraint {
    fn with_rest(self, len: usize) -> Self {
        let Self::TaggedJson(mut tagged) = self else {
            unreachable!("only these have several parts")
        };
        if let Some(last) = tagged.alternatives.last_mut() {
            last.end = "e".repeat(len);
        }
        Self::TaggedJson(tagged)
    }
}

#[test]
fn what_is_empty_is_refused() {
    let compiler = compiler();
    for (constraint, what) in [
        (regex(""), "the regular expression"),
        (lark(" \n"), "the grammar"),
        (Constraint::Choice(vec![]), "the list of choices"),
        (
            Constraint::Choice(vec!["a".into(), String::new()]),
            "each choice",
        ),
        (tagged(0, "", ""), "the list of alternatives"),
    ] {
        assert_eq!(
            refusal(&compiler, &constraint),
            ConstraintError::Empty { what }
        );
    }
}

#[test]
fn what_is_no_word_of_its_own_language_is_refused_in_one_line() {
    let compiler = compiler();
    for constraint in [
        regex("("),
        regex("[z-a]"),
        regex("a(?=b)"),
        regex(r"(a)\1"),
        regex("a{2,1}"),
        schema(""),
        schema("{"),
        schema("1"),
        schema(r#"{"type":"thing"}"#),
        schema(r#"{"type":"string","pattern":"("}"#),
        schema(r##"{"$ref":"#/$defs/none"}"##),
        schema(r#"{"$ref":"https://example.com/schema.json"}"#),
        schema(r#"{"not":{}}"#),
        schema("false"),
        lark("start: other"),
        lark("begin: \"a\""),
        lark("start: <|no_such_token|>"),
        lark("start: <[100000]>"),
        lark("start: \"a"),
        lark("%import python.NAME\nstart: NAME"),
        tagged(1, "a", "{"),
    ] {
        match compile(constraint.clone()) {
            Err(ConstraintError::Invalid { reason, .. }) => {
                assert!(!reason.is_empty() && !reason.contains('\n'), "{reason:?}");
            }
            other => panic!("{constraint:?}: {other:?}"),
        }
        // Nothing of it is left in the compiler.
        assert!(compiler.compile(&regex("a")).is_ok());
    }
}

#[test]
fn hostile_constraints_come_to_an_end() {
    let chain: String = (0..900).map(|n| format!("r{n}: r{}\n", n + 1)).collect();
    let hostile = [
        regex("(".repeat(2000) + &")".repeat(2000)),
        regex("((a{1,1000}){1,1000}){1,1000}"),
        regex("(.*a){200}"),
        regex("(a|b|ab)*c{500}(a?){500}"),
        regex("[a-z]{1000}".repeat(300)),
        schema(r##"{"allOf":[{"$ref":"#"}]}"##),
        schema(r##"{"$ref":"#"}"##),
        schema(
            r##"{"$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}},"$ref":"#/$defs/a"}"##,
        ),
        schema(r##"{"anyOf":[{"$ref":"#"},{"type":"array","items":{"$ref":"#"}}]}"##),
        schema(r#"{"type":"array","minItems":1000000000,"items":{}}"#),
        schema(r#"{"type":"string","minLength":1000000,"maxLength":2000000}"#),
        schema(format!(
            r#"{{"allOf":[{}]}}"#,
            vec![r#"{"anyOf":[{"type":"object"},{"type":"array"}]}"#; 400].join(",")
        )),
        lark("start: start start | \"a\""),
        lark("start: a\na: b\nb: a"),
        lark(format!("start: r0\n{chain}r900: \"a\"")),
        lark(format!(
            "start: {}\"a\"{}",
            "(".repeat(5000),
            ")".repeat(5000)
        )),
        lark("start: \"a\"~1..1000000000"),
    ];
    for constraint in hostile {
        // Taken or refused: either will do, and what is taken yields masks or a fault.
        if let Ok(grammar) = compile(constraint) {
            draw(&grammar, 1, 30);
        }
    }
}

#[test]
fn long_texts_are_followed_to_their_end() {
    // On a test's thread, whose stack is that of the thread that computes masks.
    let text = "ab".repeat(CHOICE_BYTES_MAX / 2);
    let grammar = compile(Constraint::Choice(vec![text.clone()])).expect("a long text");
    let mut state = grammar.begin();
    for byte in text.bytes().take(300) {
        let allowed = state.allowed().expect("the next letter");
        assert!(allowed.contains(TokenId(byte.into())));
        state.advance(TokenId(byte.into())).expect("allowed");
    }
    let value = "x".repeat(20_000);
    let constant = schema(format!("{{\"const\":\"{value}\"}}"));
    let (text, end) = draw(&compile(constant).expect("a constant"), 1, 100);
    assert_eq!((text.len(), end), (100, End::Length));
}

#[test]
fn a_vocabulary_that_cannot_spell_the_output_is_a_fault_where_it_shows() {
    let mut tokens = vocabulary();
    for (bytes, _) in &mut tokens {
        if bytes.contains(&b'z') {
            bytes.clear();
        }
    }
    let compiler = compiler_of(tokens);
    let reason = "no token of the vocabulary continues the output as its grammar demands";
    assert_eq!(
        refusal(&compiler, &regex("za")),
        ConstraintError::Invalid {
            what: "regular expression",
            reason: reason.to_owned()
        }
    );
    let grammar = compiler.compile(&regex("az")).expect("it begins well");
    let mut state = grammar.begin();
    assert!(state.allowed().is_ok());
    state.advance(TokenId(b'a'.into())).expect("allowed");
    assert_eq!(state.allowed(), Err(GrammarFault::NothingAllowed));
}

#[test]
fn a_vocabulary_without_end_tokens_ends_where_nothing_can_follow() {
    let tokens = (0..=255)
        .map(|byte| (vec![byte], TokenRole::Text))
        .collect();
    let compiler = compiler_of(tokens);
    let grammar = compiler.compile(&regex("aa?")).expect("valid");
    let mut state = grammar.begin();
    let a = TokenId(b'a'.into());
    state.allowed().expect("a letter");
    state.advance(a).expect("allowed");
    let allowed = state.allowed().expect("another letter");
    assert_eq!(allowed.count(), 1);
    state.advance(a).expect("allowed");
}

#[test]
fn tokens_too_long_for_a_trie_are_never_allowed() {
    let mut tokens = vocabulary();
    let long = TokenId(u32::try_from(tokens.len()).expect("few"));
    tokens.push((vec![b'a'; 5000], TokenRole::Text));
    let grammar = compiler_of(tokens).compile(&regex("a+")).expect("valid");
    let allowed = grammar.begin().allowed().expect("a letter");
    assert!(!allowed.contains(long));
    assert!(!allowed.contains(END));
}

fn grammar_of(compiler: &Compiler, text: &str) -> (Constraint, Arc<Grammar>) {
    let constraint = regex(text);
    let grammar = compiler.compile(&constraint).expect("valid");
    (constraint, Arc::new(grammar))
}

#[test]
fn a_cache_keeps_what_was_used_last_and_stays_within_its_bytes() {
    let compiler = compiler();
    let all: Vec<_> = ["a", "b", "c", "d"]
        .map(|text| grammar_of(&compiler, text))
        .into();
    let each = all
        .iter()
        .map(|(_, grammar)| grammar.bytes() + 1)
        .max()
        .expect("four");
    let mut cache = Cache::new(3 * each);
    for (constraint, grammar) in &all[..3] {
        cache.insert(constraint.clone(), Arc::clone(grammar));
    }
    assert!(cache.get(&all[0].0).is_some());
    cache.insert(all[3].0.clone(), Arc::clone(&all[3].1));
    assert!(cache.bytes() <= 3 * each);
    let kept: Vec<bool> = all
        .iter()
        .map(|(key, _)| cache.get(key).is_some())
        .collect();
    assert_eq!(kept, [true, false, true, true]);
    // One that is larger than all the room there is changes nothing.
    let mut small = Cache::new(each / 2);
    small.insert(all[0].0.clone(), Arc::clone(&all[0].1));
    assert_eq!((small.bytes(), small.get(&all[0].0).is_none()), (0, true));
    // The same again is the same once.
    let before = cache.bytes();
    cache.insert(all[3].0.clone(), Arc::clone(&all[3].1));
    assert_eq!(cache.bytes(), before);
}
