//! The verdict on one run of BitBake: its exit status, its own summary and the causes of its failed tasks.

use agent_process::ExitReason;
use agent_types::error::{Error, Result};
use agent_types::outcome::Outcome;
use agent_yocto::host;
use agent_yocto::task_failure::{TaskFailure, task_failure};

use super::bitbake::Ran;
use super::failed_task::FailedTask;

/// The verdict guard of a build: the exit status and BitBake's own summary must agree.
///
/// # Errors
/// When the machine or a server is to blame, and when BitBake contradicts itself.
pub fn judge(ran: &Ran, failed: &[FailedTask]) -> Result<Outcome> {
    let Ran { build, finished, .. } = ran;
    // A cache never fails a build.
    if finished.end == ExitReason::Exited(1) && build.fails_only_for_shared_state() {
        return Ok(Outcome::Passed);
    }
    if let (ExitReason::Exited(1..), Some(trouble)) = (finished.end, host::trouble(&said(ran))) {
        return Err(trouble);
    }
    if let (ExitReason::Exited(1..) | ExitReason::Signalled(_), Some(error)) =
        (finished.end, external_cause(ran, failed))
    {
        return Err(error);
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
                    "bitbake ended with exit status 0, but it printed `{said}`"
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
            let usual = if ran.has_killed.is_none() { "; out of memory is the usual cause" } else { "" };
            Outcome::Failed(format!("bitbake was killed (SIGKILL){usual}"))
        }
        ExitReason::Signalled(signal) => Outcome::Failed(format!("bitbake was ended by signal {signal}")),
        ExitReason::Cancelled => Outcome::Cancelled("a signal stopped the job".into()),
        ExitReason::TimedOut => Outcome::TimedOut("[limits] job is over".into()),
        ExitReason::Stalled(silent) => {
            Outcome::TimedOut(format!("bitbake was silent for {}", humantime::format_duration(silent)))
        }
    })
}

/// The error, if a server or the machine is the cause.
fn external_cause(ran: &Ran, failed: &[FailedTask]) -> Option<Error> {
    if let Some(why) = lacked_memory(ran, failed) {
        return Some(no_memory(&why));
    }
    let total = ran.build.failed_tasks(ran.finished.success()).1;
    let mut upstream = None;
    for task in failed {
        match &task.cause {
            TaskFailure::Disk(line) => return Some(full_disk(&format!("{}: {line}", task.name()))),
            TaskFailure::Upstream(line) => {
                upstream.get_or_insert_with(|| no_source(&format!("{}: {line}", task.name())));
            }
            TaskFailure::Layer | TaskFailure::Memory(_) => {}
        }
    }
    let is_all = failed.iter().all(|task| matches!(task.cause, TaskFailure::Upstream(_)));
    if total > 0 || !failed.is_empty() {
        return upstream.filter(|_| is_all && total <= failed.len() as u64);
    }
    // BitBake gets revisions from servers while it parses recipes.
    match task_failure("do_fetch", None, &said(ran), ran.has_killed) {
        TaskFailure::Upstream(line) => Some(no_source(&line)),
        TaskFailure::Disk(line) => Some(full_disk(&line)),
        TaskFailure::Memory(line) => Some(no_memory(&line)),
        TaskFailure::Layer => None,
    }
}

/// BitBake's messages that belong to no task.
fn said(ran: &Ran) -> String {
    let lines = ran.build.errors.iter().chain(&ran.finished.tail).map(String::as_str);
    lines.collect::<Vec<_>>().join("\n")
}

/// Which task or program was killed because memory ran out.
pub fn lacked_memory(ran: &Ran, failed: &[FailedTask]) -> Option<String> {
    if ran.finished.end == ExitReason::Signalled(9) && ran.has_killed == Some(true) {
        return Some("bitbake: killed".into());
    }
    failed.iter().find_map(|task| match &task.cause {
        TaskFailure::Memory(line) => Some(format!("{}: {line}", task.name())),
        _ => None,
    })
}

fn no_memory(why: &str) -> Error {
    Error::machine(format!("memory ran out: {why}")).hint(
        "use a machine with more memory, or let the recipe do less at once: `PARALLEL_MAKE:pn-RECIPE = \"-j 1\"` in \
         [config] local_conf",
    )
}

fn full_disk(why: &str) -> Error {
    Error::machine(format!("the disk is full: {why}"))
        .hint("free disk space, or move the work with --work-dir")
}

/// The error of sources that no server has at the moment.
pub fn no_source(why: &str) -> Error {
    Error::upstream(format!("a source cannot be fetched, because its server does not answer: {why}"))
        .hint("run the job again later; a share keeps downloads, so that builds do not depend on the server")
}

