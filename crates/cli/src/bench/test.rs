//! What is measured, and how much work it is.

use kvist_base::{Bytes, Tokens, WeightPart};
use kvist_engine::plan::{Limits, ModelShape, WeightKind};

use crate::args::BenchArgs;
use crate::error::CliError;
use crate::exit::Exit;

/// Prompt of a sequence whose output is measured, where no depth says otherwise.
const DECODE_PROMPT: Tokens = Tokens(1);

/// One thing to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Test {
    pub(super) what: What,
    /// Tokens of each sequence that are there when the clock starts.
    pub(super) depth: Tokens,
}

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// So many tokens of one sequence, given.
    Prefill { prompt: Tokens },
    /// So many tokens of each of `batch` sequences, produced.
    Decode { output: Tokens, batch: u32 },
}

impl Test {
    /// All tests a command line asks for: each depth in turn, prompts before output.
    pub(super) fn all(args: &BenchArgs) -> Result<Vec<Self>, CliError> {
        if args.output_tokens.contains(&1) {
            return Err(CliError::new(Exit::Usage, "-n 1 measures nothing")
                .because("a rate needs the time between two tokens at least")
                .fix("-n 128")
                .fix("-n 0    to leave the test out"));
        }
        if args.batch.contains(&0) {
            return Err(CliError::new(Exit::Usage, "--batch 0 measures nothing").fix("--batch 1"));
        }
        let lengths = |given: &[u32]| -> Vec<Tokens> {
            let given = given.iter().filter(|len| **len > 0);
            given.map(|len| Tokens(*len)).collect()
        };
        let (prompts, outputs) = (lengths(&args.prompt_tokens), lengths(&args.output_tokens));
        let mut tests = Vec::new();
        for depth in args.depth.iter().map(|depth| Tokens(*depth)) {
            let mut add = |what| tests.push(Self { what, depth });
            for &prompt in &prompts {
                add(What::Prefill { prompt });
            }
            for &output in &outputs {
                for &batch in &args.batch {
                    add(What::Decode { output, batch });
                }
            }
        }
        Ok(tests)
    }

    pub(super) fn name(&self) -> String {
        let what = match self.what {
            What::Prefill { prompt } => format!("pp{}", prompt.0),
            What::Decode { output, batch: 1 } => format!("tg{}", output.0),
            What::Decode { output, batch } => format!("tg{} @ {batch}", output.0),
        };
        match self.depth {
            Tokens(0) => what,
            depth => format!("{what} d{}", depth.0),
        }
    }

    /// Sequences at once.
    pub(super) fn batch(&self) -> u32 {
        match self.what {
            What::Prefill { .. } => 1,
            What::Decode { batch, .. } => batch,
        }
    }

    /// Tokens of each sequence that are timed.
    pub(super) fn timed(&self) -> Tokens {
        match self.what {
            What::Prefill { prompt } => prompt,
            What::Decode { output, .. } => output,
        }
    }

    /// Tokens a sequence has before those that are timed.
    pub(super) fn before(&self) -> Tokens {
        match self.what {
            What::Prefill { .. } => self.depth,
            What::Decode { .. } => self.depth.max(DECODE_PROMPT),
        }
    }

    /// Length a sequence of the test reaches.
    pub(super) fn model_len(&self) -> Tokens {
        let output = match self.what {
            What::Prefill { prompt } => prompt.0.saturating_add(1),
            What::Decode { output, .. } => output.0,
        };
        Tokens(self.before().0.saturating_add(output))
    }
}

/// What a token takes: bytes read from memory, operations done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    /// Weights one step reads, however many sequences it serves. Mapped tables are looked up, not
    /// read through.
    pub(super) weights_read: Bytes,
    /// Weights every token is multiplied with.
    layer_weights: f64,
    /// Weights that tokens are multiplied with whose successors are wanted.
    head_weights: f64,
    /// Keys and values of a token.
    kv_bytes: f64,
    /// Additions and multiplications of one token's attention to one other.
    attention_ops: f64,
}

/// Rates that a speed in tokens amounts to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rates {
    /// Bytes a second: weights once a step, keys and values of each sequence. `None` for prompts,
    /// whose steps read far less than memory could give.
    pub(super) bytes: Option<f64>,
    /// Additions and multiplications a second, of products and attention.
    pub(super) ops: f64,
}

