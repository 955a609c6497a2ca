//! Outputs under JSON schemas: whether they are of them, and what a mask takes.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::Measured;
use super::report::{Report, Table};
use crate::command::Run;
use crate::stats::percentile;

/// Promised for a vocabulary of 150 000 tokens, in microseconds: less than a step of a small model.
const MASK_MEDIAN_MAX: f64 = 500.0;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Model files, of which the vocabularies are read
    #[arg(required = true)]
    models: Vec<PathBuf>,
    /// Generated schemas
    #[arg(long, default_value_t = 200)]
    schemas: u64,
    /// Outputs of each
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// Tokens of an output at most
    #[arg(long, default_value_t = 400)]
    output_max: u64,
}

pub fn measure(arguments: &Arguments) -> Measured {
    let mut report = Report::new("Outputs under JSON schemas");
    report.setup(format!(
        "{} generated schemas, {} outputs of each; every allowed token is as likely as any other, so that only masks make the form",
        arguments.schemas, arguments.seeds
    ));
    let mut table = Table::new([
        "model",
        "vocabulary",
        "valid",
        "cut",
        "mask p50",
        "mask p99",
        "compiling p50",
        "p99",
    ]);
    for model in &arguments.models {
        let input = json!({
            "schemas": arguments.schemas, "seeds": arguments.seeds, "output_max": arguments.output_max,
        });
        let said = Run::cargo()
            .args([
                "run",
                "--release",
                "--quiet",
                "--package",
                "xtask",
                "--example",
                "grammar",
                "--",
            ])
            .args([model.canonicalize()?])
            .in_root()
            .filter(&input.to_string())?;
        let found: Value = serde_json::from_str(&said)?;
        let name = model.file_name().unwrap_or_default().to_string_lossy();
        let (masks, compiling) = (numbers(&found["mask_us"]), numbers(&found["compile_ms"]));
        let median = percentile(&masks, 50);
        table.row([
            name.to_string(),
            found["vocab_len"].to_string(),
            found["valid"].to_string(),
            found["cut"].to_string(),
            format!("{median:.0} us"),
            format!("{:.0} us", percentile(&masks, 99)),
            format!("{:.1} ms", percentile(&compiling, 50)),
            format!("{:.1} ms", percentile(&compiling, 99)),
        ]);
        let invalid = found["invalid"].as_array().map_or(0, Vec::len);
        let first = found["invalid"][0].as_str().unwrap_or("none");
        report.promise(
            format!("{name}: outputs that are not of their schema"),
            ("0", format!("{invalid}; {first}")),
            invalid == 0 && found["valid"].as_u64().is_some_and(|count| count > 0),
        );
        report.promise(
            format!("{name}: half of the masks take"),
            (
                format!("at most {MASK_MEDIAN_MAX} us"),
                format!("{median:.0} us"),
            ),
            median <= MASK_MEDIAN_MAX,
        );
    }
    report.table(table);
    Ok(report)
}

fn numbers(list: &Value) -> Vec<f64> {
    let all = list.as_array().into_iter().flatten();
    all.filter_map(Value::as_f64).collect()
}
