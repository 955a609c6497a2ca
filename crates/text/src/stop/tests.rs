use kvist_base::mix64;

use super::*;

fn matcher(stops: &[&str]) -> StopMatcher {
    StopMatcher::new(stops.iter().map(|&stop| stop.to_owned()).collect()).unwrap()
}

/// What is emitted for each delta and at the end, and the match.
fn run(stops: &[&str], deltas: &[&str]) -> (Vec<String>, Option<usize>) {
    let mut matcher = matcher(stops);
    let mut emitted = Vec::new();
    let mut matched = None;
    for delta in deltas {
        let verdict = matcher.feed(delta);
        emitted.push(verdict.emit);
        matched = verdict.matched;
    }
    emitted.push(matcher.finish());
    (emitted, matched)
}

#[track_caller]
fn check(stops: &[&str], deltas: &[&str], emitted: &[&str], matched: Option<usize>) {
    let expected: Vec<String> = emitted.iter().map(|&text| text.to_owned()).collect();
    assert_eq!(run(stops, deltas), (expected, matched));
}

#[test]
fn a_stop_string_may_span_any_number_of_deltas() {
    check(&["END"], &["one END two"], &["one ", ""], Some(0));
    check(&["END"], &["one E", "ND"], &["one ", "", ""], Some(0));
    check(
        &["END"],
        &["one E", "N", "D", "x"],
        &["one ", "", "", "", ""],
        Some(0),
    );
    check(
        &["</s>"],
        &["a<", "/", "s", ">"],
        &["a", "", "", "", ""],
        Some(0),
    );
}

#[test]
fn what_turns_out_not_to_be_a_stop_string_is_emitted() {
    check(
        &["END"],
        &["E", "NE", "N", "x"],
        &["", "EN", "", "ENx", ""],
        None,
    );
    check(&["END"], &["EN"], &["", "EN"], None);
    check(&["aab"], &["aa", "a", "ab"], &["", "a", "a", ""], Some(0));
}

#[test]
fn the_first_to_be_completed_wins_then_the_longest() {
    check(&["abc", "ab"], &["xabc"], &["x", ""], Some(1));
    check(&["b", "ab"], &["xab"], &["x", ""], Some(1));
    check(&["abcd", "bc"], &["xabcd"], &["xa", ""], Some(1));
    check(&["bcd", "abce"], &["xabcd"], &["xa", ""], Some(0));
    check(&["ab", "ab"], &["ab"], &["", ""], Some(0));
}

#[test]
fn characters_are_never_cut() {
    check(&["é!"], &["aé", "é", "!"], &["a", "é", "", ""], Some(0));
    check(&["ê"], &["é", "ê"], &["é", "", ""], Some(0));
}

#[test]
fn without_stop_strings_everything_passes() {
    check(&[], &["a", "", "b"], &["a", "", "b", ""], None);
}

#[test]
fn nothing_follows_a_match() {
    let mut matcher = matcher(&["."]);
    assert_eq!(matcher.feed("a.b").emit, "a");
    assert_eq!(
        matcher.feed("c"),
        StopVerdict {
            emit: String::new(),
            matched: Some(0)
        }
    );
    assert_eq!(matcher.finish(), "");
}

#[test]
fn bad_lists_are_refused() {
    let new = |stops: Vec<String>| StopMatcher::new(stops).err();
    let empty = new(vec!["a".to_owned(), String::new()]);
    assert!(matches!(empty, Some(TextError::EmptyStop { index: 1 })));
    let long = new(vec!["x".repeat(40_000), "y".repeat(40_000)]);
    assert!(matches!(
        long,
        Some(TextError::StopsTooLong {
            limit: 65_536,
            given: 80_000
        })
    ));
}

/// The definition: the first end at which some stop string ends, and the longest such.
fn naive(stops: &[&str], text: &str) -> (usize, Option<usize>) {
    for end in 1..=text.len() {
        let ending = |stop: &&str| text.as_bytes()[..end].ends_with(stop.as_bytes());
        let longest = stops
            .iter()
            .filter(|stop| ending(stop))
            .map(|stop| stop.len())
            .max();
        if let Some(len) = longest {
            let index = stops
                .iter()
                .position(|stop| stop.len() == len && ending(stop));
            return (end - len, index);
        }
    }
    (text.len(), None)
}

#[test]
fn any_text_in_any_pieces_gives_the_defined_result() {
    const WORDS: [&str; 12] = [
        "a", "b", "ab", "ba", "aab", "aba", "abab", "bbb", "é", "aé", "éb", "abba",
    ];
    for seed in 0..4000u64 {
        let mut draws = (0u64..).map(|n| usize::try_from(mix64(seed << 16 | n) >> 8).unwrap());
        let mut draw = |below: usize| draws.next().unwrap() % below;
        let count = 1 + draw(3);
        let stops: Vec<&str> = (0..count).map(|_| WORDS[draw(WORDS.len())]).collect();
        let deltas: Vec<&str> = (0..8).map(|_| ["a", "b", "é", "ab", ""][draw(5)]).collect();
        let text = deltas.concat();
        let (end, index) = naive(&stops, &text);
        let (emitted, matched) = run(&stops, &deltas);
        assert_eq!(
            (emitted.concat().as_str(), matched),
            (&text[..end], index),
            "{stops:?} {text}"
        );

        // No more is held back than may begin a stop string, and never what was emitted before.
        let mut matcher = matcher(&stops);
        let (mut fed, mut sent) = (String::new(), 0);
        for delta in &deltas {
            fed.push_str(delta);
            let verdict = matcher.feed(delta);
            sent += verdict.emit.len();
            if verdict.matched.is_some() {
                break;
            }
            let may_begin = |at: &usize| {
                fed.is_char_boundary(*at) && stops.iter().any(|stop| stop.starts_with(&fed[*at..]))
            };
            let certain = (0..=fed.len()).find(may_begin).unwrap_or(fed.len());
            assert_eq!(sent, certain, "{stops:?} {fed:?}");
        }
    }
}

#[test]
fn long_texts_of_near_misses_take_linear_time() {
    let stop = "a".repeat(60_000) + "b";
    let mut matcher = matcher(&[&stop]);
    let mut emitted = 0;
    for _ in 0..1000 {
        emitted += matcher.feed(&"a".repeat(1000)).emit.len();
    }
    assert_eq!(emitted, 1_000_000 - 60_000);
}
