//! How speed falls as prompts and contexts grow, of both engines.

use std::error::Error;
use std::path::PathBuf;

use super::race::{Course, Kvist, KvistReport, Variant, llama_bench};
use super::report::{Report, Table};
use super::service::Launch;
use crate::command::release_binary;
use crate::peer::{Peer, threads};
use crate::stats::median;

/// Lengths of prompts.
const PROMPTS: [u32; 7] = [128, 256, 512, 1024, 2048, 4096, 8192];
/// Tokens before those that are produced.
const DEPTHS: [u32; 7] = [0, 256, 512, 1024, 2048, 4096, 8192];
/// Tokens produced at each depth.
const OUTPUT: u32 = 32;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A GGUF file
    model: PathBuf,
    /// Directory with llama.cpp's programs [default: installed below the target directory]
    #[arg(long)]
    peer_dir: Option<PathBuf>,
    /// Runs of each engine
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Longest prompt, deepest context [default: as far as the model's context goes]
    #[arg(long, default_value_t = u32::MAX)]
    most: u32,
    /// Measure this kvist instead of building one
    #[arg(long)]
    binary: Option<PathBuf>,
}

/// Tokens a second of both engines' runs at one length.
#[derive(Debug, Default)]
struct Point {
    kvist: Vec<f64>,
    peer: Vec<f64>,
}

pub fn measure(arguments: &Arguments) -> Result<Report, Box<dyn Error>> {
    let binary = match &arguments.binary {
        Some(binary) => binary.canonicalize()?,
        None => release_binary()?,
    };
    let model = arguments.model.canonicalize()?;
    let peer = Peer::find(arguments.peer_dir.as_deref())?;
    let context = Launch::new(&binary, &model, &[]).plan()?.model_len;
    let most = u64::from(arguments.most).min(context);
    let fits = |len: &u32, more: u32| u64::from(len + more) <= most.max(u64::from(more));
    let prompts: Vec<u32> = PROMPTS.into_iter().filter(|len| fits(len, 1)).collect();
    let depths: Vec<u32> = DEPTHS.into_iter().filter(|len| fits(len, OUTPUT)).collect();
    let course = super::race::course(&model, threads())?;
    let kvist = Kvist {
        binary: &binary,
        isa: None,
    };
    let mut prefill: Vec<Point> = prompts.iter().map(|_| Point::default()).collect();
    let mut decode: Vec<Point> = depths.iter().map(|_| Point::default()).collect();
    for round in 0..arguments.runs {
        eprintln!("round {} of {}", round + 1, arguments.runs);
        let (list, output) = (join(&prompts), OUTPUT.to_string());
        let flags = ["-r", "1", "-p", &list, "-n", "0"];
        let ours = kvist.bench(&course, &flags)?;
        add(&mut prefill, &ours, &theirs(&peer, &course, &flags)?)?;
        let list = join(&depths);
        let flags = ["-r", "1", "-p", "0", "-n", &output, "-d", &list];
        let ours = kvist.bench(&course, &[&flags[..], &["--batch", "1"]].concat())?;
        add(&mut decode, &ours, &theirs(&peer, &course, &flags)?)?;
    }
    let name = model.file_stem().unwrap_or_default().to_string_lossy();
    let mut report = Report::new(format!("{name}: speed as work grows, tokens/s"));
    report.setup(format!(
        "medians of {} interleaved runs; context of {context}",
        arguments.runs
    ));
    report.table(table("prompt", &prompts, &prefill));
    report.table(table("depth of decode", &depths, &decode));
    Ok(report)
}

fn join(lengths: &[u32]) -> String {
    let lengths: Vec<String> = lengths.iter().map(u32::to_string).collect();
    lengths.join(",")
}

/// Rates in the order of the list; llama-bench as it comes.
fn theirs(peer: &Peer, course: &Course<'_>, flags: &[&str]) -> Result<Vec<f64>, Box<dyn Error>> {
    let tests = llama_bench((peer, Variant::DEFAULT), course, flags)?;
    Ok(tests.iter().map(|test| median(test.rates())).collect())
}

fn add(points: &mut [Point], ours: &KvistReport, theirs: &[f64]) -> Result<(), Box<dyn Error>> {
    let ours = &ours.results;
    if (ours.len(), theirs.len()) != (points.len(), points.len()) {
        let (ours, theirs, asked) = (ours.len(), theirs.len(), points.len());
        return Err(format!("{asked} tests asked, kvist ran {ours}, llama-bench {theirs}").into());
    }
    for ((point, ours), theirs) in points.iter_mut().zip(ours).zip(theirs) {
        point.kvist.push(ours.tokens_per_second);
        point.peer.push(*theirs);
    }
    Ok(())
}

fn table(what: &str, lengths: &[u32], points: &[Point]) -> Table {
    let mut table = Table::new([what, "kvist", "llama.cpp", "ratio"]);
    for (len, point) in lengths.iter().zip(points) {
        let (ours, theirs) = (median(&point.kvist), median(&point.peer));
        table.row([
            len.to_string(),
            format!("{ours:.1}"),
            format!("{theirs:.1}"),
            format!("{:.2}", ours / theirs),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_stand_beside_their_ratio() {
        let points = [Point {
            kvist: vec![30.0, 10.0, 20.0],
            peer: vec![5.0],
        }];
        let table = table("prompt", &[128], &points).to_string();
        assert!(table.ends_with("| 128 | 20.0 | 5.0 | 4.00 |\n"), "{table}");
        assert_eq!(join(&[1, 20]), "1,20");
    }
}
