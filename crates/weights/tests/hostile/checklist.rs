//! One test for each way a file has broken a model loader.

use std::fs;
use std::path::Path;

use kvist_weights::WeightsError as E;
use kvist_weights::{GgufFile, limits};

use crate::raw::{KV_COUNT, Raw, TENSOR_COUNT};
use crate::sample;
use crate::temporary::TempDir;

fn refusal(bytes: &[u8]) -> E {
    let dir = TempDir::new();
    GgufFile::open(&dir.file("hostile.gguf", bytes)).expect_err("the file should be refused")
}

/// Checks the variant of the error and that its message holds all of the given texts.
macro_rules! assert_refused {
    ($raw:expr, $variant:pat, $($text:expr),+) => {{
        let err = refusal(&$raw.bytes);
        assert!(matches!(err, $variant), "{err:?}");
        let message = err.to_string();
        assert!(message.contains("hostile.gguf"), "{message}");
        $(assert!(message.contains($text), "{message}: no {:?}", $text);)+
    }};
}

fn one_tensor(dims: &[u64], ggml_type: u32) -> Raw {
    let mut raw = Raw::new();
    raw.tensor("weird", dims, (ggml_type, 0))
        .pad(32)
        .put([0; 256]);
    raw
}

#[test]
fn other_files_are_named() {
    let cases: [(&[u8], &str); 6] = [
        (b"", "empty"),
        (b"<!DOCTYPE html><title>Log in</title>", "HTML page"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "git-lfs pointer",
        ),
        (b"\x10\0\0\0\0\0\0\0{\"a\":{}}", "safetensors"),
        (b"PK\x03\x04", "zip archive"),
        (b"GGML", "47 47 4d 4c"),
    ];
    for (bytes, expected) in cases {
        let err = refusal(bytes);
        assert!(matches!(err, E::NotGguf { .. }), "{err:?}");
        assert!(err.to_string().contains(expected), "{err}");
    }
    assert!(matches!(refusal(b"GGUF"), E::Truncated { .. }));
}

#[test]
fn other_versions_and_byte_orders_are_named() {
    for version in [0, 1, 4, 99, u64::from(u32::MAX)] {
        let mut raw = sample::by_hand();
        raw.set(4..8, version);
        assert_refused!(
            raw,
            E::UnsupportedVersion { .. },
            &version.to_string(),
            "2 and 3"
        );
    }
    let mut raw = sample::by_hand();
    raw.bytes[4..8].copy_from_slice(&3u32.to_be_bytes());
    assert_refused!(raw, E::BigEndian { .. }, "big-endian");
    raw.bytes[..4].copy_from_slice(b"FUGG");
    assert_refused!(raw, E::BigEndian { .. }, "big-endian");
}

#[test]
fn tensors_outside_the_file_are_named_with_what_is_missing() {
    let mut raw = Raw::new();
    raw.tensor("far", &[64], (0, 96)).pad(32).put([0; 256]);
    assert_refused!(
        raw,
        E::OffsetOutOfFile { .. },
        "\"far\"",
        "96 bytes are missing"
    );
    for offset in [1 << 51, 1 << 63, u64::MAX - 31] {
        let mut raw = Raw::new();
        raw.tensor("far", &[64], (0, offset)).pad(32);
        assert_refused!(
            raw,
            E::TooLong {
                limit: limits::FILE_BYTES_MAX,
                ..
            },
            "\"far\""
        );
    }
}

#[test]
fn misplaced_tensors_are_named() {
    let mut raw = Raw::new();
    raw.tensor("odd", &[8], (0, 4)).pad(32).put([0; 256]);
    assert_refused!(
        raw,
        E::Misaligned {
            alignment: 32,
            offset: 4,
            ..
        },
        "\"odd\""
    );

    let mut raw = Raw::new();
    raw.tensor("second", &[8], (0, 32))
        .tensor("first", &[9], (0, 0))
        .pad(32)
        .put([0; 256]);
    assert_refused!(raw, E::Overlap { .. }, "\"first\"", "\"second\"");

    let mut raw = Raw::new();
    raw.tensor("same", &[8], (0, 0))
        .tensor("same", &[8], (0, 32))
        .pad(32)
        .put([0; 256]);
    assert_refused!(raw, E::Duplicate { .. }, "tensor \"same\" occurs twice");

    let mut raw = Raw::new();
    raw.key("same", 0)
        .put([0])
        .key("other", 0)
        .put([1])
        .key("same", 0)
        .put([2]);
    assert_refused!(raw, E::Duplicate { .. }, "key \"same\" occurs twice");
}

#[test]
fn a_model_replaced_by_renaming_stays_as_it_was() {
    let dir = TempDir::new();
    let path = dir.file("model.gguf", sample::written().0);
    let file = GgufFile::open(&path).unwrap();
    fs::rename(dir.file("new.gguf", b"something else"), &path).unwrap();
    let tensor = file.tensor("norm.weight").unwrap();
    assert_eq!(
        file.data(tensor).unwrap().as_ref(),
        sample::data("norm.weight", 128)
    );
    file.check_unchanged().unwrap();
}

