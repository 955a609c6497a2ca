//! Valid files, damaged in every place: each must open or be refused in words, without a panic
//! and without more memory than a small multiple of its own size.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use kvist_base::mix64;
use kvist_weights::{GgufFile, WeightsError};

use crate::meter::measure;
use crate::raw::{KV_COUNT, Raw, TENSOR_COUNT};
use crate::sample;
use crate::temporary::TempDir;

/// What any file may cost: error texts and the test's own buffers.
const BYTES_FIXED: usize = 64 << 10;
/// A key of one byte with a value of one byte takes 14 bytes in the file, and 56 in the table of
/// keys, 8 in its index and 1 for the name in memory: nothing grows more.
const BYTES_PER_FILE_BYTE: usize = 5;

/// Opens a file both ways and looks at everything in it.
fn visit(path: &Path) -> Result<(), WeightsError> {
    if let Ok(file) = GgufFile::open_header(path) {
        for tensor in file.tensors() {
            let _ = file.data(tensor); // may be missing: that is for `open` to say
        }
    }
    let file = GgufFile::open(path)?;
    for (key, value) in file.metadata().iter() {
        assert!(file.metadata().get(key).is_some());
        assert!(value.to_string().len() < 1 << 20);
    }
    for tensor in file.tensors() {
        assert_eq!(file.data(tensor)?.len() as u64, tensor.bytes.0);
        assert_eq!(tensor.rows() * tensor.cols(), tensor.elements());
    }
    Ok(())
}

/// One file under one path, damaged anew for each case.
struct Bench {
    dir: TempDir,
    file: File,
    cases: usize,
    refused: usize,
}

impl Bench {
    fn new() -> Self {
        let dir = TempDir::new();
        let file = File::create(dir.path("case.gguf")).unwrap();
        Self {
            dir,
            file,
            cases: 0,
            refused: 0,
        }
    }

    fn try_file(&mut self, bytes: &[u8], case: &str) -> Result<(), WeightsError> {
        // Overwritten rather than created anew: some file systems sync a file truncated to zero.
        self.file.seek(SeekFrom::Start(0)).unwrap();
        self.file.write_all(bytes).unwrap();
        self.file.set_len(bytes.len() as u64).unwrap();
        let path = self.dir.path("case.gguf");
        let visited = measure(|| catch_unwind(AssertUnwindSafe(|| visit(&path))));
        let (Ok(result), usage) = visited else {
            panic!("{case}: the reader panicked")
        };
        let limit = BYTES_FIXED + BYTES_PER_FILE_BYTE * bytes.len();
        assert!(
            usage.peak <= limit,
            "{case}: {} bytes held of {limit}",
            usage.peak
        );
        assert!(
            usage.largest <= limit,
            "{case}: {} bytes at once of {limit}",
            usage.largest
        );
        self.cases += 1;
        if let Err(err) = &result {
            self.refused += 1;
            assert!(err.to_string().contains("case.gguf"), "{case}: {err}");
        }
        result
    }
}

#[test]
fn cut_at_every_byte() {
    let mut bench = Bench::new();
    let (bytes, _) = sample::written();
    let end = bytes.len() - 31; // the last tensor is one byte, the rest is padding
    for len in 0..end {
        let result = bench.try_file(&bytes[..len], &format!("cut at {len}"));
        assert!(result.is_err(), "cut at {len}: opened");
    }
    for len in end..=bytes.len() {
        bench
            .try_file(&bytes[..len], &format!("cut at {len}"))
            .unwrap();
    }
    assert_eq!(bench.refused, end);
}

#[test]
fn cut_at_every_percent_of_the_data() {
    let mut bench = Bench::new();
    let mut raw = Raw::new();
    let tensors = 100;
    for idx in 0..tensors {
        raw.tensor(&format!("blk.{idx}.w"), &[32, 16], (2, idx * 288));
    }
    raw.pad(32);
    let header = raw.bytes.len();
    raw.put(vec![1; 288 * 100]);
    for percent in 0..100 {
        let len = header + 288 * percent;
        let err = bench
            .try_file(&raw.bytes[..len], &format!("{percent} %"))
            .unwrap_err();
        // The first tensor that is not there in full.
        assert!(
            err.to_string().contains(&format!("\"blk.{percent}.w\"")),
            "{err}"
        );
    }
    bench.try_file(&raw.bytes, "whole").unwrap();
}

