//! Names of the parts of a model split into several files: `NAME-00002-of-00003.gguf`.

/// One part's file name, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SplitPart<'a> {
    /// What all parts share, folders included.
    pub(crate) stem: &'a str,
    /// Which part, from 1.
    pub(crate) number: u32,
    /// How many there are.
    pub(crate) count: u32,
}

impl<'a> SplitPart<'a> {
    /// `None` for the name of a model in one file.
    pub(crate) fn parse(file: &'a str) -> Option<Self> {
        let (rest, count) = file.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let five_digits = |text: &str| {
            let digits = text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| text.parse().ok()).flatten()
        };
        Some(Self {
            stem,
            number: five_digits(number)?,
            count: five_digits(count)?,
        })
    }

    /// File names of all parts, in order.
    pub(crate) fn all(self) -> impl Iterator<Item = String> {
        (1..=self.count).map(move |n| format!("{}-{n:05}-of-{:05}.gguf", self.stem, self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_named_as_they_were_found() {
        let part = SplitPart::parse("d/a-of-b-00002-of-00003.gguf").unwrap();
        assert_eq!(
            part,
            SplitPart {
                stem: "d/a-of-b",
                number: 2,
                count: 3
            }
        );
        assert_eq!(
            part.all().nth(2).as_deref(),
            Some("d/a-of-b-00003-of-00003.gguf")
        );
        for whole in [
            "a.gguf",
            "a-2-of-3.gguf",
            "a-00002-of-00003.bin",
            "00001-of-00002.gguf",
        ] {
            assert_eq!(SplitPart::parse(whole), None, "{whole}");
        }
    }
}
