//! What runs now and how far it is, in one line: the same words for a terminal and for a log.

use agent_types::events::{Event, EventKind, Phase, Progress, Running, Unit};
use agent_types::sanitize::sanitize_line;
use agent_types::stage::Stage;

use super::format::duration;
use crate::report::durations::Durations;
use crate::report::summary::At;

/// Running tasks that are named.
const MOST_RUNNING: usize = 3;

/// Programs that work for one step whose progress is told.
const MOST_PARTS: usize = 2;

/// Silence is told from here on, in seconds.
const SILENCE: u64 = 60;

/// Follows the events of a job.
#[derive(Debug, Default)]
pub struct JobProgress {
    last_run: Durations,
    /// Stages that the job runs.
    plan: Vec<Stage>,
    stage: Option<(Stage, At)>,
    ended: Vec<Unit>,
    /// In the order of their starts.
    units: Vec<(Unit, At)>,
    /// The step's own progress first, then that of the programs that work for it. With the time of the event.
    parts: Vec<(Progress, At)>,
    /// No command printed anything for so many seconds, and what it does.
    silent: Option<(u64, String)>,
}

impl JobProgress {
    /// Estimates the time that is left from the last run of the same job.
    pub fn after(last_run: Durations) -> JobProgress {
        JobProgress { last_run, ..JobProgress::default() }
    }

    /// Whether the event changed anything.
    pub fn take(&mut self, event: &Event) -> bool {
        if !matches!(event.what, EventKind::Heartbeat { .. }) {
            self.silent = None;
        }
        match &event.what {
            EventKind::JobStarted(job) => {
                let runs = job.plan.iter().filter(|planned| planned.skip.is_none());
                self.plan = runs.map(|planned| planned.stage).collect();
            }
            EventKind::StageStarted { stage } => {
                self.stage = Some((*stage, At::of(event)));
                self.units.clear();
                self.parts.clear();
                self.ended.clear();
            }
            EventKind::StageFinished { stage, .. } => {
                self.stage = self.stage.filter(|(running, _)| running != stage);
            }
            EventKind::UnitStarted { unit } => self.units.push((unit.clone(), At::of(event))),
            EventKind::UnitFinished { unit, .. } => {
                self.units.retain(|(known, _)| known != unit);
                self.parts.retain(|(known, _)| known.unit != *unit);
                self.ended.push(unit.clone());
            }
            EventKind::Progress(progress) => self.progress(progress, At::of(event)),
            EventKind::Heartbeat { silent_seconds, running } => {
                self.silent = Some((*silent_seconds, running.clone()));
            }
            _ => return false,
        }
        true
    }

    fn progress(&mut self, progress: &Progress, at: At) {
        let is_same = |known: &Progress| known.unit == progress.unit && known.part == progress.part;
        let known = self.parts.iter().position(|(known, _)| is_same(known));
        match known {
            _ if progress.phase == Phase::Ended => self.parts.retain(|(known, _)| !is_same(known)),
            Some(known) => self.parts[known] = (progress.clone(), at),
            None if progress.part.is_empty() => self.parts.insert(0, (progress.clone(), at)),
            None => self.parts.push((progress.clone(), at)),
        }
    }

    /// Whether there are numbers to tell.
    pub fn has_numbers(&self) -> bool {
        self.parts.iter().any(|(progress, _)| progress.phase != Phase::Starting)
    }

    /// Done and total of the program that works now, for a bar.
    pub fn bar(&self) -> Option<(u64, u64)> {
        let (progress, _) = self.parts.last()?;
        (progress.total > 0).then_some((progress.done, progress.total))
    }

    /// For a log: `build: core-image-minimal for 2m03s, task 1204 of 5310, about 12m left, running:
    /// bash:do_compile (1m02s)`. `None` before the first stage.
    pub fn line(&self, now: At) -> Option<String> {
        let running = self.running(now).map(|running| format!("running: {running}"));
        let parts = [self.step(now), self.positions(), self.estimate(now), running, self.silence()];
        self.joined(parts)
    }

