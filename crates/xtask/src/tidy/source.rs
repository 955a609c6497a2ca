//! Rust source as the checks see it: code without comments and literals, comments without code.

use std::ops::Range;

/// One file, split into layers of equal length: what does not belong to a layer is spaces there,
/// so that offsets and lines are those of the file.
#[derive(Debug)]
pub struct Source {
    /// Code with comments and the contents of literals blanked.
    pub code: String,
    /// Comments with everything else blanked.
    pub comments: String,
    line_starts: Vec<usize>,
    test_spans: Vec<Range<usize>>,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub struct Function<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where its `fn` is.
    pub offset: usize,
    /// The line of that, from 1.
    pub line: usize,
    /// Lines from there to its closing brace, both included.
    pub line_count: usize,
}

impl Source {
    /// Splits a file.
    pub fn new(text: &str) -> Self {
        let (code, comments) = layers(text);
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let line_starts = std::iter::once(0)
            .chain(newlines.map(|(at, _)| at + 1))
            .collect();
        let test_spans = test_spans(&code);
        Self {
            code,
            comments,
            line_starts,
            test_spans,
        }
    }

    /// The line of an offset, from 1.
    pub fn line(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset)
    }

    /// Whether an offset is in an item that only tests compile.
    pub fn is_test(&self, offset: usize) -> bool {
        self.test_spans.iter().any(|span| span.contains(&offset))
    }

    /// Lines that tests alone compile.
    pub fn test_line_count(&self) -> usize {
        let lines = |span: &Range<usize>| self.line(span.end) - self.line(span.start) + 1;
        self.test_spans.iter().map(lines).sum()
    }

    /// Every identifier and keyword with its offset.
    pub fn words(&self) -> impl Iterator<Item = (usize, &str)> {
        words(&self.code)
    }

    /// Offsets at which `path` stands in the code as a whole: `std::env` is found in
    /// `std::env::var`, not in `std::environment`.
    pub fn find_path(&self, path: &str) -> impl Iterator<Item = usize> {
        let is_word = |byte: Option<&u8>| byte.is_some_and(|byte| is_word_byte(*byte));
        let bytes = self.code.as_bytes();
        self.code
            .match_indices(path)
            .map(|(at, _)| at)
            .filter(move |at| {
                let before = at.checked_sub(1).and_then(|at| bytes.get(at));
                !is_word(before) && !is_word(bytes.get(at + path.len()))
            })
    }

    /// The words of what opens the block an offset is in: `impl A for B`. Empty outside of blocks.
    pub fn block_header(&self, offset: usize) -> Vec<&str> {
        let before = &self.code[..offset];
        let mut depth = 0usize;
        let open = before.bytes().enumerate().rev().find(|(_, byte)| {
            match byte {
                b'}' => depth += 1,
                b'{' if depth > 0 => depth -= 1,
                b'{' => return true,
                _ => {}
            }
            false
        });
        let Some((open, _)) = open else {
            return Vec::new();
        };
        let start = before[..open].rfind([';', '{', '}']).map_or(0, |at| at + 1);
        words(&self.code[start..open])
            .map(|(_, word)| word)
            .collect()
    }

    /// Every function with a body.
    pub fn functions(&self) -> Vec<Function<'_>> {
        let mut functions = Vec::new();
        let mut words = self.words().peekable();
        while let Some((at, word)) = words.next() {
            if word != "fn" {
                continue;
            }
            // A type `fn(..)` has no name; the next word is then not right behind.
            let Some((name_at, name)) = words.peek().copied() else {
                break;
            };
            if !self.code[at + 2..name_at].trim().is_empty() {
                continue;
            }
            if let Some(end) = body_end(&self.code, name_at) {
                let line = self.line(at);
                let line_count = self.line(end) - line + 1;
                functions.push(Function {
                    name,
                    offset: at,
                    line,
                    line_count,
                });
            }
        }
        functions
    }
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let bytes = code.as_bytes();
        let start = at + bytes[at..].iter().position(|byte| is_word_byte(*byte))?;
        let len = bytes[start..]
            .iter()
            .take_while(|byte| is_word_byte(**byte))
            .count();
        at = start + len;
        Some((start, &code[start..at]))
    })
}

/// What a stretch of a file is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layer {
    Code,
    Comment,
    Literal,
}

fn layers(text: &str) -> (String, String) {
    let mut code = blank(text);
    let mut comments = code.clone();
    let mut at = 0;
    while at < text.len() {
        let (layer, len) = next_stretch(&text[at..]);
        let target = match layer {
            Layer::Code => Some(&mut code),
            Layer::Comment => Some(&mut comments),
            Layer::Literal => None,
        };
        if let Some(target) = target {
            target[at..at + len].copy_from_slice(&text.as_bytes()[at..at + len]);
        }
        at += len;
    }
    let utf8 = |bytes| String::from_utf8(bytes).expect("stretches are whole characters");
    (utf8(code), utf8(comments))
}

/// Spaces, with the newlines of `text`.
fn blank(text: &str) -> Vec<u8> {
    text.bytes()
        .map(|byte| if byte == b'\n' { b'\n' } else { b' ' })
        .collect()
}

/// The first stretch of a text that is not empty.
fn next_stretch(text: &str) -> (Layer, usize) {
    let first = text.chars().next().map_or(1, char::len_utf8);
    if text.starts_with("//") {
        (Layer::Comment, text.find('\n').unwrap_or(text.len()))
    } else if text.starts_with("/*") {
        (Layer::Comment, block_comment_len(text))
    } else if text.starts_with('"') {
        (Layer::Literal, quoted_len(text, b'"'))
    } else if text.starts_with('\'') {
        char_literal_len(text).map_or((Layer::Code, 1), |len| (Layer::Literal, len))
    } else if is_word_byte(text.as_bytes()[0]) {
        let word = text.bytes().take_while(|byte| is_word_byte(*byte)).count();
        match raw_string_len(text, word) {
            Some(len) => (Layer::Literal, len),
            None => (Layer::Code, word),
        }
    } else {
        (Layer::Code, first)
    }
}

