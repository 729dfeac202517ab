//! Build: BitBake on the targets, once for each machine.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use tracing::Instrument;

use crate::config::Settings;
use agent_cache::Usage;
use agent_fs::tree::Tree;
use agent_process::{Command, CommandOutcome, ExitReason, Runner, UntilStopped};
use agent_types::error::{Error, Result};
use agent_types::events::{EventKind, Level, Sstate, TaskFailed, Unit};
use agent_types::outcome::Outcome;
use agent_types::stage::Stage;
use agent_yocto::bitbake::{Build, Failure};
use agent_yocto::bitbake_events::{NO_EVENTS, NONE_RECEIVED};
use agent_yocto::excerpt::relevant_lines;
use agent_yocto::host;
use agent_yocto::starter::{Addition, Starter, can_tell_events};

use super::cleanup::{ServerEnd, UnitEnd};
use super::configure::BuildEnvironment;
use super::pending::Pending;

/// Lines of a failed task's log that a report shows.
const EXCERPT_LINES: usize = 60;
/// Bytes of a failed task's log that are copied and read, from its end.
const TASK_LOG_LIMIT: u64 = 4 << 20;

/// What came of the builds of all machines.
#[derive(Clone, Debug)]
pub struct Builds {
    /// The worst.
    pub outcome: Outcome,
    /// How well the caches served them, in sum.
    pub usage: Usage,
}

/// The builds that the manifest asks for: one for each machine.
pub fn units(settings: &Settings) -> Vec<Unit> {
    settings.config.machines.iter().map(|machine| unit(settings, machine)).collect()
}

fn unit(settings: &Settings, machine: &str) -> Unit {
    Unit::new(Stage::Build, format!("{} ({machine})", settings.build.targets.join(" ")))
}

/// Builds all targets for each machine. After a build that did not pass, the others are not run, unless
/// `--keep-going` asks for them.
pub async fn run(settings: &Settings, configured: &BuildEnvironment, runner: &Runner) -> Result<Builds> {
    let mut pending = Pending::new(units(settings), &runner.events);
    let builds = run_pending(settings, configured, runner, &mut pending).await;
    pending.not_run_after(builds.as_ref().map(|builds| &builds.outcome)).await;
    builds
}

async fn run_pending(
    settings: &Settings,
    configured: &BuildEnvironment,
    runner: &Runner,
    pending: &mut Pending<'_>,
) -> Result<Builds> {
    let mut outcomes = Vec::new();
    let mut usage = Usage::default();
    for machine in &settings.config.machines {
        let unit = unit(settings, machine);
        pending.start(&unit);
        runner.events.emit(EventKind::UnitStarted { unit: unit.clone() }).await;
        let (built, server) =
            machine_build(settings, configured, runner, &unit, machine).instrument(super::step(&unit)).await;
        let Built { outcome, log, excerpt, sstate } = match built {
            Ok(built) => built,
            Err(error) => {
                UnitEnd::error(unit, &error).report(server, &runner.events).await;
                return Err(error);
            }
        };
        UnitEnd { unit, outcome: outcome.clone(), log, excerpt }.report(server, &runner.events).await;
        usage += sstate.map(used).unwrap_or_default();
        let stop = !outcome.is_success() && (!settings.check.keep_going || outcome.was_stopped());
        outcomes.push(outcome);
        if stop {
            break;
        }
    }
    let outcome = Outcome::worst(&outcomes)
        .cloned()
        .ok_or_else(|| Error::internal("the build stage ran without any machine"))?;
    Ok(Builds { outcome, usage })
}

fn used(Sstate { wanted, local, mirrors, missed, current: _ }: Sstate) -> Usage {
    Usage { wanted, local, mirrors, missed }
}

/// What came of the build of one machine.
struct Built {
    outcome: Outcome,
    log: Option<PathBuf>,
    excerpt: Vec<String>,
    sstate: Option<Sstate>,
}

async fn machine_build(
    settings: &Settings,
    configured: &BuildEnvironment,
    runner: &Runner,
    unit: &Unit,
    machine: &str,
) -> (Result<Built>, ServerEnd) {
    let bitbake = configured.tools.bitbake.join("bin/bitbake");
    let starter = starter(settings, &bitbake);
    let (program, before) = match &starter {
        Ok(starter) => starter.command(&bitbake, &[Addition::Events]),
        Err(_) => (bitbake, Vec::new()),
    };
    let mut command = Command::new(program, &configured.build, format!("build-{machine}")).args(before);
    let mut no_events = starter.err();
    if no_events.is_none() {
        no_events = command.listen_to_events().err().map(|error| error.to_string());
    }
    if settings.check.keep_going {
        command = command.arg("-k");
    }
    command = command.args(&settings.build.targets);
    command.environment = configured.environment(&configured.build);
    command.environment.set("MACHINE", machine);
    command.user = configured.user.clone();

    command.status = Some(format!("bitbake {}", unit.name));

    let mut build = UntilStopped::new(Build::new(unit.clone()), &command.stopping);
    let ended = runner.run(command, &mut build).await;
    let server = ServerEnd::stop(&configured.build, configured.user.as_ref(), runner).await;
    let built = match ended {
        Ok(finished) => report_build(build.lines, &finished, no_events, configured, runner, unit).await,
        Err(error) => Err(error),
    };
    (built, server)
}

