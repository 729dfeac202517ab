//! The console of a terminal: the finished steps scroll by. Below them one line says how far the job is, and another
//! one which tasks run.

use std::io;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::report::durations::Durations;
use crate::report::sink::Sink;
use crate::report::summary::At;
use agent_types::events::{Event, EventKind};

use super::echo::WithoutControlEcho;
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
    /// The line of the running tasks, while there are some.
    tasks: Option<ProgressBar>,
    /// While something is drawn.
    echo: Option<WithoutControlEcho>,
}

impl Terminal {
    /// `last_run`: of the same job.
    pub fn new(style: Style, last_run: Durations) -> Terminal {
        let screen = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        let status = screen.add(ProgressBar::no_length());
        status.set_style(line_style(WITHOUT_BAR));
        status.enable_steady_tick(Duration::from_millis(200));
        let progress = JobProgress::after(last_run);
        Terminal {
            steps: Steps::new(style),
            progress,
            screen,
            status,
            has_bar: false,
            tasks: None,
            echo: Some(WithoutControlEcho::new()),
        }
    }

    /// For others who print on the same terminal.
    pub fn screen(&self) -> MultiProgress {
        self.screen.clone()
    }

    fn draw(&mut self, now: At) {
        let bar = self.progress.bar();
        if bar.is_some() != self.has_bar {
            self.has_bar = bar.is_some();
            self.status.set_style(line_style(if self.has_bar { WITH_BAR } else { WITHOUT_BAR }));
        }
        if let Some((done, total)) = bar {
            self.status.set_length(total);
            self.status.set_position(done);
        }
        self.status.set_message(self.progress.numbers_first(now).unwrap_or_else(|| "starting".into()));
        self.draw_tasks(self.progress.running(now));
    }

    fn draw_tasks(&mut self, running: Option<String>) {
        let Some(running) = running else {
            if let Some(tasks) = self.tasks.take() {
                tasks.finish_and_clear();
                self.screen.remove(&tasks);
            }
            return;
        };
        let screen = &self.screen;
        let tasks = self
            .tasks
            .get_or_insert_with(|| screen.add(ProgressBar::no_length().with_style(line_style(TASKS))));
        tasks.set_message(running);
    }
}

/// Of 60 columns, the numbers and the estimate still fit beside it.
const WITH_BAR: &str = "{spinner} {elapsed_precise} [{bar:10}] {wide_msg}";
const WITHOUT_BAR: &str = "{spinner} {elapsed_precise}  {wide_msg}";
const TASKS: &str = "  {wide_msg}";

fn line_style(template: &str) -> ProgressStyle {
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
            self.draw_tasks(None);
            self.status.finish_and_clear();
            self.echo = None;
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
