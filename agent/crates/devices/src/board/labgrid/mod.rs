//! A place of labgrid. Labgrid has no leases that end, so the owner of the place names the agent's lease:
//! `lease-DEVICE/NUMBER-NONCE`. A successor releases the place from exactly that owner.

mod output;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent_process::{Command, LineHandler, Runner};
use agent_types::error::{Error, Result};
use agent_types::events::EventKind;
use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;

use crate::board::console::Console;
use crate::board::console::tcp;
use crate::board::labgrid::output::{Holder, PlaceInfo, holder, place_info};
use crate::board::program::{run_program, run_with};
use crate::board::{Board, SshAddress};
use crate::fence::{Fence, LeaseName};
use crate::lab::{Labgrid, WriteImage};

/// For one command, besides writing an image.
const LIMIT: Duration = Duration::from_secs(120);

/// Lines of output that are read at most.
const MOST_LINES: usize = 10_000;

/// A place of labgrid.
pub struct LabgridBoard {
    settings: Labgrid,
    device: String,
    work: PathBuf,
    /// For writing an image.
    flash: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    info: PlaceInfo,
    /// Reads the console.
    reader: Option<JoinHandle<()>>,
}

impl LabgridBoard {
    /// The place of this device. Its programs start in `work`; `flash`: the limit for writing an image.
    pub fn new(settings: &Labgrid, device: &str, work: &Path, flash: Duration) -> LabgridBoard {
        LabgridBoard {
            settings: settings.clone(),
            device: device.to_owned(),
            work: work.to_owned(),
            flash,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `labgrid-client` as the owner of this lease.
    fn client(&self, lease: &LeaseName, words: &[&str]) -> Command {
        let Labgrid { coordinator, place, client, environment, .. } = &self.settings;
        let log = format!("labgrid-{}", words.first().unwrap_or(&"client"));
        let mut command = Command::new(client, &self.work, log);
        if let Some(environment) = environment {
            command = command.arg("-c").arg(environment);
        }
        command = command.args(["-x", coordinator, "-p", place]).args(words);
        let Holder { host, user } = owner(lease);
        command.environment.set("LG_HOSTNAME", host).set("LG_USERNAME", user);
        command.status(format!("labgrid-client {}, place {place}", words.join(" ")))
    }

    /// Runs `labgrid-client`. What changes something is only started under the lease.
    async fn run(&self, words: &[&str], fence: &Fence, runner: &Runner) -> Result<Vec<String>> {
        fence.check()?;
        let mut lines = Lines(Vec::new());
        run_with(self.client(fence.name(), words), LIMIT, runner, &mut lines).await?;
        Ok(lines.0)
    }

    async fn holder(&self, fence: &Fence, runner: &Runner) -> Result<Option<Holder>> {
        Ok(holder(&self.run(&["who"], fence, runner).await?, &self.settings.place))
    }

    /// Acquires the place, also from an owner that is an older lease of the device.
    async fn take(&self, fence: &Fence, runner: &Runner) -> Result<()> {
        let place = &self.settings.place;
        let own = owner(fence.name());
        if let Some(held) = self.holder(fence, runner).await? {
            if held == own {
                return Ok(());
            }
            match lease_number(&held, &self.device) {
                Some(number) if number < fence.name().number => {
                    runner
                        .events
                        .info(format!("the place {place} was held by {held}, an older lease; released"))
                        .await;
                    self.run(&["release-from", &held.to_string()], fence, runner).await?;
                }
                Some(_) => {
                    return Err(Error::machine(format!(
                        "the place {place} is held by {held}, a lease that is not older than this one"
                    ))
                    .hint(format!(
                        "another lab has it; if the store was emptied, release it: \
                             labgrid-client -p {place} release-from {held}"
                    )));
                }
                None => {
                    return Err(Error::machine(format!("the place {place} is held by {held}"))
                        .hint(format!("its owner releases it with `labgrid-client -p {place} release`")));
                }
            }
        }
        self.run(&["acquire"], fence, runner).await.map(|_| ())
    }

    async fn learn(&self, fence: &Fence, runner: &Runner) -> Result<()> {
        let info = place_info(&self.run(&["show"], fence, runner).await?);
        let is_root = info.user.as_deref().is_none_or(|user| user == "root");
        if self.settings.address.is_none() && !is_root {
            let message =
                format!("the NetworkService of the place {} does not log in as root", self.settings.place);
            runner.events.warn(message, Some("the tests log in as root".into())).await;
        }
        if info.serial.is_none() {
            let message = format!("the place {} has no NetworkSerialPort", self.settings.place);
            runner.events.warn(message, Some("without it the report has no console".into())).await;
        }
        self.state().info = info;
        Ok(())
    }

    async fn write(&self, image: &Path, fence: &Fence, runner: &Runner) -> Result<()> {
        let words = match &self.settings.write {
            WriteImage::WriteImage => return self.write_image(image, fence, runner).await,
            WriteImage::Command(words) => words,
        };
        let mut command = Command::new("", &self.work, "write-image");
        command.argv = words.iter().map(Into::into).collect();
        fence.check()?;
        run_program(command.arg(image).status("the lab writes the image"), self.flash, runner).await
    }

    /// `labgrid-client write-image`. A switch for the memory card gives the card to the host, and then back to the device.
    async fn write_image(&self, image: &Path, fence: &Fence, runner: &Runner) -> Result<()> {
        let has_mux = self.state().info.has_sd_mux;
        if has_mux {
            self.run(&["sd-mux", "host"], fence, runner).await?;
        }
        let mut map = image.as_os_str().to_owned();
        map.push(".bmap");
        let mode: &[&str] = match Path::new(&map).is_file() {
            true => &["write-image", "--mode", "bmaptool"],
            false => &["write-image"],
        };
        fence.check()?;
        run_program(self.client(fence.name(), mode).arg(image), self.flash, runner).await?;
        if has_mux {
            self.run(&["sd-mux", "dut"], fence, runner).await?;
        }
        Ok(())
    }

    fn stop_reading(&self) {
        if let Some(reader) = self.state().reader.take() {
            reader.abort();
        }
    }
}

impl Drop for LabgridBoard {
    fn drop(&mut self) {
        self.stop_reading();
    }
}

/// The owner of the place that this lease is.
fn owner(lease: &LeaseName) -> Holder {
    Holder { host: format!("lease-{}", lease.device), user: format!("{}-{}", lease.number, lease.nonce) }
}

/// The number of the lease of this device that holds the place; `None`: somebody else does.
fn lease_number(holder: &Holder, device: &str) -> Option<u64> {
    let is_lease = holder.host.strip_prefix("lease-") == Some(device);
    let (number, _) = holder.user.split_once('-')?;
    number.parse().ok().filter(|_| is_lease)
}

/// The output of a command.
struct Lines(Vec<String>);

impl LineHandler for Lines {
    fn line(&mut self, line: &str) -> Vec<EventKind> {
        if self.0.len() < MOST_LINES {
            self.0.push(line.to_owned());
        }
        Vec::new()
    }
}

impl Board for LabgridBoard {
    fn acquire<'a>(&'a self, fence: &'a Fence, runner: &'a Runner) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.take(fence, runner).await?;
            self.learn(fence, runner).await?;
            self.power_off(fence, runner).await
        })
    }

    fn flash<'a>(
        &'a self,
        image: &'a Path,
        fence: &'a Fence,
        runner: &'a Runner,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.write(image, fence, runner))
    }

    fn power_on<'a>(
        &'a self,
        console: &'a Console,
        fence: &'a Fence,
        runner: &'a Runner,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            fence.check()?;
            self.stop_reading();
            let serial = self.state().info.serial.clone();
            if let Some(serial) = serial {
                let console = console.clone();
                let reader = tokio::spawn(async move {
                    tcp::read(&serial.host, serial.port, serial.is_rfc2217, &console).await
                });
                self.state().reader = Some(reader);
            }
            self.run(&["power", "on"], fence, runner).await.map(|_| ())
        })
    }

    fn power_off<'a>(&'a self, fence: &'a Fence, runner: &'a Runner) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let off = self.run(&["power", "off"], fence, runner).await.map(|_| ());
            self.stop_reading();
            off
        })
    }

    fn has_console(&self) -> bool {
        self.state().info.serial.is_some()
    }

    fn address(&self) -> Result<SshAddress> {
        let address = self.settings.address.clone().or_else(|| self.state().info.ssh.clone());
        let (host, port) = address.ok_or_else(|| {
            Error::machine(format!("the place {} has no NetworkService", self.settings.place))
                .hint("add one to the exporter, or `host` to the table [devices.NAME.labgrid] of lab.toml")
        })?;
        Ok(SshAddress { host, port, key: self.settings.ssh_key.clone() })
    }

    fn release<'a>(&'a self, fence: &'a Fence, runner: &'a Runner) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let own = owner(fence.name());
            match self.holder(fence, runner).await? {
                Some(held) if held == own => {
                    self.run(&["release-from", &own.to_string()], fence, runner).await.map(|_| ())
                }
                _ => Ok(()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_a_place_names_the_lease() {
        let lease = LeaseName { device: "rpi-4".into(), number: 7, nonce: "ab-c".into() };
        assert_eq!(owner(&lease).to_string(), "lease-rpi-4/7-ab-c");
        assert_eq!(lease_number(&owner(&lease), "rpi-4"), Some(7));
        for (host, user) in
            [("lease-rpi-4", "me"), ("lease-rpi", "7-x"), ("desk", "7-x"), ("lease-rpi-4", "x-7")]
        {
            let holder = Holder { host: host.into(), user: user.into() };
            assert_eq!(lease_number(&holder, "rpi-4"), None, "{holder}");
        }
    }
}