#[test]
fn a_model_changed_in_place_is_noticed() {
    let dir = TempDir::new();
    let path = dir.file("model.gguf", sample::written().0);
    let file = GgufFile::open(&path).unwrap();
    file.check_unchanged().unwrap();
    fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .and_then(|file| file.set_len(40))
        .unwrap();
    let err = file.check_unchanged().unwrap_err();
    assert!(matches!(err, E::Changed { .. }), "{err:?}");
}

#[cfg(unix)]
#[test]
fn only_regular_files_are_opened() {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    let dir = TempDir::new();
    let refused = |path: &Path, expected: &str| {
        let err = GgufFile::open(path).unwrap_err();
        assert!(matches!(err, E::NotRegularFile { .. }), "{err:?}");
        assert!(err.to_string().ends_with(expected), "{err}");
    };
    refused(dir.dir(), "directory");
    refused("/dev/zero".as_ref(), "device");
    refused("/dev/random".as_ref(), "device");
    let _listener = UnixListener::bind(dir.path("socket")).unwrap();
    refused(&dir.path("socket"), "socket");
    // Opening a pipe for reading would wait for ever.
    let pipe = dir.path("pipe");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    refused(&pipe, "named pipe");

    symlink(dir.path("loop"), dir.path("loop")).unwrap();
    for name in ["loop", "absent"] {
        let err = GgufFile::open(&dir.path(name)).unwrap_err();
        assert!(
            matches!(err, E::Io { .. }) && err.to_string().contains(name),
            "{err:?}"
        );
    }
    let target = dir.file("target.gguf", sample::written().0);
    symlink(target, dir.path("link.gguf")).unwrap();
    assert!(GgufFile::open(&dir.path("link.gguf")).is_ok());
}

#[test]
fn counts_beyond_reason_are_refused() {
    for count in [1 << 63, u64::MAX, 1 << 32, limits::TENSORS_MAX + 1] {
        let mut raw = sample::by_hand();
        raw.set(TENSOR_COUNT, count);
        assert_refused!(
            raw,
            E::TooMany { .. },
            "tensors",
            "262144",
            &count.to_string()
        );
        let mut raw = sample::by_hand();
        raw.set(KV_COUNT, count);
        assert_refused!(
            raw,
            E::TooMany { .. },
            "metadata keys",
            "65536",
            &count.to_string()
        );
    }
    let mut raw = sample::by_hand();
    raw.set(TENSOR_COUNT, limits::TENSORS_MAX);
    assert_refused!(raw, E::Truncated { .. }, "number of tensors");
    raw.set(TENSOR_COUNT, 3).set(KV_COUNT, limits::KVS_MAX);
    assert_refused!(raw, E::Truncated { .. }, "number of metadata keys");
}

#[test]
fn lengths_beyond_the_file_are_refused() {
    for length in [1 << 63, u64::MAX, limits::STRING_BYTES_MAX + 1] {
        let mut raw = Raw::new();
        raw.key("text", 8).u64(length).put("abc");
        assert_refused!(raw, E::TooLong { .. }, "\"text\"", &length.to_string());
    }
    let mut raw = Raw::new();
    raw.key("text", 8).u64(4).put("abc");
    assert_refused!(
        raw,
        E::Truncated {
            needed: 4,
            left: 3,
            ..
        },
        "\"text\""
    );
    for item_type in [0, 5, 8, 12] {
        for count in [1 << 61, u64::MAX, 1 << 32] {
            let mut raw = Raw::new();
            raw.key("list", 9).array(item_type, count).put([0; 64]);
            assert_refused!(raw, E::Truncated { left: 64, .. }, "\"list\"");
        }
    }
    let mut raw = Raw::new();
    raw.key([b'k'; 1025], 0).put([0]);
    assert_refused!(
        raw,
        E::TooLong {
            limit: 1024,
            given: 1025,
            ..
        },
        "name of key 0"
    );
    let mut raw = Raw::new();
    raw.tensor(&"t".repeat(1025), &[1], (0, 0))
        .pad(32)
        .put([0; 4]);
    assert_refused!(
        raw,
        E::TooLong {
            limit: 1024,
            given: 1025,
            ..
        },
        "name of tensor 0"
    );
}