    /// The same for a terminal, which cuts what is too long: the numbers come first. The tasks that run have a line
    /// of their own.
    pub fn numbers_first(&self, now: At) -> Option<String> {
        self.joined([self.positions(), self.estimate(now), self.step(now), self.silence()])
    }

    fn joined<const N: usize>(&self, parts: [Option<String>; N]) -> Option<String> {
        let (stage, _) = self.stage?;
        let parts = parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
        Some(if parts.is_empty() { stage.name().to_owned() } else { format!("{stage}: {parts}") })
    }

    /// `core-image-minimal for 2m03s and 1 more`.
    fn step(&self, now: At) -> Option<String> {
        let (unit, since) = self.units.first()?;
        let text = format!("{} for {}", sanitize_line(&unit.name), duration(since.seconds_until(now)));
        Some(match self.units.len() - 1 {
            0 => text,
            more => format!("{text} and {more} more"),
        })
    }

    /// `test 3 of 16 (test_world), parsing 512 of 920 and writing signatures`.
    fn positions(&self) -> Option<String> {
        let all = self.parts.iter().map(|(progress, _)| progress);
        let (of_step, programs): (Vec<_>, Vec<_>) = all.partition(|progress| progress.part.is_empty());
        let mut told: Vec<String> = of_step.into_iter().map(position).collect();
        let shown: Vec<_> = programs.iter().take(MOST_PARTS).map(|progress| position(progress)).collect();
        if !shown.is_empty() {
            let more = match programs.len().saturating_sub(MOST_PARTS) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            told.push(format!("{}{more}", shown.join(" and ")));
        }
        (!told.is_empty()).then(|| told.join(", "))
    }

    /// `about 12m left`.
    fn estimate(&self, now: At) -> Option<String> {
        self.left(now).map(|left| format!("about {} left", rough(left)))
    }

    /// `no output for 2m00s: git fetch`.
    fn silence(&self) -> Option<String> {
        let (seconds, what) = self.silent.as_ref().filter(|(seconds, _)| *seconds >= SILENCE)?;
        let text = format!("no output for {}", duration(*seconds as f64));
        Some(if self.parts.is_empty() { format!("{text}: {}", sanitize_line(what)) } else { text })
    }

    /// Tasks that run, the oldest first: `bash:do_compile (1m02s), zlib:do_fetch (2s) and 3 more`.
    pub fn running(&self, now: At) -> Option<String> {
        let tasks = self.parts.iter().filter(|(progress, _)| progress.phase != Phase::Tests);
        let running: Vec<(&Running, At)> =
            tasks.flat_map(|(progress, at)| progress.running.iter().map(|running| (running, *at))).collect();
        let shown = running.iter().take(MOST_RUNNING).map(|(running, told)| {
            let seconds = running.seconds as f64 + told.seconds_until(now);
            format!("{} ({})", sanitize_line(&running.name), duration(seconds.floor()))
        });
        let shown = shown.collect::<Vec<_>>().join(", ");
        match running.len().saturating_sub(MOST_RUNNING) {
            _ if running.is_empty() => None,
            0 => Some(shown),
            more => Some(format!("{shown} and {more} more")),
        }
    }

    fn left(&self, now: At) -> Option<f64> {
        let (stage, since) = self.stage?;
        let place = self.plan.iter().position(|planned| *planned == stage);
        let following = place.and_then(|place| self.plan.get(place + 1..)).unwrap_or_default();
        let running = self.units.first().map(|(unit, since)| (unit, since.seconds_until(now)));
        self.last_run.left(stage, since.seconds_until(now), &self.ended, running, following)
    }
}

