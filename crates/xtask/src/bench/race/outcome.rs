//! Results of a race: as JSON, as a table, against the ratios aimed for.

use serde::{Deserialize, Serialize};

use super::case::{Sizes, Targets, Test};
use super::engines::{KvistCeilings, KvistReport, STOLEN_MAX};
use crate::bench::report::{Report, Table};
use crate::stats::{median, spread};

/// A race of some models, as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Race {
    /// When, where and how.
    pub setup: Vec<String>,
    pub peer: String,
    pub models: Vec<ModelRace>,
}

/// All tests of one model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ModelRace {
    pub model: String,
    pub threads: usize,
    pub isa: String,
    /// The most the machine gave in any round.
    pub read_gb_per_second: f64,
    pub gops: f64,
    pub tests: Vec<TestRace>,
}

/// One test.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TestRace {
    pub test: String,
    pub kvist: Side,
    pub peer: Side,
    /// How the peer was set up.
    pub peer_variant: String,
    /// The ratio of medians aimed for.
    pub target: f64,
    /// What our median amounts to.
    pub gb_per_second: Option<f64>,
    pub gops: Option<f64>,
}

/// One engine's runs of one test.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Side {
    /// Tokens a second of each run.
    pub runs: Vec<f64>,
    /// How many were made while the processor was taken away for more than 2 % of the time.
    pub stolen: usize,
}

impl Side {
    /// Adds runs of a process during which so much was stolen.
    pub fn add(&mut self, runs: &[f64], stolen: f64) {
        self.runs.extend(runs);
        if stolen > STOLEN_MAX {
            self.stolen += runs.len();
        }
    }

    fn cell(&self) -> String {
        let mark = if self.stolen > 0 { " *" } else { "" };
        let (median, half) = (median(&self.runs), spread(&self.runs) * 50.0);
        format!("{median:.1} ± {half:.0} %{mark}")
    }
}

impl TestRace {
    pub fn ratio(&self) -> f64 {
        median(&self.kvist.runs) / median(&self.peer.runs)
    }
}

/// What the rounds of a model have given so far.
pub struct Tally {
    sizes: Sizes,
    isa: String,
    ceilings: KvistCeilings,
    tests: Vec<(Test, TestRace)>,
}

impl Tally {
    pub fn new(sizes: Sizes, targets: &Targets) -> Self {
        let tests = targets.tests().map(|(test, target)| {
            let race = TestRace {
                test: sizes.name(test),
                kvist: Side::default(),
                peer: Side::default(),
                peer_variant: String::new(),
                target,
                gb_per_second: None,
                gops: None,
            };
            (test, race)
        });
        Self {
            sizes,
            isa: String::new(),
            ceilings: KvistCeilings {
                read_gb_per_second: 0.0,
                gops: 0.0,
            },
            tests: tests.collect(),
        }
    }

    /// Adds one process of ours: all tests of `report` that are raced.
    pub fn add_kvist(&mut self, report: &KvistReport, stolen: f64) {
        self.isa.clone_from(&report.isa);
        let KvistCeilings {
            read_gb_per_second: read,
            gops,
        } = &mut self.ceilings;
        *read = read.max(report.ceilings.read_gb_per_second);
        *gops = gops.max(report.ceilings.gops);
        for (test, race) in &mut self.tests {
            let Ok(result) = report.find(*test, &self.sizes) else {
                continue;
            };
            race.kvist.add(&result.runs, stolen);
            // Both are proportional to the speed, so those of the median follow from any run.
            let median = median(&race.kvist.runs) / result.tokens_per_second;
            race.gb_per_second = result.gb_per_second.map(|rate| rate * median);
            race.gops = Some(result.gops * median);
        }
    }

    /// Adds runs of the peer.
    pub fn add_peer(&mut self, test: Test, variant: &impl ToString, (runs, stolen): (&[f64], f64)) {
        if let Some((_, race)) = self.tests.iter_mut().find(|(found, _)| *found == test) {
            race.peer_variant = variant.to_string();
            race.peer.add(runs, stolen);
        }
    }

    pub fn finish(self, model: String, threads: usize) -> ModelRace {
        ModelRace {
            model,
            threads,
            isa: self.isa,
            read_gb_per_second: self.ceilings.read_gb_per_second,
            gops: self.ceilings.gops,
            tests: self.tests.into_iter().map(|(_, race)| race).collect(),
        }
    }
}

