//! A device that is simply there: programs of the lab write its image and restart it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use agent_process::{Command, Runner};
use agent_types::error::Result;
use futures_util::future::BoxFuture;

use crate::board::console::Console;
use crate::board::program::{boot_id, run_program};
use crate::board::{Board, SshAddress};
use crate::fence::Fence;
use crate::lab::SshDevice;

/// For a restart, until the program ends.
const RESTART: Duration = Duration::from_secs(5 * 60);

/// A device that answers ssh.
pub struct SshBoard {
    device: SshDevice,
    work: PathBuf,
    /// For writing an image.
    flash: Duration,
    /// The boot before anything was changed.
    old_boot: Mutex<Option<String>>,
}

impl SshBoard {
    /// A device whose programs start in `work`; `flash`: the limit for writing an image.
    pub fn new(device: &SshDevice, work: &Path, flash: Duration) -> SshBoard {
        SshBoard { device: device.clone(), work: work.to_owned(), flash, old_boot: Mutex::default() }
    }

    fn program(&self, argv: &[String], log: &str) -> Command {
        let mut command = Command::new("", &self.work, log);
        command.argv = argv.iter().map(OsString::from).collect();
        command
    }

    fn ssh_address(&self) -> SshAddress {
        let SshDevice { host, port, ssh_key, .. } = &self.device;
        SshAddress { host: host.clone(), port: *port, key: ssh_key.clone() }
    }

    /// Remembers which boot answers now. One that does not answer needs no name.
    async fn remember_boot(&self, runner: &Runner) {
        if self.old_boot().is_none() {
            let boot = boot_id(&self.ssh_address(), &self.work, runner).await;
            *self.old_boot.lock().unwrap_or_else(PoisonError::into_inner) = boot;
        }
    }
}

impl Board for SshBoard {
    fn acquire<'a>(&'a self, fence: &'a Fence, _: &'a Runner) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { fence.check() })
    }

    fn flash<'a>(
        &'a self,
        image: &'a Path,
        fence: &'a Fence,
        runner: &'a Runner,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let Some(write) = &self.device.write else { return Ok(()) };
            self.remember_boot(runner).await;
            fence.check()?;
            let command = self.program(write, "write-image").arg(image).status("the lab writes the image");
            run_program(command, self.flash, runner).await
        })
    }

    fn power_on<'a>(
        &'a self,
        _: &'a Console,
        fence: &'a Fence,
        runner: &'a Runner,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let Some(restart) = &self.device.restart else { return Ok(()) };
            self.remember_boot(runner).await;
            fence.check()?;
            let command = self.program(restart, "restart").status("the lab restarts the device");
            run_program(command, RESTART, runner).await
        })
    }

    fn power_off<'a>(&'a self, _: &'a Fence, _: &'a Runner) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { Ok(()) })
    }

    fn has_console(&self) -> bool {
        false
    }

    fn address(&self) -> Result<SshAddress> {
        Ok(self.ssh_address())
    }

    fn old_boot(&self) -> Option<String> {
        self.old_boot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn release<'a>(&'a self, _: &'a Fence, _: &'a Runner) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { Ok(()) })
    }
}
