// Vocabularies here are tiny, and logits are f32.
#![allow(clippy::cast_possible_truncation)]

use kvist_base::mix64;

use super::*;
use crate::params::SamplingSpec;

fn params(vocab_len: usize, edit: impl FnOnce(&mut SamplingSpec)) -> SamplingParams {
    let mut spec = SamplingSpec::default();
    edit(&mut spec);
    SamplingParams::new(spec, vocab_len).unwrap()
}

fn fresh() -> SamplerState {
    SamplerState::new(&[])
}

/// Logits whose probabilities are `probs`.
fn row_of(probs: &[f64]) -> Vec<f32> {
    probs.iter().map(|p| p.ln() as f32).collect()
}

fn noise(len: usize, seed: u64) -> Vec<f32> {
    (0..len as u64)
        .map(|i| (mix64(seed ^ (i << 8)) >> 44) as f32 / 65_536.0 - 8.0)
        .collect()
}

/// `count` draws in sequence, as token ids.
fn draws(row: &[f32], params: &SamplingParams, count: usize) -> Vec<u32> {
    let mut sampler = Sampler::new(row.len());
    let mut state = fresh();
    (0..count)
        .map(|_| sampler.draw(row, params, &mut state).unwrap().token.0)
        .collect()
}

/// The tokens `filter` admits, ascending.
fn admitted(row: &[f32], params: &SamplingParams) -> Vec<u32> {
    let mut out = Vec::new();
    let total = filter(row, peak(row).unwrap(), params, &mut out);
    let sum: f64 = out.iter().map(|candidate| candidate.weight).sum();
    assert!(
        (sum - total).abs() <= 1e-12 * total,
        "{sum} against {total}"
    );
    let mut ids: Vec<u32> = out.iter().map(|candidate| candidate.idx).collect();
    ids.sort_unstable();
    ids
}

#[test]
fn greedy_takes_the_lowest_id_among_equals() {
    let greedy = params(6, |s| s.temperature = 0.0);
    assert_eq!(draws(&[0.0, 3.0, 1.0, 3.0, 3.0, 2.0], &greedy, 2), [1, 1]);
    assert_eq!(draws(&[-5.0; 6], &greedy, 1), [0]);
}

#[test]
fn each_filter_keeps_the_tokens_of_its_table() {
    let row = row_of(&[0.05, 0.4, 0.1, 0.25, 0.2]);
    let tied = row_of(&[0.2, 0.3, 0.2, 0.1, 0.2]);
    type Edit = fn(&mut SamplingSpec);
    let cases: [(&str, &[f32], Edit, &[u32]); 17] = [
        ("nothing", &row, |_| (), &[0, 1, 2, 3, 4]),
        ("top_k 1", &row, |s| s.top_k = 1, &[1]),
        ("top_k 3", &row, |s| s.top_k = 3, &[1, 3, 4]),
        ("top_k 5 of 5", &row, |s| s.top_k = 5, &[0, 1, 2, 3, 4]),
        ("top_k 9 of 5", &row, |s| s.top_k = 9, &[0, 1, 2, 3, 4]),
        ("top_k 2, tied", &tied, |s| s.top_k = 2, &[0, 1]),
        ("top_k 3, tied", &tied, |s| s.top_k = 3, &[0, 1, 2]),
        ("top_p tiny", &row, |s| s.top_p = 1e-30, &[1]),
        ("top_p 0.39", &row, |s| s.top_p = 0.39, &[1]),
        ("top_p 0.41", &row, |s| s.top_p = 0.41, &[1, 3]),
        ("top_p 0.84", &row, |s| s.top_p = 0.84, &[1, 3, 4]),
        ("top_p 0.96", &row, |s| s.top_p = 0.96, &[0, 1, 2, 3, 4]),
        ("min_p 0.49", &row, |s| s.min_p = 0.49, &[1, 3, 4]),
        ("min_p 0.51", &row, |s| s.min_p = 0.51, &[1, 3]),
        ("min_p 1", &row, |s| s.min_p = 1.0, &[1]),
        // 0.4 and 0.25 are left by top_k, so 0.6 of their sum is reached by the first alone.
        (
            "top_k 2, top_p 0.6",
            &row,
            |s| (s.top_k, s.top_p) = (2, 0.6),
            &[1],
        ),
        // At temperature 2 the probabilities are as the square roots: 0.25 / 0.4 becomes 0.79.
        (
            "min_p 0.75, temperature 2",
            &row,
            |s| (s.min_p, s.temperature) = (0.75, 2.0),
            &[1, 3],
        ),
    ];
    for (name, row, edit, expected) in cases {
        assert_eq!(admitted(row, &params(5, edit)), expected, "{name}");
    }
}

