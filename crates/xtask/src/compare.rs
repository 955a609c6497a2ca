//! Two engines' outputs for one prompt, side by side.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One output position of one engine.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq)]
pub struct Position {
    /// The token chosen.
    pub token: u32,
    /// Log-probability of the most likely token less that of the second: how clear the choice was.
    /// `None` where the engine does not say.
    pub gap: Option<f64>,
}

/// How far two outputs agree.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The prompt's name.
    pub name: String,
    /// Tokens in the prompt.
    pub prompt_len: usize,
    /// Whether both engines cut the prompt into the same tokens.
    pub tokenised_alike: bool,
    /// Output tokens that are the same, from the first.
    pub equal_len: usize,
    /// Output tokens there are on both sides.
    pub common_len: usize,
    /// Where they part, if they do.
    pub divergence: Option<Divergence>,
}

/// The first position at which two outputs differ. Both engines saw the same tokens before it.
#[derive(Clone, Copy, Debug, Serialize, PartialEq)]
pub struct Divergence {
    /// Output position, from 0.
    pub position: usize,
    /// What we chose there.
    pub ours: Position,
    /// What the peer chose there.
    pub theirs: Position,
}

impl Divergence {
    /// The gap of the engine that was less sure, as far as they say. Rounding explains a small one.
    pub fn gap(&self) -> f64 {
        let gaps = [self.ours.gap, self.theirs.gap].into_iter().flatten();
        gaps.fold(f64::INFINITY, f64::min)
    }
}

/// The first difference between two outputs.
pub fn divergence(ours: &[Position], theirs: &[Position]) -> Option<Divergence> {
    let mut pairs = ours.iter().zip(theirs).enumerate();
    let (position, (ours, theirs)) = pairs.find(|(_, (a, b))| a.token != b.token)?;
    Some(Divergence {
        position,
        ours: *ours,
        theirs: *theirs,
    })
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            prompt_len,
            equal_len,
            common_len,
            ..
        } = self;
        write!(
            f,
            "{name:<18} {prompt_len:>6} {equal_len:>4}/{common_len:<4}"
        )?;
        if !self.tokenised_alike {
            write!(f, " tokenised differently;")?;
        }
        let Some(Divergence {
            position,
            ours,
            theirs,
        }) = self.divergence
        else {
            return Ok(());
        };
        let gap = |p: Position| p.gap.map_or("?".to_owned(), |gap| format!("{gap:.4}"));
        write!(
            f,
            " at {position}: kvist {} (gap {}),",
            ours.token,
            gap(ours)
        )?;
        write!(f, " llama.cpp {} (gap {})", theirs.token, gap(theirs))
    }
}

/// All prompts together.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// How many.
    pub prompts: usize,
    /// With the same tokens on both sides.
    pub tokenised_alike: usize,
    /// With the same first output token.
    pub first_equal: usize,
    /// With the same 32 first output tokens, or all of a shorter output.
    pub equal_32: usize,
    /// With no difference at all.
    pub equal: usize,
    /// With a difference that rounding does not explain.
    pub unexplained: usize,
}

impl Summary {
    /// Sums up. A divergence is explained where either engine's gap is at most `tie`.
    pub fn new(comparisons: &[Comparison], tie: f64) -> Self {
        let count = |is: &dyn Fn(&Comparison) -> bool| comparisons.iter().filter(|c| is(c)).count();
        Self {
            prompts: comparisons.len(),
            tokenised_alike: count(&|c| c.tokenised_alike),
            first_equal: count(&|c| c.equal_len > 0),
            equal_32: count(&|c| c.equal_len >= c.common_len.min(32)),
            equal: count(&|c| c.divergence.is_none()),
            unexplained: count(&|c| c.divergence.is_some_and(|d| d.gap() > tie)),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.prompts;
        writeln!(f, "tokenised alike         {}/{all}", self.tokenised_alike)?;
        writeln!(f, "first token equal       {}/{all}", self.first_equal)?;
        writeln!(f, "32 tokens equal         {}/{all}", self.equal_32)?;
        writeln!(f, "all tokens equal        {}/{all}", self.equal)?;
        write!(f, "clear choices differ    {}/{all}", self.unexplained)
    }
}

/// How often two sets of outputs are the same: what rounding alone does, where both come from
/// one engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Agreement {
    /// Pairs of outputs.
    pub prompts: usize,
    /// With the same first token.
    pub first_equal: usize,
    /// With the same 32 first tokens, or all of a shorter output.
    pub equal_32: usize,
    /// With no difference at all.
    pub equal: usize,
}

