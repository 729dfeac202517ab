//! How outcomes, times, commits and findings are written for people.

use std::time::Duration;

use agent_types::events::{Finding, Level};
use agent_types::outcome::Outcome;
use agent_types::sanitize::sanitize_line;

/// Colours, or none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    pub colour: bool,
}

impl Style {
    pub const PLAIN: Style = Style { colour: false };

    pub fn good(self, text: &str) -> String {
        self.style("32", text)
    }

    pub fn bad(self, text: &str) -> String {
        self.style("1;31", text)
    }

    pub fn warn(self, text: &str) -> String {
        self.style("33", text)
    }

    pub fn dim(self, text: &str) -> String {
        self.style("2", text)
    }

    /// The text in the colour of the outcome.
    pub fn outcome(self, outcome: &Outcome, text: &str) -> String {
        match outcome {
            Outcome::Passed => self.good(text),
            Outcome::Skipped(_) => self.dim(text),
            Outcome::Flaky(_) | Outcome::NotRun(_) => self.warn(text),
            Outcome::Failed(_) | Outcome::TimedOut(_) | Outcome::Cancelled(_) => self.bad(text),
        }
    }

    pub fn level(self, level: Level, text: &str) -> String {
        match level {
            Level::Info => text.to_owned(),
            Level::Warning => self.warn(text),
            Level::Error => self.bad(text),
        }
    }

    fn style(self, code: &str, text: &str) -> String {
        if self.colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

pub fn level_word(level: Level) -> &'static str {
    match level {
        Level::Info => "note",
        Level::Warning => "warning",
        Level::Error => "error",
    }
}

/// `0.3s`, `12s`, `2m03s`, `1h02m03s`.
pub fn duration(seconds: f64) -> String {
    if seconds < 1.0 {
        return format!("{:.1}s", seconds.max(0.0));
    }
    whole(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX).as_secs())
}

/// The time since the job's start, always as wide: `[ 2m03s]`.
pub fn offset(seconds: f64) -> String {
    let seconds = Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs();
    format!("[{:>8}]", whole(seconds))
}

fn whole(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s:02}s"),
        (h, m, s) => format!("{h}h{m:02}m{s:02}s"),
    }
}

/// The first twelve digits of a commit, which is what people compare.
pub fn short_commit(commit: &str) -> String {
    sanitize_line(commit).chars().take(12).collect()
}

/// `path:line: level: message [rule]`, as compilers and editors have it. `word` is the level.
pub fn finding_line(finding: &Finding, word: &str) -> String {
    let mut place = String::new();
    if let Some(file) = &finding.file {
        let line = finding.line.map(|line| format!("{line}:")).unwrap_or_default();
        // Sanitized as a whole: a file may be named `:`, and two colons begin a command for the log service.
        place = format!("{} ", sanitize_line(&format!("{}:{line}", file.to_string_lossy())));
    }
    format!("{place}{word}: {} [{}]", sanitize_line(&finding.message), sanitize_line(&finding.rule))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_well() {
        let times = [(0.04, "0.0s"), (0.96, "1.0s"), (1.0, "1s"), (59.9, "59s"), (123.0, "2m03s")];
        for (seconds, wanted) in times.into_iter().chain([(3723.0, "1h02m03s"), (-1.0, "0.0s")]) {
            assert_eq!(duration(seconds), wanted);
        }
        assert_eq!(offset(123.4), "[   2m03s]");
    }
}