#[test]
fn filters_agree_with_a_full_sort_on_large_rows() {
    for (round, vocab_len) in [500, 3000, 20_000].into_iter().enumerate() {
        let row = noise(vocab_len, round as u64);
        for (top_k, top_p) in [
            (0, 0.5),
            (0, 0.9),
            (0, 0.9999),
            (64, 0.8),
            (65, 0.8),
            (400, 1.0),
        ] {
            let params = params(vocab_len, |s| (s.top_k, s.top_p) = (top_k, top_p));
            let expected = naive_admitted(&row, top_k as usize, f64::from(top_p));
            let found = admitted(&row, &params);
            assert!(
                found == expected,
                "top_k {top_k}, top_p {top_p}: {} tokens",
                found.len()
            );
        }
    }
}

/// What `top_k` then `top_p` leave, by sorting everything.
fn naive_admitted(row: &[f32], top_k: usize, top_p: f64) -> Vec<u32> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
    if top_k > 0 {
        order.truncate(top_k);
    }
    let weight = |&idx: &usize| f64::from(row[idx]).exp();
    let total: f64 = order.iter().map(weight).sum();
    let mut sum = 0.0;
    let nucleus = order.iter().take_while(|&idx| {
        let is_short = sum < top_p * total;
        sum += weight(idx);
        is_short
    });
    let mut ids: Vec<u32> = nucleus.map(|&idx| idx as u32).collect();
    ids.sort_unstable();
    ids
}

#[test]
fn draws_follow_the_distribution() {
    // Chi-square with 7 degrees of freedom exceeds 29.9 once in 10 000 trials; the seeds are
    // fixed, so this passes or fails for good.
    let probs = [0.3, 0.02, 0.18, 0.1, 0.05, 0.05, 0.25, 0.05];
    let row = row_of(&probs);
    for seed in 0..4 {
        for temperature in [0.7f32, 1.0, 1.6] {
            let params = params(8, |s| (s.seed, s.temperature) = (seed, temperature));
            let powers = probs.map(|p: f64| p.powf(1.0 / f64::from(temperature)));
            let norm: f64 = powers.iter().sum();
            let count = 20_000;
            let mut seen = [0u32; 8];
            for token in draws(&row, &params, count) {
                seen[token as usize] += 1;
            }
            let chi_square: f64 = (0..8)
                .map(|i| {
                    let expected = powers[i] / norm * count as f64;
                    (f64::from(seen[i]) - expected).powi(2) / expected
                })
                .sum();
            assert!(
                chi_square < 29.9,
                "seed {seed}, temperature {temperature}: {chi_square}"
            );
        }
    }
}

#[test]
fn a_draw_depends_on_nothing_but_its_own_sequence() {
    let row = noise(500, 1);
    let other_row = noise(500, 2);
    let ours = params(500, |s| s.seed = 7);
    let theirs = params(500, |s| (s.seed, s.top_p, s.logprobs) = (8, 0.9, Some(5)));
    let alone = draws(&row, &ours, 50);

    let mut sampler = Sampler::new(500);
    let (mut state, mut their_state) = (fresh(), fresh());
    let mut in_a_crowd = Vec::new();
    for step in 0..50 {
        for _ in 0..step % 3 {
            sampler.draw(&other_row, &theirs, &mut their_state).unwrap();
        }
        in_a_crowd.push(sampler.draw(&row, &ours, &mut state).unwrap().token.0);
        if step % 10 == 9 {
            sampler = Sampler::new(500);
        }
    }
    assert_eq!(in_a_crowd, alone);
    assert_ne!(draws(&row, &params(500, |s| s.seed = 8), 50), alone);
    assert!(alone.iter().any(|token| *token != alone[0]));
}