/// The failed tasks as events, and the verdict. `no_events` says why BitBake was not asked for its events.
async fn report_build(
    build: Build,
    finished: &CommandOutcome,
    mut no_events: Option<String>,
    configured: &BuildEnvironment,
    runner: &Runner,
    unit: &Unit,
) -> Result<Built> {
    if no_events.is_none() && !build.has_events() {
        no_events = Some(NONE_RECEIVED.into());
    }
    if let Some(why) = no_events {
        let message = format!("{}: {NO_EVENTS} ({why}); progress comes from its output", unit.name);
        runner.events.info(message).await;
    }
    if build.dropped_events() > 0 {
        let message =
            format!("{} events of BitBake tasks were lost: they came too fast", build.dropped_events());
        runner.events.warn(message, None).await;
    }
    for failure in build.failed_tasks(finished.success()).0 {
        let failed = task_failed(unit, failure, &configured.build, runner);
        runner.events.emit(EventKind::TaskFailed(failed)).await;
    }
    if build.setscene_failures > 0 {
        let message = format!(
            "{} shared state objects could not be used; their tasks ran instead",
            build.setscene_failures
        );
        runner.events.emit(EventKind::Notice { level: Level::Warning, message, hint: None }).await;
    }
    let outcome = judge(&build, finished)?;
    let excerpt = match &outcome {
        Outcome::Passed | Outcome::Cancelled(_) => Vec::new(),
        // A build that never got to a task has its story in its own lines.
        _ if build.failed_tasks(finished.success()).0.is_empty() && build.errors.is_empty() => {
            finished.tail.clone()
        }
        _ if build.failed_tasks(finished.success()).0.is_empty() => build.errors.clone(),
        _ => Vec::new(),
    };
    let log = Some(runner.relative_log(&finished.log));
    Ok(Built { outcome, log, excerpt, sstate: build.sstate })
}

/// The starter script for this BitBake.
///
/// # Errors
/// Why it cannot be used.
pub(super) fn starter(settings: &Settings, bitbake: &Path) -> std::result::Result<Starter, String> {
    can_tell_events(bitbake)?;
    Starter::write(&settings.paths.work).map_err(|error| error.to_string())
}

/// The verdict guard of a build: the exit status and BitBake's own summary must agree.
pub(super) fn judge(build: &Build, finished: &CommandOutcome) -> Result<Outcome> {
    let said = build.errors.iter().chain(&finished.tail).map(String::as_str).collect::<Vec<_>>().join("\n");
    if let (ExitReason::Exited(1..), Some(trouble)) = (finished.end, host::trouble(&said)) {
        return Err(trouble);
    }
    let (failures, failures_total) = build.failed_tasks(finished.success());
    let named = failures.first().map(|first| {
        let more = failures_total.saturating_sub(1);
        let and = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{}:{} failed{and}", first.recipe, first.task)
    });
    Ok(match finished.end {
        ExitReason::Exited(0) => match build.summary {
            Some(summary) if summary.failed > 0 || named.is_some() => {
                return Err(Error::internal(format!(
                    "bitbake ended with exit status 0 although tasks failed: {}",
                    named.unwrap_or_else(|| format!("{} of {}", summary.failed, summary.attempted))
                ))
                .hint(format!("read `{}`", finished.log.display())));
            }
            Some(_) if build.admits_failure.is_some() => {
                let said = build.admits_failure.as_deref().unwrap_or_default();
                return Err(Error::internal(format!(
                    "bitbake ended with exit status 0, but it says `{said}`"
                ))
                .hint(format!("read `{}`", finished.log.display())));
            }
            Some(summary) if summary.attempted == 0 => {
                Outcome::Failed("bitbake ran no task at all, so nothing was built".into())
            }
            Some(_) => Outcome::Passed,
            None => {
                return Err(Error::internal("bitbake ended with exit status 0 without its tasks summary")
                    .hint(format!(
                        "nothing proves that it built something; read `{}`",
                        finished.log.display()
                    )));
            }
        },
        ExitReason::Exited(status) => Outcome::Failed(named.unwrap_or_else(|| match build.errors.first() {
            Some(error) => error.clone(),
            None => format!("bitbake ended with exit status {status} and named no failed task"),
        })),
        ExitReason::Signalled(9) => {
            Outcome::Failed("bitbake was killed (SIGKILL); out of memory is the usual cause".into())
        }
        ExitReason::Signalled(signal) => Outcome::Failed(format!("bitbake was ended by signal {signal}")),
        ExitReason::Cancelled => Outcome::Cancelled("a signal stopped the job".into()),
        ExitReason::TimedOut => Outcome::TimedOut("[limits] job is over".into()),
        ExitReason::Stalled(silent) => {
            Outcome::TimedOut(format!("bitbake was silent for {}", humantime::format_duration(silent)))
        }
    })
}