fn block_comment_len(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// Length of a literal that ends with `quote` and may contain it behind a backslash.
fn quoted_len(text: &str, quote: u8) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

/// `None` when the quote begins a lifetime or a label.
fn char_literal_len(text: &str) -> Option<usize> {
    let inside = text[1..].chars().next()?;
    if inside == '\\' {
        return Some(quoted_len(text, b'\''));
    }
    let end = 1 + inside.len_utf8();
    text[end..].starts_with('\'').then_some(end + 1)
}

/// Length of the raw string a text begins with, if its first word is a raw string's prefix.
fn raw_string_len(text: &str, word: usize) -> Option<usize> {
    if !matches!(&text[..word], "r" | "br" | "cr") {
        return None;
    }
    let hashes = text[word..]
        .bytes()
        .take_while(|byte| *byte == b'#')
        .count();
    let inside = text[word + hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let len = inside.find(&end).map_or(inside.len(), |at| at + end.len());
    Some(word + hashes + 1 + len)
}

/// Offset of the brace that closes the body of the function whose name is at `from`; `None` when it
/// has none.
fn body_end(code: &str, from: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (offset, byte) in code.bytes().enumerate().skip(from) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            b';' if depth == 0 => return None,
            b'{' if depth == 0 => return Some(closing_brace(code, offset)),
            _ => {}
        }
    }
    None
}

/// Offset of the brace that closes the one at `open`, or of the last byte.
fn closing_brace(code: &str, open: usize) -> usize {
    let mut depth = 0usize;
    for (offset, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return offset,
            b'}' => depth -= 1,
            _ => {}
        }
    }
    code.len().saturating_sub(1)
}

/// Items behind a `#[cfg(..)]` that names `test`.
fn test_spans(code: &str) -> Vec<Range<usize>> {
    let mut spans: Vec<Range<usize>> = Vec::new();
    for (start, _) in code.match_indices("#[cfg(") {
        let Some(len) = code[start..].find(']') else {
            break;
        };
        let attribute = &code[start..start + len];
        let names_test = words(attribute).any(|(_, word)| word == "test");
        let is_inside = spans.last().is_some_and(|span| span.contains(&start));
        if names_test && !attribute.contains("not(") && !is_inside {
            spans.push(start..item_end(code, start + len + 1));
        }
    }
    spans
}

/// One past the end of the item or statement that begins at `from`: its closing brace, its
/// semicolon, or, for a field or a parameter, its comma.
fn item_end(code: &str, from: usize) -> usize {
    let mut depth = 0usize;
    for (offset, byte) in code.bytes().enumerate().skip(from) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            b'{' if depth == 0 => return closing_brace(code, offset) + 1,
            b'}' | b';' | b',' if depth == 0 => return offset,
            _ => {}
        }
    }
    code.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_comments_are_not_code() {
        let text = concat!(
            "let a = \"fn x() { // no\"; // fn y() {}\n",
            "let b = r#\"unsafe \"quoted\" \"#; /* unsafe /* nested */ still */ let c = 'x';\n",
            "let d: &'static str = \"\\\"unsafe\"; let e = '\\''; let f = b'\"';\n",
        );
        let source = Source::new(text);
        assert_eq!(source.code.len(), text.len());
        assert!(!source.code.contains("unsafe") && !source.code.contains("fn"));
        assert!(source.code.contains("&'static str") && source.code.contains("let f"));
        assert!(source.comments.contains("fn y() {}") && source.comments.contains("still"));
        assert!(!source.comments.contains("let"));
    }

    #[test]
    fn functions_are_measured_from_their_keyword_to_their_brace() {
        let text = "type F = fn(u8);\ntrait T {\n    fn none(&self, x: [u8; 4]);\n}\n\
                    pub fn some(x: [u8; 4])\nwhere\n    u8: Copy,\n{\n    let s = \"}\";\n}\n";
        let source = Source::new(text);
        let offset = text.rfind("fn").expect("in the text");
        let expected = Function {
            name: "some",
            offset,
            line: 5,
            line_count: 6,
        };
        assert_eq!(source.functions(), [expected]);
    }

    #[test]
    fn items_of_tests_are_known_as_such() {
        let text = "struct S {\n    #[cfg(any(test, feature = \"sim\"))]\n    planted: u8,\n    a: u8,\n}\n\
                    #[cfg(not(test))]\nfn product() {}\n#[cfg(test)]\nmod tests {\n    fn inner() {}\n}\n";
        let source = Source::new(text);
        let is_test = |word: &str| source.is_test(text.find(word).expect("in the text"));
        assert!(is_test("planted") && is_test("inner"));
        assert!(!is_test("a: u8") && !is_test("product"));
        assert_eq!(source.test_line_count(), 2 + 4);
    }

    #[test]
    fn blocks_are_known_by_what_opens_them() {
        let source =
            Source::new("struct S;\nimpl A for S {\n    fn f() {}\n    fn g() {}\n}\nfn h() {}\n");
        let header = |word: &str| source.block_header(source.code.find(word).expect("in the text"));
        assert_eq!(header("g()"), ["impl", "A", "for", "S"]);
        assert!(header("h()").is_empty());
    }

    #[test]
    fn paths_are_found_whole() {
        let source =
            Source::new("use std::env; use std::environment; x::std::env::var(\"std::env\")");
        assert_eq!(source.find_path("std::env").count(), 2);
    }
}