#[test]
fn vanishing_temperature_is_greedy() {
    for temperature in [0.0, f32::from_bits(1), 1e-30, 1e-6] {
        for seed in 0..50 {
            let mut row = noise(300, seed);
            row[200] = row[100]; // ties are broken as in greedy
            let peak_idx = peak(&row).unwrap().idx as u32;
            let params = params(300, |s| (s.temperature, s.seed) = (temperature, seed));
            assert_eq!(
                draws(&row, &params, 3),
                [peak_idx; 3],
                "temperature {temperature}"
            );
        }
    }
    // The smallest temperature that still draws agrees when the lead is a tenth.
    let mut row = noise(300, 3);
    row[250] = 8.1;
    assert_eq!(
        draws(&row, &params(300, |s| s.temperature = 1e-4), 20),
        [250; 20]
    );
}

#[test]
fn faults_are_named_and_leave_the_state_alone() {
    let mut sampler = Sampler::new(4);
    for temperature in [0.0, 1.0] {
        let params = params(4, |s| s.temperature = temperature);
        let mut state = fresh();
        let mut fault = |row: &[f32]| sampler.draw(row, &params, &mut state).unwrap_err();
        let nan = fault(&[0.0, 1.0, f32::NAN, f32::INFINITY]);
        assert!(matches!(nan, SampleFault::NonFinite { index: 2, value } if value.is_nan()));
        let infinite = SampleFault::NonFinite {
            index: 3,
            value: f32::INFINITY,
        };
        assert_eq!(fault(&[0.0, 1.0, 2.0, f32::INFINITY]), infinite);
        assert_eq!(fault(&[f32::NEG_INFINITY; 4]), SampleFault::NothingAllowed);
        assert_eq!(state.output_count(), 0);
    }
    let ends = params(4, |s| {
        (s.min_tokens, s.end_tokens) = (1, (0..4).map(TokenId).collect());
    });
    let masked = sampler.draw(&[1.0; 4], &ends, &mut fresh());
    assert_eq!(masked, Err(SampleFault::NothingAllowed));
}

#[test]
fn a_masked_token_is_never_drawn() {
    let row = [f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY, -3.0];
    for temperature in [0.0, 2.0] {
        let params = params(4, |s| {
            (s.temperature, s.repetition_penalty) = (temperature, 0.5);
        });
        assert!(draws(&row, &params, 500).iter().all(|token| token % 2 == 1));
    }
}

#[test]
fn the_end_of_the_cumulative_sum_is_the_last_candidate() {
    let weights = [0.1, 0.2, 0.3];
    let candidates: Vec<Candidate> = weights
        .iter()
        .enumerate()
        .map(|(idx, &weight)| Candidate {
            weight,
            ..Candidate::new(idx * 10, 0.0)
        })
        .collect();
    let sum: f64 = weights.iter().sum();
    let cases = [(0.0, 0), (0.0999, 0), (0.1, 10), (0.2999, 10), (0.301, 20)];
    for (target, idx) in cases {
        assert_eq!(pick(&candidates, target).idx, idx, "target {target}");
    }
    for target in [sum, sum.next_up(), 1.0] {
        assert_eq!(pick(&candidates, target).idx, 20, "target {target}");
    }
}

#[test]
fn penalties_count_what_they_say_they_count() {
    let edited = |edit_spec: fn(&mut SamplingSpec)| {
        let mut state = SamplerState::new(&[0, 0, 1].map(TokenId));
        for token in [1, 2, 2] {
            state.record(TokenId(token));
        }
        let mut row = [4.0, -4.0, 4.0, -4.0];
        let at = state.output_count();
        edit(&mut row, None, &params(4, edit_spec), (&state, at));
        row
    };
    // Prompt and output, once each; towards less likely on both sides of 0.
    assert_eq!(
        edited(|s| s.repetition_penalty = 2.0),
        [2.0, -8.0, 2.0, -4.0]
    );
    assert_eq!(
        edited(|s| s.repetition_penalty = 0.5),
        [8.0, -2.0, 8.0, -4.0]
    );
    // Output only.
    assert_eq!(edited(|s| s.presence_penalty = 1.0), [4.0, -5.0, 3.0, -4.0]);
    assert_eq!(
        edited(|s| s.frequency_penalty = 1.0),
        [4.0, -5.0, 2.0, -4.0]
    );
    let all = |s: &mut SamplingSpec| {
        s.logit_bias = vec![(TokenId(2), 4.0), (TokenId(3), -1.0)];
        s.repetition_penalty = 2.0;
        s.frequency_penalty = -0.5;
        s.presence_penalty = 2.0;
    };
    // Bias comes before the penalties: (4 + 4) / 2 + 2 * 0.5 - 2.
    assert_eq!(edited(all), [2.0, -9.5, 3.0, -5.0]);
}

