//! Runs a request on a device that the agent itself controls: acquire, flash, boot, test, power off, release.

use std::path::Path;
use std::time::{Duration, Instant};

use agent_process::Runner;
use agent_types::error::{Error, Result};
use agent_types::events::{Case, EventKind, Finding, Unit};
use agent_types::outcome::Outcome;
use agent_types::stage::Stage;
use futures_util::future::BoxFuture;

use crate::board::boot::{self, BootEnd};
use crate::board::console::Console;
use crate::board::flash::{self, BadImage, NoImage};
use crate::board::prepare::{Prepared, board, prepare};
use crate::board::{Board, SshAddress};
use crate::fence::Fence;
use crate::lab::{Control, Device, Lab};
use crate::on_target::{self, Console as _};
use crate::provider::{Attempt, AttemptEnd, Provider};
use crate::test_run::stop_reason;

/// For powering off and releasing a device, after the attempt had to stop.
const GIVE_BACK: Duration = Duration::from_secs(5 * 60);

/// Devices of labgrid, those that answer ssh, and guests of QEMU.
pub struct BoardProvider;

impl Provider for BoardProvider {
    fn run<'a>(&'a self, attempt: Attempt<'a>) -> BoxFuture<'a, Result<AttemptEnd>> {
        Box::pin(run(attempt))
    }

    fn check_health<'a>(
        &'a self,
        lab: &'a Lab,
        device: &'a Device,
        fence: &'a Fence,
        work: &'a Path,
        runner: &'a Runner,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(check_health(lab, device, fence, work, runner))
    }
}

impl on_target::Console for Console {
    fn begin_unit(&self) {
        self.begin();
    }

    fn crash(&self) -> Option<String> {
        self.crash_line()
    }

    fn warnings(&self) -> Vec<String> {
        self.kernel_warnings()
    }

    fn last_lines(&self) -> Vec<String> {
        self.last()
    }
}

/// The unit for all before the tests.
fn boot_unit(attempt: &Attempt<'_>) -> Unit {
    Unit::new(Stage::Test, format!("boot {} on {}", attempt.request.image, attempt.device.name))
}

async fn run(attempt: Attempt<'_>) -> Result<AttemptEnd> {
    let runner = attempt.runner;
    let console = Console::create(&runner.logs, "console", attempt.lab.limits.console, &runner.redactor)?;
    let run = BoardRun { attempt, console, unit: boot_unit(&attempt) };
    runner.events.emit(EventKind::UnitStarted { unit: run.unit.clone() }).await;
    let ended = run.whole().await;
    run.console.finish();
    ended
}

/// An attempt, with what the device says.
struct BoardRun<'a> {
    attempt: Attempt<'a>,
    console: Console,
    unit: Unit,
}

/// How the steps before the tests ended.
enum Ready {
    Yes(SshAddress),
    /// The image is at fault, or the attempt has to stop.
    No(Outcome),
    DeviceFault(String),
}

/// What is probably at fault if the tested image does not boot.
#[derive(Clone, Copy)]
enum Suspect {
    Image,
    Device,
}

