//! `cargo xtask bench race`: kvist beside another engine on the same files.
//!
//! Processes of both engines run in turn, so that both meet the same machine: its clock, its
//! neighbours, its mood. The peer is first tried in all its variants and then raced at its best.

mod case;
mod engines;
mod openvino;
mod outcome;
mod plot;
mod scout;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use crate::Outcome;
use crate::command::release_binary;
use crate::machine::load_average;
use crate::peer::{Peer, threads};

use super::circumstances;
use super::report::publish;
use case::{Class, Targets, Test};
pub(super) use engines::{Course, Kvist, KvistReport, Variant, llama_bench};
use engines::{batched_bench, undisturbed};
use outcome::{ModelRace, Race, Tally};
use scout::{Best, batch, scout};

/// With more than this to do beforehand the machine is not ours: threads that spin, as the peer's
/// do, lose most.
const LOAD_MAX: f64 = 0.5;
/// Runs of one process behind a long context, which takes its time to compute.
const DEEP_RUNS: &str = "2";

/// Whom kvist is raced against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Rival {
    /// llama-bench and llama-batched-bench
    LlamaCpp,
    /// OpenVINO GenAI: prefill and decode of one stream
    Openvino,
}

#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// GGUF files
    #[arg(required_unless_present = "from")]
    models: Vec<PathBuf>,
    /// Whom to race
    #[arg(long = "peer", value_enum, default_value = "llama-cpp")]
    rival: Rival,
    /// Directory with llama.cpp's programs [default: installed below the target directory]
    #[arg(long)]
    peer_dir: Option<PathBuf>,
    /// Runs of each engine
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Two runs, and the peer as it comes: to see that everything works
    #[arg(long, conflicts_with = "runs")]
    quick: bool,
    /// Threads of each engine
    #[arg(long, default_value_t = threads())]
    threads: usize,
    /// Instruction tier of kvist [default: its best]
    #[arg(long)]
    isa: Option<String>,
    /// Ratios aimed for: prefill, decode of 1, 4 and 16 streams, decode at depth; fewer leave tests
    /// out. Once for each model [default: by the file's size]
    #[arg(long, value_parser = Targets::parse)]
    targets: Vec<Targets>,
    /// Measure this kvist instead of building one
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Write the figures as JSON, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the ratios
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Race nobody: print and draw what an earlier race wrote
    #[arg(long, value_name = "FILE.json", conflicts_with_all = ["models", "json"])]
    from: Option<PathBuf>,
}

impl Arguments {
    /// The files.
    pub fn models(&self) -> &[PathBuf] {
        &self.models
    }

    /// Where the peer's programs are, if somebody said.
    pub fn peer_dir(&self) -> Option<&Path> {
        self.peer_dir.as_deref()
    }

    /// Our own program, built if none is given.
    pub fn binary(&self) -> Result<PathBuf, Box<dyn Error>> {
        match &self.binary {
            Some(binary) => Ok(binary.canonicalize()?),
            None => release_binary(),
        }
    }

    /// The same of other files.
    pub fn of(self, models: Vec<PathBuf>) -> Self {
        Self { models, ..self }
    }
}

/// A course of the usual sizes.
pub(super) fn course(model: &Path, threads: usize) -> Result<Course<'_>, Box<dyn Error>> {
    let class = Class::of(model.metadata()?.len());
    Ok(Course {
        model,
        threads,
        sizes: class.sizes(),
    })
}

pub fn run(arguments: &Arguments) -> Outcome {
    let race = match &arguments.from {
        Some(file) => serde_json::from_str(&fs::read_to_string(file)?)?,
        None => race(arguments)?,
    };
    if let Some(path) = &arguments.json {
        fs::write(path, serde_json::to_string_pretty(&race)?)?;
    }
    if let Some(path) = &arguments.plot {
        fs::write(path, plot::svg(&race))?;
    }
    publish(&[race.report()], None)
}

/// Races every model, one after the other.
pub(super) fn race(arguments: &Arguments) -> Result<Race, Box<dyn Error>> {
    let binary = arguments.binary()?;
    let load = load_average();
    if load > LOAD_MAX {
        eprintln!(
            "warning: the machine is busy (load {load:.1}): these are not numbers to publish"
        );
    }
    let kvist = Kvist {
        binary: &binary,
        isa: arguments.isa.as_deref(),
    };
    let rounds = if arguments.quick { 2 } else { arguments.runs };
    let mut models = Vec::with_capacity(arguments.models.len());
    for (idx, model) in arguments.models.iter().enumerate() {
        let model = model.canonicalize()?;
        let class = Class::of(model.metadata()?.len());
        eprintln!("{}", model.display());
        let entry = Entry {
            course: course(&model, arguments.threads)?,
            class,
            targets: match arguments.targets.get(idx) {
                Some(targets) => targets.clone(),
                None => class.targets(),
            },
            kvist,
            rounds,
        };
        models.push(match arguments.rival {
            Rival::LlamaCpp => {
                let peer = Peer::find(arguments.peer_dir.as_deref())?;
                entry.against_llama_cpp(&peer, arguments.quick)?
            }
            Rival::Openvino => openvino::race(&entry)?,
        });
    }
    Ok(Race {
        setup: vec![
            format!("medians of {rounds} interleaved runs at least"),
            circumstances(),
        ],
        peer: match arguments.rival {
            Rival::LlamaCpp => "llama.cpp".to_owned(),
            Rival::Openvino => "OpenVINO GenAI".to_owned(),
        },
        models,
    })
}