#[test]
fn extreme_penalties_stay_finite() {
    let row = [f32::MAX, f32::MIN, 0.0, 1e-40];
    for repetition in [f32::from_bits(1), 1e-30, 2.0] {
        for flat in [-2.0, 2.0] {
            let params = params(4, |s| {
                s.repetition_penalty = repetition;
                s.presence_penalty = flat;
                s.frequency_penalty = flat;
            });
            let mut state = SamplerState::new(&[0, 1, 2, 3, 900].map(TokenId));
            let mut sampler = Sampler::new(4);
            for _ in 0..200 {
                sampler.draw(&row, &params, &mut state).unwrap();
            }
            assert!(sampler.edited.iter().all(|logit| logit.is_finite()));
        }
    }
}

#[test]
fn frequency_penalty_ends_a_loop() {
    let greedy = params(3, |s| (s.temperature, s.frequency_penalty) = (0.0, 1.0));
    assert_eq!(draws(&[2.5, 1.0, 0.0], &greedy, 6), [0, 0, 1, 0, 1, 2]);
}

#[test]
fn bias_forces_and_forbids() {
    let row = noise(200, 4);
    for temperature in [0.0, 1.0, 2.0] {
        let forced = params(200, |s| {
            (s.temperature, s.logit_bias) = (temperature, vec![(TokenId(17), 100.0)]);
        });
        assert_eq!(draws(&row, &forced, 100), [17; 100]);
        let forbidden = params(200, |s| {
            s.temperature = temperature;
            s.logit_bias = (0..200)
                .filter(|t| t % 5 != 0)
                .map(|t| (TokenId(t), -100.0))
                .collect();
        });
        assert!(
            draws(&row, &forbidden, 300)
                .iter()
                .all(|token| token % 5 == 0)
        );
    }
}

#[test]
fn end_tokens_wait_for_min_tokens() {
    let row = [5.0, 1.0, 0.0, 4.0];
    let greedy = params(4, |s| {
        s.temperature = 0.0;
        s.min_tokens = 3;
        s.end_tokens = vec![TokenId(0), TokenId(3)];
        s.logit_bias = vec![(TokenId(3), 100.0)]; // a mask outweighs any bias
    });
    assert_eq!(draws(&row, &greedy, 5), [1, 1, 1, 3, 3]);
}

#[test]
fn logprobs_are_of_the_model_not_of_the_filters() {
    let probs = [0.05, 0.4, 0.1, 0.25, 0.2];
    let row = row_of(&probs);
    let mut sampler = Sampler::new(5);
    let forced = params(5, |s| {
        s.logprobs = Some(2);
        s.temperature = 0.3;
        s.logit_bias = vec![(TokenId(0), 100.0)];
    });
    let sampled = sampler.draw(&row, &forced, &mut fresh()).unwrap();
    assert_eq!(sampled.token, TokenId(0));
    let tokens: Vec<u32> = sampled.top.iter().map(|entry| entry.token.0).collect();
    assert_eq!(tokens, [1, 3, 0], "two best, then the sampled one");
    for entry in &sampled.top {
        let expected = probs[entry.token.idx()].ln();
        assert!((f64::from(entry.logprob) - expected).abs() < 1e-6);
    }
    assert_eq!(sampled.logprob, Some(sampled.top[2].logprob));

    let off = sampler
        .draw(&row, &params(5, |_| ()), &mut fresh())
        .unwrap();
    assert_eq!((off.logprob, off.top), (None, Vec::new()));
}

