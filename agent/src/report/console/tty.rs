//! The console of a terminal: the finished steps scroll by, and below them stands what runs now.

use std::io;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::report::sink::Sink;
use crate::report::summary::At;
use agent_types::events::{Event, EventKind, Unit};
use agent_types::stage::Stage;

use super::format::{Style, duration};
use super::steps::Steps;
use agent_types::sanitize::sanitize_line;

/// Draws on standard output. Nothing is drawn when that is no terminal.
pub struct Terminal {
    steps: Steps,
    now: Now,
    screen: MultiProgress,
    status: ProgressBar,
    tasks: ProgressBar,
}

impl Terminal {
    pub fn new(style: Style) -> Terminal {
        let screen = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        let status = screen.add(ProgressBar::no_length());
        // The templates are fixed texts; were one wrong, the default is still readable.
        let progress_style = ProgressStyle::with_template("{spinner} {elapsed_precise}  {wide_msg}");
        status.set_style(progress_style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        status.enable_steady_tick(Duration::from_millis(200));
        let tasks = screen.add(ProgressBar::no_length());
        let progress_style = ProgressStyle::with_template("{wide_msg}");
        tasks.set_style(progress_style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        Terminal { steps: Steps::new(style), now: Now::default(), screen, status, tasks }
    }
}

impl Sink for Terminal {
    fn name(&self) -> &'static str {
        "the terminal"
    }

    fn event(&mut self, event: &Event) -> io::Result<()> {
        for line in self.steps.lines(event) {
            self.screen.println(line)?;
        }
        if self.now.take(event) {
            self.status.set_message(self.now.status(At::of(event)));
            self.tasks.set_message(self.now.tasks());
        }
        if matches!(event.what, EventKind::JobFinished { .. }) {
            self.tasks.finish_and_clear();
            self.status.finish_and_clear();
        }
        Ok(())
    }
}

/// What runs now.
#[derive(Default)]
struct Now {
    stage: Option<Stage>,
    /// In the order of their starts.
    units: Vec<(Unit, At)>,
    progress: Option<(Unit, u64, u64)>,
    running: Vec<String>,
    silent: Option<u64>,
}

impl Now {
    /// Whether the event changed anything.
    fn take(&mut self, event: &Event) -> bool {
        if !matches!(event.what, EventKind::Heartbeat { .. }) {
            self.silent = None;
        }
        match &event.what {
            EventKind::StageStarted { stage } => *self = Now { stage: Some(*stage), ..Now::default() },
            EventKind::UnitStarted { unit } => self.units.push((unit.clone(), At::of(event))),
            EventKind::UnitFinished { unit, .. } => {
                self.units.retain(|(known, _)| known != unit);
                if self.progress.as_ref().is_some_and(|(known, ..)| known == unit) {
                    self.progress = None;
                    self.running.clear();
                }
            }
            EventKind::Progress { unit, done, total, running } => {
                self.progress = Some((unit.clone(), *done, *total));
                self.running.clone_from(running);
            }
            EventKind::Heartbeat { silent_seconds, running } => {
                self.silent = Some(*silent_seconds);
                if self.running.is_empty() {
                    self.running = vec![running.clone()];
                }
            }
            _ => return false,
        }
        true
    }

    /// `build: core-image-minimal for 2m03s  812 of 3412  silent for 5m00s`.
    fn status(&self, now: At) -> String {
        let mut text = self.stage.map_or("starting", Stage::name).to_owned();
        if let Some((unit, since)) = self.units.first() {
            let took = duration(since.seconds_until(now));
            text += &format!(": {} for {took}", sanitize_line(&unit.name));
        }
        if self.units.len() > 1 {
            text += &format!(" and {} more", self.units.len() - 1);
        }
        if let Some((_, done, total)) = &self.progress {
            text += &format!("  {done} of {total}");
        }
        if let Some(silent) = self.silent {
            text += &format!("  silent for {}", duration(silent as f64));
        }
        text
    }

    /// `2 running: zlib:do_compile, bash:do_fetch`.
    fn tasks(&self) -> String {
        let names: Vec<_> = self.running.iter().map(|task| sanitize_line(task)).collect();
        match names.len() {
            0 => String::new(),
            number => format!("  {number} running: {}", names.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample::{at, image, poky, started, unit_finished, unit_started};
    use agent_types::outcome::Outcome;

    #[test]
    fn the_status_follows_the_events() {
        let progress = EventKind::Progress {
            unit: image(),
            done: 812,
            total: 3412,
            running: vec!["zlib:do_compile".into(), "\u{1b}[2Jbash:do_fetch".into()],
        };
        let heartbeat = EventKind::Heartbeat { silent_seconds: 300, running: "bitbake".into() };
        let running = "  2 running: zlib:do_compile, bash:do_fetch";
        let script = [
            (started(Stage::Build), "build", ""),
            (unit_started(&image()), "build: core-image-minimal for 0.0s", ""),
            (progress, "build: core-image-minimal for 1s  812 of 3412", running),
            (heartbeat, "build: core-image-minimal for 2s  812 of 3412  silent for 5m00s", running),
            (unit_started(&poky()), "build: core-image-minimal for 3s and 1 more  812 of 3412", running),
            (unit_finished(&image(), Outcome::Passed, None), "build: poky for 1s", ""),
            (started(Stage::Publish), "publish", ""),
        ];
        let mut now = Now::default();
        for (second, (what, status, tasks)) in script.into_iter().enumerate() {
            let event = at(second as u64 * 1000, what);
            assert!(now.take(&event));
            assert_eq!((&*now.status(At::of(&event)), &*now.tasks()), (status, tasks));
        }
    }
}