/// One model and how it is raced.
#[derive(Clone)]
struct Entry<'a> {
    course: Course<'a>,
    class: Class,
    targets: Targets,
    kvist: Kvist<'a>,
    rounds: u32,
}

impl Entry<'_> {
    fn against_llama_cpp(&self, peer: &Peer, is_quick: bool) -> Result<ModelRace, Box<dyn Error>> {
        let tests: Vec<Test> = self.targets.tests().map(|(test, _)| test).collect();
        let best = if is_quick {
            let variants = tests.iter().map(|test| (*test, Variant::DEFAULT));
            variants.collect()
        } else {
            let course = Course {
                sizes: self.class.scout_sizes(),
                ..self.course
            };
            scout(peer, &course, &tests)?
        };
        let mut tally = Tally::new(self.course.sizes, &self.targets);
        for round in 0..self.rounds {
            eprintln!("round {} of {}", round + 1, self.rounds);
            self.shallow(peer, &best, &mut tally)?;
            // Each process behind a context runs the test twice, so every other round is enough.
            if tests.contains(&Test::Deep) && round % 2 == 0 {
                self.deep(peer, &best, &mut tally)?;
            }
        }
        Ok(tally.finish(self.name(), self.course.threads))
    }

    /// The tests that begin with nothing, once by each engine.
    fn shallow(&self, peer: &Peer, best: &Best, tally: &mut Tally) -> Outcome {
        self.run_kvist(tally)?;
        let (prompt, output) = self.lengths();
        // Tests of one variant run in one process: loading a model may take longer than they do.
        let mut variants: BTreeMap<Variant, BTreeSet<Test>> = BTreeMap::new();
        for (test, variant) in best {
            variants.entry(*variant).or_default().insert(*test);
        }
        for (variant, tests) in variants {
            let is_wanted = |test: Test| tests.contains(&test);
            let prompt = if is_wanted(Test::Prefill) {
                &prompt
            } else {
                "0"
            };
            let output = if is_wanted(Test::Decode(1)) {
                &output
            } else {
                "0"
            };
            if (prompt, output) != ("0", "0") {
                let (repack, flash) = switches(variant);
                let flags = ["-p", prompt, "-n", output, "-r", "1"];
                let flags = [&flags[..], &["--repack", repack, "-fa", flash]].concat();
                let run = undisturbed(|| llama_bench((peer, variant), &self.course, &flags))?;
                for result in &run.result {
                    let is_decode = result.n_gen > 0;
                    let test = if is_decode {
                        Test::Decode(1)
                    } else {
                        Test::Prefill
                    };
                    tally.add_peer(test, &variant, (result.rates(), run.stolen));
                }
            }
            let streams: Vec<u32> = tests.iter().filter_map(|test| batch(*test)).collect();
            if !streams.is_empty() {
                let run = undisturbed(|| batched_bench((peer, variant), &self.course, &streams))?;
                for line in &run.result {
                    let test = Test::Decode(line.pl);
                    tally.add_peer(test, &variant, (&[line.speed_tg], run.stolen));
                }
            }
        }
        Ok(())
    }

    /// All our tests without a context, once.
    fn run_kvist(&self, tally: &mut Tally) -> Outcome {
        let streams: Vec<String> = self
            .targets
            .tests()
            .filter_map(|(test, _)| match test {
                Test::Decode(streams) => Some(streams.to_string()),
                _ => None,
            })
            .collect();
        let (prompt, output) = self.lengths();
        let output = if streams.is_empty() { "0" } else { &output };
        let streams = streams.join(",");
        let mut flags = vec!["-r", "1", "-p", &prompt, "-n", output];
        if !streams.is_empty() {
            flags.extend(["--batch", &streams]);
        }
        let run = undisturbed(|| self.kvist.bench(&self.course, &flags))?;
        tally.add_kvist(&run.result, run.stolen);
        Ok(())
    }

    /// Decoding behind a long context, by each engine.
    fn deep(&self, peer: &Peer, best: &Best, tally: &mut Tally) -> Outcome {
        let depth = self.course.sizes.depth.to_string();
        let (_, output) = self.lengths();
        let flags = ["-p", "0", "-n", &output, "-d", &depth, "-r", DEEP_RUNS];
        let ours = [&flags[..], &["--batch", "1"]].concat();
        let run = undisturbed(|| self.kvist.bench(&self.course, &ours))?;
        tally.add_kvist(&run.result, run.stolen);
        let Some(&variant) = best.get(&Test::Deep) else {
            return Err("no variant was tried at depth".into());
        };
        let (repack, flash) = switches(variant);
        let theirs = [&flags[..], &["--repack", repack, "-fa", flash]].concat();
        let run = undisturbed(|| llama_bench((peer, variant), &self.course, &theirs))?;
        for result in &run.result {
            tally.add_peer(Test::Deep, &variant, (result.rates(), run.stolen));
        }
        Ok(())
    }

    fn lengths(&self) -> (String, String) {
        let sizes = self.course.sizes;
        (sizes.prompt.to_string(), sizes.output.to_string())
    }

    fn name(&self) -> String {
        let stem = self.course.model.file_stem().unwrap_or_default();
        stem.to_string_lossy().into_owned()
    }
}

/// llama-bench's words for a variant.
fn switches(variant: Variant) -> (&'static str, &'static str) {
    let repack = if variant.repack { "1" } else { "0" };
    let flash = if variant.flash { "on" } else { "off" };
    (repack, flash)
}
