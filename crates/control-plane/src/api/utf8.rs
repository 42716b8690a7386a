//! Text out of chunks of bytes that may be cut in the middle of a character.

/// Holds back the beginning of a character until the rest of it arrives.
#[derive(Debug, Default)]
pub struct TextStream {
    held: Vec<u8>,
}

impl TextStream {
    /// The text that is complete by now. Bytes that are no text become U+FFFD.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.held.extend_from_slice(bytes);
        let complete = self.held.len() - unfinished(&self.held);
        let text = String::from_utf8_lossy(&self.held[..complete]).into_owned();
        self.held.drain(..complete);
        text
    }

    /// What is left at the end: a character that was never finished.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.held).into_owned();
        self.held.clear();
        text
    }
}

/// How many bytes at the end are a character that may still be finished.
fn unfinished(bytes: &[u8]) -> usize {
    let last = bytes.utf8_chunks().last().map(|chunk| chunk.invalid()).unwrap_or_default();
    match std::str::from_utf8(last) {
        Err(error) if error.error_len().is_none() => last.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_chunks(bytes: &[u8], size: usize) -> String {
        let mut stream = TextStream::default();
        let mut text: String = bytes.chunks(size).map(|chunk| stream.push(chunk)).collect();
        text.push_str(&stream.finish());
        text
    }

    #[test]
    fn characters_that_are_cut_come_out_whole() {
        let text = "añ€😀z";
        for size in 1..=text.len() {
            assert_eq!(in_chunks(text.as_bytes(), size), text, "in chunks of {size}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced_and_hold_up_nothing() {
        for size in 1..=6 {
            assert_eq!(in_chunks(b"a\xff\xc3b\xf0\x9f", size), "a\u{fffd}\u{fffd}b\u{fffd}", "in chunks of {size}");
        }
        assert_eq!(TextStream::default().push(b"a\xff"), "a\u{fffd}");
    }
}