impl BoardRun<'_> {
    async fn whole(&self) -> Result<AttemptEnd> {
        let prepared = match prepare(&self.attempt).await {
            Ok(prepared) => prepared,
            Err(NoImage::Bad(BadImage(why))) => return Ok(self.not_ready(Outcome::Failed(why)).await),
            Err(NoImage::Host(error)) => {
                let outcome = stop_reason(&self.attempt).unwrap_or(Outcome::NotRun(error.message.clone()));
                self.not_ready(outcome).await;
                return Err(error);
            }
        };
        if !prepared.is_written {
            self.warn_about_the_image().await;
        }
        let ended = match self.make_ready(&prepared).await {
            Ready::Yes(address) => self.test(&address, prepared.board.as_ref()).await,
            Ready::No(outcome) => Ok(self.not_ready(outcome).await),
            Ready::DeviceFault(why) => {
                self.not_ready(Outcome::NotRun(format!("the device does not work: {why}"))).await;
                Ok(AttemptEnd::DeviceFault(why))
            }
        };
        self.give_back(prepared.board.as_ref()).await;
        ended
    }

    async fn warn_about_the_image(&self) {
        let message = format!(
            "the lab writes no image to {}: what runs on it is tested, and not the image that was built",
            self.attempt.device.name
        );
        let hint = "let lab.toml say how the image is written: `image` of the device";
        let finding = Finding::warning(&self.unit, "image-not-written", message, hint);
        self.attempt.runner.events.emit(EventKind::Finding(finding)).await;
    }

    /// Acquires, flashes and boots. Reports the end of the boot if it is up.
    async fn make_ready(&self, prepared: &Prepared) -> Ready {
        let Attempt { lab, device, fence, runner, work, .. } = self.attempt;
        let board = prepared.board.as_ref();
        if let Err(error) = board.acquire(fence, runner).await {
            return self.fault(&error);
        }
        let (why, suspect) = match self.flash(prepared).await {
            Err(error) => (format!("the image was not written: {}", error.message), Suspect::Device),
            Ok(()) => match self.boot(board).await {
                Err(error) => return self.fault(&error),
                Ok(BootEnd::Stopped) => return Ready::No(self.stopped()),
                Ok(BootEnd::Down(why)) => (why, Suspect::Image),
                Ok(BootEnd::Up(address)) => {
                    self.up().await;
                    return Ready::Yes(address);
                }
            },
        };
        if let Some(stopped) = stop_reason(&self.attempt) {
            return Ready::No(stopped);
        }
        let known_good = match (&device.known_good, suspect) {
            (Some(known_good), _) => known_good,
            (None, Suspect::Image) => return Ready::No(Outcome::Failed(why)),
            (None, Suspect::Device) => return Ready::DeviceFault(format!("{}: {why}", device.name)),
        };
        runner.events.warn(format!("{why}; the known good image is booted"), None).await;
        // A directory of its own: a block map of the tested image is not one of this image.
        let unpacked = flash::unpack(known_good, &work.join("known-good"), lab.limits.flash, runner).await;
        let image = match unpacked {
            Ok(image) => image,
            Err(NoImage::Bad(BadImage(why))) => {
                return Ready::DeviceFault(format!("the known good image: {why}"));
            }
            Err(NoImage::Host(error)) => return self.fault(&error),
        };
        // Another console: its output must not be mistaken for that of the tested image.
        let console =
            Console::create(&runner.logs, "console-known-good", lab.limits.console, &runner.redactor);
        let console = match console {
            Ok(console) => console,
            Err(error) => return self.fault(&error),
        };
        let booted = boot(board, Some(&image), &console, lab, work, fence, runner).await;
        console.finish();
        match booted {
            Ok(BootEnd::Up(_)) => {
                Ready::No(Outcome::Failed(format!("{why}; the known good image boots on the same device")))
            }
            Ok(BootEnd::Down(good)) => Ready::DeviceFault(format!(
                "{}: neither the tested image works ({why}) nor the known good one ({good})",
                device.name
            )),
            Ok(BootEnd::Stopped) => Ready::No(self.stopped()),
            Err(error) => self.fault(&error),
        }
    }

    async fn flash(&self, prepared: &Prepared) -> Result<()> {
        let Attempt { fence, runner, .. } = self.attempt;
        let Some(image) = &prepared.image else { return Ok(()) };
        let started = Instant::now();
        prepared.board.flash(image, fence, runner).await?;
        self.case("flash", started.elapsed()).await;
        Ok(())
    }

    async fn boot(&self, board: &dyn Board) -> Result<BootEnd> {
        let Attempt { lab, fence, runner, work, .. } = self.attempt;
        self.console.note("power on");
        let started = Instant::now();
        board.power_on(&self.console, fence, runner).await?;
        let booted = boot::wait(board, &self.console, lab.limits.boot, work, fence, runner).await?;
        if matches!(booted, BootEnd::Up(_)) {
            self.case("boot", started.elapsed()).await;
        }
        Ok(booted)
    }

    async fn case(&self, name: &str, took: Duration) {
        let case = Case {
            unit: self.unit.clone(),
            class: "device".into(),
            name: name.into(),
            outcome: Outcome::Passed,
            message: String::new(),
            seconds: Some(took.as_secs_f64()),
        };
        self.attempt.runner.events.emit(EventKind::Case(case)).await;
    }

    /// The device does not work, unless the attempt has to stop.
    fn fault(&self, error: &Error) -> Ready {
        match stop_reason(&self.attempt) {
            Some(stopped) => Ready::No(stopped),
            None => Ready::DeviceFault(format!("{}: {}", self.attempt.device.name, error.message)),
        }
    }

    fn stopped(&self) -> Outcome {
        stop_reason(&self.attempt).unwrap_or_else(|| Outcome::Cancelled("the attempt was stopped".into()))
    }

    /// Reports the end of the boot.
    async fn up(&self) {
        self.report_warnings().await;
        self.end_unit(&self.unit, Outcome::Passed, Vec::new()).await;
    }

    async fn report_warnings(&self) {
        for line in self.console.warnings() {
            let finding = Finding::warning(&self.unit, "kernel-warning", line, "see the console's log");
            self.attempt.runner.events.emit(EventKind::Finding(finding)).await;
        }
    }

    async fn end_unit(&self, unit: &Unit, outcome: Outcome, excerpt: Vec<String>) {
        let runner = self.attempt.runner;
        let log = (*unit == self.unit).then(|| runner.relative_log(self.console.log()));
        runner.events.emit(EventKind::UnitFinished { unit: unit.clone(), outcome, log, excerpt }).await;
    }

    /// Reports that there is nothing to test: the boot, and each test as not run.
    async fn not_ready(&self, outcome: Outcome) -> AttemptEnd {
        let Attempt { request, device, runner, .. } = self.attempt;
        self.report_warnings().await;
        let excerpt = if outcome.was_stopped() { Vec::new() } else { self.console.last_lines() };
        self.end_unit(&self.unit, outcome.clone(), excerpt).await;
        for test in &request.tests {
            let unit = on_target::unit(test, request, &device.name);
            runner.events.emit(EventKind::UnitStarted { unit: unit.clone() }).await;
            let why =
                format!("the device was not ready: {}", outcome.reason().unwrap_or("it was not tested"));
            self.end_unit(&unit, Outcome::NotRun(why), Vec::new()).await;
        }
        AttemptEnd::Tested(outcome)
    }

    async fn test(&self, address: &SshAddress, board: &dyn Board) -> Result<AttemptEnd> {
        let console: &dyn on_target::Console = &self.console;
        let outcome = on_target::run(self.attempt, address, board.has_console().then_some(console)).await?;
        Ok(AttemptEnd::Tested(outcome))
    }

    /// Powers off and releases, as long as the lease is held.
    async fn give_back(&self, board: &dyn Board) {
        let Attempt { fence, runner, .. } = self.attempt;
        self.console.note("power off");
        give_back(board, fence, runner).await;
    }
}

