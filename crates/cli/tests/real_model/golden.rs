//! Greedy continuations against llama.cpp's. `data/smollm2_llamacpp.py` says how they were made.
//!
//! Both engines round activations to 8 bits, and this model and format forgive that little: against
//! exact arithmetic on the same weights either moves the difference of the two best logits by 0.16
//! (root mean square). So they part ways where the two best tokens are nearly tied, and must not
//! part anywhere else.

use std::fmt::{self, Display, Formatter};

use kvist_base::{TokenId, Tokens};
use kvist_engine::{GenerateSpec, Prompt, SamplingSpec, SpecialText, TokenLogprobs};
use serde_json::Value;

use crate::{Output, ids, load, options, shut_down};

const OUTPUT_LEN: u32 = 32;
/// Most by which the chosen of two tied tokens may lead, in natural logarithm of probability: the
/// noise of both engines has tails.
const TIE: f64 = 1.25;
/// The same for half of the ties.
const TIE_MEDIAN: f64 = 0.1;
/// Least share of equal tokens among those that follow equal tokens. llama.cpp and exact arithmetic
/// agree in 97.6 % of them.
const AGREEMENT: f64 = 0.965;

/// What the goldens were made from, by name.
pub(crate) fn goldens() -> Vec<Value> {
    let goldens: Value =
        serde_json::from_str(include_str!("../data/smollm2_llamacpp.json")).unwrap();
    let cases = goldens["cases"].as_array().unwrap();
    assert!(cases.len() >= 20);
    cases.clone()
}

/// A greedy request with the five best tokens of each position.
pub(crate) fn greedy(prompt: Prompt) -> GenerateSpec {
    let greedy = GenerateSpec::greedy(prompt);
    GenerateSpec {
        sampling: SamplingSpec {
            logprobs: Some(5),
            ..greedy.sampling.clone()
        },
        ..greedy
    }
}

/// Where two engines part ways.
struct Parting {
    name: String,
    at: usize,
    /// By how much our choice is more likely than theirs, to us.
    our_lead: f64,
    /// By how much their choice is more likely than their second, to them, where that is known.
    their_lead: Option<f64>,
}

impl Parting {
    fn of(output: &Output, case: &Value) -> Option<Self> {
        let expected = ids(&case["output_ids"]);
        let pairs = output.tokens.iter().zip(&expected);
        let at = pairs.take_while(|(ours, theirs)| ours == theirs).count();
        if at == output.tokens.len() {
            return None;
        }
        Some(Self {
            name: case["name"].to_string(),
            at,
            our_lead: lead(&output.logprobs[at], expected[at]),
            their_lead: case["gaps"][at].as_f64(),
        })
    }
}

impl Display for Parting {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            at,
            our_lead,
            their_lead,
        } = self;
        writeln!(
            f,
            "{name} at {at}: ours leads by {our_lead:.3}, theirs by {their_lead:?}"
        )
    }
}

/// Infinite when `other` is not even among the five best.
fn lead(position: &TokenLogprobs, other: TokenId) -> f64 {
    let other = position.top.iter().find(|entry| entry.token == other);
    other.map_or(f64::INFINITY, |other| {
        f64::from(position.chosen.logprob - other.logprob)
    })
}

#[test]
fn continuations_are_llama_cpps_but_for_ties() {
    let engine = load(&options());
    let handle = engine.handle();
    let cases = goldens();
    let requests: Vec<_> = cases
        .iter()
        .map(|case| {
            let text = case["text"].as_str().unwrap();
            let prompt = handle.tokenize(text, SpecialText::Plain).unwrap();
            assert_eq!(prompt, ids(&case["prompt_ids"]), "{}", case["name"]);
            let mut spec = greedy(Prompt::Text(text.to_owned()));
            spec.output_max = Some(Tokens(OUTPUT_LEN));
            handle.submit(spec).unwrap()
        })
        .collect();

    let (mut equal, mut partings) = (0, Vec::new());
    for (case, request) in cases.iter().zip(requests) {
        let output = Output::of(request);
        let parting = Parting::of(&output, case);
        equal += parting
            .as_ref()
            .map_or(output.tokens.len(), |parting| parting.at);
        partings.extend(parting);
    }
    shut_down(engine, cases.len() as u64);

    let report: String = partings.iter().map(Parting::to_string).collect();
    println!("{} of {} part\n{report}", partings.len(), cases.len());
    for parting in &partings {
        assert!(parting.our_lead <= TIE, "not a tie: {parting}");
        assert!(
            parting.their_lead.is_none_or(|lead| lead <= TIE),
            "not a tie: {parting}"
        );
    }
    let mut leads: Vec<_> = partings.iter().map(|parting| parting.our_lead).collect();
    leads.sort_by(f64::total_cmp);
    assert!(
        leads
            .get(leads.len() / 2)
            .is_none_or(|lead| *lead <= TIE_MEDIAN),
        "{report}"
    );
    let agreement = equal as f64 / (equal + partings.len()) as f64;
    assert!(agreement >= AGREEMENT, "{agreement}\n{report}");
}
