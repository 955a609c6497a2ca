//! `drive TARGET|all SECONDS SEED`: what `cargo xtask fuzz` runs.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use std::{env, fs, panic};

use kvist_fuzzing::{TARGETS, Target, Until, drive, find};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [name, seconds, seed] = arguments.as_slice() else {
        eprintln!("error: drive TARGET|all SECONDS SEED");
        return ExitCode::from(2);
    };
    let (Ok(seconds), Ok(seed)) = (seconds.parse(), seed.parse()) else {
        eprintln!("error: SECONDS and SEED are numbers");
        return ExitCode::from(2);
    };
    let targets: Vec<&Target> = match find(name) {
        Some(target) => vec![target],
        None if name == "all" => TARGETS.iter().collect(),
        None => {
            let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            eprintln!("error: {name:?} is none of all, {}", names.join(", "));
            return ExitCode::from(2);
        }
    };
    // A finding is reported once, with its input.
    panic::set_hook(Box::new(|_| {}));
    let mut found = ExitCode::SUCCESS;
    for target in targets {
        if !fuzz(target, Duration::from_secs(seconds), seed) {
            found = ExitCode::FAILURE;
        }
    }
    found
}

fn fuzz(target: &Target, time: Duration, seed: u64) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let seeds = root.join("fuzz/seeds").join(target.name);
    match drive(target, &seeds, (seed, Until::Time(time))) {
        Ok(Ok(report)) => {
            println!(
                "{}: {} seeds, {} inputs, no finding",
                target.name, report.seeds, report.runs
            );
            true
        }
        Ok(Err(finding)) => {
            let path = root.join("target").join(format!("finding-{}", target.name));
            println!("{finding:?}");
            match fs::write(&path, &finding.input) {
                Ok(()) => println!("written to {}", path.display()),
                Err(error) => println!("not written to {}: {error}", path.display()),
            }
            false
        }
        Err(error) => {
            println!("{}: the seeds cannot be read: {error}", target.name);
            false
        }
    }
}