#[allow(clippy::cast_precision_loss)] // counts of a report's third decimal
impl Work {
    pub(super) fn new(shape: &ModelShape, limits: &Limits) -> Self {
        let resident = || {
            let lines = shape.weights.iter();
            lines.filter(|line| line.kind == WeightKind::Resident)
        };
        let values = |is_head: bool| -> f64 {
            let parts = resident().filter(|line| line.part != WeightPart::Vectors);
            let parts = parts.filter(|line| {
                matches!(line.part, WeightPart::Head | WeightPart::Embedding) == is_head
            });
            parts.map(|line| line.values as f64).sum()
        };
        let width = f64::from(shape.heads) * f64::from(shape.head_dim);
        Self {
            weights_read: resident().map(|line| line.bytes).sum(),
            layer_weights: values(false),
            head_weights: values(true),
            kv_bytes: shape.kv_bytes_per_token(limits.kv_dtype).0 as f64,
            // A product of query and key, and the value's part in the sum.
            attention_ops: 2.0 * 2.0 * width * f64::from(shape.layers),
        }
    }

    /// What `tokens` a second, over all sequences of `test`, amount to.
    pub(super) fn rates(&self, test: &Test, tokens: f64) -> Rates {
        let (before, timed) = (f64::from(test.before().0), f64::from(test.timed().0));
        // Tokens that one of those timed attends to, on average.
        let context = before + f64::midpoint(timed, 1.0);
        let attention = self.attention_ops * context;
        match test.what {
            What::Prefill { .. } => Rates {
                bytes: None,
                ops: tokens * (2.0 * (self.layer_weights + self.head_weights / timed) + attention),
            },
            What::Decode { batch, .. } => {
                let steps = tokens / f64::from(batch);
                let weights = self.weights_read.0 as f64;
                Rates {
                    bytes: Some(steps * weights + tokens * context * self.kv_bytes),
                    ops: tokens * (2.0 * (self.layer_weights + self.head_weights) + attention),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};

    fn parse(line: &str) -> BenchArgs {
        match Cli::parse_for_test(line) {
            Command::Bench(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_become_tests() {
        let names = |line: &str| -> Vec<String> {
            let tests = Test::all(&parse(line)).unwrap();
            tests.iter().map(Test::name).collect()
        };
        assert_eq!(
            names("kvist bench"),
            ["pp512", "tg128", "tg128 @ 4", "tg128 @ 16"]
        );
        assert_eq!(names("kvist bench -p 0 -n 8 --batch 2"), ["tg8 @ 2"]);
        assert_eq!(names("kvist bench -p 7,9 -n 0"), ["pp7", "pp9"]);
        assert_eq!(
            names("kvist bench -p 7 -n 8,9 --batch 1,2 --depth 0,64"),
            [
                "pp7",
                "tg8",
                "tg8 @ 2",
                "tg9",
                "tg9 @ 2",
                "pp7 d64",
                "tg8 d64",
                "tg8 @ 2 d64",
                "tg9 d64",
                "tg9 @ 2 d64"
            ]
        );
        for bad in ["kvist bench -n 4,1", "kvist bench --batch 1,0"] {
            assert_eq!(Test::all(&parse(bad)).unwrap_err().exit, Exit::Usage);
        }
    }

    const WORK: Work = Work {
        weights_read: Bytes(1_000),
        layer_weights: 100.0,
        head_weights: 50.0,
        kv_bytes: 10.0,
        attention_ops: 4.0,
    };

    #[test]
    fn a_step_reads_the_weights_once_and_every_context() {
        let test = Test {
            what: What::Decode {
                output: Tokens(9),
                batch: 4,
            },
            depth: Tokens(100),
        };
        // 5 steps a second; contexts of 101 to 109 tokens.
        let rates = WORK.rates(&test, 20.0);
        assert_eq!(rates.bytes, Some(5.0 * 1_000.0 + 20.0 * 105.0 * 10.0));
        assert_eq!(rates.ops, 20.0 * (2.0 * 150.0 + 105.0 * 4.0));
    }

    #[test]
    fn the_head_is_computed_once_a_prompt() {
        let test = Test {
            what: What::Prefill { prompt: Tokens(9) },
            depth: Tokens(0),
        };
        // Of 9 prompts a second: 9 tokens each, and 1 + 2 + ... + 9 pairs.
        let rates = WORK.rates(&test, 81.0);
        let prompt = 2.0 * 9.0 * 100.0 + 2.0 * 50.0 + 45.0 * 4.0;
        assert!((rates.ops - 9.0 * prompt).abs() < 1e-9 && rates.bytes.is_none());
    }
}
