//! What was measured, as a Markdown table or as JSON.

use std::fmt;

use kvist_base::Bytes;
use kvist_engine::{Ceilings, ModelInfo};
use serde_json::{Value, json};

use super::test::{Rates, Test, What, Work};

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

    /// Half of what lies between the extremes, in percent of the median.
    fn deviation(&self) -> f64 {
        (self.max() - self.min()) / self.median() * 50.0
    }

    /// What the median amounts to.
    fn rates(&self, work: &Work) -> Rates {
        work.rates(&self.test, self.median())
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
    pub(super) work: Work,
    pub(super) ceilings: Ceilings,
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
        let Ceilings {
            read_bytes,
            dot_ops,
        } = self.ceilings;
        writeln!(
            f,
            "{name} ({architecture}), {} read a step",
            self.work.weights_read
        )?;
        writeln!(
            f,
            "kvist {}, {isa}, {threads} threads, at best {:.1} GB/s read and {:.0} GOPS\n",
            env!("CARGO_PKG_VERSION"),
            read_bytes / 1e9,
            dot_ops / 1e9
        )?;
        writeln!(
            f,
            "| {:<16} | {:>9} | {:>5} | {:>6} | {:>4} | {:>6} | {:>4} |",
            "test", "t/s", "±%", "GB/s", "%", "GOPS", "%"
        )?;
        writeln!(
            f,
            "|:{0:-<16}-|-{0:-<9}:|-{0:-<5}:|-{0:-<6}:|-{0:-<4}:|-{0:-<6}:|-{0:-<4}:|",
            ""
        )?;
        for result in self.results {
            let Rates { bytes, ops } = result.rates(&self.work);
            let gb = bytes.map_or(String::new(), |rate| format!("{:.2}", rate / 1e9));
            let read = bytes.map_or(String::new(), |rate| {
                format!("{:.0}", rate / read_bytes * 100.0)
            });
            writeln!(
                f,
                "| {:<16} | {:>9.2} | {:>5.1} | {gb:>6} | {read:>4} | {:>6.1} | {:>4.0} |",
                result.test.name(),
                result.median(),
                result.deviation(),
                ops / 1e9,
                ops / dot_ops * 100.0
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
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "model": self.info.name,
            "architecture": self.info.architecture,
            "isa": self.info.isa,
            "threads": self.info.threads,
            "ceilings": {
                "read_gb_per_second": self.ceilings.read_bytes / 1e9,
                "gops": self.ceilings.dot_ops / 1e9,
            },
            "weight_bytes_per_step": self.work.weights_read.0,
            "streamed_bytes_per_step": self.streamed.step.0,
            "streamed_bytes": self.streamed.bytes.0,
            "streamed_read_seconds": self.streamed.seconds,
            "results": self.results.iter().map(|result| self.result(result)).collect::<Vec<_>>(),
        })
    }

    fn result(&self, result: &TestResult) -> Value {
        let Rates { bytes, ops } = result.rates(&self.work);
        let test = &result.test;
        let kind = match test.what {
            What::Prefill { .. } => "prefill",
            What::Decode { .. } => "decode",
        };
        json!({
            "test": test.name(),
            "kind": kind,
            "tokens": test.timed().0,
            "batch": test.batch(),
            "depth": test.depth.0,
            "tokens_per_second": result.median(),
            "min": result.min(),
            "max": result.max(),
            "runs": result.rates,
            "gb_per_second": bytes.map(|rate| rate / 1e9),
            "read_share": bytes.map(|rate| rate / self.ceilings.read_bytes),
            "gops": ops / 1e9,
            "gops_share": ops / self.ceilings.dot_ops,
        })
    }
}

#[cfg(test)]
mod tests {
    use kvist_base::Tokens;

    use super::*;

    #[test]
    fn the_median_counts_and_the_extremes_are_kept() {
        let test = Test {
            what: What::Prefill { prompt: Tokens(8) },
            depth: Tokens(0),
        };
        let odd = TestResult::new(test, vec![30.0, 10.0, 20.0]);
        assert_eq!((odd.median(), odd.min(), odd.max()), (20.0, 10.0, 30.0));
        assert_eq!(odd.deviation(), 50.0);
        assert_eq!(
            TestResult::new(test, vec![10.0, 40.0, 20.0, 30.0]).median(),
            25.0
        );
    }
}
