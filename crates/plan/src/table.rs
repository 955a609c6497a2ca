//! The plan as text.

use std::fmt;

use kvist_base::Bytes;

use crate::planner::{ModelLenReason, Plan, Verdict};

impl Plan {
    /// The table `Display` prints.
    pub fn to_table(&self) -> String {
        self.to_string()
    }

    #[allow(clippy::cast_precision_loss)] // a report's last decimal
    fn percent(&self, bytes: Bytes) -> f64 {
        bytes.0 as f64 / self.budget.0.max(1) as f64 * 100.0
    }

    fn write_row(&self, f: &mut fmt::Formatter<'_>, row: (&str, Bytes, &str)) -> fmt::Result {
        let (name, bytes, note) = row;
        let (mib, percent) = (bytes.as_mib(), self.percent(bytes));
        let text = format!("  {name:<24} {mib:>12.1} {percent:>7.1}  {note}");
        writeln!(f, "{}", text.trim_end())
    }
}

impl fmt::Display for ModelLenReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AsModel => "the model's own limit",
            Self::AsAsked => "as asked",
            Self::CappedByMemory => "all that the memory holds",
            Self::CappedByPool => "all that a KV pool of the size asked for holds",
        })
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Memory plan for {}", self.model)?;
        writeln!(f)?;
        writeln!(f, "  {:<24} {:>12} {:>7}", "line", "MiB", "%")?;
        for line in &self.lines {
            self.write_row(f, (&line.name, line.bytes, &line.note))?;
        }
        self.write_row(f, ("total", self.total, ""))?;
        self.write_row(f, ("budget", self.budget, &self.budget_source.to_string()))?;
        writeln!(f)?;
        writeln!(
            f,
            "Longest sequence: {} ({})",
            self.model_len, self.model_len_reason
        )?;
        self.verdict.fmt(f)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fits { capacity } => {
                writeln!(f, "Fits. Sequences at once:")?;
                writeln!(f)?;
                writeln!(f, "  {:>12} {:>12}", "length", "sequences")?;
                for row in capacity {
                    writeln!(f, "  {:>12} {:>12}", row.context.0, row.sequences)?;
                }
                Ok(())
            }
            Self::DoesNotFit {
                needed,
                available,
                shortfall,
                largest_line,
                ways_out,
            } => {
                writeln!(
                    f,
                    "Does not fit: {needed} needed, {available} allowed, {shortfall} short."
                )?;
                writeln!(
                    f,
                    "Most goes to {} ({}).",
                    largest_line.name, largest_line.bytes
                )?;
                writeln!(f, "Any one of these is enough:")?;
                for way_out in ways_out {
                    writeln!(f, "  - {way_out}")?;
                }
                Ok(())
            }
        }
    }
}