#[test]
fn arrays_nest_only_so_deep() {
    let nested = |depth: usize| {
        let mut raw = Raw::new();
        raw.key("deep", 9);
        for _ in 1..depth {
            raw.array(9, 1);
        }
        raw.array(0, 1).put([7]);
        raw
    };
    let dir = TempDir::new();
    assert!(GgufFile::open(&dir.file("four.gguf", nested(4).bytes)).is_ok());
    for depth in [5, 10_000] {
        assert_refused!(
            nested(depth),
            E::TooMany {
                limit: 4,
                given: 5,
                ..
            },
            "\"deep\""
        );
    }
    let mut raw = Raw::new();
    raw.key("wide", 9).array(9, 1025).put(vec![0; 1025 * 12]);
    assert_refused!(
        raw,
        E::TooMany {
            limit: 1024,
            given: 1025,
            ..
        },
        "\"wide\""
    );
}

#[test]
fn values_outside_the_format_are_refused() {
    for type_id in [13, 255, u32::MAX] {
        let mut raw = Raw::new();
        raw.key("odd", type_id).put([0; 64]);
        assert_refused!(
            raw,
            E::UnknownValueType { .. },
            "\"odd\"",
            &type_id.to_string()
        );
        let mut raw = Raw::new();
        raw.key("odd", 9).array(type_id, 1).put([0; 64]);
        assert_refused!(
            raw,
            E::UnknownValueType { .. },
            "\"odd\"",
            &type_id.to_string()
        );
    }
    let mut raw = Raw::new();
    raw.key("flag", 7).put([2]);
    assert_refused!(raw, E::BadBool { given: 2, .. }, "\"flag\"");
    let mut raw = Raw::new();
    raw.key("flags", 9).array(7, 3).put([0, 1, 255]);
    assert_refused!(raw, E::BadBool { given: 255, .. }, "\"flags\"");
}

#[test]
fn text_is_utf8() {
    let mut raw = Raw::new();
    raw.key(b"ab\xFF", 0).put([0]);
    assert_refused!(raw, E::NotUtf8 { at: 2, .. }, "name of key 0");
    let mut raw = Raw::new();
    raw.key("text", 8).string(b"\xC3");
    assert_refused!(raw, E::NotUtf8 { at: 0, .. }, "\"text\"");
    // Each half of a split character is invalid, though the two together are not.
    let mut raw = Raw::new();
    raw.key("words", 9)
        .array(8, 2)
        .string(b"\xC3")
        .string(b"\xA4");
    assert_refused!(raw, E::NotUtf8 { at: 0, .. }, "string 0 of key");
}

#[test]
fn impossible_shapes_are_refused() {
    let cases: [(&[u64], &str); 7] = [
        (&[], "at least one"),
        (&[0], "zero"),
        (&[32, 0, 4], "zero"),
        (&[1 << 32, 1 << 32], "overflows"),
        (&[u64::MAX, 2], "overflows"),
        (&[1 << 62], "overflows"),
        (&[1 << 31, 1 << 31, 1 << 31, 1 << 31], "overflows"),
    ];
    for (dims, expected) in cases {
        assert_refused!(
            one_tensor(dims, 0),
            E::BadDims { .. },
            "\"weird\"",
            expected
        );
    }
    for count in [5, u64::from(u32::MAX)] {
        let mut raw = one_tensor(&[1, 1, 1, 1], 0);
        // After the counts and the name's length and text.
        raw.set(24 + 8 + 5..24 + 8 + 5 + 4, count);
        assert_refused!(
            raw,
            E::TooMany { limit: 4, .. },
            "\"weird\"",
            &count.to_string()
        );
    }
}

#[test]
fn impossible_types_are_refused() {
    for removed in [4, 5, 31, 33, 36, 38] {
        let raw = one_tensor(&[32], removed);
        assert_refused!(raw, E::UnknownType { .. }, "\"weird\"", "no longer part");
    }
    for unknown in [43, 1000, u32::MAX] {
        let raw = one_tensor(&[32], unknown);
        assert_refused!(raw, E::UnknownType { .. }, "\"weird\"", "unknown");
    }
    assert_refused!(
        one_tensor(&[48], 2),
        E::PartialBlock { .. },
        "48",
        "Q4_0 blocks of 32"
    );
    // 256 weights in all, but not in any row.
    assert_refused!(
        one_tensor(&[128, 2], 12),
        E::PartialBlock { .. },
        "128",
        "Q4_K"
    );
}

#[test]
fn impossible_alignments_are_refused() {
    for given in [0u32, 3, 48, limits::ALIGNMENT_MAX * 2, u32::MAX] {
        let mut raw = Raw::new();
        raw.key("general.alignment", 4).put(given.to_le_bytes());
        assert_refused!(raw, E::BadAlignment { .. }, &format!("is {given};"));
    }
    let mut raw = Raw::new();
    raw.key("general.alignment", 10)
        .put((1u64 << 40).to_le_bytes());
    assert_refused!(
        raw,
        E::OutOfRange { .. },
        "general.alignment",
        "1099511627776"
    );
    let mut raw = Raw::new();
    raw.key("general.alignment", 8).string("32");
    assert_refused!(
        raw,
        E::WrongType { .. },
        "general.alignment",
        "string found"
    );
}
