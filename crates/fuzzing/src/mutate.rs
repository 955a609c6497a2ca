//! Inputs from other inputs, by number.

use kvist_base::mix64;

/// Numbers that readers get wrong.
const EXTREMES: [u64; 12] = [
    0,
    1,
    0x7f,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 32,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// Draws numbers: the same for the same seed.
#[derive(Debug)]
pub(crate) struct Dice {
    seed: u64,
    drawn: u64,
}

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, drawn: 0 }
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.drawn += 1;
        let number = mix64(self.seed ^ mix64(self.drawn));
        usize::try_from(number % end as u64).expect("below a usize")
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// An input of at most `len_max` bytes: one of the seeds, changed in one to eight places. `words` are
/// what the format is made of.
pub(crate) fn input(
    dice: &mut Dice,
    (seeds, words): (&[Vec<u8>], &[&[u8]]),
    len_max: usize,
) -> Vec<u8> {
    let mut bytes = if seeds.is_empty() {
        Vec::new()
    } else {
        dice.pick(seeds).clone()
    };
    for _ in 0..=dice.below(8) {
        change(dice, &mut bytes, (seeds, words));
    }
    bytes.truncate(len_max);
    bytes
}

fn change(dice: &mut Dice, bytes: &mut Vec<u8>, (seeds, words): (&[Vec<u8>], &[&[u8]])) {
    let at = dice.below(bytes.len() + 1);
    let span = at..(at + 1 + dice.below(16)).min(bytes.len());
    match dice.below(9) {
        0 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
        1 if at < bytes.len() => bytes[at] = u8::try_from(dice.below(256)).expect("a byte"),
        2 if at < bytes.len() => drop(bytes.drain(span)),
        3 if at < bytes.len() => {
            let copy = bytes[span].to_vec();
            let times = 1 + dice.below(64);
            insert(bytes, at, &copy.repeat(times));
        }
        4 => {
            let extreme = dice.pick(&EXTREMES).to_le_bytes();
            let width = 1 << dice.below(4);
            let end = (at + width).min(bytes.len());
            bytes[at..end].copy_from_slice(&extreme[..end - at]);
        }
        5 if !words.is_empty() => insert(bytes, at, dice.pick::<&[u8]>(words)),
        6 if !seeds.is_empty() => {
            let other = dice.pick(seeds);
            let from = dice.below(other.len() + 1);
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        7 => bytes.truncate(at),
        _ => insert(bytes, at, &[u8::try_from(dice.below(256)).expect("a byte")]),
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, more: &[u8]) {
    drop(bytes.splice(at..at, more.iter().copied()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_input_and_others_make_others() {
        let seeds = [b"hello".to_vec(), Vec::new()];
        let words: [&[u8]; 2] = [b"\"", b"{}"];
        let make = |seed| input(&mut Dice::new(seed), (&seeds, &words), 1000);
        let mut inputs: Vec<_> = (0..500).map(make).collect();
        assert_eq!(inputs[7], make(7));
        assert!(inputs.iter().all(|input| input.len() <= 1000));
        inputs.sort();
        inputs.dedup();
        assert!(inputs.len() > 400, "{}", inputs.len());
    }
}
