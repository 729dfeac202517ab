//! Programs that control a device: those of the lab, and `ssh` to ask the device which boot it is in.

use std::path::Path;
use std::time::Duration;

use agent_process::{Command, ExitReason, LineHandler, Runner, agent_user};
use agent_types::error::{Error, Result};
use agent_types::events::EventKind;
use agent_yocto::environment::HOST_PATH;

use crate::board::SshAddress;

/// For one answer of a device.
const ASK: Duration = Duration::from_secs(30);

/// Prints what the kernel calls its boot; another one after each start.
const BOOT_ID: &str = "cat /proc/sys/kernel/random/boot_id || echo unknown";

/// The longest answer that is a boot.
const LONGEST_ID: usize = 64;

/// Runs a program that must end well within its limit.
///
/// # Errors
/// It did not. The message has the program, and its last line.
pub async fn run_program(command: Command, limit: Duration, runner: &Runner) -> Result<()> {
    run_with(command, limit, runner, &mut ()).await
}

/// The same; its output goes to `lines`.
///
/// # Errors
/// As [`run_program`].
pub async fn run_with(
    mut command: Command,
    limit: Duration,
    runner: &Runner,
    lines: &mut dyn LineHandler,
) -> Result<()> {
    command.environment.set("PATH", HOST_PATH).set("LC_ALL", "C.UTF-8");
    if let Ok(user) = agent_user() {
        command.environment.set("HOME", user.home);
    }
    command.timeout = Some(limit);
    command.stall = Some(limit);
    let words: Vec<String> = command.argv.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let ended = runner.run(command, lines).await?;
    if ended.end == ExitReason::Exited(0) {
        return Ok(());
    }
    let said = ended.tail.iter().rev().find(|line| !line.trim().is_empty());
    let said = said.map(|line| format!(": {}", line.trim())).unwrap_or_default();
    let end = match ended.end {
        ExitReason::TimedOut | ExitReason::Stalled(_) => {
            format!("did not end within {}", humantime::format_duration(limit))
        }
        other => format!("ended with {other}"),
    };
    let shown = runner.redactor.redact(&words.join(" ")).into_owned();
    Err(Error::machine(format!("`{shown}` {end}{said}"))
        .hint(format!("its output is in {}", runner.relative_log(&ended.log).display())))
}

/// The boot that answers ssh; `None`: none does.
pub async fn boot_id(address: &SshAddress, directory: &Path, runner: &Runner) -> Option<String> {
    let mut command = Command::new("ssh", directory, "ssh-boot");
    command.argv = address.ssh();
    let mut command = command.arg(BOOT_ID).status("a look whether the device answers ssh");
    command.environment.set("PATH", HOST_PATH).set("LC_ALL", "C.UTF-8");
    command.timeout = Some(ASK);
    command.stall = Some(ASK);
    command.grace = Some(Duration::from_secs(1));
    let mut first = FirstLine(None);
    let ended = runner.run(command, &mut first).await.ok()?;
    first.0.filter(|_| ended.end == ExitReason::Exited(0))
}

/// The first line that can be a boot.
struct FirstLine(Option<String>);

impl LineHandler for FirstLine {
    fn line(&mut self, line: &str) -> Vec<EventKind> {
        let good = |char: char| char.is_ascii_alphanumeric() || char == '-';
        let line = line.trim();
        if self.0.is_none() && !line.is_empty() && line.len() <= LONGEST_ID && line.chars().all(good) {
            self.0 = Some(line.to_owned());
        }
        Vec::new()
    }
}
