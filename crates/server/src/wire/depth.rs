//! How deep JSON may be nested.

/// Objects and lists inside each other in a body. Nothing that is asked for needs half as many, and
/// code that walks values may recurse.
pub(crate) const DEPTH_MAX: usize = 64;

/// Where nesting went beyond the bound; both count from 1.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooDeep {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// Looks at brackets outside strings, and at nothing else: whether the rest is JSON is for the parser
/// to say.
pub(crate) fn check_depth(body: &[u8]) -> Result<(), TooDeep> {
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut bytes = body.iter().enumerate();
    while let Some((index, byte)) = bytes.next() {
        match byte {
            b'"' => in_string = !in_string,
            // Whatever is escaped, a quote above all, ends nothing.
            b'\\' if in_string => drop(bytes.next()),
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return Err(place(&body[..index]));
        }
    }
    Ok(())
}

fn place(before: &[u8]) -> TooDeep {
    let line_start = before.iter().rposition(|byte| *byte == b'\n');
    TooDeep {
        line: before.iter().filter(|byte| **byte == b'\n').count() + 1,
        column: before.len() - line_start.map_or(0, |at| at + 1) + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(depth: usize) -> Vec<u8> {
        let mut text = vec![b'['; depth];
        text.extend(vec![b']'; depth]);
        text
    }

    #[test]
    fn the_bound_itself_is_allowed_and_one_more_is_located() {
        assert_eq!(check_depth(&nested(DEPTH_MAX)), Ok(()));
        let (line, column) = (1, DEPTH_MAX + 1);
        assert_eq!(
            check_depth(&nested(DEPTH_MAX + 1)),
            Err(TooDeep { line, column })
        );
        let mut lines = b"{\n\n ".to_vec();
        lines.extend(nested(DEPTH_MAX));
        let (line, column) = (3, DEPTH_MAX + 1);
        assert_eq!(check_depth(&lines), Err(TooDeep { line, column }));
    }

    #[test]
    fn siblings_and_strings_are_not_depth() {
        let siblings = "[]".repeat(1000);
        assert_eq!(check_depth(siblings.as_bytes()), Ok(()));
        let text = format!(r#"{{"a": "\"{}", "b\\": [1]}}"#, "[".repeat(1000));
        assert_eq!(check_depth(text.as_bytes()), Ok(()));
        assert_eq!(check_depth(b"\"\\"), Ok(()));
        assert_eq!(check_depth(b"]]]]"), Ok(()));
    }
}
