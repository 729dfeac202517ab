//! Keeps over-long texts out of the reports: the middle goes, the ends stay, and a word says so.

/// The longest text of one message in a report. Check-run annotations of GitHub take as much, and
/// a JUnit reader that gets megabytes in one element gives up on the file.
pub const TEXT: usize = 64 * 1024;

/// The longest line of an excerpt.
const LINE: usize = 4 * 1024;

/// The most lines of an excerpt.
const LINES: usize = 200;

/// Cuts the middle out of `text` when it is longer than `limit` bytes. Says how many bytes went.
pub fn middle(text: &mut String, limit: usize) -> u64 {
    if text.len() <= limit {
        return 0;
    }
    // Room for the word that stands in for the middle: 64 bytes hold it with any number.
    let room = limit.saturating_sub(64);
    let mut head = room / 2;
    let mut tail = text.len() - (room - room / 2);
    // No cut may fall inside a character; the beginning and the end of a text never do.
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

/// Cuts long lines, and the middle out of too many lines. Says how many bytes went.
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
    fn the_ends_stay_and_nothing_is_cut_twice() {
        let mut short = "x".repeat(100);
        assert_eq!(middle(&mut short, 100), 0);
        assert_eq!(short, "x".repeat(100));

        // Three bytes a letter: no cut may fall inside one.
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
    fn many_lines_lose_their_middle() {
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
