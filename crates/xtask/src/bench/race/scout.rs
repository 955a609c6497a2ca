//! Short runs of the peer in all its variants: it is raced at its best.

use std::collections::BTreeMap;
use std::error::Error;

use super::case::Test;
use super::engines::{Course, Variant, batched_bench, llama_bench};
use crate::peer::Peer;

/// The peer's best variant for each test.
pub type Best = BTreeMap<Test, Variant>;

/// Tries the peer's variants on `tests`; the sizes of `course` are those of its runs.
pub fn scout(peer: &Peer, course: &Course<'_>, tests: &[Test]) -> Result<Best, Box<dyn Error>> {
    let mut best = Fastest::default();
    for tiled in [false, true] {
        alone(peer, course, tiled, &mut best)?;
    }
    let Some(decode) = best.of(Test::Decode(1)) else {
        return Err("llama-bench ran no decode".into());
    };
    let batches: Vec<u32> = tests.iter().filter_map(|test| batch(*test)).collect();
    if !batches.is_empty() {
        for (repack, tiled) in [(false, false), (false, true), (true, false), (true, true)] {
            let variant = Variant {
                repack,
                tiled,
                ..decode
            };
            for line in batched_bench((peer, variant), course, &batches)? {
                best.offer(Test::Decode(line.pl), variant, line.speed_tg);
            }
        }
    }
    if tests.contains(&Test::Deep) {
        let (output, depth) = (
            course.sizes.output.to_string(),
            course.sizes.depth.to_string(),
        );
        let repack = if decode.repack { "1" } else { "0" };
        let flags = ["-p", "0", "-n", &output, "-d", &depth, "-r", "1"];
        let flags = [&flags[..], &["--repack", repack, "-fa", "off,on"]].concat();
        for run in llama_bench((peer, decode), course, &flags)? {
            let variant = Variant {
                flash: run.flash(),
                ..decode
            };
            best.offer(Test::Deep, variant, run.rates().iter().sum());
        }
    }
    Ok(best.into_variants())
}

/// Tests of one sequence without a context.
fn alone(
    peer: &Peer,
    course: &Course<'_>,
    tiled: bool,
    best: &mut Fastest,
) -> Result<(), Box<dyn Error>> {
    let (prompt, output) = (
        course.sizes.prompt.to_string(),
        course.sizes.output.to_string(),
    );
    let variant = Variant {
        tiled,
        ..Variant::DEFAULT
    };
    let flags = ["-p", &prompt, "-n", &output, "-r", "1"];
    let flags = [&flags[..], &["--repack", "0,1", "-fa", "off,on"]].concat();
    for run in llama_bench((peer, variant), course, &flags)? {
        let test = if run.n_gen > 0 {
            Test::Decode(1)
        } else {
            Test::Prefill
        };
        let variant = Variant {
            repack: run.repack,
            tiled,
            flash: run.flash(),
        };
        best.offer(test, variant, run.rates().iter().sum());
    }
    Ok(())
}

/// Sequences of a test that takes llama-batched-bench.
pub fn batch(test: Test) -> Option<u32> {
    match test {
        Test::Decode(streams) if streams > 1 => Some(streams),
        _ => None,
    }
}

/// The fastest variant of each test so far.
#[derive(Debug, Default)]
struct Fastest(BTreeMap<Test, (Variant, f64)>);

impl Fastest {
    fn offer(&mut self, test: Test, variant: Variant, rate: f64) {
        eprintln!("  {test:?}: {rate:.1} with {variant}");
        let best = self.0.entry(test).or_insert((variant, rate));
        if rate > best.1 {
            *best = (variant, rate);
        }
    }

    fn of(&self, test: Test) -> Option<Variant> {
        self.0.get(&test).map(|best| best.0)
    }

    fn into_variants(self) -> Best {
        let variants = self.0.into_iter();
        variants.map(|(test, best)| (test, best.0)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_variant_of_each_test_stays() {
        let slow = Variant {
            repack: false,
            ..Variant::DEFAULT
        };
        let mut best = Fastest::default();
        best.offer(Test::Prefill, slow, 10.0);
        best.offer(Test::Prefill, Variant::DEFAULT, 20.0);
        best.offer(Test::Decode(1), slow, 5.0);
        best.offer(Test::Decode(1), Variant::DEFAULT, 4.0);
        let best = best.into_variants();
        assert_eq!(best[&Test::Prefill], Variant::DEFAULT);
        assert_eq!(best[&Test::Decode(1)], slow);
    }
}
