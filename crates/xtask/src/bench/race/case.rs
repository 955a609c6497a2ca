//! What is raced: the tests, their sizes and the ratios aimed for.

use std::fmt;

/// Files below are of small models, whose runs are short.
const MEDIUM_BYTES: u64 = 256 << 20;
/// Files from here on are of large models, whose runs take their time.
const LARGE_BYTES: u64 = 2 << 30;

/// One test both engines run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Test {
    /// Tokens of one prompt a second.
    Prefill,
    /// Tokens a second that so many sequences produce in all.
    Decode(u32),
    /// The same of one sequence behind a long context.
    Deep,
}

impl Test {
    pub const ALL: [Self; 5] = [
        Self::Prefill,
        Self::Decode(1),
        Self::Decode(4),
        Self::Decode(16),
        Self::Deep,
    ];
}

/// How much of each test is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Tokens of the prompt.
    pub prompt: u32,
    /// Tokens each sequence produces.
    pub output: u32,
    /// Context of [`Test::Deep`].
    pub depth: u32,
    /// Whether a run goes uncounted before the first.
    pub warmup: bool,
}

impl Sizes {
    pub fn name(&self, test: Test) -> String {
        let Self { prompt, depth, .. } = self;
        match test {
            Test::Prefill => format!("prefill {prompt}"),
            Test::Decode(1) => "decode, 1 stream".to_owned(),
            Test::Decode(streams) => format!("decode, {streams} streams"),
            Test::Deep => format!("decode at depth {depth}"),
        }
    }
}

/// How large a model is, by its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Small,
    Medium,
    Large,
}

impl Class {
    pub fn of(file_bytes: u64) -> Self {
        match file_bytes {
            ..MEDIUM_BYTES => Self::Small,
            MEDIUM_BYTES..LARGE_BYTES => Self::Medium,
            LARGE_BYTES.. => Self::Large,
        }
    }

    pub fn sizes(self) -> Sizes {
        let is_large = self == Self::Large;
        Sizes {
            prompt: 512,
            output: if is_large { 8 } else { 64 },
            depth: 4096,
            warmup: !is_large,
        }
    }

    /// Sizes of the runs that find the peer's best settings.
    pub fn scout_sizes(self) -> Sizes {
        let sizes = self.sizes();
        if self == Self::Large {
            return Sizes {
                prompt: 128,
                output: 4,
                ..sizes
            };
        }
        Sizes {
            output: 16,
            depth: sizes.depth / 2,
            ..sizes
        }
    }

    /// Ratios aimed for, in the order of [`Test::ALL`]; a test without one is not run.
    pub fn targets(self) -> Targets {
        let list: &[f64] = match self {
            Self::Small => &[4.3, 1.35, 3.2, 5.0, 1.5],
            Self::Medium => &[2.5, 1.45, 2.2, 3.5, 1.5],
            Self::Large => &[2.0, 1.15, 2.0, 2.5],
        };
        Targets(list.to_vec())
    }
}

/// Ratios aimed for, as many as tests are run.
#[derive(Clone, Debug, PartialEq)]
pub struct Targets(Vec<f64>);

impl Targets {
    /// Reads `4.3,1.35,3.2,5,1.5`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let list = text.split(',').map(|part| {
            let number = part.trim().parse::<f64>().ok();
            number
                .filter(|ratio| ratio.is_finite() && *ratio > 0.0)
                .ok_or_else(|| format!("a ratio is a positive number, not {part:?}"))
        });
        let list: Vec<f64> = list.collect::<Result<_, _>>()?;
        if list.len() > Test::ALL.len() {
            let (limit, given) = (Test::ALL.len(), list.len());
            return Err(format!("{given} ratios for {limit} tests"));
        }
        Ok(Self(list))
    }

    /// The tests that are run, and what is aimed for.
    pub fn tests(&self) -> impl Iterator<Item = (Test, f64)> {
        Test::ALL.into_iter().zip(self.0.iter().copied())
    }
}

impl fmt::Display for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list: Vec<String> = self.0.iter().map(f64::to_string).collect();
        f.write_str(&list.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_as_they_are_written() {
        let targets = Class::Medium.targets();
        assert_eq!(Targets::parse(&targets.to_string()), Ok(targets));
        let two = Targets::parse("2, 1.5").expect("two ratios");
        let tests: Vec<_> = two.tests().collect();
        assert_eq!(tests, [(Test::Prefill, 2.0), (Test::Decode(1), 1.5)]);
        for bad in ["", "1,x", "-1", "nan", "1,1,1,1,1,1"] {
            assert!(Targets::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_class_is_a_range_of_file_sizes() {
        let classes = [96_000_000, 400_000_000, 4_680_000_000].map(Class::of);
        assert_eq!(classes, [Class::Small, Class::Medium, Class::Large]);
        assert!(!Class::Large.sizes().warmup);
    }
}
