//! The byte-level alphabet of tokenizer.json: each byte is written as one printable character.

use std::sync::LazyLock;

/// Character of each byte: printable Latin-1 stands for itself, the other 68 bytes for U+0100 and on.
static BYTE_TO_CHAR: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut next = 256u32;
    std::array::from_fn(|byte| {
        let byte = byte as u8;
        if matches!(byte, 33..=126 | 161..=172 | 174..=255) {
            return byte as char;
        }
        next += 1;
        char::from_u32(next - 1).expect("U+0100..U+0144 are characters")
    })
});

/// Byte of each character below U+0144.
static CHAR_TO_BYTE: LazyLock<[Option<u8>; 324]> = LazyLock::new(|| {
    let mut table = [None; 324];
    for (byte, &c) in BYTE_TO_CHAR.iter().enumerate() {
        table[c as usize] = Some(byte as u8);
    }
    table
});

/// Appends `bytes` to `out` in the alphabet.
pub(crate) fn push_encoded(out: &mut String, bytes: &[u8]) {
    let table: &[char; 256] = &BYTE_TO_CHAR;
    out.extend(bytes.iter().map(|&byte| table[usize::from(byte)]));
}

/// The bytes that `text` stands for; `None` if a character is not of the alphabet.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|c| CHAR_TO_BYTE.get(c as usize).copied().flatten()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_character() {
        let bytes: Vec<u8> = (0..=255).collect();
        let mut text = String::new();
        push_encoded(&mut text, &bytes);
        assert_eq!(decode(&text), Some(bytes));
        assert_eq!(text.chars().nth(b' '.into()), Some('Ġ'));
        assert_eq!(decode("中"), None);
    }
}
