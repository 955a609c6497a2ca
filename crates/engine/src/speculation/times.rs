//! What a step takes, by its rows: measured, because it depends on model, machine and load.

use std::time::Duration;

/// Steps of up to so many rows are taken for ones that decode.
const DECODE_ROWS_MAX: u32 = 64;
/// Steps of at least so many rows tell what a row costs when reading weights costs nothing more.
const PREFILL_ROWS_MIN: u32 = 128;
/// Steps that weigh as much as all before them.
const MEMORY: f64 = 64.0;
/// Steps to see before anything is said.
const STEPS_MIN: f64 = 4.0;
/// How far, in rows squared, measured steps must be spread to weigh as much as the first guess.
const GUESS_WEIGHT: f64 = 0.5;
/// The first guess without any measurement: a row more costs this part of a step.
const GUESS_SHARE: f64 = 0.25;
/// A step that took more than so many times what was expected was disturbed.
const OUTLIER: f64 = 3.0;

/// A line through the durations of recent steps: `seconds = fixed + rows * each`.
///
/// Least squares in which old steps count less and less. While all steps have the same number of rows
/// the slope is a guess: what a row cost in large steps, in which little but rows costs anything.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StepTimes {
    weight: f64,
    mean_rows: f64,
    mean_seconds: f64,
    /// Sums of squares and products about the means.
    rows_rows: f64,
    rows_seconds: f64,
    prefill_row: Option<f64>,
}

impl StepTimes {
    /// A step of `rows` rows took `time`.
    pub(crate) fn observe(&mut self, rows: u32, time: Duration) {
        let (rows_f, seconds) = (f64::from(rows), time.as_secs_f64());
        if rows >= PREFILL_ROWS_MIN {
            let row = seconds / rows_f;
            // The least: large steps differ in how much attention they compute.
            self.prefill_row = Some(self.prefill_row.map_or(row, |least| least.min(row)));
        }
        if rows == 0 || rows > DECODE_ROWS_MAX {
            return;
        }
        let seconds = match self.seconds(rows_f) {
            Some(expected) => seconds.min(expected * OUTLIER),
            None => seconds,
        };
        let keep = 1.0 - 1.0 / MEMORY;
        self.weight = self.weight * keep + 1.0;
        let share = 1.0 / self.weight;
        let (off_rows, off_seconds) = (rows_f - self.mean_rows, seconds - self.mean_seconds);
        self.mean_rows += share * off_rows;
        self.mean_seconds += share * off_seconds;
        let off_new = rows_f - self.mean_rows;
        self.rows_rows = self.rows_rows * keep + off_rows * off_new;
        self.rows_seconds = self.rows_seconds * keep + off_seconds * off_new;
    }

    /// Expected seconds of a step; `None` until enough were seen.
    pub(crate) fn seconds(&self, rows: f64) -> Option<f64> {
        if self.weight < STEPS_MIN {
            return None;
        }
        // Between a step that costs the same whatever its rows, and one that is nothing but rows.
        let most = self.mean_seconds / self.mean_rows;
        let guess = self.prefill_row.unwrap_or(self.mean_seconds * GUESS_SHARE);
        let guess_weight = GUESS_WEIGHT * self.weight.min(MEMORY / 4.0);
        let slope =
            (self.rows_seconds + guess.min(most) * guess_weight) / (self.rows_rows + guess_weight);
        let slope = slope.clamp(0.0, most);
        Some(self.mean_seconds + slope * (rows - self.mean_rows))
    }
}

/// What is measured of steps that take `fixed + each * rows` milliseconds.
#[cfg(test)]
pub(super) fn linear(fixed: f64, each: f64) -> StepTimes {
    let mut times = StepTimes::default();
    for step in 0..400 {
        let rows = 1 + step % 16;
        let millis = fixed + each * f64::from(rows);
        times.observe(rows, Duration::from_secs_f64(millis / 1000.0));
    }
    times
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(value: f64) -> Duration {
        Duration::from_secs_f64(value / 1000.0)
    }

    fn expected(times: &StepTimes, rows: f64) -> f64 {
        times.seconds(rows).unwrap() * 1000.0
    }

    #[test]
    fn nothing_is_said_before_a_few_steps() {
        let mut times = StepTimes::default();
        for _ in 0..4 {
            assert_eq!(times.seconds(1.0), None);
            times.observe(1, millis(10.0));
        }
        times.observe(1, millis(10.0));
        assert!((expected(&times, 1.0) - 10.0).abs() < 1e-9);
    }

    #[test]
    fn without_spread_a_large_step_says_what_a_row_costs() {
        let mut times = StepTimes::default();
        times.observe(512, millis(1024.0));
        for _ in 0..100 {
            times.observe(1, millis(10.0));
        }
        assert!((expected(&times, 1.0) - 10.0).abs() < 1e-9);
        assert!((expected(&times, 5.0) - 18.0).abs() < 1e-6);
    }

    #[test]
    fn measured_steps_overrule_the_guess() {
        let mut times = StepTimes::default();
        times.observe(512, millis(1024.0));
        for step in 0..200 {
            let rows = 1 + step % 5;
            times.observe(rows, millis(9.5 + 0.5 * f64::from(rows)));
        }
        for rows in [1.0, 3.0, 8.0] {
            let right = 9.5 + 0.5 * rows;
            assert!(
                (expected(&times, rows) - right).abs() < right * 0.15,
                "{rows}"
            );
        }
    }

    #[test]
    fn a_disturbed_step_counts_for_little() {
        let mut times = StepTimes::default();
        for _ in 0..50 {
            times.observe(1, millis(10.0));
        }
        times.observe(1, millis(10_000.0));
        assert!(expected(&times, 1.0) < 11.0);
    }

    #[test]
    fn what_costs_changes_with_load() {
        let mut times = StepTimes::default();
        for _ in 0..50 {
            times.observe(4, millis(10.0));
        }
        for _ in 0..300 {
            times.observe(4, millis(20.0));
        }
        assert!((expected(&times, 4.0) - 20.0).abs() < 0.5);
    }
}
