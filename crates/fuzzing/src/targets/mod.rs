//! The targets by name.

mod files;
mod requests;
mod texts;

/// A property and what its inputs are made of.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, also that of its folder of seeds.
    pub name: &'static str,
    /// Panics when the property does not hold for these bytes.
    pub run: fn(&[u8]),
    /// Inputs that are made rather than kept in files.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// What the format is made of.
    pub words: &'static [&'static [u8]],
    /// Longest input.
    pub len_max: usize,
}

const fn no_seeds() -> Vec<Vec<u8>> {
    Vec::new()
}

/// Every target.
pub const TARGETS: [Target; 8] = [
    Target {
        name: "gguf",
        run: files::gguf,
        seeds: files::gguf_seeds,
        words: &[b"GGUF", b"general.alignment", b"\x08\0\0\0", b"\x09\0\0\0"],
        len_max: 1 << 16,
    },
    Target {
        name: "safetensors",
        run: files::safetensors,
        seeds: no_seeds,
        words: &[
            b"\"dtype\":\"F16\"",
            b"\"shape\":[",
            b"\"data_offsets\":[",
            b"18446744073709551615",
            b"{\"a\":",
            b"}",
            b"\"__metadata__\"",
        ],
        len_max: 1 << 14,
    },
    Target {
        name: "index",
        run: files::index,
        seeds: no_seeds,
        words: &[
            b"\"weight_map\":{",
            b"\"../x.safetensors\"",
            b"\"total_size\":",
            b"\\\\",
            b"/",
        ],
        len_max: 1 << 14,
    },
    Target {
        name: "request",
        run: requests::request,
        seeds: no_seeds,
        words: requests::WORDS,
        len_max: 1 << 14,
    },
    Target {
        name: "sse",
        run: requests::sse,
        seeds: no_seeds,
        words: &[
            b"\n\n",
            b"\r",
            b"data: ",
            b"[DONE]",
            "\u{2028}".as_bytes(),
            "🌳".as_bytes(),
            b"\0",
        ],
        len_max: 1 << 12,
    },
    Target {
        name: "template",
        run: texts::template,
        seeds: no_seeds,
        words: texts::TEMPLATE_WORDS,
        len_max: 1 << 13,
    },
    Target {
        name: "vocab",
        run: texts::vocab,
        seeds: no_seeds,
        words: &[
            b"<0x0A>",
            b"<0x-1>",
            b"\n",
            "\u{2581}".as_bytes(),
            "Ġ".as_bytes(),
            b"<|im_end|>",
        ],
        len_max: 1 << 12,
    },
    Target {
        name: "stop",
        run: texts::stop,
        seeds: no_seeds,
        words: &[b"\n", b"aa", b"ab", "é".as_bytes()],
        len_max: 1 << 12,
    },
];

/// The target of this name.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
