//! UTF-8 that comes in pieces.

use std::borrow::Cow;

/// Decodes UTF-8 that comes in pieces; bytes that are none become U+FFFD.
#[derive(Default)]
pub(super) struct Decoder {
    /// The beginning of a character whose rest is still to come: three bytes at most.
    held: Vec<u8>,
}

impl Decoder {
    pub fn feed<'a>(&mut self, bytes: &'a [u8]) -> Cow<'a, str> {
        if self.held.is_empty() {
            match std::str::from_utf8(bytes) {
                Ok(text) => return Cow::Borrowed(text),
                Err(error) if error.error_len().is_none() => {
                    let (text, rest) = bytes.split_at(error.valid_up_to());
                    self.held.extend_from_slice(rest);
                    // Borrowed, because it was just found to be valid.
                    return String::from_utf8_lossy(text);
                }
                Err(_) => {}
            }
        }
        let mut all = std::mem::take(&mut self.held);
        all.extend_from_slice(bytes);
        let mut text = String::with_capacity(all.len());
        let mut chunks = all.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            let bad = chunk.invalid();
            let is_cut = || std::str::from_utf8(bad).is_err_and(|error| error.error_len().is_none());
            if chunks.peek().is_none() && !bad.is_empty() && is_cut() {
                self.held.extend_from_slice(bad);
            } else if !bad.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        Cow::Owned(text)
    }

    /// The output ended in the middle of a character.
    pub fn finish(&mut self) -> &'static str {
        if std::mem::take(&mut self.held).is_empty() { "" } else { "\u{fffd}" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_bytes_and_characters_that_were_cut_are_decoded() {
        let bytes = b"a\xffb \xc3\xa9 \xf0\x9f\x8d\x8e \xf0\x9f. \xc3\n\xe2\x82";
        let wanted = String::from_utf8_lossy(bytes);
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let mut decoder = Decoder::default();
                let mut text = String::new();
                for piece in [&bytes[..first], &bytes[first..second], &bytes[second..]] {
                    text.push_str(&decoder.feed(piece));
                }
                text.push_str(decoder.finish());
                assert_eq!(text, wanted, "cut at {first} and {second}");
            }
        }
    }
}
