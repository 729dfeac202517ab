//! Finds the relevant lines of a long log.

use std::collections::VecDeque;
use std::io::{self, BufRead};

use agent_types::sanitize::clean;

/// Maximum number of bytes of a line; the rest is skipped.
const LINE: usize = 2048;
/// Lines before a relevant one that are shown. The log's last lines, as many as this, are always shown,
/// because the tool stopped there.
const BEFORE: usize = 3;
/// Lines after a relevant one that are shown.
const AFTER: usize = 3;
/// The line in place of skipped lines.
const GAP: &str = "…";

/// The lines of a BitBake task's log, or of a tool's output, that explain a failure: errors with the lines
/// around them, Python tracebacks, and the end. Without any error, the last lines. Lines that BitBake writes
/// into every log are skipped.
///
/// Returns at most `limit` lines (at least four). A third are from the first errors, because the first is
/// often the cause. The rest are from the last errors, because parallel builds stop there. `limit` bounds the
/// memory for logs of any size.
///
/// # Errors
/// If the log cannot be read.
pub fn relevant_lines(log: &mut dyn BufRead, limit: usize) -> io::Result<Vec<String>> {
    let mut picked = Picked::new(limit.max(4));
    let mut line = Vec::new();
    while next_line(log, &mut line)? {
        let text = String::from_utf8_lossy(&line);
        let text = clean(&text);
        let text = text.trim_end();
        if !text.is_empty() && !is_noise(text) {
            picked.line(text);
        }
    }
    Ok(picked.lines())
}

/// Reads the start of a line and skips the rest of a long one.
fn next_line(log: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let mut any = false;
    loop {
        let buffer = log.fill_buf()?;
        if buffer.is_empty() {
            return Ok(any);
        }
        any = true;
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let part = &buffer[..end.unwrap_or(buffer.len())];
        line.extend_from_slice(&part[..part.len().min(LINE - line.len())]);
        let used = end.map_or(buffer.len(), |end| end + 1);
        log.consume(used);
        if end.is_some() {
            return Ok(true);
        }
    }
}

/// Whether the line never explains why a task failed.
fn is_noise(line: &str) -> bool {
    const STARTS: [&str; 9] = [
        "DEBUG: ",
        "NOTE: make ",
        "NOTE: Executing ",
        "NOTE: Running ",
        "NOTE: recipe ",
        "WARNING: Backtrace (BB generated script)",
        "WARNING: exit code ",
        "Loading cache",
        "Parsing recipes",
    ];
    STARTS.iter().any(|start| line.starts_with(start))
        // BitBake's trace of its shell scripts: `#1: do_compile, …/temp/run.do_compile.4711, line 140`.
        || line.trim_start().starts_with('#') && line.contains("/temp/run.")
}

fn is_error(line: &str) -> bool {
    const STARTS: [&str; 12] = [
        "ERROR:",
        "FATAL:",
        "fatal:",
        "FAILED",
        "FAIL:",
        "CMake Error",
        "ninja: build stopped",
        "npm ERR!",
        "panic:",
        "E: ",
        "Killed",
        "During handling of the above exception",
    ];
    const ANYWHERE: [&str; 12] = [
        "error: ",
        "error[E",
        "ERROR: ",
        "fatal error",
        "undefined reference",
        "No space left on device",
        "Segmentation fault",
        "command not found",
        "nothing provides ",
        "Hunk #",
        "Exception: ",
        "AssertionError",
    ];
    // A summary without any failure is not relevant.
    if line.starts_with("FAILED: 0")
        || line.starts_with("FAIL: 0")
        || (line.contains("Hunk #") && !line.contains("FAILED"))
    {
        return false;
    }
    STARTS.iter().any(|start| line.starts_with(start))
        || ANYWHERE.iter().any(|words| line.contains(words))
        // `make[2]: *** [Makefile:17: all] Error 1`
        || (line.contains("make") && line.contains(": *** "))
}

/// The selected lines so far.
struct Picked {
    limit: usize,
    /// The first relevant lines, at most a third of the limit.
    head: Vec<String>,
    /// The last relevant lines.
    tail: VecDeque<String>,
    /// Whether lines between head and tail were dropped.
    dropped: bool,
    /// The last lines of the log.
    end: VecDeque<String>,
    /// The lines before the current one that were not selected.
    before: VecDeque<String>,
    /// Number of lines to select after a relevant one.
    after: usize,
    traceback: bool,
    /// Whether a line was skipped since the last selected one.
    gap: bool,
}

impl Picked {
    fn new(limit: usize) -> Picked {
        Picked {
            limit,
            head: Vec::new(),
            tail: VecDeque::new(),
            dropped: false,
            end: VecDeque::new(),
            before: VecDeque::new(),
            after: 0,
            traceback: false,
            gap: false,
        }
    }

    fn line(&mut self, line: &str) {
        push_bounded(&mut self.end, line.to_owned(), self.limit);
        if self.matters(line) {
            if self.gap && !self.head.is_empty() {
                self.keep(GAP.to_owned());
            }
            self.gap = false;
            for line in std::mem::take(&mut self.before) {
                self.keep(line);
            }
            self.keep(line.to_owned());
        } else if push_bounded(&mut self.before, line.to_owned(), BEFORE) {
            self.gap = true;
        }
    }