#[test]
fn logprobs_sum_to_one_and_list_the_sampled_token() {
    for seed in 0..30 {
        let row = noise(20, seed);
        let all = params(20, |s| (s.logprobs, s.seed) = (Some(20), seed));
        let sampled = Sampler::new(20).draw(&row, &all, &mut fresh()).unwrap();
        let sum: f64 = sampled
            .top
            .iter()
            .map(|entry| f64::from(entry.logprob).exp())
            .sum();
        assert!((sum - 1.0).abs() < 1e-5, "sum {sum}");
        assert_eq!(sampled.top.len(), 20);
        assert!(sampled.top.is_sorted_by(|a, b| a.logprob >= b.logprob));

        let few = params(20, |s| (s.logprobs, s.seed) = (Some(seed as u32 % 4), seed));
        let sampled = Sampler::new(20).draw(&row, &few, &mut fresh()).unwrap();
        let own = sampled
            .top
            .iter()
            .find(|entry| entry.token == sampled.token)
            .unwrap();
        assert_eq!(Some(own.logprob), sampled.logprob);
    }
    // Masked tokens have no log-probability to report.
    let row = [0.0, f32::NEG_INFINITY, f32::NEG_INFINITY];
    let sampled = Sampler::new(3).draw(&row, &params(3, |s| s.logprobs = Some(3)), &mut fresh());
    let only = TokenLogprob {
        token: TokenId(0),
        logprob: 0.0,
    };
    assert_eq!(sampled.unwrap().top, [only]);
}

#[test]
fn scratch_is_allocated_once() {
    let vocab_len = 3000;
    let mut sampler = Sampler::new(vocab_len);
    let before = (sampler.edited.as_ptr(), sampler.candidates.as_ptr());
    let mut state = fresh();
    for (top_k, top_p) in [(0, 1.0), (0, 0.99), (40, 1.0), (2999, 0.9), (2, 0.5)] {
        let params = params(vocab_len, |s| {
            (s.top_k, s.top_p, s.presence_penalty, s.logprobs) = (top_k, top_p, 0.5, Some(20));
        });
        sampler
            .draw(&noise(vocab_len, 6), &params, &mut state)
            .unwrap();
    }
    assert_eq!(
        (sampler.edited.as_ptr(), sampler.candidates.as_ptr()),
        before
    );
}

fn set(vocab_len: usize, ids: &[u32]) -> TokenSet {
    let mut set = TokenSet::empty(vocab_len);
    for &id in ids {
        set.insert(TokenId(id));
    }
    set
}

#[test]
fn only_allowed_tokens_are_drawn_and_among_them_as_if_there_were_no_others() {
    let row = noise(100, 7);
    let allowed = set(100, &[0, 31, 32, 63, 64, 99]);
    let mut alone = vec![f32::NEG_INFINITY; 100];
    for id in [0, 31, 32, 63, 64, 99] {
        alone[id] = row[id];
    }
    type Edit = fn(&mut SamplingSpec);
    let edits: [Edit; 5] = [
        |_| (),
        |s| s.temperature = 0.0,
        |s| (s.top_k, s.top_p) = (4, 0.9),
        |s| s.logit_bias = vec![(TokenId(5), 100.0), (TokenId(99), 3.0)],
        |s| (s.repetition_penalty, s.frequency_penalty) = (1.3, -2.0),
    ];
    for edit in edits {
        let params = params(100, edit);
        let mut sampler = Sampler::new(100);
        let (mut state, mut twin) = (fresh(), fresh());
        for _ in 0..60 {
            let drawn = sampler
                .draw_among(&row, Some(&allowed), &params, &mut state)
                .unwrap();
            let expected = sampler.draw(&alone, &params, &mut twin).unwrap();
            assert!(allowed.contains(drawn.token), "{:?}", drawn.token);
            assert_eq!(drawn.token, expected.token);
        }
    }
}