#[test]
fn every_bit_of_the_header_flipped() {
    let mut bench = Bench::new();
    let (mut bytes, header_len) = sample::written();
    for bit in 0..header_len * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        // Many flips are another valid file: a name, a number, a flag.
        let _ = bench.try_file(&bytes, &format!("bit {bit}"));
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(
        bench.cases > 5000 && bench.refused > bench.cases / 4,
        "{}",
        bench.refused
    );
}

#[test]
fn every_field_replaced_by_extremes() {
    let mut bench = Bench::new();
    let sample = sample::by_hand();
    let extremes = [
        0,
        1,
        5,
        13,
        255,
        1 << 10,
        1 << 16,
        1 << 20,
        1 << 31,
        (1 << 32) - 1,
        1 << 32,
        1 << 40,
        1 << 61,
        1 << 62,
        (1 << 63) - 1,
        1 << 63,
        u64::MAX - 31,
        u64::MAX,
    ];
    for field in &sample.fields {
        for value in extremes {
            let mut raw = sample.clone();
            raw.set(field.clone(), value);
            let _ = bench.try_file(&raw.bytes, &format!("{value} at {field:?}"));
        }
    }
    assert!(
        bench.cases > 1000 && bench.refused > bench.cases / 2,
        "{}",
        bench.refused
    );
}

#[test]
fn several_places_damaged_at_once() {
    let mut bench = Bench::new();
    let (bytes, header_len) = sample::written();
    for case in 0..2000u64 {
        let mut damaged = bytes.clone();
        for hit in 0..1 + case % 5 {
            let random = mix64(case * 8 + hit);
            damaged[random as usize % header_len] = (random >> 32) as u8;
        }
        let _ = bench.try_file(&damaged, &format!("case {case}"));
    }
    assert!(bench.refused > 500, "{}", bench.refused);
}

#[test]
fn counts_that_the_bytes_allow_cost_no_more_than_the_bytes() {
    let mut bench = Bench::new();
    let zeros = vec![0; 1 << 20];
    // Keys: a zero-length name, type u8, value 0, over and over.
    let mut raw = Raw::new();
    raw.set(KV_COUNT, 65_536).put(&zeros);
    assert!(bench.try_file(&raw.bytes, "keys").is_err());
    // Tensors: a zero-length name without dimensions.
    let mut raw = Raw::new();
    raw.set(TENSOR_COUNT, (1 << 20) / 33).put(&zeros);
    assert!(bench.try_file(&raw.bytes, "tensors").is_err());
    // Empty strings, and numbers of each size: these are valid.
    for (item_type, item_bytes) in [(8, 8), (0, 1), (3, 2), (7, 1), (6, 4), (12, 8)] {
        let mut raw = Raw::new();
        raw.key("list", 9)
            .array(item_type, (1 << 20) / item_bytes)
            .put(&zeros);
        bench
            .try_file(&raw.bytes, &format!("items of type {item_type}"))
            .unwrap();
    }
    // Arrays of arrays of arrays, as wide as is allowed, all of them empty.
    let mut raw = Raw::new();
    raw.key("list", 9).array(9, 1024);
    for _ in 0..85 {
        raw.array(9, 1024).put(vec![0; 1024 * 12]);
    }
    assert!(bench.try_file(&raw.bytes, "nested").is_err());
    // Many distinct keys and many distinct tensors, which are kept.
    let mut raw = Raw::new();
    for idx in 0..20_000u32 {
        raw.key(format!("{idx:x}"), 0).put([0]);
    }
    bench.try_file(&raw.bytes, "distinct keys").unwrap();
    let mut raw = Raw::new();
    for idx in 0..5_000u64 {
        raw.tensor(&format!("{idx:x}"), &[1], (24, idx * 32));
    }
    raw.pad(32).put(vec![0; 5_000 * 32]);
    bench.try_file(&raw.bytes, "distinct tensors").unwrap();
}
