//! The printable alphabet byte-level vocabularies are written in (GPT-2, Radford et al. 2019).
//!
//! Bytes that are printable in Latin-1 stand for themselves; the other 68 are numbered upwards
//! from U+0100 in byte order, so that a space is `Ġ` and a line feed `Ċ`.

const fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// Letters by byte.
const LETTERS: [char; 256] = {
    let mut letters = ['\0'; 256];
    let mut moved = 0;
    let mut byte = 0;
    while byte < 256 {
        #[allow(clippy::cast_possible_truncation)] // the loop ends at 256
        let b = byte as u8;
        letters[byte] = if is_printable(b) {
            b as char
        } else {
            moved += 1;
            match char::from_u32(0xFF + moved) {
                Some(letter) => letter,
                None => panic!("U+0100 and the 67 code points after it are characters"),
            }
        };
        byte += 1;
    }
    letters
};

/// Bytes by the code point of their letter.
const BYTES: [Option<u8>; 256 + 68] = {
    let mut bytes = [None; 256 + 68];
    let mut byte = 0;
    while byte < 256 {
        #[allow(clippy::cast_possible_truncation)] // the loop ends at 256
        let b = byte as u8;
        bytes[LETTERS[byte] as usize] = Some(b);
        byte += 1;
    }
    bytes
};

/// The letter that stands for `byte`.
pub(crate) fn letter(byte: u8) -> char {
    LETTERS[byte as usize]
}

/// The byte `letter` stands for.
pub(crate) fn byte(letter: char) -> Option<u8> {
    BYTES.get(letter as usize).copied().flatten()
}

/// The bytes `text` stands for, or `None` if it is not written in this alphabet.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    text.chars().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_letter() {
        for b in 0..=255 {
            assert_eq!(byte(letter(b)), Some(b));
        }
        assert_eq!((letter(b' '), letter(b'\n'), letter(b'A')), ('Ġ', 'Ċ', 'A'));
        assert_eq!((letter(0), letter(0x7F), letter(0xAD)), ('Ā', 'ġ', 'Ń'));
        assert_eq!((byte(' '), byte('▁'), byte('ń')), (None, None, None));
    }
}