impl Race {
    /// The race as a page, with a verdict on each ratio.
    pub fn report(&self) -> Report {
        let mut report = Report::new(format!("kvist beside {}", self.peer));
        for line in &self.setup {
            report.setup(line);
        }
        report
            .setup("*: some runs with more than 2 % of the processor stolen, in three tries each");
        for model in &self.models {
            report.setup(format!(
                "{}: {} with {} threads; at best {:.1} GB/s read and {:.0} GOPS in the same runs",
                model.model, model.isa, model.threads, model.read_gb_per_second, model.gops
            ));
        }
        let mut table = Table::new([
            "model",
            "test",
            "kvist t/s",
            "peer t/s",
            "ratio",
            "GB/s",
            "% read",
            "GOPS",
            "% peak",
            "peer's best",
        ]);
        for model in &self.models {
            for test in &model.tests {
                table.row(row(model, test));
                let ratio = test.ratio();
                let promised = format!("at least {}", test.target);
                report.promise(
                    format!("{}: {}", model.model, test.test),
                    (promised, format!("{ratio:.2}")),
                    ratio >= test.target,
                );
            }
        }
        report.table(table);
        report
    }
}

fn row(model: &ModelRace, test: &TestRace) -> [String; 10] {
    let cell = |value: Option<f64>| value.map(|value| format!("{value:.1}")).unwrap_or_default();
    let share = |value: Option<f64>, most: f64| {
        let share = value.map(|value| format!("{:.0}", value / most * 100.0));
        share.unwrap_or_default()
    };
    [
        model.model.clone(),
        test.test.clone(),
        test.kvist.cell(),
        test.peer.cell(),
        format!("{:.2}", test.ratio()),
        cell(test.gb_per_second),
        share(test.gb_per_second, model.read_gb_per_second),
        cell(test.gops),
        share(test.gops, model.gops),
        test.peer_variant.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::race::case::Class;
    use crate::bench::race::engines::{KvistResult, Variant};

    fn report(rate: f64) -> KvistReport {
        KvistReport {
            isa: "avx2".to_owned(),
            ceilings: KvistCeilings {
                read_gb_per_second: rate,
                gops: 400.0,
            },
            results: vec![KvistResult {
                kind: "decode".to_owned(),
                batch: 1,
                depth: 0,
                tokens_per_second: rate,
                runs: vec![rate],
                gb_per_second: Some(rate / 10.0),
                gops: rate,
            }],
        }
    }

    #[test]
    fn rounds_become_medians_ratios_and_verdicts() {
        let targets = Targets::parse("9,1.5").expect("two ratios");
        let mut tally = Tally::new(Class::Small.sizes(), &targets);
        for (ours, theirs, stolen) in [(30.0, 10.0, 0.0), (10.0, 9.0, 0.0), (20.0, 11.0, 0.5)] {
            tally.add_kvist(&report(ours), stolen);
            tally.add_peer(Test::Decode(1), &Variant::DEFAULT, (&[theirs], 0.0));
        }
        let model = tally.finish("m".to_owned(), 2);
        let decode = &model.tests[1];
        assert!((decode.ratio() - 2.0).abs() < 1e-12 && decode.kvist.stolen == 1);
        assert_eq!(decode.gb_per_second, Some(2.0));
        assert_eq!(row(&model, decode)[2], "20.0 ± 50 % *");
        assert_eq!(row(&model, decode)[6], "7");
        let race = Race {
            setup: vec!["here".to_owned()],
            peer: "llama.cpp".to_owned(),
            models: vec![model],
        };
        let page = race.report().to_string();
        assert!(
            page.contains("| m: decode, 1 stream | at least 1.5 | 2.00 | yes |"),
            "{page}"
        );
        assert!(
            page.contains("| m: prefill 512 | at least 9 | NaN | **no** |"),
            "{page}"
        );
        let json = serde_json::to_string(&race).expect("plain data");
        let again: Race = serde_json::from_str(&json).expect("as written");
        assert_eq!(again.models[0].tests[1].kvist.runs, [30.0, 10.0, 20.0]);
    }
}
