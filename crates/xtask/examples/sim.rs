//! Simulates histories of the scheduler: `cargo xtask sim`. Arguments: first seed, how many.

use std::env;
use std::process::ExitCode;
use std::time::Instant;

use kvist_sched::sim;

fn main() -> ExitCode {
    let mut numbers = env::args().skip(1).map(|argument| argument.parse::<u64>());
    let (Some(Ok(first)), Some(Ok(count))) = (numbers.next(), numbers.next()) else {
        eprintln!("usage: sim FIRST COUNT");
        return ExitCode::FAILURE;
    };
    let start = Instant::now();
    let report = match sim::run(first..first.saturating_add(count)) {
        Ok(report) => report,
        Err(violation) => {
            eprintln!("{violation}");
            eprintln!(
                "again with: cargo xtask sim --first {} --seeds 1",
                violation.seed
            );
            return ExitCode::FAILURE;
        }
    };
    for (name, times) in report.counts() {
        println!("{name:<24} {times:>12}");
    }
    let seconds = start.elapsed().as_secs_f64();
    #[allow(clippy::cast_precision_loss)] // a rate for people to read
    let rate = count as f64 / seconds;
    println!("{count} seeds in {seconds:.1} s, {rate:.0} a second");
    // A few seeds cannot reach every corner; many that miss one mean that the simulator has changed.
    let untouched = report.untouched();
    if untouched.is_empty() || count < 1000 {
        ExitCode::SUCCESS
    } else {
        eprintln!("never happened: {}", untouched.join(", "));
        ExitCode::FAILURE
    }
}
