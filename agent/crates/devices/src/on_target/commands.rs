//! Commands of the manifest on the device: each must end with exit status 0.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use agent_process::{Command, CommandOutcome, ExitReason, LineHandler};
use agent_types::error::Result;
use agent_types::events::EventKind;
use agent_types::outcome::Outcome;
use agent_yocto::environment::HOST_PATH;
use agent_yocto::testimage::verdict::JudgedTest;

use crate::test_run::{TestEnd, TestRun, ended_badly, stop_reason};

/// Time limit of one command.
const LIMIT: Duration = Duration::from_secs(10 * 60);

/// Characters of a command in the name of its case.
const LONGEST_NAME: usize = 120;

/// The line that ends the output of a command; the status follows. `ssh` itself ends with 255 for many reasons.
const STATUS: &str = "build-agent-status ";

/// Runs the commands one after another. One that fails does not stop the others.
///
/// # Errors
/// When `ssh` could not be started.
pub async fn run(run: TestRun<'_>) -> Result<TestEnd> {
    let TestRun { attempt, address, .. } = run;
    let commands = &attempt.request.commands;
    if commands.is_empty() {
        return Ok(TestEnd::failed("the request names the test `commands`, and has no command"));
    }
    let mut end = TestEnd::of(Outcome::Passed);
    let names = case_names(commands);
    for (index, (text, name)) in commands.iter().zip(names).enumerate() {
        if let Some(stopped) = stop_reason(&attempt) {
            end.tests.push(case(name, stopped, String::new(), None));
            continue;
        }
        attempt.fence.check()?;
        let log = format!("command-{}", index + 1);
        let mut command = Command::new("ssh", attempt.work, log);
        command.argv = address.ssh();
        let mut command =
            command.arg(remote_script(text)).status(format!("{name} on {}", attempt.device.name));
        command.environment.set("PATH", HOST_PATH).set("LC_ALL", "C.UTF-8");
        command.timeout = Some(LIMIT);
        command.stall = Some(LIMIT);
        let mut status = StatusLine(None);
        let began = Instant::now();
        let finished = attempt.runner.run(command, &mut status).await?;
        let outcome = match (status.0, finished.end) {
            (Some(0), ExitReason::Exited(_)) => Outcome::Passed,
            (Some(status), ExitReason::Exited(_)) => {
                Outcome::Failed(format!("it ended with exit status {status}"))
            }
            (None, ExitReason::Exited(_)) => match stop_reason(&attempt) {
                Some(stopped) => stopped,
                None => Outcome::Failed("the connection to the device ended before the command did".into()),
            },
            _ => ended_badly(&attempt, "it", &finished),
        };
        if !outcome.is_success() && end.log.is_none() {
            end.log = Some(attempt.runner.relative_log(&finished.log));
            end.excerpt = shown(&finished);
        }
        let message = if outcome.is_success() { String::new() } else { shown(&finished).join("\n") };
        end.tests.push(case(name, outcome, message, Some(began.elapsed().as_secs_f64())));
    }
    end.outcome = outcome_of(&end.tests);
    Ok(end)
}

/// The outcome of all commands.
fn outcome_of(tests: &[JudgedTest]) -> Outcome {
    let bad: Vec<&JudgedTest> = tests.iter().filter(|test| !test.outcome.is_success()).collect();
    let stopped = bad.iter().find(|test| test.outcome.was_stopped() && test.seconds.is_none());
    if let Some(stopped) = stopped {
        return stopped.outcome.clone();
    }
    match bad.as_slice() {
        [] => Outcome::Passed,
        [first, more @ ..] => {
            let why = first.outcome.reason().unwrap_or("it did not pass");
            let others = if more.is_empty() { String::new() } else { format!(" (and {} more)", more.len()) };
            Outcome::Failed(format!("`{}`: {why}{others}", first.name))
        }
    }
}

/// The last lines of the output, without the status.
fn shown(finished: &CommandOutcome) -> Vec<String> {
    finished.tail.iter().filter(|line| !line.starts_with(STATUS)).cloned().collect()
}

fn case(name: String, outcome: Outcome, message: String, seconds: Option<f64>) -> JudgedTest {
    JudgedTest { class: "commands".into(), name, outcome, message, seconds }
}

/// The commands' first lines, cut, and numbered if there are several of the same.
fn case_names(commands: &[String]) -> Vec<String> {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let names = commands.iter().map(|command| {
        let line = command.trim().lines().next().unwrap_or_default();
        let line: String = line.chars().take(LONGEST_NAME).collect();
        let count = seen.entry(line.clone()).or_default();
        *count += 1;
        if *count == 1 { line } else { format!("{line} ({count})") }
    });
    names.collect()
}

/// A script for the shell of the device: the command in a shell of its own, then its status.
fn remote_script(command: &str) -> String {
    let quoted = command.replace('\'', r"'\''");
    format!(
        "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; \
         sh -c '{quoted}' </dev/null 2>&1; status=$?; echo; echo \"{STATUS}$status\""
    )
}

/// Collects the status.
struct StatusLine(Option<u32>);

impl LineHandler for StatusLine {
    fn line(&mut self, line: &str) -> Vec<EventKind> {
        if let Some(status) = line.strip_prefix(STATUS) {
            self.0 = status.trim().parse().ok();
        }
        Vec::new()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_different() {
        let long = "é".repeat(500);
        let commands = ["true", "true\nfalse", " true ", &long].map(str::to_owned);
        let names = case_names(&commands);
        assert_eq!(names[..3], ["true", "true (2)", "true (3)"]);
        assert_eq!(names[3].chars().count(), LONGEST_NAME);
    }

    #[test]
    fn the_status_is_that_of_the_command_whatever_its_text() {
        for (command, output, status) in [
            ("true", "", 0),
            ("exit 7", "", 7),
            ("echo 'it'\"'s\"; false", "it's", 1),
            ("printf 'no newline'", "no newline", 0),
            ("echo )", "", 2),
            ("cat; echo after", "after", 0),
            ("echo a >&2; kill -9 $$", "a", 137),
            ("true # a comment", "", 0),
        ] {
            let done =
                std::process::Command::new("sh").args(["-c", &remote_script(command)]).output().unwrap();
            let text = String::from_utf8(done.stdout).unwrap();
            let mut line = StatusLine(None);
            for text in text.lines() {
                line.line(text);
            }
            assert_eq!(line.0, Some(status), "{command}: {text}");
            assert!(text.contains(output), "{command}: {text}");
        }
    }

    #[test]
    fn the_worst_command_decides() {
        let passed = || case("a".into(), Outcome::Passed, String::new(), Some(1.0));
        let failed = || case("b".into(), Outcome::Failed("status 1".into()), String::new(), Some(1.0));
        let stopped = || case("c".into(), Outcome::Cancelled("lost".into()), String::new(), None);
        assert_eq!(outcome_of(&[passed()]), Outcome::Passed);
        assert_eq!(outcome_of(&[passed(), failed()]), Outcome::Failed("`b`: status 1".into()));
        assert_eq!(
            outcome_of(&[failed(), passed(), failed()]),
            Outcome::Failed("`b`: status 1 (and 1 more)".into())
        );
        assert_eq!(outcome_of(&[failed(), stopped()]), Outcome::Cancelled("lost".into()));
    }
}
