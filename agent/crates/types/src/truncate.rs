//! Shortens long texts in reports: removes the middle, keeps both ends, and says how much was removed.

/// Maximum length of one message in a report. Annotations of GitHub check runs have this limit, and JUnit
/// readers fail on elements of several megabytes.
pub const TEXT: usize = 64 * 1024;

/// Maximum length of a line in an excerpt.
const LINE: usize = 4 * 1024;

/// Maximum number of lines in an excerpt.
const LINES: usize = 200;

/// Removes the middle of `text` if it is longer than `limit` bytes. Returns the number of removed bytes.
pub fn middle(text: &mut String, limit: usize) -> u64 {
    if text.len() <= limit {
        return 0;
    }
    // The replacement text has at most 64 bytes with any number.
    let budget = limit.saturating_sub(64);
    let mut head = budget / 2;
    let mut tail = text.len() - (budget - budget / 2);
    // A cut must not split a character; the start and the end of a text never do.
    while !text.is_char_boundary(head) {
        head -= 1;
    }
    while !text.is_char_boundary(tail) {
        tail += 1;
    }
    let gone = tail - head;
    let word = format!(" [… {gone} bytes cut out …] ");
    text.replace_range(head..tail, &word);
    gone as u64
}

/// Shortens long lines, and removes the middle of too many lines. Returns the number of removed bytes.
pub fn lines(lines: &mut Vec<String>) -> u64 {
    let mut gone = 0;
    if lines.len() > LINES {
        let (head, tail) = (LINES / 2, lines.len() - (LINES - LINES / 2 - 1));
        let word = format!("[… {} lines cut out …]", tail - head);
        gone += lines[head..tail].iter().map(|line| line.len() as u64 + 1).sum::<u64>();
        lines.splice(head..tail, [word]);
    }
    gone + lines.iter_mut().map(|line| middle(line, LINE)).sum::<u64>()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn keeps_both_ends_and_cuts_only_once() {
        let mut short = "x".repeat(100);
        assert_eq!(middle(&mut short, 100), 0);
        assert_eq!(short, "x".repeat(100));

        // Each letter has three bytes: a cut must not split one.
        for extra in 0..4 {
            let whole = format!("begin{}{}end", "x".repeat(extra), "€".repeat(1000));
            let mut text = whole.clone();
            let gone = middle(&mut text, 200);
            assert!(text.len() <= 200, "{}", text.len());
            assert!(text.starts_with("begin") && text.ends_with("end"), "{text}");
            let word = format!(" [… {gone} bytes cut out …] ");
            let (head, tail) = text.split_once(&word).unwrap();
            assert_eq!(head.len() + tail.len() + gone as usize, whole.len());
            assert_eq!(middle(&mut text, 200), 0, "a second cut finds nothing to do");
        }
    }

    #[test]
    fn removes_the_middle_of_many_lines() {
        let mut some: Vec<String> = (0..300).map(|n| format!("line {n:03}")).collect();
        let gone = lines(&mut some);
        assert_eq!(some.len(), 200);
        assert_eq!(some[99], "line 099");
        assert_eq!(some[100], "[… 101 lines cut out …]");
        assert_eq!(some[101], "line 201");
        assert_eq!(some[199], "line 299");
        assert_eq!(gone, 101 * 9, "each line has eight bytes and an end");
        assert_eq!(lines(&mut some), 0);
    }
}