/// `parsing 512 of 920`, `task 1204 of 5310, 1 failed`.
fn position(progress: &Progress) -> String {
    let Progress { phase, done, total, failed, running, .. } = progress;
    let mut text = match phase {
        Phase::Starting => "BitBake starts".to_owned(),
        Phase::LoadingCache if *total == 0 => "loading the parse cache".to_owned(),
        Phase::LoadingCache => format!("loading the parse cache: {done} of {total}"),
        Phase::Parsing => format!("parsing {done} of {total}"),
        Phase::Preparing => format!("preparing tasks: {done}%"),
        Phase::CheckingSstate => format!("looking for shared state: {done}%"),
        Phase::SetsceneTasks => format!("setscene task {done} of {total}"),
        Phase::Tasks => format!("task {done} of {total}"),
        Phase::WritingSignatures => "writing signatures".to_owned(),
        Phase::Tests => match running.first() {
            Some(test) => format!("test {} of {total} ({})", done + 1, sanitize_line(&test.name)),
            None => format!("test {done} of {total}"),
        },
        Phase::Uploading => format!("uploaded {done} of {total} files"),
        Phase::Ended => String::new(),
    };
    if *failed > 0 {
        text += &format!(", {failed} failed");
    }
    text
}

/// An estimate is no exact time: `40s`, `12m`, `2h05m`.
fn rough(seconds: f64) -> String {
    match seconds {
        ..60.0 => format!("{seconds:.0}s"),
        ..3600.0 => format!("{:.0}m", seconds / 60.0),
        _ => {
            let minutes = (seconds / 60.0).round() as u64;
            format!("{}h{:02}m", minutes / 60, minutes % 60)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::report::sample::{
        at, check_layer, failing_job, image, job_started, poky, reduce, started, unit_finished, unit_started,
    };
    use agent_types::outcome::Outcome;

    fn progress(
        unit: &Unit,
        part: &str,
        phase: Phase,
        numbers: [u64; 3],
        running: &[(&str, u64)],
    ) -> EventKind {
        let running =
            running.iter().map(|(name, seconds)| Running { name: (*name).into(), seconds: *seconds });
        let [done, total, failed] = numbers;
        EventKind::Progress(Progress {
            done,
            total,
            failed,
            running: running.collect(),
            ..Progress::new(unit, part, phase)
        })
    }

    #[test]
    fn the_line_follows_the_events() {
        let (check, build) = (check_layer(), image());
        let silent = |seconds| EventKind::Heartbeat { silent_seconds: seconds, running: "git fetch".into() };
        let tasks = [("zlib:do_compile", 60), ("\u{1b}[2Jbash:do_fetch", 2), ("c:do_x", 1), ("d:do_x", 0)];
        let world = "signatures of the world";
        let script = [
            (job_started(&[Stage::Test]), None, None),
            (started(Stage::Checkout), Some("checkout"), None),
            (unit_started(&poky()), Some("checkout: poky for 0.0s"), None),
            (silent(30), Some("checkout: poky for 1s"), None),
            (silent(120), Some("checkout: poky for 2s, no output for 2m00s: git fetch"), None),
            (unit_finished(&poky(), Outcome::Passed, None), Some("checkout"), None),
            (started(Stage::Check), Some("check"), None),
            (unit_started(&check), Some("check: yocto-check-layer meta-x for 0.0s"), None),
            (
                progress(&check, world, Phase::Parsing, [512, 920, 0], &[]),
                Some("check: yocto-check-layer meta-x for 1s, parsing 512 of 920"),
                Some((512, 920)),
            ),
            (
                progress(&check, "", Phase::Tests, [2, 16, 0], &[("test_world", 0)]),
                Some("check: yocto-check-layer meta-x for 2s, test 3 of 16 (test_world), parsing 512 of 920"),
                Some((512, 920)),
            ),
            (
                progress(&check, "another", Phase::WritingSignatures, [0, 0, 0], &[]),
                Some(
                    "check: yocto-check-layer meta-x for 3s, test 3 of 16 (test_world), \
                     parsing 512 of 920 and writing signatures",
                ),
                None,
            ),
            (
                progress(&check, world, Phase::Ended, [0, 0, 0], &[]),
                Some("check: yocto-check-layer meta-x for 4s, test 3 of 16 (test_world), writing signatures"),
                None,
            ),
            (unit_finished(&check, Outcome::Passed, None), Some("check"), None),
            (started(Stage::Build), Some("build"), None),
            (unit_started(&build), Some("build: core-image-minimal for 0.0s"), None),
            (
                progress(&build, "", Phase::Tasks, [812, 3412, 1], &tasks),
                Some(
                    "build: core-image-minimal for 1s, task 812 of 3412, 1 failed, running: \
                     zlib:do_compile (1m00s), bash:do_fetch (2s), c:do_x (1s) and 1 more",
                ),
                Some((812, 3412)),
            ),
            (
                silent(300),
                Some(
                    "build: core-image-minimal for 2s, task 812 of 3412, 1 failed, running: \
                     zlib:do_compile (1m01s), bash:do_fetch (3s), c:do_x (2s) and 1 more, no output for 5m00s",
                ),
                Some((812, 3412)),
            ),
            (unit_started(&poky()), None, None),
        ];
        let mut job = JobProgress::default();
        for (second, (what, line, bar)) in script.into_iter().enumerate() {
            let event = at(second as u64 * 1000, what);
            assert!(job.take(&event));
            if matches!(&event.what, EventKind::UnitStarted { unit } if *unit == poky()) && second > 5 {
                assert!(
                    job.line(At::of(&event))
                        .unwrap()
                        .starts_with("build: core-image-minimal for 3s and 1 more")
                );
                continue;
            }
            assert_eq!((job.line(At::of(&event)).as_deref(), job.bar()), (line, bar), "{second}");
        }
    }

    #[test]
    fn a_terminal_that_cuts_the_line_shows_the_numbers() {
        let mut job = JobProgress::default();
        assert_eq!(job.numbers_first(At::of(&at(0, started(Stage::Check)))), None);
        let (check, build) = (check_layer(), image());
        for (what, line, running) in [
            (started(Stage::Check), "check", None),
            (unit_started(&check), "check: yocto-check-layer meta-x for 0.0s", None),
            (
                progress(&check, "", Phase::Tests, [2, 16, 0], &[("test_world", 0)]),
                "check: test 3 of 16 (test_world), yocto-check-layer meta-x for 0.0s",
                None,
            ),
            (
                progress(&check, "the world", Phase::Parsing, [512, 920, 0], &[]),
                "check: test 3 of 16 (test_world), parsing 512 of 920, yocto-check-layer meta-x for 0.0s",
                None,
            ),
            (started(Stage::Build), "build", None),
            (unit_started(&build), "build: core-image-minimal for 0.0s", None),
            (
                progress(&build, "", Phase::Tasks, [812, 3412, 1], &[("zlib:do_compile", 60)]),
                "build: task 812 of 3412, 1 failed, core-image-minimal for 0.0s",
                Some("zlib:do_compile (1m00s)"),
            ),
        ] {
            let event = at(0, what);
            job.take(&event);
            let now = At::of(&event);
            assert_eq!(job.numbers_first(now).as_deref(), Some(line));
            assert_eq!(job.running(now).as_deref(), running, "{line}");
        }
    }

    #[test]
    fn the_time_left_is_told_when_the_last_run_is_known() {
        let work = tempfile::tempdir().unwrap();
        let summary = reduce(&failing_job());
        Durations::keep(work.path(), &summary).unwrap();
        let mut job = JobProgress::after(Durations::of_last_run(work.path(), &summary.job));
        for (milliseconds, what) in
            [(0, job_started(&[Stage::Test])), (0, started(Stage::Build)), (0, unit_started(&image()))]
        {
            job.take(&at(milliseconds, what));
        }
        let later = |seconds: u64| At::of(&at(seconds * 1000, started(Stage::Build)));
        let line = job.line(later(10)).unwrap();
        assert!(
            line.starts_with("build: core-image-minimal for 10s, about ") && line.ends_with("s left"),
            "{line}"
        );
        let last = summary.units.iter().find(|unit| unit.is(&image())).unwrap();
        let (took, publish) = (last.seconds.unwrap(), 0.0);
        let left = took - 10.0 + publish;
        assert!(line.contains(&format!("about {left:.0}s left")), "{line}: {left}");
        assert!(!job.line(later(5000)).unwrap().contains("left"));
    }

    #[test]
    fn an_estimate_is_round() {
        for (seconds, wanted) in [(1.2, "1s"), (59.0, "59s"), (61.0, "1m"), (725.0, "12m"), (7500.0, "2h05m")]
        {
            assert_eq!(rough(seconds), wanted);
        }
    }
}
