//! One device: power, flashing, console, address.

pub mod boot;
pub mod console;
pub mod flash;
mod labgrid;
pub mod prepare;
mod program;
mod qemu;
mod ssh;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use futures_util::future::BoxFuture;

use agent_process::Runner;
use agent_types::error::Result;

use crate::board::console::Console;
use crate::fence::Fence;

/// Where a device answers ssh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshAddress {
    pub host: String,
    pub port: u16,
    pub key: Option<PathBuf>,
}

impl SshAddress {
    /// `ssh` as root, with its options and the host. The command to run follows as one word. A device has another host
    /// key after each flash, so none is remembered; only the lab's own key is offered.
    pub fn ssh(&self) -> Vec<OsString> {
        const OPTIONS: [&str; 10] = [
            "BatchMode=yes",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "GlobalKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
            "ConnectTimeout=15",
            "ServerAliveInterval=15",
            "ServerAliveCountMax=4",
            "ForwardAgent=no",
            "IdentitiesOnly=yes",
        ];
        let mut words: Vec<OsString> =
            ["ssh", "-F", "/dev/null", "-T", "-l", "root", "-p"].map(Into::into).into();
        words.push(self.port.to_string().into());
        for option in OPTIONS {
            words.extend(["-o".into(), option.into()]);
        }
        if let Some(key) = &self.key {
            words.extend(["-i".into(), key.into()]);
        }
        words.extend(["--".into(), OsString::from(&self.host)]);
        words
    }
}

/// Controls one device. Each method checks the fence before each command that has an effect. An error means that the
/// device or what controls it does not work; it says nothing about the image.
pub trait Board: Send + Sync {
    /// Takes the device from earlier holders, and powers it off.
    fn acquire<'a>(&'a self, fence: &'a Fence, runner: &'a Runner) -> BoxFuture<'a, Result<()>>;

    /// Writes an image while the device is off.
    fn flash<'a>(
        &'a self,
        image: &'a Path,
        fence: &'a Fence,
        runner: &'a Runner,
    ) -> BoxFuture<'a, Result<()>>;

    /// Powers it on. From then on what it prints goes to `console`.
    fn power_on<'a>(
        &'a self,
        console: &'a Console,
        fence: &'a Fence,
        runner: &'a Runner,
    ) -> BoxFuture<'a, Result<()>>;

    fn power_off<'a>(&'a self, fence: &'a Fence, runner: &'a Runner) -> BoxFuture<'a, Result<()>>;

    /// Whether it prints to the console.
    fn has_console(&self) -> bool {
        true
    }

    /// Where it answers once it is on.
    ///
    /// # Errors
    /// When that is not known.
    fn address(&self) -> Result<SshAddress>;

    /// The boot that must not be mistaken for the new one: a device that restarts itself answers for a while before.
    fn old_boot(&self) -> Option<String> {
        None
    }

    /// Ends when the device turned itself off, and says how. Most devices never do.
    fn off(&self) -> BoxFuture<'_, String> {
        Box::pin(std::future::pending())
    }

    /// Gives the device back. Does nothing if another holder has it.
    fn release<'a>(&'a self, fence: &'a Fence, runner: &'a Runner) -> BoxFuture<'a, Result<()>>;
}