    fn matters(&mut self, line: &str) -> bool {
        if self.traceback {
            // Indented lines are its frames; the first other line is the exception.
            self.traceback = line.starts_with(' ');
            self.after = AFTER;
            return true;
        }
        if line.contains("Traceback (most recent call last)") {
            self.traceback = true;
            return true;
        }
        if is_error(line) {
            self.after = AFTER;
            return true;
        }
        let near = self.after > 0;
        self.after = self.after.saturating_sub(1);
        near
    }

    fn keep(&mut self, line: String) {
        let head = self.limit / 3;
        if self.head.len() < head {
            self.head.push(line);
        } else {
            self.dropped |= push_bounded(&mut self.tail, line, self.limit - head);
        }
    }

    fn lines(mut self) -> Vec<String> {
        if self.head.is_empty() && self.tail.is_empty() {
            return self.end.into();
        }
        if self.gap {
            self.keep(GAP.to_owned());
        }
        for line in std::mem::take(&mut self.before) {
            self.keep(line);
        }
        if self.dropped {
            // The gap takes the place of a line, to keep the limit.
            self.tail.pop_front();
            self.head.push(GAP.to_owned());
        }
        self.head.extend(self.tail);
        self.head
    }
}

/// Adds a line; returns whether an old one was dropped.
fn push_bounded(lines: &mut VecDeque<String>, line: String, limit: usize) -> bool {
    lines.push_back(line);
    let full = lines.len() > limit;
    if full {
        lines.pop_front();
    }
    full
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {

    use std::io::BufReader;

    use super::*;

    fn pick(log: &str, limit: usize) -> Vec<String> {
        relevant_lines(&mut log.as_bytes(), limit).unwrap()
    }

    #[test]
    fn finds_the_compiler_error_in_a_task_log() {
        let mut log = String::from("DEBUG: Executing shell function do_compile\nNOTE: make -j 8\n");
        (0..500).for_each(|n| log += &format!("gcc -c file{n}.c\n"));
        log += "zlib.c: In function 'main':\nzlib.c:3:1: error: expected ';'\n    3 | x\n      | ^\n";
        log += "make: *** [Makefile:9: zlib.o] Error 1\n";
        log += "ERROR: oe_runmake failed\n";
        log += "WARNING: exit code 1 from a shell command.\nDEBUG: Python function finished\n";
        let wanted = [
            "gcc -c file498.c",
            "gcc -c file499.c",
            "zlib.c: In function 'main':",
            "zlib.c:3:1: error: expected ';'",
            "    3 | x",
            "      | ^",
            "make: *** [Makefile:9: zlib.o] Error 1",
            "ERROR: oe_runmake failed",
        ];
        assert_eq!(pick(&log, 60), wanted);
    }

    #[test]
    fn keeps_a_traceback_to_its_last_line() {
        let mut log = String::from("before\nTraceback (most recent call last):\n");
        (0..20).for_each(|n| log += &format!("  File \"x.py\", line {n}, in f\n    call()\n"));
        log += "KeyError: 'zlib'\nnext\n";
        let picked = pick(&log, 60);
        assert_eq!(picked.len(), 1 + 1 + 40 + 1 + 1);
        assert_eq!(picked[42], "KeyError: 'zlib'");
    }

    #[test]
    fn shows_the_end_without_errors() {
        assert_eq!(pick("one\ntwo\n\nthree\nfour\nfive", 4), ["two", "three", "four", "five"]);
        assert_eq!(pick("", 5), [""; 0]);
    }

    #[test]
    fn shows_a_gap_between_errors() {
        let fill = |text: &str| (0..9).map(|n| format!("{text} {n}\n")).collect::<String>();
        let log = format!("{}x: error: first\n{}fatal: second\n{}", fill("a"), fill("b"), fill("c"));
        let wanted = [
            "a 6",
            "a 7",
            "a 8",
            "x: error: first",
            "b 0",
            "b 1",
            "b 2",
            "…",
            "b 6",
            "b 7",
            "b 8",
            "fatal: second",
            "c 0",
            "c 1",
            "c 2",
            "…",
            "c 6",
            "c 7",
            "c 8",
        ];
        assert_eq!(pick(&log, 60), wanted);
    }

    #[test]
    fn keeps_the_first_and_the_last_of_many_errors() {
        let log: String = (0..1000).map(|n| format!("x.c:{n}: error: e\n")).collect();
        let picked = pick(&log, 30);
        assert_eq!(picked.len(), 30);
        assert_eq!((&*picked[0], &*picked[9]), ("x.c:0: error: e", "x.c:9: error: e"));
        assert_eq!(
            (&*picked[10], &*picked[11], &*picked[29]),
            ("…", "x.c:981: error: e", "x.c:999: error: e")
        );
    }

    #[test]
    fn limits_the_memory_for_hostile_logs() {
        // A line without end, cut into many reads; bytes that are not UTF-8; escape sequences.
        let mut log = b"\xff\xfe\x1b[31mfatal: \x1b[0mbad\n".to_vec();
        log.extend(vec![b'x'; 1 << 20]);
        let picked = relevant_lines(&mut BufReader::with_capacity(7, &log[..]), 60).unwrap();
        assert_eq!(picked[0], "\u{fffd}\u{fffd}fatal: bad");
        assert_eq!(picked[1].len(), LINE);
        for limit in 0..7 {
            assert!(
                pick("error: a\nb\nerror: c\nd\ne\nf\ng\nh\ni\n", limit).len() <= limit.max(4),
                "{limit}"
            );
        }
    }
}