/// Flashes and boots a device that is acquired.
async fn boot(
    board: &dyn Board,
    image: Option<&Path>,
    console: &Console,
    lab: &Lab,
    work: &Path,
    fence: &Fence,
    runner: &Runner,
) -> Result<BootEnd> {
    board.power_off(fence, runner).await?;
    if let Some(image) = image {
        board.flash(image, fence, runner).await?;
    }
    console.note("power on");
    board.power_on(console, fence, runner).await?;
    boot::wait(board, console, lab.limits.boot, work, fence, runner).await
}

/// Powers off and releases, also if the attempt has to stop; does nothing without the lease.
async fn give_back(board: &dyn Board, fence: &Fence, runner: &Runner) {
    let mut last = runner.clone();
    last.interrupt = runner.interrupt.saving(GIVE_BACK);
    let work = async {
        let off = board.power_off(fence, &last).await;
        let released = board.release(fence, &last).await;
        for error in [off, released].into_iter().filter_map(Result::err) {
            let message = format!("{} was not given back: {}", fence.name().device, error.message);
            runner.events.warn(message, error.hint).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = fence.lost() => {
            // What is left of it must not touch the device any more.
            let _ = board.power_off(fence, &last).await;
        }
    }
}

/// Acquires the device, powers it off, and boots the known good image if there is one.
async fn check_health(lab: &Lab, device: &Device, fence: &Fence, work: &Path, runner: &Runner) -> Result<()> {
    if matches!(device.control, Control::Qemu(_)) {
        // Each request has a new guest.
        return fence.check();
    }
    let board = board(lab, device, work)?;
    let console = Console::create(&runner.logs, "console-health", lab.limits.console, &runner.redactor)?;
    let checked = async {
        board.acquire(fence, runner).await?;
        let image = match &device.known_good {
            Some(known_good) => match flash::unpack(known_good, work, lab.limits.flash, runner).await {
                Ok(image) => Some(image),
                Err(NoImage::Bad(BadImage(why))) => {
                    return Err(Error::machine(format!("the known good image: {why}")));
                }
                Err(NoImage::Host(error)) => return Err(error),
            },
            None => None,
        };
        if image.is_none() && matches!(device.control, Control::Labgrid(_)) {
            // What is on it may be an image that does not boot.
            return Ok(());
        }
        match boot(board.as_ref(), image.as_deref(), &console, lab, work, fence, runner).await? {
            BootEnd::Up(_) => Ok(()),
            BootEnd::Down(why) => Err(Error::machine(format!("{}: {why}", device.name))),
            BootEnd::Stopped => {
                Err(Error::new(agent_types::error::Class::Cancelled, "the health check was stopped"))
            }
        }
    };
    let checked = checked.await;
    give_back(board.as_ref(), fence, runner).await;
    console.finish();
    checked
}
