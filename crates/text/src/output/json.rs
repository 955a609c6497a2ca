//! Where a JSON value ends, told byte by byte.

/// Values inside each other; the call formats need four or five, and tools' arguments a few more.
const DEPTH_MAX: usize = 128;

/// What a byte means for the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JsonStep {
    /// It belongs to the value, and more must come.
    More,
    /// It is the value's last.
    Done,
    /// This is not JSON.
    Broken,
}

/// Reads one object or list. Exactly JSON's grammar, but for the pairing of `\u` surrogates, which
/// is left to whoever reads the value.
#[derive(Debug)]
pub(super) struct JsonScanner {
    state: State,
    open: Vec<Open>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Object,
    List,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A value must come.
    Value,
    /// A value, or the end of a list without any.
    FirstItem,
    /// A key, or the end of an object without any.
    FirstKey,
    /// A key must come.
    Key,
    Colon,
    /// A comma, or the end of what is open.
    After,
    Text(Text),
    /// What is left of `true`, `false` or `null`.
    Word(&'static [u8]),
    Number(Number),
}

/// Where in a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Text {
    is_key: bool,
    at: TextAt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TextAt {
    Plain,
    /// Behind a backslash.
    Escape,
    /// So many hexadecimal digits must come.
    Hex(u8),
}

/// Where in a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Sign,
    Zero,
    Digits,
    Point,
    Fraction,
    E,
    ESign,
    Exponent,
}

impl JsonScanner {
    /// Expects `{` or `[` first.
    pub fn new() -> Self {
        Self {
            state: State::Value,
            open: Vec::new(),
        }
    }

    /// Takes the next byte. Nothing must be pushed after [`JsonStep::Done`] or `Broken`.
    pub fn push(&mut self, byte: u8) -> JsonStep {
        let next = match self.state {
            State::Text(text) => text.next(byte),
            State::Word(rest) => match rest.split_first() {
                Some((&first, rest)) if first == byte => Some(match rest {
                    [] => State::After,
                    _ => State::Word(rest),
                }),
                _ => None,
            },
            State::Number(number) => match number.next(byte) {
                Some(next) => Some(State::Number(next)),
                // The byte is the first behind the number.
                None if number.can_end() => return self.structure(State::After, byte),
                None => None,
            },
            state => return self.structure(state, byte),
        };
        match next {
            Some(state) => self.go(state),
            None => JsonStep::Broken,
        }
    }

    fn go(&mut self, state: State) -> JsonStep {
        self.state = state;
        JsonStep::More
    }

    /// A byte outside of strings, words and numbers.
    fn structure(&mut self, state: State, byte: u8) -> JsonStep {
        match (state, byte) {
            (_, b' ' | b'\n' | b'\r' | b'\t') => self.go(state),
            (State::FirstItem, b']') | (State::FirstKey, b'}') => self.close(byte),
            (State::After, b']' | b'}') => self.close(byte),
            (State::After, b',') => self.go(match self.open.last() {
                Some(Open::Object) => State::Key,
                _ => State::Value,
            }),
            (State::Colon, b':') => self.go(State::Value),
            (State::FirstKey | State::Key, b'"') => self.go(State::Text(Text {
                is_key: true,
                at: TextAt::Plain,
            })),
            (State::Value | State::FirstItem, _) => self.value(byte),
            _ => JsonStep::Broken,
        }
    }

    /// The first byte of a value.
    fn value(&mut self, byte: u8) -> JsonStep {
        let is_inner = !self.open.is_empty();
        let state = match byte {
            b'{' | b'[' if self.open.len() == DEPTH_MAX => return JsonStep::Broken,
            b'{' => {
                self.open.push(Open::Object);
                State::FirstKey
            }
            b'[' => {
                self.open.push(Open::List);
                State::FirstItem
            }
            _ if !is_inner => return JsonStep::Broken,
            b'"' => State::Text(Text {
                is_key: false,
                at: TextAt::Plain,
            }),
            b't' => State::Word(b"rue"),
            b'f' => State::Word(b"alse"),
            b'n' => State::Word(b"ull"),
            b'-' => State::Number(Number::Sign),
            b'0' => State::Number(Number::Zero),
            b'1'..=b'9' => State::Number(Number::Digits),
            _ => return JsonStep::Broken,
        };
        self.go(state)
    }

