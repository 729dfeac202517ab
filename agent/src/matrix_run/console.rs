//! The console of a matrix: on a terminal one line for each running cell; elsewhere a line when a cell starts and ends, and
//! once a minute one for each that runs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use agent_process::{CommandOutcome, ExitReason, Interrupted};
use agent_types::outcome::ExitStatus;

use super::child::{CellChild, CellEnd, Status};
use crate::report::{Style, duration};

/// The interval between lines about a running cell.
const INTERVAL: Duration = Duration::from_secs(60);

/// How the cells are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsoleKind {
    Terminal,
    Lines,
    /// One JSON object for each start and end.
    Json,
}

/// Shows the cells.
pub struct Console {
    kind: ConsoleKind,
    style: Style,
    /// Prints a line.
    print: fn(&str),
    cells: Vec<(String, Status)>,
    running: BTreeMap<usize, Running>,
    screen: MultiProgress,
    ended: usize,
    began: Instant,
}

struct Running {
    since: Instant,
    last_line: Instant,
    bar: Option<ProgressBar>,
}

impl Console {
    pub fn new(kind: ConsoleKind, style: Style, cells: &[CellChild], print: fn(&str)) -> Console {
        let target = match kind {
            ConsoleKind::Terminal => ProgressDrawTarget::stdout(),
            ConsoleKind::Lines | ConsoleKind::Json => ProgressDrawTarget::hidden(),
        };
        Console {
            kind,
            style,
            print,
            cells: cells.iter().map(|cell| (cell.id.clone(), cell.status.clone())).collect(),
            running: BTreeMap::new(),
            screen: MultiProgress::with_draw_target(target),
            ended: 0,
            began: Instant::now(),
        }
    }

    /// For other output on the same terminal.
    pub fn screen(&self) -> MultiProgress {
        self.screen.clone()
    }

    pub fn started(&mut self, index: usize) {
        let now = Instant::now();
        let bar = (self.kind == ConsoleKind::Terminal).then(|| {
            let bar = self.screen.add(ProgressBar::no_length().with_style(line_style()));
            bar.set_prefix(self.cells[index].0.clone());
            bar.set_message("starting");
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        self.running.insert(index, Running { since: now, last_line: now, bar });
        match self.kind {
            ConsoleKind::Lines => self.line(&format!("{}: started", self.cells[index].0)),
            ConsoleKind::Json => {
                self.object(&json!({ "event": "cell-started", "cell": self.cells[index].0 }));
            }
            ConsoleKind::Terminal => {}
        }
    }

    /// A signal has come.
    pub fn stopping(&self, signal: &str) {
        if self.kind != ConsoleKind::Json {
            self.line(&format!(
                "{signal}: the cells stop and save their reports; a second signal stops them at once"
            ));
        }
    }

    pub fn ended(&mut self, index: usize, end: &CellEnd) {
        self.ended += 1;
        let id = self.cells[index].0.clone();
        let running = self.running.remove(&index);
        if let Some(bar) = running.as_ref().and_then(|running| running.bar.as_ref()) {
            bar.finish_and_clear();
            self.screen.remove(bar);
        }
        let (word, is_good) = word(end);
        let took = running.map(|running| duration(running.since.elapsed().as_secs_f64()));
        if self.kind == ConsoleKind::Json {
            let code = match end {
                CellEnd::Ended(Ok(CommandOutcome { end: ExitReason::Exited(code), .. })) => Some(*code),
                _ => None,
            };
            return self
                .object(&json!({ "event": "cell-finished", "cell": id, "exit_code": code, "end": word }));
        }
        let word = match is_good {
            true => self.style.good(&word),
            false => self.style.bad(&word),
        };
        let took = took.map(|took| format!(" after {took}")).unwrap_or_default();
        self.line(&format!("{id}: {word}{took} ({} of {} cells)", self.ended, self.cells.len()));
    }

    pub fn tick(&mut self) {
        let mut lines = Vec::new();
        for (index, running) in &mut self.running {
            let (id, status) = &self.cells[*index];
            match &running.bar {
                Some(bar) => bar.set_message(status.get()),
                None if running.last_line.elapsed() >= INTERVAL => {
                    running.last_line = Instant::now();
                    lines.push(format!("{id}: {}", status.get()));
                }
                None => {}
            }
        }
        if self.kind == ConsoleKind::Lines {
            lines.iter().for_each(|line| self.line(line));
        }
    }

    fn line(&self, text: &str) {
        match self.kind {
            // Without a terminal, the line is lost, and the cells continue.
            ConsoleKind::Terminal => drop(self.screen.println(text)),
            ConsoleKind::Lines | ConsoleKind::Json => {
                let since = duration(self.began.elapsed().as_secs_f64());
                (self.print)(&format!("[{since:>8}] {text}\n"));
            }
        }
    }

    fn object(&self, value: &serde_json::Value) {
        (self.print)(&format!("{value}\n"));
    }
}

/// How a cell ended, and whether it passed.
fn word(end: &CellEnd) -> (String, bool) {
    match end {
        CellEnd::NotStarted(Interrupted::Cancelled) => ("not started".into(), false),
        CellEnd::NotStarted(Interrupted::OutOfTime) => ("not started, out of time".into(), false),
        CellEnd::Ended(Err(error)) => (format!("lost: {}", error.message), false),
        CellEnd::Ended(Ok(outcome)) => match outcome.end {
            ExitReason::Exited(0) => ("passed".into(), true),
            ExitReason::Exited(1) => ("failed".into(), false),
            ExitReason::Exited(code) if code == i32::from(ExitStatus::OutOfTime.code()) => {
                ("out of time".into(), false)
            }
            ref other => (format!("ended with {other}"), false),
        },
    }
}

fn line_style() -> ProgressStyle {
    // The template is a fixed text; were it wrong, the default is still readable.
    ProgressStyle::with_template("{spinner} {elapsed_precise}  {prefix:28} {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
}
