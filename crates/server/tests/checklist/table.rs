//! Every limit of the table has a test that goes beyond it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use kvist_server::{EngineLimits, HttpLimits, limits};

/// Each limit by name, and the test that shows what happens beyond it.
const TESTED: &[(&str, &str)] = &[
    (
        "connections",
        "connections_beyond_the_limit_wait_for_a_place",
    ),
    (
        "request line and headers",
        "headers_are_bounded_in_bytes_and_number",
    ),
    ("headers", "headers_are_bounded_in_bytes_and_number"),
    ("x-request-id", "only_tame_ids_are_echoed"),
    (
        "error message, characters",
        "what_was_sent_is_not_sent_back_at_length",
    ),
    (
        "time for headers, TLS",
        "headers_that_trickle_in_get_408_and_others_are_served_meanwhile",
    ),
    ("time for a body", "a_slow_body_is_given_up"),
    (
        "time of an idle connection",
        "idle_connections_are_closed_without_a_word",
    ),
    (
        "time an answer is not read",
        "a_client_that_never_reads_is_cut_off",
    ),
    (
        "time in the queue",
        "a_request_whose_turn_does_not_come_is_told",
    ),
    (
        "time of a request",
        "a_request_that_takes_too_long_ends_with_504_or_an_error_event",
    ),
    (
        "silence on a stream",
        "silence_on_a_stream_is_filled_with_comments",
    ),
    (
        "time of a step",
        "health_answers_beside_a_step_and_says_when_it_never_ends",
    ),
    (
        "time of leaving",
        "a_server_that_leaves_says_so_and_goes_on_until_it_drains",
    ),
    (
        "time of draining",
        "what_does_not_end_in_time_ends_with_an_error",
    ),
    ("body", "a_body_too_large_is_refused_before_it_is_read"),
    (
        "bodies being received",
        "bodies_share_a_bound_and_give_it_back",
    ),
    (
        "pieces of a body",
        "bodies_in_pieces_are_bounded_in_bytes_and_number",
    ),
    (
        "JSON depth",
        "the_bound_itself_is_allowed_and_one_more_is_located",
    ),
    ("fields of an object", "depth_and_width_are_bounded"),
    (
        "items of a list",
        "lists_are_bounded_before_they_cost_anything",
    ),
    (
        "messages, parts of one",
        "conversations_of_too_many_messages_are_refused",
    ),
    ("chat_template_kwargs", "depth_and_width_are_bounded"),
    ("prompts", "lists_are_bounded_before_they_cost_anything"),
    ("n", "numbers_are_what_they_say_and_the_last_of_two_counts"),
    (
        "prompt and output together",
        "a_context_filled_to_its_end_and_one_beyond",
    ),
    (
        "stop strings",
        "lists_are_bounded_before_they_cost_anything",
    ),
    (
        "stop strings together",
        "lists_are_bounded_before_they_cost_anything",
    ),
    (
        "stop_token_ids",
        "lists_are_bounded_before_they_cost_anything",
    ),
    ("logit_bias", "lists_are_bounded_before_they_cost_anything"),
    ("logprobs", "log_probability_rules_differ_by_endpoint"),
    ("top_logprobs", "log_probability_rules_differ_by_endpoint"),
    ("bad_words", "words_and_tokens_are_so_many_and_no_more"),
    (
        "allowed_token_ids",
        "words_and_tokens_are_so_many_and_no_more",
    ),
    (
        "logprob_token_ids",
        "words_and_tokens_are_so_many_and_no_more",
    ),
    (
        "log-probabilities of prompts",
        "a_request_asks_for_so_many_scores_and_no_more",
    ),
    (
        "those of all requests",
        "scores_share_a_bound_and_give_it_back",
    ),
    ("cache_salt", "salts_and_priorities_have_bounds"),
    ("running sequences", "a_full_queue_says_so_at_once"),
    ("waiting sequences", "a_full_queue_says_so_at_once"),
    (
        "tokens of waiting prompts",
        "tokens_that_wait_are_bounded_too",
    ),
    (
        "prompts tokenised at once",
        "a_large_conversation_is_tokenised_off_the_server_thread",
    ),
];

#[test]
fn every_limit_of_the_table_is_tested() {
    let engine = EngineLimits {
        running_max: 64,
        waiting_max: 256,
        waiting_tokens_max: 1 << 20,
    };
    let rows = limits(&HttpLimits::default(), engine);
    let named: BTreeSet<&str> = rows.iter().map(|row| row.name).collect();
    let tested: BTreeSet<&str> = TESTED.iter().map(|(name, _)| *name).collect();
    assert_eq!(named, tested);
    let sources = sources();
    for (name, test) in TESTED {
        assert!(
            sources.contains(&format!("fn {test}(")),
            "{name}: there is no test {test}"
        );
    }
}

/// The source of this crate and its tests.
fn sources() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    ["src", "tests"]
        .map(|dir| super::list::read_all(&root.join(dir)))
        .concat()
}

#[tokio::test]
async fn conversations_of_too_many_messages_are_refused() {
    let live = crate::wire::Live::start().await;
    let messages = vec![serde_json::json!({"role": "user", "content": ""}); 16_385];
    let answer = live
        .post(
            "/v1/chat/completions",
            &serde_json::json!({"messages": messages}),
        )
        .await;
    assert_eq!(answer.status, 400, "{:.300}", answer.body);
    assert!(answer.body.contains("16384"), "{:.300}", answer.body);
    live.is_whole().await;
}

#[test]
fn the_manual_names_flags_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cli/src/args");
    let args = super::list::read_all(&root);
    let engine = EngineLimits {
        running_max: 1,
        waiting_max: 1,
        waiting_tokens_max: 1,
    };
    for row in limits(&HttpLimits::default(), engine) {
        if let Some(flag) = row.flag {
            let field = flag.trim_start_matches('-').replace('-', "_");
            assert!(
                args.contains(&format!("pub {field}:")),
                "{flag} of {}",
                row.name
            );
        }
    }
    assert!(fs::metadata(&root).is_ok());
}