#[test]
fn logprobs_are_those_before_the_mask() {
    let row = noise(50, 3);
    let params = params(50, |s| (s.temperature, s.logprobs) = (0.0, Some(3)));
    let mut sampler = Sampler::new(50);
    let free = sampler.draw(&row, &params, &mut fresh()).unwrap();
    let last = set(50, &[49]);
    let bound = sampler.draw_among(&row, Some(&last), &params, &mut fresh());
    let bound = bound.unwrap();
    assert_eq!(bound.token, TokenId(49));
    assert_eq!(bound.top[..3], free.top[..3]);
    assert_eq!(bound.top.last().unwrap().token, TokenId(49));
}

#[test]
fn a_set_that_leaves_nothing_is_a_fault() {
    let row = [0.0, f32::NEG_INFINITY, 1.0];
    let mut state = fresh();
    let mut sampler = Sampler::new(3);
    for ids in [&[][..], &[1]] {
        let allowed = set(3, ids);
        let drawn = sampler.draw_among(&row, Some(&allowed), &params(3, |_| ()), &mut state);
        assert_eq!(drawn, Err(SampleFault::NothingAllowed));
    }
    assert_eq!(state.output_count(), 0);
}

#[test]
fn min_tokens_does_not_make_a_grammar_go_on_that_is_at_its_end() {
    let row = [0.0, 1.0, 2.0];
    let params = params(3, |s| {
        (s.temperature, s.min_tokens) = (0.0, 5);
        s.end_tokens = vec![TokenId(2)];
    });
    let mut sampler = Sampler::new(3);
    let mut among = |ids: &[u32]| {
        let allowed = set(3, ids);
        let drawn = sampler.draw_among(&row, Some(&allowed), &params, &mut fresh());
        drawn.unwrap().token.0
    };
    assert_eq!(among(&[0, 2]), 0);
    assert_eq!(among(&[2]), 2);
}

#[test]
fn a_guess_is_what_the_same_row_gives_when_its_turn_comes() {
    let row = noise(300, 11);
    for temperature in [0.0, 0.8, 1.5] {
        let params = params(300, |s| {
            s.temperature = temperature;
            s.seed = 5;
        });
        let drawn = draws(&row, &params, 12);
        let (mut sampler, state) = (Sampler::new(300), fresh());
        for (ahead, token) in (0..).zip(&drawn) {
            let guess = sampler.guess(&row, &params, (&state, ahead)).unwrap();
            assert_eq!(guess.token.0, *token, "{ahead} ahead at {temperature}");
        }
        assert_eq!(state.output_count(), 0);
    }
}

#[test]
fn a_guess_is_as_sure_as_its_first_logit_is_above_the_second() {
    let greedy = params(4, |s| s.temperature = 0.0);
    let margin = |row: [f32; 4]| {
        let guess = Sampler::new(4).guess(&row, &greedy, (&fresh(), 0));
        guess.unwrap().margin
    };
    assert_eq!(margin([1.0, 4.0, 2.5, -1.0]), 1.5);
    assert_eq!(margin([4.0, 1.0, 2.5, 3.0]), 1.0);
    assert_eq!(margin([3.0, 3.0, 0.0, 0.0]), 0.0);
    let only = f32::NEG_INFINITY;
    assert_eq!(margin([only, only, 0.0, only]), f32::INFINITY);
    let ends = params(4, |s| {
        s.temperature = 0.0;
        s.min_tokens = 2;
        s.end_tokens = vec![TokenId(1)];
    });
    let row = [0.0, 4.0, 2.0, 1.0];
    let guess = |ahead| Sampler::new(4).guess(&row, &ends, (&fresh(), ahead));
    assert_eq!([0, 1, 2].map(|n| guess(n).unwrap().token.0), [2, 2, 1]);
}

#[test]
fn only_allowed_tokens_are_drawn_whatever_else_is_asked() {
    let row: Vec<f32> = noise(50, 3).iter().map(|logit| logit / 8.0).collect();
    let allowed = params(50, |s| {
        s.allowed_tokens = [7, 30, 41].map(TokenId).to_vec();
        s.presence_penalty = 0.5;
    });
    let mut drawn = draws(&row, &allowed, 200);
    drawn.sort_unstable();
    drawn.dedup();
    assert_eq!(drawn, [7, 30, 41]);
    let greedy = params(50, |s| {
        s.temperature = 0.0;
        s.allowed_tokens = vec![TokenId(7), TokenId(41)];
    });
    let best = if row[41] > row[7] { 41 } else { 7 };
    assert_eq!(draws(&row, &greedy, 3), [best; 3]);
}

