//! From bytes to text, piece by piece.

/// Turns a stream of bytes into text without ever splitting a character.
///
/// Bytes that cannot become UTF-8 any more turn into U+FFFD as soon as that is known; bytes that still can are held
/// back until [`Detokenizer::finish`].
#[derive(Clone, Debug, Default)]
pub struct Detokenizer {
    /// At most three bytes: the beginning of a character.
    pending: Vec<u8>,
}

impl Detokenizer {
    /// Takes some bytes and returns the text that is complete now (possibly empty).
    pub fn push(&mut self, bytes: &[u8]) -> String {
        if self.pending.is_empty() {
            return self.take_complete(bytes);
        }
        let mut joined = std::mem::take(&mut self.pending);
        joined.extend_from_slice(bytes);
        self.take_complete(&joined)
    }

    /// Ends the stream: a character that was cut becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }

    fn take_complete(&mut self, mut bytes: &[u8]) -> String {
        let mut text = String::with_capacity(bytes.len());
        loop {
            match std::str::from_utf8(bytes) {
                Ok(valid) => {
                    text.push_str(valid);
                    return text;
                }
                Err(error) => {
                    let (valid, rest) = bytes.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    let Some(bad_len) = error.error_len() else {
                        self.pending.extend_from_slice(rest);
                        return text;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    bytes = &rest[bad_len..];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn holds_back_the_beginning_of_a_character() {
        let mut detokenizer = Detokenizer::default();
        let heart = "💖".as_bytes();
        assert_eq!(detokenizer.push(&heart[..3]), "");
        assert_eq!(detokenizer.push(&[heart[3], b'x']), "💖x");
        assert_eq!(detokenizer.push(&heart[..2]), "");
        assert_eq!(detokenizer.finish(), "\u{fffd}");
        assert_eq!(detokenizer.finish(), "");
    }

    proptest! {
        #[test]
        fn any_cut_of_any_bytes_gives_the_lossy_text(bytes in prop::collection::vec(any::<u8>(), 0..40), cut in 1usize..8) {
            let mut detokenizer = Detokenizer::default();
            let mut text: String = bytes.chunks(cut).map(|chunk| detokenizer.push(chunk)).collect();
            text.push_str(&detokenizer.finish());
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes).into_owned());
        }

        #[test]
        fn any_cut_of_text_gives_the_text(text in "\\PC{0,20}", cut in 1usize..5) {
            let mut detokenizer = Detokenizer::default();
            let out: String = text.as_bytes().chunks(cut).map(|chunk| detokenizer.push(chunk)).collect();
            prop_assert_eq!(out, text);
        }
    }
}
