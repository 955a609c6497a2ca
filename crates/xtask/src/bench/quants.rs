//! Other encodings of a model, made by llama.cpp: both engines' speed and perplexity on each.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use super::race;
use super::report::{Report, Table};
use crate::command::target_dir;
use crate::peer::{Peer, threads};
use crate::perplexity;

/// Promised: perplexities differ by no more than this, in percent.
const PERPLEXITY_MAX: f64 = 0.5;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Encodings to make, in llama-quantize's names
    #[arg(long, value_delimiter = ',', default_value = "Q4_0,Q8_0,Q6_K")]
    formats: Vec<String>,
    #[command(flatten)]
    race: race::Arguments,
}

pub fn measure(arguments: &Arguments) -> Result<Vec<Report>, Box<dyn Error>> {
    let peer = Peer::find(arguments.race.peer_dir())?;
    let mut files = Vec::new();
    for model in arguments.race.models() {
        for format in &arguments.formats {
            files.push(quantised(&peer, model, format)?);
        }
    }
    let binary = arguments.race.binary()?;
    let mut report = Report::new("Perplexity of other encodings");
    let mut table = Table::new(["model", "kvist", "llama.cpp", "difference"]);
    for file in &files {
        let text = perplexity::default_text();
        let (ours, theirs) = perplexity::both(&binary, &peer, (file, &text))?;
        let percent = (ours / theirs - 1.0) * 100.0;
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        table.row([
            name.clone().into_owned(),
            format!("{ours:.4}"),
            format!("{theirs:.4}"),
            format!("{percent:+.3} %"),
        ]);
        report.promise(
            format!("{name}: perplexity"),
            (
                format!("within {PERPLEXITY_MAX} %"),
                format!("{percent:+.3} %"),
            ),
            percent.abs() <= PERPLEXITY_MAX,
        );
    }
    report.table(table);
    let speed = race::race(&arguments.race.clone().of(files))?;
    Ok(vec![speed.report(), report])
}

/// The model in another encoding, made if it is not there yet.
fn quantised(peer: &Peer, model: &Path, format: &str) -> Result<PathBuf, Box<dyn Error>> {
    let dir = target_dir().join("bench/quants");
    fs::create_dir_all(&dir)?;
    let out = dir.join(file_name(model, format));
    if out.is_file() {
        return Ok(out);
    }
    // Under its name only when it is whole.
    let unfinished = out.with_extension("part");
    peer.program("llama-quantize")
        .args(["--allow-requantize".as_ref(), model.as_os_str()])
        .args([unfinished.as_os_str(), format.as_ref()])
        .args([threads().to_string()])
        .output()?;
    fs::rename(&unfinished, &out)?;
    Ok(out)
}

fn file_name(model: &Path, format: &str) -> String {
    let stem = model.file_stem().unwrap_or_default().to_string_lossy();
    format!("{stem}-{format}.gguf")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_for_model_and_encoding() {
        assert_eq!(file_name(Path::new("a/b.gguf"), "Q6_K"), "b-Q6_K.gguf");
    }
}