    fn close(&mut self, byte: u8) -> JsonStep {
        let expected = match self.open.pop() {
            Some(Open::Object) => b'}',
            Some(Open::List) => b']',
            None => return JsonStep::Broken,
        };
        match (byte == expected, self.open.is_empty()) {
            (false, _) => JsonStep::Broken,
            (true, true) => JsonStep::Done,
            (true, false) => self.go(State::After),
        }
    }
}

impl Text {
    fn next(self, byte: u8) -> Option<State> {
        let at = match (self.at, byte) {
            (TextAt::Plain, b'"') if self.is_key => return Some(State::Colon),
            (TextAt::Plain, b'"') => return Some(State::After),
            (TextAt::Plain, b'\\') => TextAt::Escape,
            (TextAt::Plain, 0x20..) => TextAt::Plain,
            (TextAt::Escape, b'u') => TextAt::Hex(4),
            (TextAt::Escape, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                TextAt::Plain
            }
            (TextAt::Hex(1), digit) if digit.is_ascii_hexdigit() => TextAt::Plain,
            (TextAt::Hex(left), digit) if digit.is_ascii_hexdigit() => TextAt::Hex(left - 1),
            _ => return None,
        };
        Some(State::Text(Self { at, ..self }))
    }
}

impl Number {
    /// Where the number is after `byte`; `None` if the byte is no part of it.
    fn next(self, byte: u8) -> Option<Self> {
        Some(match (self, byte) {
            (Self::Sign, b'0') => Self::Zero,
            (Self::Sign, b'1'..=b'9') | (Self::Digits, b'0'..=b'9') => Self::Digits,
            (Self::Zero | Self::Digits, b'.') => Self::Point,
            (Self::Point | Self::Fraction, b'0'..=b'9') => Self::Fraction,
            (Self::Zero | Self::Digits | Self::Fraction, b'e' | b'E') => Self::E,
            (Self::E, b'+' | b'-') => Self::ESign,
            (Self::E | Self::ESign | Self::Exponent, b'0'..=b'9') => Self::Exponent,
            _ => return None,
        })
    }

    fn can_end(self) -> bool {
        matches!(
            self,
            Self::Zero | Self::Digits | Self::Fraction | Self::Exponent
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes up to the end of the value; `None` if it breaks or does not end.
    fn end(text: &str) -> Option<usize> {
        let mut scanner = JsonScanner::new();
        for (index, byte) in text.bytes().enumerate() {
            match scanner.push(byte) {
                JsonStep::More => {}
                JsonStep::Done => return Some(index + 1),
                JsonStep::Broken => return None,
            }
        }
        None
    }

    #[test]
    fn a_value_ends_where_serde_says() {
        for text in [
            "{}",
            "[]",
            "[ ]",
            "{ \"a\" : [1, -0, 0.5, 1e9, -12.25E-3, true, false, null, \"\"] , \"b\": {} }",
            r#"{"\"\\\/\b\f\n\r\té😀": "}]{["}"#,
            "[[[[{\"a\":[]}]]],\t\r\n0]",
        ] {
            assert_eq!(end(&format!("{text} tail")), Some(text.len()), "{text}");
            serde_json::from_str::<serde_json::Value>(text).unwrap();
        }
    }

    #[test]
    fn what_serde_refuses_is_broken_or_endless() {
        for text in [
            "1",
            "\"a\"",
            "null",
            "}",
            "{,}",
            "{a:1}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "[1,]",
            "[01]",
            "[-]",
            "[1.]",
            "[.5]",
            "[1e]",
            "[+1]",
            "[tru]",
            "[nulll]",
            "[}",
            "{]",
            "[\"a\nb\"]",
            r#"["\x"]"#,
            r#"["\u12g4"]"#,
            "[\"a\"b]",
            "[1 2]",
            "{\"a\":1 \"b\":2}",
            "[1",
            "{\"a\": \"b",
            "",
        ] {
            assert_eq!(end(text), None, "{text}");
            let read = serde_json::from_str::<serde_json::Value>(text);
            assert!(read.is_err() || !read.unwrap().is_object(), "{text}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(end(&nested(DEPTH_MAX)), Some(2 * DEPTH_MAX));
        assert_eq!(end(&nested(DEPTH_MAX + 1)), None);
    }
}