#[test]
fn a_bad_word_never_comes_to_be_and_its_parts_do() {
    let row = [4.0, 3.0, 2.0, 1.0];
    let greedy = |words: &[&[u32]]| {
        params(4, |s| {
            s.temperature = 0.0;
            let ids = |word: &&[u32]| word.iter().copied().map(TokenId).collect();
            s.bad_words = words.iter().map(ids).collect();
        })
    };
    assert_eq!(draws(&row, &greedy(&[&[0]]), 3), [1, 1, 1]);
    assert_eq!(draws(&row, &greedy(&[&[0, 0]]), 5), [0, 1, 0, 1, 0]);
    assert_eq!(
        draws(&row, &greedy(&[&[0, 0], &[0, 1, 0]]), 6),
        [0, 1, 1, 0, 1, 1]
    );
}

#[test]
fn named_tokens_are_reported_in_place_of_the_likeliest() {
    let row = row_of(&[0.1, 0.2, 0.3, 0.4]);
    let named = params(4, |s| {
        s.temperature = 0.0;
        s.logprobs = Some(2);
        s.logprob_tokens = [1, 0].map(TokenId).to_vec();
    });
    let sampled = Sampler::new(4).draw(&row, &named, &mut fresh()).unwrap();
    let told: Vec<(u32, f32)> = sampled
        .top
        .iter()
        .map(|entry| (entry.token.0, entry.logprob.exp()))
        .collect();
    for ((token, p), (expected, share)) in told.into_iter().zip([(1, 0.2), (0, 0.1), (3, 0.4)]) {
        assert_eq!(token, expected);
        assert!((p - share).abs() < 1e-6, "{token}: {p}");
    }
}

#[test]
fn a_known_token_has_its_probability_and_its_place() {
    let row = row_of(&[0.1, 0.4, 0.1, 0.25, 0.15]);
    let mut sampler = Sampler::new(5);
    for (token, share, rank) in [(1, 0.4, 1), (3, 0.25, 2), (0, 0.1, 4), (2, 0.1, 5)] {
        let scored = sampler.score(&row, TokenId(token), 2).unwrap();
        assert_eq!((scored.chosen.token, scored.rank), (TokenId(token), rank));
        assert!((f64::from(scored.chosen.logprob).exp() - share).abs() < 1e-6);
        let top: Vec<u32> = scored.top.iter().map(|entry| entry.token.0).collect();
        assert_eq!(top, [1, 3]);
    }
}

#[test]
fn an_impossible_token_is_scored_with_a_number() {
    let row = [0.0, f32::NEG_INFINITY, 0.0];
    let scored = Sampler::new(3).score(&row, TokenId(1), 3).unwrap();
    assert!((scored.chosen.logprob + 9999.0).abs() < f32::EPSILON);
    assert_eq!((scored.rank, scored.top.len()), (3, 2));
    let broken = Sampler::new(2).score(&[0.0, f32::NAN], TokenId(0), 0);
    assert!(matches!(
        broken,
        Err(SampleFault::NonFinite { index: 1, .. })
    ));
}

#[test]
fn named_tokens_are_drawn_from_those_a_grammar_allows() {
    let row = [4.0, 3.0, 2.0, 1.0];
    let params = params(4, |s| {
        (s.temperature, s.min_tokens) = (0.0, 5);
        s.allowed_tokens = [0, 2, 3].map(TokenId).to_vec();
        s.end_tokens = vec![TokenId(3)];
    });
    let among = |ids: &[u32]| {
        let allowed = set(4, ids);
        let drawn = Sampler::new(4).draw_among(&row, Some(&allowed), &params, &mut fresh());
        drawn.map(|drawn| drawn.token.0)
    };
    assert_eq!(among(&[1, 2, 3]), Ok(2));
    assert_eq!(among(&[1, 3]), Ok(3));
    assert_eq!(among(&[1]), Err(SampleFault::NothingAllowed));
}
