//! What was measured, as a Markdown table or as JSON.

use std::fmt;

use kvist_base::Bytes;
use kvist_engine::ModelInfo;
use serde_json::{Value, json};

use super::Test;

/// One test, run several times.
#[derive(Debug)]
pub(super) struct TestResult {
    test: Test,
    /// Tokens a second of each run, ascending.
    rates: Vec<f64>,
}

impl TestResult {
    /// `rates` is not empty.
    pub(super) fn new(test: Test, mut rates: Vec<f64>) -> Self {
        assert!(!rates.is_empty());
        rates.sort_by(f64::total_cmp);
        Self { test, rates }
    }

    fn median(&self) -> f64 {
        let middle = self.rates.len() / 2;
        if self.rates.len() % 2 == 1 {
            self.rates[middle]
        } else {
            f64::midpoint(self.rates[middle - 1], self.rates[middle])
        }
    }

    fn min(&self) -> f64 {
        self.rates[0]
    }

    fn max(&self) -> f64 {
        self.rates[self.rates.len() - 1]
    }

    /// 10^9 bytes of weights read a second: each step reads all of them once for its whole batch.
    /// A prompt's steps are bound by arithmetic, so the figure would say nothing there.
    fn weights_rate(&self, weights_read: Bytes) -> Option<f64> {
        let Test::Decode { batch, .. } = self.test else {
            return None;
        };
        let steps = self.median() / f64::from(batch);
        #[allow(clippy::cast_precision_loss)] // a report's second decimal
        Some(weights_read.0 as f64 * steps / 1e9)
    }
}

/// What came from the file while testing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Streamed {
    /// Bytes of each step.
    pub(super) step: Bytes,
    /// Bytes in all.
    pub(super) bytes: Bytes,
    /// Time spent reading them, summed over threads.
    pub(super) seconds: f64,
}

impl fmt::Display for Streamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            step,
            bytes,
            seconds,
        } = self;
        #[allow(clippy::cast_precision_loss)] // a report's second decimal
        let rate = bytes.0 as f64 / seconds / 1e9;
        write!(
            f,
            "{step} of a step from the file; {bytes} in all, {rate:.2} GB/s while reading"
        )
    }
}

/// All tests of a model.
pub(super) struct Report<'a> {
    pub(super) info: &'a ModelInfo,
    /// Bytes of weights one step reads.
    pub(super) weights_read: Bytes,
    pub(super) streamed: Streamed,
    pub(super) results: &'a [TestResult],
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ModelInfo {
            name,
            architecture,
            isa,
            threads,
            ..
        } = self.info;
        writeln!(
            f,
            "{name} ({architecture}), {} read a step",
            self.weights_read
        )?;
        writeln!(
            f,
            "kvist {}, {isa}, {threads} threads\n",
            env!("CARGO_PKG_VERSION")
        )?;
        writeln!(
            f,
            "| {:<12} | {:>9} | {:>9} | {:>9} | {:>6} |",
            "test", "t/s", "min", "max", "GB/s"
        )?;
        writeln!(
            f,
            "|:{0:-<12}-|-{0:-<9}:|-{0:-<9}:|-{0:-<9}:|-{0:-<6}:|",
            ""
        )?;
        for result in self.results {
            let gb = result.weights_rate(self.weights_read);
            let gb = gb.map_or(String::new(), |rate| format!("{rate:.2}"));
            writeln!(
                f,
                "| {:<12} | {:>9.2} | {:>9.2} | {:>9.2} | {gb:>6} |",
                result.test.name(),
                result.median(),
                result.min(),
                result.max()
            )?;
        }
        if self.streamed.bytes > Bytes::ZERO {
            writeln!(f, "\n{}", self.streamed)?;
        }
        Ok(())
    }
}

impl Report<'_> {
    pub(super) fn to_json(&self) -> Value {
        let result = |result: &TestResult| {
            json!({
                "test": result.test.name(),
                "batch": result.test.batch(),
                "tokens_per_second": result.median(),
                "min": result.min(),
                "max": result.max(),
                "runs": result.rates,
                "weights_gb_per_second": result.weights_rate(self.weights_read),
            })
        };
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "model": self.info.name,
            "architecture": self.info.architecture,
            "isa": self.info.isa,
            "threads": self.info.threads,
            "weight_bytes_per_step": self.weights_read.0,
            "streamed_bytes_per_step": self.streamed.step.0,
            "streamed_bytes": self.streamed.bytes.0,
            "streamed_read_seconds": self.streamed.seconds,
            "results": self.results.iter().map(result).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use kvist_base::Tokens;

    use super::*;

    #[test]
    fn the_median_counts_and_the_extremes_are_kept() {
        let test = Test::Decode {
            output: Tokens(8),
            batch: 4,
        };
        let odd = TestResult::new(test, vec![30.0, 10.0, 20.0]);
        assert_eq!((odd.median(), odd.min(), odd.max()), (20.0, 10.0, 30.0));
        assert_eq!(
            TestResult::new(test, vec![10.0, 40.0, 20.0, 30.0]).median(),
            25.0
        );
        // 20 tokens a second of 4 sequences are 5 steps, each over 2 GB.
        assert_eq!(odd.weights_rate(Bytes(2_000_000_000)), Some(10.0));
        let prefill = Test::Prefill { prompt: Tokens(8) };
        assert_eq!(
            TestResult::new(prefill, vec![1.0]).weights_rate(Bytes(1)),
            None
        );
    }
}
