//! The console of a terminal: the finished steps scroll by, and below them one line says what runs now.

use std::io;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::report::durations::Durations;
use crate::report::sink::Sink;
use crate::report::summary::At;
use agent_types::events::{Event, EventKind};

use super::format::Style;
use super::progress::JobProgress;
use super::steps::Steps;

/// Draws on standard output. Nothing is drawn when that is no terminal.
pub struct Terminal {
    steps: Steps,
    progress: JobProgress,
    screen: MultiProgress,
    status: ProgressBar,
    /// Whether the line has a bar now.
    has_bar: bool,
}

impl Terminal {
    /// `last_run`: of the same job.
    pub fn new(style: Style, last_run: Durations) -> Terminal {
        let screen = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        let status = screen.add(ProgressBar::no_length());
        status.set_style(line_style(false));
        status.enable_steady_tick(Duration::from_millis(200));
        let progress = JobProgress::after(last_run);
        Terminal { steps: Steps::new(style), progress, screen, status, has_bar: false }
    }

    /// For others who print on the same terminal.
    pub fn screen(&self) -> MultiProgress {
        self.screen.clone()
    }

    fn draw(&mut self, now: At) {
        let bar = self.progress.bar();
        if bar.is_some() != self.has_bar {
            self.has_bar = bar.is_some();
            self.status.set_style(line_style(self.has_bar));
        }
        if let Some((done, total)) = bar {
            self.status.set_length(total);
            self.status.set_position(done);
        }
        self.status.set_message(self.progress.line(now).unwrap_or_else(|| "starting".into()));
    }
}

fn line_style(has_bar: bool) -> ProgressStyle {
    let template = match has_bar {
        true => "{spinner} {elapsed_precise} [{bar:20}] {wide_msg}",
        false => "{spinner} {elapsed_precise}  {wide_msg}",
    };
    // The templates are fixed texts; were one wrong, the default is still readable.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner());
    style.progress_chars("=> ")
}

impl Sink for Terminal {
    fn name(&self) -> &'static str {
        "the terminal"
    }

    fn event(&mut self, event: &Event) -> io::Result<()> {
        for line in self.steps.lines(event) {
            self.screen.println(line)?;
        }
        if self.progress.take(event) {
            self.draw(At::of(event));
        }
        if matches!(event.what, EventKind::JobFinished { .. }) {
            self.status.finish_and_clear();
        }
        Ok(())
    }

    fn tick(&mut self) -> io::Result<()> {
        if !self.status.is_finished() {
            self.draw(At::now());
        }
        Ok(())
    }
}