/// The failed task with the lines of its log that matter. The log's path comes from output that
/// layer code can write, so it is read only below the build directory and through no link.
pub(super) fn task_failed(unit: &Unit, failure: &Failure, build_dir: &Path, runner: &Runner) -> TaskFailed {
    let text =
        failure.log.as_deref().and_then(|log| read_end(build_dir, log.strip_prefix(build_dir).ok()?).ok());
    let (log, excerpt) = match text {
        None => (None, Vec::new()),
        Some(bytes) => {
            let text = runner.redactor.redact(&String::from_utf8_lossy(&bytes)).into_owned();
            let name = format!("{}-{}", failure.recipe, failure.task).replace('/', "_");
            let copy = runner.keep_text(&format!("task-{name}"), &text).ok();
            let excerpt = relevant_lines(&mut text.as_bytes(), EXCERPT_LINES).unwrap_or_default();
            (copy, excerpt)
        }
    };
    TaskFailed {
        unit: unit.clone(),
        recipe: failure.recipe.clone(),
        task: failure.task.clone(),
        log,
        excerpt,
    }
}

/// The last bytes of a file below `root`, reached through no link.
fn read_end(root: &Path, relative: &Path) -> Result<Vec<u8>> {
    let tree = Tree::open(root)?;
    let seen = tree.metadata(relative)?.identity();
    let (mut file, found) = tree.open_file(relative, seen)?;
    file.seek(SeekFrom::Start(found.size.saturating_sub(TASK_LOG_LIMIT)))?;
    let mut bytes = Vec::new();
    file.take(TASK_LOG_LIMIT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::time::Duration;

    use super::*;
    use agent_process::LineHandler;
    use agent_types::error::Class;

    fn judged(output: &str, end: ExitReason) -> Result<Outcome> {
        let mut build = Build::new(Unit::new(Stage::Build, "x"));
        for line in output.lines() {
            build.line(line);
        }
        let finished = CommandOutcome {
            end,
            log: "/o/logs/b.log".into(),
            bytes: 0,
            elapsed: Duration::ZERO,
            tail: Vec::new(),
        };
        judge(&build, &finished)
    }

    const DONE: &str =
        "NOTE: Tasks Summary: Attempted 5 tasks of which 0 didn't need to be rerun and all succeeded.";
    const FAILED: &str = "ERROR: Task (/m/a_1.bb:do_compile) failed with exit code '1'\n\
        NOTE: Tasks Summary: Attempted 5 tasks of which 0 didn't need to be rerun and 1 failed.";

    #[test]
    fn a_build_passes_only_when_all_sources_agree() {
        assert_eq!(judged(DONE, ExitReason::Exited(0)).unwrap(), Outcome::Passed);
        assert_eq!(
            judged(FAILED, ExitReason::Exited(1)).unwrap(),
            Outcome::Failed("a_1:do_compile failed".into())
        );
        for (output, what) in [("", "no summary"), (FAILED, "failed tasks")] {
            let error = judged(output, ExitReason::Exited(0)).unwrap_err();
            assert_eq!(error.class, Class::Internal, "{what}");
        }
        for admitted in [
            "NOTE: Tasks Summary: Attempted 5 tasks of which 0 didn't need to be rerun and 1 failed.",
            "Summary: 1 task failed:\n  /m/a_1.bb:do_compile",
            "Summary: There was 1 ERROR message shown, returning a non-zero exit code.",
            "Execution was interrupted, returning a non-zero exit code.",
        ] {
            for output in [format!("{admitted}\n{DONE}"), format!("{DONE}\n{admitted}")] {
                let error = judged(&output, ExitReason::Exited(0)).unwrap_err();
                assert_eq!(error.class, Class::Internal, "{output}");
            }
        }
        for innocent in ["ERROR: only printed", "Summary: There was 1 WARNING message.", "x Tasks Summary: y"]
        {
            let output = format!("{innocent}\n{DONE}\n{innocent}");
            assert_eq!(judged(&output, ExitReason::Exited(0)).unwrap(), Outcome::Passed, "{output}");
        }
        let inside = format!("WARNING: x-1-r0 do_y: {}", DONE.trim_start_matches("NOTE: "));
        assert_eq!(judged(&inside, ExitReason::Exited(0)).unwrap_err().class, Class::Internal);
        let nothing = DONE.replace("Attempted 5", "Attempted 0");
        assert!(matches!(judged(&nothing, ExitReason::Exited(0)).unwrap(), Outcome::Failed(_)));
    }

    #[test]
    fn ends_that_are_not_the_builds_own_are_told_apart() {
        for (end, word) in [
            (ExitReason::Signalled(9), "failed"),
            (ExitReason::Cancelled, "cancelled"),
            (ExitReason::TimedOut, "timed-out"),
            (ExitReason::Stalled(Duration::from_secs(60)), "timed-out"),
            (ExitReason::Exited(1), "failed"),
        ] {
            assert_eq!(judged(DONE, end).unwrap().word(), word, "{end:?}");
        }
    }
}
