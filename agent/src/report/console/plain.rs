//! The console of CodeBuild and of pipes: whole lines, one for each finished step, and at most once a minute one
//! that says what runs now.

use std::io::{self, Write};

use crate::report::durations::Durations;
use crate::report::sink::Sink;
use crate::report::summary::At;
use agent_types::events::{Event, EventKind};

use super::format::Style;
use super::progress::JobProgress;
use super::steps::Steps;

/// Seconds between two lines about what runs.
const INTERVAL: f64 = 60.0;

/// The first of them comes when so many seconds are over and there is something to count, so that nobody takes a
/// job that has just begun for one that hangs.
const FIRST: f64 = 3.0;

/// Writes lines; never a carriage return.
pub struct Plain<W> {
    to: W,
    steps: Steps,
    progress: JobProgress,
    /// When the job began, and when the last line about what runs was written.
    began: Option<At>,
    told: Option<At>,
    is_over: bool,
}

impl<W: Write + Send> Plain<W> {
    pub fn new(to: W, style: Style) -> Plain<W> {
        let (steps, progress) = (Steps::new(style), JobProgress::default());
        Plain { to, steps, progress, began: None, told: None, is_over: false }
    }

    /// Estimates the time that is left from the last run of the same job.
    pub fn after(self, last_run: Durations) -> Plain<W> {
        Plain { progress: JobProgress::after(last_run), ..self }
    }

    /// The line about what runs, when it is time for one.
    fn status(&mut self, now: At) -> Option<String> {
        let since = |at: At| at.seconds_until(now);
        let is_time = match (self.told, self.began) {
            (Some(told), _) => since(told) >= INTERVAL,
            (None, Some(began)) => since(began) >= if self.progress.has_numbers() { FIRST } else { INTERVAL },
            (None, None) => false,
        };
        let line = self.progress.line(now).filter(|_| is_time && !self.is_over)?;
        self.told = Some(now);
        Some(self.steps.stamped_at(now, &line))
    }

    fn write(&mut self, lines: Vec<String>) -> io::Result<()> {
        for line in lines {
            writeln!(self.to, "{line}")?;
        }
        self.to.flush()
    }
}

impl<W: Write + Send> Sink for Plain<W> {
    fn name(&self) -> &'static str {
        "the console"
    }

    fn event(&mut self, event: &Event) -> io::Result<()> {
        let now = At::of(event);
        self.began.get_or_insert(now);
        let mut lines = self.steps.lines(event);
        self.progress.take(event);
        self.is_over |= matches!(event.what, EventKind::JobFinished { .. });
        lines.extend(self.status(now));
        self.write(lines)
    }

    fn tick(&mut self) -> io::Result<()> {
        let lines = self.status(At::now()).into_iter().collect();
        self.write(lines)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::report::sample::{at, image, job_started, started, unit_finished, unit_started};
    use agent_types::events::{Phase, Progress};
    use agent_types::outcome::Outcome;
    use agent_types::stage::Stage;

    /// Two hours of a build that tells its progress twice a second, with two commands that are silent.
    #[test]
    fn there_is_at_most_one_line_a_minute_and_one_in_the_first_seconds() {
        let mut text = Vec::new();
        let mut plain = Plain::new(&mut text, Style::PLAIN);
        for what in [job_started(&[]), started(Stage::Build), unit_started(&image())] {
            plain.event(&at(0, what)).unwrap();
        }
        for half_second in 1..=14_400 {
            let mut progress = Progress::new(&image(), "", Phase::Parsing);
            (progress.done, progress.total) = (half_second, 20_000);
            plain.event(&at(half_second * 500, EventKind::Progress(progress))).unwrap();
            if half_second % 120 == 0 {
                for running in ["yocto-check-layer meta-x", "bitbake"] {
                    let what = EventKind::Heartbeat { silent_seconds: 60, running: running.into() };
                    plain.event(&at(half_second * 500, what)).unwrap();
                }
            }
        }
        plain.event(&at(7_200_000, unit_finished(&image(), Outcome::Passed, None))).unwrap();
        let text = String::from_utf8(text).unwrap();
        let lines: Vec<_> = text.lines().filter(|line| line.contains(" of 20000")).collect();
        assert_eq!(lines.len(), 120, "{text}");
        assert_eq!(lines[0], "[      3s] build: core-image-minimal for 3s, parsing 6 of 20000");
        assert_eq!(lines[1], "[   1m03s] build: core-image-minimal for 1m03s, parsing 126 of 20000");
    }

    #[test]
    fn without_numbers_the_first_line_comes_after_a_minute() {
        let mut text = Vec::new();
        let mut plain = Plain::new(&mut text, Style::PLAIN);
        for what in [job_started(&[]), started(Stage::Build), unit_started(&image())] {
            plain.event(&at(0, what)).unwrap();
        }
        for second in 1..=61 {
            plain
                .event(&at(second * 1000, EventKind::Progress(Progress::new(&image(), "", Phase::Starting))))
                .unwrap();
        }
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text.lines().filter(|line| line.contains("BitBake starts")).count(), 1, "{text}");
        assert!(text.ends_with("[   1m00s] build: core-image-minimal for 1m00s, BitBake starts\n"), "{text}");
    }
}
