//! A text of bounded size: its beginning and its end.

use std::collections::VecDeque;

/// Lines kept from each end; a longer text is in the log anyway.
const KEPT: usize = 200;
/// Bytes kept of one line.
const LINE: usize = 4096;

/// Lines as they come, of which the first and the last are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    head: Vec<String>,
    tail: VecDeque<String>,
    dropped: usize,
}

impl Message {
    pub fn push(&mut self, line: &str) {
        let line = short(line);
        if self.head.len() < KEPT {
            self.head.push(line);
            return;
        }
        if self.tail.len() == KEPT {
            self.tail.pop_front();
            self.dropped += 1;
        }
        self.tail.push_back(line);
    }

    /// The same, and more lines of the beginning stay for as long as the budget lasts, in bytes: a list that a
    /// test gives is wanted whole.
    pub fn push_within(&mut self, line: &str, budget: &mut usize) {
        let more = self.head.len() >= KEPT && self.tail.is_empty();
        let size = line.len().min(LINE) + size_of::<String>();
        if more && *budget >= size {
            *budget -= size;
            self.head.push(short(line));
        } else {
            self.push(line);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.head.is_empty()
    }

    pub fn clear(&mut self) {
        *self = Message::default();
    }

    /// The kept lines, without empty ones at the end.
    pub fn text(&self) -> String {
        let gap = (self.dropped > 0).then(|| format!("… {} lines omitted, see the log …", self.dropped));
        let lines = self.head.iter().chain(gap.iter()).chain(self.tail.iter());
        let text = lines.map(String::as_str).collect::<Vec<_>>().join("\n");
        text.trim_end().to_owned()
    }
}

fn short(line: &str) -> String {
    if line.len() <= LINE {
        return line.to_owned();
    }
    let mut end = LINE;
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &line[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_both_ends_and_says_what_is_missing() {
        let mut message = Message::default();
        for n in 0..1000 {
            message.push(&format!("line {n}"));
        }
        message.push("");
        let text = message.text();
        assert!(text.starts_with("line 0\n") && text.ends_with("line 999"), "{text}");
        // 1001 lines came, 2 * 200 stay.
        assert!(text.contains("… 601 lines omitted"), "{text}");
        assert_eq!(text.lines().count(), 400);
    }

    #[test]
    fn one_line_cannot_fill_the_memory() {
        let mut message = Message::default();
        message.push(&"é".repeat(1 << 20));
        assert!(message.text().len() < 2 * LINE);
    }
}
