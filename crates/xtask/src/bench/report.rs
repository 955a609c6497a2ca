//! What a measurement found: a page for people, the same as JSON, and whether each promise held.

use std::error::Error;
use std::fmt::{self, Display, Write as _};
use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::Outcome;

/// The result of one measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    title: String,
    /// How it was measured.
    setup: Vec<String>,
    tables: Vec<Table>,
    promises: Vec<Promise>,
}

/// Figures in rows.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// Something kvist says of itself, and what was found.
#[derive(Clone, Debug, Serialize)]
struct Promise {
    what: String,
    promised: String,
    found: String,
    kept: bool,
}

impl Report {
    /// A report without figures.
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            setup: Vec::new(),
            tables: Vec::new(),
            promises: Vec::new(),
        }
    }

    /// A measurement that came to no figures: as good as a broken promise.
    pub fn failed(title: impl Into<String>, error: &dyn Error) -> Self {
        let mut report = Self::new(title);
        report.promise("it can be measured", ("yes", error), false);
        report
    }

    /// Says how it was measured.
    pub fn setup(&mut self, line: impl Into<String>) {
        self.setup.push(line.into());
    }

    /// Adds a table.
    pub fn table(&mut self, table: Table) {
        self.tables.push(table);
    }

    /// Holds what was found against a promise.
    pub fn promise(
        &mut self,
        what: impl Into<String>,
        (promised, found): (impl Display, impl Display),
        kept: bool,
    ) {
        self.promises.push(Promise {
            what: what.into(),
            promised: promised.to_string(),
            found: found.to_string(),
            kept,
        });
    }

    /// Adds the promise that `found` is at most `limit`, both in bytes.
    pub fn promise_bytes(&mut self, what: impl Into<String>, (limit, found): (u64, u64)) {
        let promised = format!("at most {}", Size(limit));
        self.promise(what, (promised, Size(found)), found <= limit);
    }

    fn broken(&self) -> usize {
        self.promises.iter().filter(|promise| !promise.kept).count()
    }
}

impl Table {
    /// A table without rows.
    pub fn new<const COLUMNS: usize>(columns: [&str; COLUMNS]) -> Self {
        Self {
            columns: columns.map(str::to_owned).to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; it has as many cells as there are columns.
    pub fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        let cells: Vec<String> = cells.into_iter().map(Into::into).collect();
        assert_eq!(cells.len(), self.columns.len(), "a cell for each column");
        self.rows.push(cells);
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A cell is one line, and a bar would end it.
        let tame = |cell: &String| cell.replace('\n', " ").replace('|', "/");
        let line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(tame).collect();
            format!("| {} |", cells.join(" | "))
        };
        writeln!(f, "{}", line(&self.columns))?;
        writeln!(f, "|{}", "---|".repeat(self.columns.len()))?;
        self.rows
            .iter()
            .try_for_each(|row| writeln!(f, "{}", line(row)))
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "## {}\n", self.title)?;
        for line in &self.setup {
            writeln!(f, "- {line}")?;
        }
        for table in &self.tables {
            write!(f, "\n{table}")?;
        }
        let mut promises = Table::new(["promise", "promised", "found", "kept"]);
        for Promise {
            what,
            promised,
            found,
            kept,
        } in &self.promises
        {
            let kept = if *kept { "yes" } else { "**no**" };
            promises.row([what, promised, found, kept]);
        }
        write!(f, "\n{promises}")
    }
}

/// Prints reports and writes them to `json`. An error when a promise was broken.
pub fn publish(reports: &[Report], json: Option<&Path>) -> Outcome {
    let mut page = String::new();
    for report in reports {
        writeln!(page, "{report}")?;
    }
    print!("{page}");
    if let Some(path) = json {
        fs::write(path, serde_json::to_string_pretty(reports)?)?;
    }
    match reports.iter().map(Report::broken).sum() {
        0usize => Ok(()),
        1 => Err("1 promise was not kept".into()),
        broken => Err(format!("{broken} promises were not kept").into()),
    }
}

/// Bytes as people read them.
#[derive(Clone, Copy, Debug)]
pub struct Size(pub u64);

impl Display for Size {
    #[allow(clippy::cast_precision_loss)] // for reading
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} MiB", self.0 as f64 / f64::from(1 << 20))
    }
}

/// How far `found` is from `planned`, in percent: positive when it is more.
#[allow(clippy::cast_precision_loss)] // for reading
pub fn difference_percent(found: u64, planned: u64) -> f64 {
    (found as f64 - planned as f64) / planned as f64 * 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_a_page_and_a_verdict() {
        let mut report = Report::new("Budget");
        report.setup("2 clients");
        let mut table = Table::new(["what", "MiB"]);
        table.row(["peak", "1.5"]);
        report.table(table);
        report.promise_bytes("RSS under the budget", (2 << 20, 3 << 19));
        let page = report.to_string();
        assert!(page.starts_with(
            "## Budget\n\n- 2 clients\n\n| what | MiB |\n|---|---|\n| peak | 1.5 |\n"
        ));
        let verdict = "| RSS under the budget | at most 2.0 MiB | 1.5 MiB | yes |\n";
        assert!(page.ends_with(verdict), "{page}");
        assert!(publish(&[report.clone()], None).is_ok());
        report.promise_bytes("again", (1, 2));
        let error = publish(&[report], None).expect_err("a broken promise");
        assert_eq!(error.to_string(), "1 promise was not kept");
    }

    #[test]
    fn differences_have_a_sign() {
        assert!((difference_percent(98, 100) + 2.0).abs() < 1e-12);
        assert!((difference_percent(103, 100) - 3.0).abs() < 1e-12);
    }
}
