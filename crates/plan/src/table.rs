//! The plan as text. The verdict is the last line.

use std::fmt;

use kvist_base::{Bytes, Tokens};

use crate::devices::Devices;
use crate::planner::{CapacityRow, ModelLenReason, Plan, Verdict};

/// Columns of the capacity table: 1, 4, 16, 64, ... sequences.
const COLUMN_FACTOR: u32 = 4;

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

    /// Why sequences may be as long as they may.
    fn model_len_text(&self) -> String {
        let (len, of) = (grouped(self.model_len), grouped(self.context_max));
        match self.model_len_reason {
            ModelLenReason::AsModel => format!("{len} tokens, the model's own limit"),
            ModelLenReason::AsAsked => format!("{len} tokens as asked, of the model's {of}"),
            ModelLenReason::CappedByMemory if !self.fits() => {
                format!("{len} of the model's {of}, the least to serve, does not fit")
            }
            ModelLenReason::CappedByMemory => {
                format!("largest that fits: {len} of the model's {of}, the KV pool holds no more")
            }
            ModelLenReason::CappedByPool => format!(
                "largest that fits: {len} of the model's {of}, a KV pool of the size asked for \
                 holds no more"
            ),
        }
    }

    /// What is said about streaming: also that it was not needed.
    fn offload_text(&self) -> Option<String> {
        let (count, bytes) = (self.offload.layers.len(), self.offload.bytes);
        let streamed = format!("{count} layers, {bytes} from the file in every step");
        match (self.offload.is_empty(), self.offload.is_idle) {
            (true, _) => self
                .is_offload_asked
                .then(|| "0 layers: everything fits".to_owned()),
            (false, false) => Some(streamed),
            (false, true) => Some(format!(
                "{streamed}, as asked: everything would fit without, and run faster"
            )),
        }
    }

    fn write_capacity(&self, f: &mut fmt::Formatter<'_>, rows: &[CapacityRow]) -> fmt::Result {
        let columns = self.capacity_columns();
        writeln!(
            f,
            "KV in MiB of so many sequences at once (-: more than the pool), and the most at once:"
        )?;
        writeln!(f)?;
        let heads: String = columns.iter().map(|count| format!(" {count:>9}")).collect();
        writeln!(f, "  {:>8}{heads} {:>9}", "length", "most")?;
        for row in rows {
            let cells: String = columns.iter().map(|count| self.cell(row, *count)).collect();
            writeln!(f, "  {:>8}{cells} {:>9}", row.context.0, row.sequences)?;
        }
        writeln!(f)
    }

    fn cell(&self, row: &CapacityRow, count: u32) -> String {
        if count > row.sequences {
            return format!(" {:>9}", "-");
        }
        let blocks = u64::from(row.context.div_ceil(self.kv.block_size).0) * u64::from(count);
        format!(" {:>9.1}", (self.kv.block_bytes * blocks).as_mib())
    }

    /// Powers of four up to the most that run at once, and that.
    pub(crate) fn capacity_columns(&self) -> Vec<u32> {
        let powers = std::iter::successors(Some(1u32), |count| count.checked_mul(COLUMN_FACTOR));
        let below = powers.take_while(|count| *count < self.running_max);
        below.chain([self.running_max]).collect()
    }

    /// One line: what fits, or by how much it does not.
    pub fn verdict_line(&self) -> String {
        match &self.verdict {
            Verdict::Fits { capacity } => {
                let at_full = capacity.last().map_or(0, |row| row.sequences);
                let noun = if at_full == 1 {
                    "sequence"
                } else {
                    "sequences"
                };
                let len = self.model_len.min(self.kv.tokens).0;
                let kv = self.kv.block_bytes * u64::from(self.kv.blocks.0);
                format!("fits: {at_full} {noun} of up to {len} tokens; {kv} KV")
            }
            Verdict::DoesNotFit {
                needed,
                available,
                shortfall,
                ..
            } => format!("does not fit: {needed} needed, {available} allowed, {shortfall} short"),
        }
    }
}

/// A count with its thousands set apart: 131 072.
fn grouped(count: Tokens) -> String {
    let digits = count.0.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.devices {
            None => writeln!(f, "Memory plan for {}", self.model)?,
            Some(Devices { count, memory }) => {
                let model = &self.model;
                writeln!(
                    f,
                    "Memory plan for {model}: each of {count} devices with {memory}"
                )?;
            }
        }
        writeln!(f)?;
        writeln!(f, "  {:<24} {:>12} {:>7}", "line", "MiB", "%")?;
        for line in &self.lines {
            self.write_row(f, (&line.name, line.bytes, &line.note))?;
        }
        self.write_row(f, ("total", self.total, ""))?;
        self.write_row(f, ("budget", self.budget, &self.budget_source.to_string()))?;
        writeln!(f)?;
        writeln!(f, "Longest sequence: {}", self.model_len_text())?;
        if let Some(text) = self.offload_text() {
            writeln!(f, "Streamed weights: {text}")?;
        }
        match &self.verdict {
            Verdict::Fits { capacity } => self.write_capacity(f, capacity)?,
            Verdict::DoesNotFit {
                largest_line,
                ways_out,
                ..
            } => {
                let (name, bytes) = (&largest_line.name, largest_line.bytes);
                writeln!(
                    f,
                    "Most goes to {name} ({bytes}). Any one of these is enough:"
                )?;
                for way_out in ways_out {
                    writeln!(f, "  - {way_out}")?;
                }
                writeln!(f)?;
            }
        }
        writeln!(f, "{}", self.verdict_line())
    }
}
