//! Runs the tests of a request on a device that answers ssh: one unit for each test.

mod commands;
mod idt;
pub mod oe_test;
mod user;

use agent_types::error::{Class, Error, Result};
use agent_types::events::{EventKind, Finding, Unit};
use agent_types::outcome::Outcome;
use agent_types::stage::Stage;

use crate::board::SshAddress;
use crate::provider::Attempt;
use crate::request::{DeviceRequest, DeviceTest};
use crate::test_run::{TestEnd, TestRun, stop_reason};

/// What the console of a device says while its tests run.
pub trait Console: Send + Sync {
    /// A unit starts. What the console said before does not count against it.
    fn begin_unit(&self);

    /// The line that says that the kernel crashed since `begin_unit` (panic, oops, BUG).
    fn crash(&self) -> Option<String>;

    /// Kernel warnings since `begin_unit`: a few, each once.
    fn warnings(&self) -> Vec<String>;

    /// The last lines, for the excerpt of a unit that failed.
    fn last_lines(&self) -> Vec<String>;
}

/// The unit of a test.
pub fn unit(test: &DeviceTest, request: &DeviceRequest, device: &str) -> Unit {
    Unit::new(Stage::Test, format!("{test} {} on {device}", request.image))
}

/// Runs the tests of the request in their order. Its units and cases are events of `attempt.runner`. Returns the worst
/// outcome. `console`: that of the device, if the lab has it.
///
/// # Errors
/// The lab host could not do its part. The image is not to blame.
pub async fn run(
    attempt: Attempt<'_>,
    address: &SshAddress,
    console: Option<&dyn Console>,
) -> Result<Outcome> {
    let mut outcomes = Vec::new();
    // Why the remaining tests do not run.
    let mut stop: Option<String> = None;
    let mut error: Option<Error> = None;
    for test in &attempt.request.tests {
        let unit = unit(test, attempt.request, &attempt.device.name);
        attempt.runner.events.emit(EventKind::UnitStarted { unit: unit.clone() }).await;
        let end = match (&stop, stop_reason(&attempt)) {
            (Some(why), _) => TestEnd::of(Outcome::NotRun(format!("not started: {why}"))),
            (None, Some(stopped)) => TestEnd::of(stopped),
            (None, None) => {
                if let Some(console) = console {
                    console.begin_unit();
                }
                let ended = run_test(test, TestRun { attempt, address, unit: &unit }).await;
                let end = ended.unwrap_or_else(|failed| {
                    let end = TestEnd::of(outcome_of_error(&attempt, &failed));
                    stop = Some(failed.message.clone());
                    error.get_or_insert(failed);
                    end
                });
                let (end, crash) = with_console(end, &unit, console);
                stop = stop.or(crash.map(|line| format!("the kernel crashed: {line}")));
                end
            }
        };
        outcomes.push(end.report(&unit, &attempt.runner.events).await);
    }
    // What fails because the attempt has to stop is no fault of the lab.
    match (error, stop_reason(&attempt)) {
        (_, Some(stopped)) => Ok(stopped),
        (Some(error), None) => Err(error),
        (None, None) => {
            let worst = Outcome::worst(&outcomes).cloned();
            Ok(worst.unwrap_or_else(|| Outcome::Failed("the request names no test".into())))
        }
    }
}

async fn run_test(test: &DeviceTest, run: TestRun<'_>) -> Result<TestEnd> {
    match test {
        DeviceTest::Runtime | DeviceTest::Ptest => oe_test::run(run, test).await,
        DeviceTest::Commands => commands::run(run).await,
        DeviceTest::DeviceTester(suite) => idt::run(run, suite).await,
    }
}

/// The outcome of a unit that the lab host could not run.
fn outcome_of_error(attempt: &Attempt<'_>, error: &Error) -> Outcome {
    match (stop_reason(attempt), error.class) {
        (Some(stopped), _) => stopped,
        (None, Class::Cancelled) => Outcome::Cancelled(error.message.clone()),
        (None, Class::OutOfTime) => Outcome::TimedOut(error.message.clone()),
        (None, _) => Outcome::NotRun(error.message.clone()),
    }
}

/// Adds what the console says: a crash of the kernel fails a unit, its warnings are findings, and its last lines belong to
/// a failure.
fn with_console(mut end: TestEnd, unit: &Unit, console: Option<&dyn Console>) -> (TestEnd, Option<String>) {
    let Some(console) = console else { return (end, None) };
    let warning =
        |line| Finding::warning(unit, "kernel-warning", line, "read the log of the console around it");
    end.findings.extend(console.warnings().into_iter().map(warning));
    let crash = console.crash();
    if let Some(line) = &crash
        && !matches!(end.outcome, Outcome::Cancelled(_))
    {
        end.outcome = Outcome::Failed(format!("the kernel crashed: {line}"));
    }
    if !end.outcome.is_success() {
        let lines = console.last_lines();
        if !lines.is_empty() {
            let heading = |text: &str| vec![format!("--- {text} ---")];
            let output = match end.excerpt.is_empty() {
                true => Vec::new(),
                false => [heading("the test's output"), end.excerpt].concat(),
            };
            end.excerpt = [heading("the device's console"), lines, output].concat();
        }
    }
    (end, crash)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
