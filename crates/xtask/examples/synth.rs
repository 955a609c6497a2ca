//! `cargo xtask synth HEADER OUT`: a whole model file from one that ends early.
//!
//! Memory, speed and streaming of a model depend on its shapes and formats, not on its weights'
//! values, so a header is enough to measure them. What the file holds is kept. What is missing
//! becomes normally distributed weights with the standard deviation of the real ones, quantised as
//! the header says; gains of norms become 1. Activations and logits then stay finite and differ
//! from row to row. The text such a model writes means nothing.

use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kvist_base::{QuantFormat, mix64};
use kvist_kernels::quant::{decode_row, encode_row};
use kvist_weights::{GgufFile, TensorInfo};

/// Quant blocks of random weights before they repeat. A prime: no row length divides it, so that
/// rows of one matrix differ.
const PATTERN_BLOCKS: usize = 8191;
/// Real weights that are looked at for their standard deviation.
const SAMPLE_BLOCKS_MAX: u64 = 8192;

fn main() -> ExitCode {
    let paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [header, out] = &paths[..] else {
        eprintln!("usage: synth HEADER OUT");
        return ExitCode::from(2);
    };
    match complete(header, out) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes the model and says what is real in it. `out` appears when it is whole.
fn complete(header: &Path, out: &Path) -> Result<String, Box<dyn Error>> {
    if out.exists() {
        return Err(format!("{} exists", out.display()).into());
    }
    let model = GgufFile::open_header(header)?;
    if model.paths().len() != 1 {
        return Err("a split model cannot be completed: give a single file".into());
    }
    let mut unfinished: OsString = out.into();
    unfinished.push(".part");
    let written = write(&model, header, Path::new(&unfinished));
    if written.is_err() {
        // The error says what happened; a leftover is the lesser trouble.
        let _ = fs::remove_file(&unfinished);
    }
    let report = written?;
    fs::rename(&unfinished, out)?;
    GgufFile::open(out)?;
    Ok(report)
}

fn write(model: &GgufFile, header: &Path, out: &Path) -> Result<String, Box<dyn Error>> {
    let mut source = File::open(header)?;
    let real_bytes = source.metadata()?.len();
    let deviation = measured_deviation(model, &mut source, real_bytes)?;
    source.seek(SeekFrom::Start(0))?;
    let mut out = BufWriter::with_capacity(1 << 20, File::create_new(out)?);
    let mut at = io::copy(&mut source, &mut out)?;

    let mut tensors: Vec<&TensorInfo> = model.tensors().iter().collect();
    tensors.sort_by_key(|tensor| tensor.range().start);
    let mut patterns = BTreeMap::new();
    for (idx, tensor) in tensors.into_iter().enumerate() {
        let range = tensor.range();
        if range.end <= at {
            continue;
        }
        let padding = range.start.saturating_sub(at);
        io::copy(&mut io::repeat(0).take(padding), &mut out)?;
        let filling = Filling::of(tensor, deviation)?;
        let pattern = patterns
            .entry(filling.key())
            .or_insert_with(|| filling.pattern());
        let done = at.max(range.start) - range.start;
        fill(&mut out, pattern, (done..tensor.bytes.0, mix64(idx as u64)))?;
        at = range.end;
    }
    out.into_inner()?.sync_all()?;
    Ok(format!(
        "{at} bytes, the first {real_bytes} of them real; standard deviation of the other weights: {}",
        deviation.map_or("1 / sqrt(columns)".to_owned(), |value| format!(
            "{value:.4}"
        ))
    ))
}

/// How a tensor's missing weights look.
#[derive(Clone, Copy, Debug)]
struct Filling {
    format: QuantFormat,
    mean: f32,
    deviation: f32,
}

impl Filling {
    fn of(tensor: &TensorInfo, deviation: Option<f32>) -> Result<Self, Box<dyn Error>> {
        #[allow(clippy::cast_precision_loss)] // a magnitude
        let by_columns = 1.0 / (tensor.cols() as f32).sqrt();
        let is_gain = tensor.name.ends_with("norm.weight");
        Ok(Self {
            format: tensor.format()?,
            mean: if is_gain { 1.0 } else { 0.0 },
            deviation: if is_gain {
                0.0
            } else {
                deviation.unwrap_or(by_columns)
            },
        })
    }

    fn key(&self) -> (QuantFormat, u32, u32) {
        (self.format, self.mean.to_bits(), self.deviation.to_bits())
    }

    /// Quantised random weights, in the file's layout.
    fn pattern(&self) -> Vec<u8> {
        let weights = self.format.block_weights();
        let block_bytes = self.format.block_bytes();
        let mut values = vec![0.0; weights];
        let mut pattern = vec![0; PATTERN_BLOCKS * block_bytes];
        for (idx, block) in pattern.chunks_exact_mut(block_bytes).enumerate() {
            for (offset, value) in values.iter_mut().enumerate() {
                let n = (idx * weights + offset) as u64;
                *value = self.mean + self.deviation * normal(n);
            }
            encode_row(self.format, &values, block);
        }
        pattern
    }
}

/// The `n`th of a sequence with mean 0 and standard deviation 1: four uniform numbers added, which
/// is as normal as weights are.
fn normal(n: u64) -> f32 {
    let bits = mix64(n.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    #[allow(clippy::cast_possible_truncation)] // that is how the four are cut out
    let part = |idx: u32| f32::from((bits >> (16 * idx)) as u16);
    let sum = part(0) + part(1) + part(2) + part(3);
    // Each has mean 65535 / 2 and variance 65535² / 12.
    (sum - 2.0 * 65535.0) / (65535.0 * (4.0f32 / 12.0).sqrt())
}

/// Writes the bytes `span` of a tensor that is the pattern, over and over, from its quant block
/// `first` on.
fn fill(out: &mut impl Write, pattern: &[u8], (span, first): (Range<u64>, u64)) -> io::Result<()> {
    let len = pattern.len() as u64;
    let shift = first % PATTERN_BLOCKS as u64 * (len / PATTERN_BLOCKS as u64);
    let mut at = span.start;
    while at < span.end {
        let begin = (shift + at) % len;
        let end = len.min(begin + span.end - at);
        #[allow(clippy::cast_possible_truncation)] // both are at most the pattern's length
        out.write_all(&pattern[begin as usize..end as usize])?;
        at += end - begin;
    }
    Ok(())
}

/// Standard deviation of the real weights of matrices, over a sample of the first one that has any.
fn measured_deviation(
    model: &GgufFile,
    source: &mut File,
    real_bytes: u64,
) -> Result<Option<f32>, Box<dyn Error>> {
    for tensor in model.tensors().iter().filter(|tensor| tensor.rows() > 1) {
        let format = tensor.format()?;
        let block_bytes = format.block_bytes() as u64;
        let range = tensor.range();
        let present = real_bytes.min(range.end).saturating_sub(range.start) / block_bytes;
        let blocks = present.min(SAMPLE_BLOCKS_MAX);
        if blocks < SAMPLE_BLOCKS_MAX / 8 {
            continue;
        }
        let mut raw = vec![0; usize::try_from(blocks * block_bytes)?];
        source.seek(SeekFrom::Start(range.start))?;
        source.read_exact(&mut raw)?;
        let mut values = vec![0.0; usize::try_from(blocks)? * format.block_weights()];
        decode_row(format, &raw, &mut values);
        return Ok(Some(deviation(&values)));
    }
    Ok(None)
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)] // a magnitude
fn deviation(values: &[f32]) -> f32 {
    let count = values.len() as f64;
    let mean = values.iter().map(|value| f64::from(*value)).sum::<f64>() / count;
    let squares = values
        .iter()
        .map(|value| (f64::from(*value) - mean).powi(2));
    (squares.sum::<f64>() / count).sqrt() as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvist_weights::GgmlType;
    use kvist_weights::write::{GgufWriter, TensorShape};

    const COLS: usize = 512;
    const ROWS: usize = 1024;

    fn real(format: QuantFormat, deviation: f32) -> Vec<u8> {
        let values: Vec<f32> = (0..COLS * ROWS)
            .map(|n| deviation * normal(n as u64))
            .collect();
        let mut raw = vec![0; format.row_bytes(values.len()).expect("whole quant blocks")];
        encode_row(format, &values, &mut raw);
        raw
    }

    /// A model whose last tensors and half of its second are cut off, and its whole length.
    fn cut_model() -> (Vec<u8>, usize) {
        let mut writer = GgufWriter::new();
        let mut add = |name, ggml_type, dims: &[usize], data: Vec<u8>| {
            let shape = TensorShape {
                name,
                ggml_type,
                dims,
            };
            writer.tensor(shape, data).expect("a good tensor");
        };
        let (q6, q4) = (QuantFormat::Q6K, QuantFormat::Q4K);
        add(
            "output.weight",
            GgmlType::Q6K,
            &[COLS, ROWS],
            real(q6, 0.02),
        );
        add(
            "token_embd.weight",
            GgmlType::Q4K,
            &[COLS, ROWS],
            real(q4, 0.02),
        );
        add(
            "blk.0.attn_norm.weight",
            GgmlType::F32,
            &[COLS],
            vec![0; 4 * COLS],
        );
        let empty = vec![0; real(q4, 0.0).len()];
        add("blk.0.attn_q.weight", GgmlType::Q4K, &[COLS, ROWS], empty);
        let mut bytes = writer.to_bytes();
        let whole = bytes.len();
        bytes.truncate(whole - 3 * real(q4, 0.0).len() / 2 - 4 * COLS);
        (bytes, whole)
    }

    #[test]
    fn what_is_missing_is_like_what_is_there() {
        let dir = std::env::temp_dir().join(format!("kvist-synth-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        let (header, out) = (dir.join("cut.gguf"), dir.join("whole.gguf"));
        let (cut, whole) = cut_model();
        fs::write(&header, &cut).expect("written");
        complete(&header, &out).expect("completed");
        let made = fs::read(&out).expect("there");
        assert_eq!(made.len(), whole);
        assert!(made.starts_with(&cut), "what is real stays");

        let model = GgufFile::open(&out).expect("a good file");
        let decoded = |name: &str| {
            let tensor = model.tensor(name).expect("in the header");
            let mut values = vec![0.0; tensor.elements()];
            let data = model.data(tensor).expect("in the file");
            decode_row(tensor.format().expect("known"), &data, &mut values);
            values
        };
        assert!(
            decoded("blk.0.attn_norm.weight")
                .iter()
                .all(|gain| *gain == 1.0)
        );
        for name in ["token_embd.weight", "blk.0.attn_q.weight"] {
            let values = decoded(name);
            let found = deviation(&values);
            assert!((0.018..0.022).contains(&found), "{name}: {found}");
            let (first, second) = (&values[..COLS], &values[COLS..2 * COLS]);
            assert_ne!(first, second, "rows differ");
        }
        let error = complete(&header, &out).expect_err("nothing is overwritten");
        assert!(error.to_string().ends_with("whole.gguf exists"), "{error}");
        fs::remove_dir_all(&dir).expect("ours");
    }
}
