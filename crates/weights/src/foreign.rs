//! Saying what a file is when it is not GGUF: the commonest mistakes deserve their name.

/// What the first bytes of a file look like, for [`crate::WeightsError::NotGguf`].
pub(crate) fn describe(bytes: &[u8]) -> String {
    let start = bytes.get(..512).unwrap_or(bytes);
    let text = start.trim_ascii_start().to_ascii_lowercase();
    let known = [
        (
            text.starts_with(b"<!doctype html") || text.starts_with(b"<html"),
            "this is an HTML page (a login or error page saved by a download?)",
        ),
        (text.starts_with(b"<?xml"), "this is an XML document"),
        (
            text.starts_with(b"version https://git-lfs"),
            "this is a git-lfs pointer; fetch the file itself with `git lfs pull`",
        ),
        (
            is_safetensors(bytes),
            "this is a safetensors file; convert the model to GGUF",
        ),
        (text.starts_with(b"{"), "this is a JSON document"),
        (
            start.starts_with(b"PK\x03\x04"),
            "this is a zip archive (a PyTorch checkpoint?); convert the model to GGUF",
        ),
        (
            start.starts_with(b"\x80") && matches!(start.get(1), Some(2..=5)),
            "this is a Python pickle; convert the model to GGUF",
        ),
        (start.starts_with(b"\x1f\x8b"), "this is a gzip archive"),
        (
            [b"lmgg", b"fmgg", b"tjgg", b"algg"]
                .iter()
                .any(|magic| start.starts_with(*magic)),
            "this is a ggml file from before GGUF; convert the model again",
        ),
        (
            start.iter().all(|&byte| byte == 0),
            "it begins with zeros only (an unfinished download?)",
        ),
    ];
    if let Some((_, found)) = known.iter().find(|(matches, _)| *matches) {
        return (*found).to_owned();
    }
    let magic: Vec<String> = start
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("it begins with the bytes {}", magic.join(" "))
}

/// A safetensors file is the length of a JSON object, 8 bytes little-endian, and that object.
fn is_safetensors(bytes: &[u8]) -> bool {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return false;
    };
    let length = u64::from_le_bytes(*length);
    rest.first() == Some(&b'{') && (2..1 << 32).contains(&length)
}

#[cfg(test)]
mod tests {
    use super::describe;

    #[test]
    fn common_mistakes_have_a_name() {
        let cases: [(&[u8], &str); 11] = [
            (b"<!DOCTYPE html><title>Sign in", "HTML page"),
            (b"\n  <html lang=en>", "HTML page"),
            (b"<?xml version='1.0'?><Error>", "XML"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:",
                "git-lfs pointer",
            ),
            (b"\x40\0\0\0\0\0\0\0{\"__metadata__\":{}}", "safetensors"),
            (b"{\"error\":\"gated\"}", "JSON"),
            (b"PK\x03\x04\0\0archive/data.pkl", "PyTorch"),
            (b"\x80\x02}q\0", "pickle"),
            (b"tjgg\x03\0\0\0", "before GGUF"),
            (b"\0\0\0\0\0\0\0\0\0", "zeros"),
            (b"\xde\xad\xbe\xef\x01", "de ad be ef"),
        ];
        for (bytes, expected) in cases {
            let found = describe(bytes);
            assert!(found.contains(expected), "{bytes:?}: {found}");
        }
    }
}