impl Agreement {
    /// Counts.
    pub fn new<'a>(pairs: impl Iterator<Item = (&'a Vec<Position>, &'a Vec<Position>)>) -> Self {
        pairs.fold(Self::default(), |sum, (one, other)| {
            let common_len = one.len().min(other.len());
            let equal_len = divergence(one, other).map_or(common_len, |d| d.position);
            Self {
                prompts: sum.prompts + 1,
                first_equal: sum.first_equal + usize::from(equal_len > 0),
                equal_32: sum.equal_32 + usize::from(equal_len >= common_len.min(32)),
                equal: sum.equal + usize::from(equal_len == common_len),
            }
        })
    }
}

impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            prompts,
            first_equal,
            equal_32,
            equal,
        } = self;
        write!(
            f,
            "first token equal {first_equal}/{prompts}, 32 tokens {equal_32}/{prompts}, \
             all {equal}/{prompts}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(tokens: &[u32], gap: f64) -> Vec<Position> {
        tokens
            .iter()
            .map(|token| Position {
                token: *token,
                gap: Some(gap),
            })
            .collect()
    }

    #[test]
    fn agreement_counts_prefixes() {
        let long: Vec<u32> = (0..40).collect();
        let mut parts_late = long.clone();
        parts_late[35] = 99;
        let pairs = [
            (output(&long, 1.0), output(&long, 1.0)),
            (output(&long, 1.0), output(&parts_late, 1.0)),
            (output(&[1, 2], 1.0), output(&[1, 3], 1.0)),
            (output(&[1], 1.0), output(&[2], 1.0)),
        ];
        let counted = Agreement::new(pairs.iter().map(|(one, other)| (one, other)));
        let expected = Agreement {
            prompts: 4,
            first_equal: 3,
            equal_32: 2,
            equal: 1,
        };
        assert_eq!(counted, expected);
    }

    fn comparison(ours: &[Position], theirs: &[Position]) -> Comparison {
        let divergence = divergence(ours, theirs);
        let common_len = ours.len().min(theirs.len());
        Comparison {
            name: "p".to_owned(),
            prompt_len: 3,
            tokenised_alike: true,
            equal_len: divergence.map_or(common_len, |d| d.position),
            common_len,
            divergence,
        }
    }

    #[test]
    fn the_first_difference_counts() {
        let (ours, theirs) = (output(&[1, 2, 3, 4], 0.5), output(&[1, 2, 9, 4], 0.25));
        let found = divergence(&ours, &theirs).expect("they differ");
        assert_eq!(
            (found.position, found.ours.token, found.theirs.token),
            (2, 3, 9)
        );
        assert!((found.gap() - 0.25).abs() < 1e-12);
        let silent = Divergence {
            theirs: Position {
                gap: None,
                ..found.theirs
            },
            ..found
        };
        assert!((silent.gap() - 0.5).abs() < 1e-12);
        assert_eq!(divergence(&ours, &ours[..2]), None);
    }

    #[test]
    fn a_summary_tells_ties_from_mistakes() {
        let long = output(&[7; 40], 1.0);
        let mut late = long.clone();
        late[35].token = 8;
        let comparisons = [
            comparison(&long, &long),
            comparison(&long, &late),
            comparison(&output(&[1, 2], 0.01), &output(&[1, 3], 2.0)),
            comparison(&output(&[1], 2.0), &output(&[2], 2.0)),
        ];
        let summary = Summary::new(&comparisons, 0.5);
        assert_eq!(
            (summary.first_equal, summary.equal_32, summary.equal),
            (3, 2, 1)
        );
        assert_eq!(summary.unexplained, 2);
    }
}