/// Relevant lines of a build without a failed task.
pub fn excerpt(ran: &Ran, outcome: &Outcome) -> Vec<String> {
    let failed_tasks = ran.build.failed_tasks(ran.finished.success()).0;
    match outcome {
        Outcome::Passed | Outcome::Cancelled(_) => Vec::new(),
        _ if !failed_tasks.is_empty() => Vec::new(),
        // Without a failed task, BitBake's own output has the cause.
        _ if ran.build.errors.is_empty() => ran.finished.tail.clone(),
        _ => ran.build.errors.clone(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::time::Duration;

    use super::*;
    use agent_process::{CommandOutcome, LineHandler};
    use agent_types::error::Class;
    use agent_types::events::Unit;
    use agent_types::stage::Stage;
    use agent_yocto::bitbake::{Build, Failure};

    fn judged(output: &str, end: ExitReason) -> Result<Outcome> {
        judge(&ran(output, end, Some(false)), &[])
    }

    fn ran(output: &str, end: ExitReason, has_killed: Option<bool>) -> Ran {
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
        Ran { build, finished, has_killed }
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

    /// For example, a mirror has an object in its index and fails to send it.
    #[test]
    fn shared_state_that_cannot_be_had_fails_no_build() {
        let error =
            "ERROR: a-1-r0 do_deploy_setscene: Fetcher failure: Unable to find file file://ab/12/sstate:a";
        let warning = "WARNING: Setscene task (/m/a_1.bb:do_deploy_setscene) failed with exit code '1' - real task \
            will be run instead";
        let sum = |errors: &str| format!("Summary: There {errors}, returning a non-zero exit code.");
        let one = sum("was 1 ERROR message");
        let table = [
            (format!("{error}\n{warning}\n{DONE}\n{one}"), true),
            (format!("{error}\n{error}\n{warning}\n{DONE}\n{}", sum("were 2 ERROR messages")), true),
            (format!("{error}\n{warning}\n{DONE}\n{}", sum("was 1 ERROR message shown")), true),
            (format!("{error}\n{warning}\n{DONE}\n{}", sum("were 2 ERROR messages")), false),
            (format!("{error}\n{warning}\nERROR: a-1-r0 do_compile: x\n{DONE}\n{one}"), false),
            (format!("{error}\n{warning}\nERROR: x\n{DONE}\n{one}"), false),
            (format!("{error}\n{warning}\n{FAILED}\n{one}"), false),
            (format!("{error}\n{warning}\n{one}"), false),
            (format!("{error}\n{warning}\n{DONE}"), false),
            (format!("{error}\n{DONE}\n{one}"), false),
            (format!("{warning}\n{DONE}\n{one}"), false),
        ];
        for (output, passes) in table {
            let outcome = judged(&output, ExitReason::Exited(1)).unwrap();
            assert_eq!(outcome.is_success(), passes, "{output}: {outcome:?}");
        }
        let interrupted = format!("{error}\n{warning}\n{DONE}\n{one}");
        assert!(!judged(&interrupted, ExitReason::Exited(130)).unwrap().is_success());
    }

    #[test]
    fn stops_and_failures_have_different_outcomes() {
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

    fn failed(name: &str, cause: TaskFailure) -> FailedTask {
        let failure = Failure { recipe: name.into(), task: "do_x".into(), ..Failure::default() };
        FailedTask::new(failure, cause)
    }

    /// Two failed tasks and their causes.
    #[test]
    fn faults_of_servers_and_machines_are_not_failures_of_the_layer() {
        use TaskFailure::{Disk, Layer, Memory, Upstream};
        let why = || "why".to_owned();
        let table = [
            (Layer, Layer, None),
            (Upstream(why()), Upstream(why()), Some(Class::Upstream)),
            (Upstream(why()), Layer, None),
            (Memory(why()), Layer, Some(Class::Machine)),
            (Layer, Disk(why()), Some(Class::Machine)),
            (Upstream(why()), Memory(why()), Some(Class::Machine)),
        ];
        let output = "ERROR: Task (/m/a_1.bb:do_x) failed with exit code '1'\n\
            ERROR: Task (/m/b_1.bb:do_x) failed with exit code '1'\n\
            NOTE: Tasks Summary: Attempted 5 tasks of which 0 didn't need to be rerun and 2 failed.";
        for (first, second, wanted) in table {
            let tasks = [failed("a-1-r0", first.clone()), failed("b-1-r0", second.clone())];
            let found = judge(&ran(output, ExitReason::Exited(1), None), &tasks);
            assert_eq!(
                found.as_ref().err().map(|error| error.class),
                wanted,
                "{first:?} {second:?}: {found:?}"
            );
            if let Ok(outcome) = found {
                assert_eq!(outcome, Outcome::Failed("a_1:do_x failed and 1 more".into()));
            }
        }
    }

    #[test]
    fn errors_without_a_failed_task_have_causes_as_well() {
        let dead = "ERROR: x: Fetcher failure: Fetch command git ls-remote https://example.org failed with exit code 128, output:\n\
            fatal: unable to access 'https://example.org/': Could not resolve host: example.org";
        for (tail, wanted) in [
            (dead, Some(Class::Upstream)),
            ("OSError: [Errno 12] Cannot allocate memory", Some(Class::Machine)),
            (
                "ERROR: No new tasks can be executed since the disk space monitor action is \"STOPTASKS\"!",
                Some(Class::Machine),
            ),
            ("ERROR: ParseError at /m/a.bb:3", None),
        ] {
            let mut ran = ran("", ExitReason::Exited(1), Some(false));
            ran.finished.tail = tail.lines().map(str::to_owned).collect();
            let found = judge(&ran, &[]);
            assert_eq!(found.as_ref().err().map(|error| error.class), wanted, "{tail}: {found:?}");
        }
    }

    #[test]
    fn a_killed_bitbake_lacked_memory_if_the_kernel_reports_it() {
        for (has_killed, wanted) in [(Some(true), true), (Some(false), false), (None, false)] {
            let ran = ran("", ExitReason::Signalled(9), has_killed);
            assert_eq!(lacked_memory(&ran, &[]).is_some(), wanted, "{has_killed:?}");
            let found = judge(&ran, &[]);
            assert_eq!(found.is_err_and(|error| error.class == Class::Machine), wanted, "{has_killed:?}");
        }
        let tasks = [failed("a", TaskFailure::Layer), failed("b", TaskFailure::Memory("Killed".into()))];
        let failed_run = ran("", ExitReason::Exited(1), None);
        assert_eq!(lacked_memory(&failed_run, &tasks).as_deref(), Some("b:do_x: Killed"));
        assert_eq!(lacked_memory(&failed_run, &tasks[..1]), None);
    }
}
