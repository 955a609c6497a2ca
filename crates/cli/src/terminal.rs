//! What reaches a terminal: colour when it helps, and no control characters from files or models.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use crate::environment::Environment;

/// `text` without the control characters a terminal would obey; line ends and tabs stay.
///
/// Names in model files and words of models come from strangers, and an escape sequence could
/// rewrite the screen or worse.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    let obeyed = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if text.contains(obeyed) {
        Cow::Owned(text.replace(obeyed, "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// Writes to standard error. Nobody is left to tell when that is closed.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{}", printable(text));
}

/// Writes results to standard output.
///
/// # Errors
/// When it is closed or full.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(printable(text).as_bytes())?;
    out.flush()
}

/// `word` in bold red where that is wanted and seen.
pub(crate) fn alarm(word: &str, environment: &Environment) -> String {
    if environment.no_color || !io::stderr().is_terminal() {
        return word.to_owned();
    }
    format!("\x1b[1;31m{word}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_lose_their_power_and_text_is_left_alone() {
        assert_eq!(printable("a\tb\nc é 模 👩‍👧"), "a\tb\nc é 模 👩‍👧");
        assert_eq!(
            printable("\x1b[2Jx\r\x07\u{9b}1m"),
            "\u{fffd}[2Jx\u{fffd}\u{fffd}\u{fffd}1m"
        );
        assert!(matches!(printable("plain"), Cow::Borrowed(_)));
    }
}
