//! The directory of one installer: made once, and used by several jobs at the same time.
//!
//! Jobs that use it hold a shared lock, and the job that installs an exclusive one. The installer holds that one, too:
//! if the agent is killed, the next job waits for the end of the installer, and starts again.

use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;
use nix::unistd::geteuid;
use url::Url;

use crate::config::Buildtools;
use agent_fs::read::NO_FOLLOW;
use agent_fs::remove::{remove_file, remove_tree};
use agent_process::{Command, CommandOutcome, ExitReason, Interrupted, Runner, User};
use agent_types::error::{Class, Error, Result};
use agent_types::words::bytes;
use agent_yocto::environment::host_environment;

use super::{download, seal};
use crate::stages::blocking;
use crate::stages::configure::build_dir::hand_over;

/// The extensions of the files next to the directory; their names start with the checksum.
pub const COMPLETE: &str = "complete";
pub const LOCK: &str = "lock";
pub const INSTALLER: &str = "sh";
pub const PART: &str = "part";

/// Between two looks whether the lock is free.
const POLL: Duration = Duration::from_millis(500);

/// The users of the job.
#[derive(Clone, Copy, Debug)]
pub struct Users<'a> {
    /// Runs layer code; `None`: the agent's own user.
    pub user: Option<&'a User>,
    /// That user's, or the agent's own.
    pub whoami: &'a User,
}

/// A job's use of an installation.
#[derive(Clone, Debug)]
pub struct Lease {
    _lock: Arc<File>,
}

/// Where an installer is installed.
#[derive(Debug)]
pub struct Installation<'a> {
    buildtools: &'a Buildtools,
    store: PathBuf,
    /// What the installer makes.
    pub directory: PathBuf,
}

impl<'a> Installation<'a> {
    pub fn new(store: PathBuf, buildtools: &'a Buildtools) -> Installation<'a> {
        Installation { buildtools, directory: store.join(&buildtools.sha256), store }
    }

    /// The file next to the directory with this extension.
    fn file(&self, extension: &str) -> PathBuf {
        self.store.join(format!("{}.{extension}", self.buildtools.sha256))
    }

    /// A lease, if everything is installed.
    ///
    /// # Errors
    /// If the store cannot be used, or the job was stopped.
    pub async fn lease(&self, runner: &Runner) -> Result<Option<Lease>> {
        fs::create_dir_all(&self.store)?;
        let lock = self.lock(File::try_lock_shared, runner).await?;
        if !self.is_complete() {
            return Ok(None);
        }
        // Its time is that of the last use.
        File::options().write(true).open(self.file(COMPLETE))?.set_modified(SystemTime::now())?;
        Ok(Some(Lease { _lock: Arc::new(lock) }))
    }

    /// Downloads the installer and runs it, unless another job has done so.
    ///
    /// # Errors
    /// As those of [`host_tools`](super::host_tools).
    pub async fn install(&self, users: Users<'_>, scratch: &Path, runner: &Runner) -> Result<()> {
        let lock = Arc::new(self.lock(File::try_lock, runner).await?);
        if self.is_complete() {
            return Ok(());
        }
        let (directory, store, user) = (self.directory.clone(), self.store.clone(), users.user.cloned());
        blocking(&runner.interrupt, "the buildtools were installed", move || {
            remove_tree(&directory, &store)?;
            fs::create_dir(&directory)?;
            hand_over(&directory, user.as_ref())
        })
        .await?;
        self.obtain(runner).await?;
        self.run(&lock, users, scratch, runner).await?;
        self.script()?;
        let (directory, uid) = (self.directory.clone(), users.whoami.uid);
        blocking(&runner.interrupt, "the buildtools were installed", move || seal::seal(&directory, uid))
            .await?;
        fs::write(self.file(COMPLETE), format!("{}\n", self.buildtools.url))?;
        remove_file(&self.file(INSTALLER), &self.store)
    }

    /// Downloads the installer, unless an earlier job did.
    async fn obtain(&self, runner: &Runner) -> Result<()> {
        let installer = self.file(INSTALLER);
        let (file, sha256) = (installer.clone(), self.buildtools.sha256.clone());
        let verify = move || Ok(download::is_installer(&file, &sha256));
        if blocking(&runner.interrupt, "the installer was verified", verify).await? {
            return Ok(());
        }
        let part = self.file(PART);
        remove_file(&part, &self.store)?;
        let url = &self.buildtools.url;
        runner.events.info(format!("the buildtools are downloaded from {url}")).await;
        let downloaded = match runner.interrupt.or(download::download(self.buildtools, &part)).await {
            Ok(downloaded) => downloaded,
            Err(why) => Err(interrupted(why, "the buildtools were downloaded")),
        };
        if let Err(error) = downloaded {
            remove_file(&part, &self.store)?;
            let file = installer.display();
            return Err(match (error.class, error.hint.clone()) {
                (Class::Upstream, Some(hint)) => {
                    error.hint(format!("{hint}; or put the installer at {file}"))
                }
                _ => error,
            });
        }
        // The build user reads it.
        fs::set_permissions(&part, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        Ok(fs::rename(&part, &installer)?)
    }

    /// Runs the installer.
    async fn run(&self, lock: &Arc<File>, users: Users<'_>, scratch: &Path, runner: &Runner) -> Result<()> {
        let installer = self.file(INSTALLER);
        let size = fs::metadata(&installer)?.len();
        runner.events.info(format!("the buildtools are installed: {}", bytes(size))).await;
        let mut command = Command::new("/bin/sh", scratch, "buildtools").arg(&installer);
        command = command.arg("-d").arg(&self.directory).arg("-y").status("installer of the buildtools");
        command.environment = host_environment(users.whoami, &[]);
        // Layer code of earlier jobs may have left something in the home directory that Python runs.
        command.environment.set("HOME", scratch);
        command.user = users.user.cloned();
        command.stdin = Some(Arc::new(lock.try_clone()?.into()));
        let ended = runner.run(command, &mut ()).await?;
        if ended.success() {
            return Ok(());
        }
        stopped(&ended)?;
        let last = ended.tail.iter().rev().find(|line| !line.trim().is_empty());
        let last = last.map_or_else(String::new, |line| format!(": {}", line.trim()));
        let message = format!("the installer of the buildtools ended with {}{last}", ended.end);
        let log = runner.relative_log(&ended.log);
        let log = log.display();
        Err(Error::machine(message).hint(format!(
            "the log is {log}; it must be made for this machine ({}), and it needs python3, xz, xargs and file",
            std::env::consts::ARCH
        )))
    }

    /// The address of the installer.
    pub fn url(&self) -> &Url {
        &self.buildtools.url
    }

    /// The only script with the environment of the tools.
    ///
    /// # Errors
    /// Usage, if there is none, or more than one.
    pub fn script(&self) -> Result<PathBuf> {
        let mut scripts = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            scripts.extend(
                name.to_str().filter(|name| name.starts_with("environment-setup-")).map(str::to_owned),
            );
        }
        match scripts.as_slice() {
            [script] => Ok(self.directory.join(script)),
            found => Err(Error::usage(format!(
                "{} installed {} files environment-setup-*, and buildtools have one",
                self.url(),
                found.len()
            ))
            .hint(
                "is it an installer of buildtools? OE-Core's recipe buildtools-extended-tarball makes one",
            )),
        }
    }

    /// Whether everything is installed. If the agent is root, an installation that another user made, and may change, does
    /// not count.
    fn is_complete(&self) -> bool {
        let is_safe = |found: &std::fs::Metadata| !geteuid().is_root() || found.uid() == 0;
        let directory = fs::symlink_metadata(&self.directory);
        self.file(COMPLETE).is_file() && directory.is_ok_and(|found| found.is_dir() && is_safe(&found))
    }

    /// Waits for the lock.
    async fn lock(
        &self,
        lock: impl Fn(&File) -> std::result::Result<(), TryLockError>,
        runner: &Runner,
    ) -> Result<File> {
        let path = self.file(LOCK);
        // Layer code must not lock it.
        let mut options = fs::OpenOptions::new();
        options.append(true).create(true).mode(0o600).custom_flags(NO_FOLLOW).open(&path)?;
        // The installer gets it, and must not write there.
        let (file, _) = fs::OpenOptions::new().read(true).custom_flags(NO_FOLLOW).open(&path)?.into_parts();
        let mut is_told = false;
        loop {
            match lock(&file) {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => {
                    return Err(Error::machine(format!("cannot lock `{}`", path.display())).because(&error));
                }
            }
            if !is_told {
                is_told = true;
                let message = "another job installs the buildtools; this one waits for its end";
                runner.events.info(message).await;
            }
            if let Err(why) = runner.interrupt.or(tokio::time::sleep(POLL)).await {
                return Err(interrupted(why, "another job had installed the buildtools"));
            }
        }
    }
}

/// The stop of the job, if that ended the command.
///
/// # Errors
/// That stop.
pub fn stopped(ended: &CommandOutcome) -> Result<()> {
    let what = "the buildtools were ready";
    match ended.end {
        ExitReason::Cancelled => Err(interrupted(Interrupted::Cancelled, what)),
        ExitReason::TimedOut => Err(interrupted(Interrupted::OutOfTime, what)),
        ExitReason::Stalled(_) => {
            Err(Error::new(Class::OutOfTime, format!("the job {} before {what}", ended.end)))
        }
        _ => Ok(()),
    }
}

fn interrupted(why: Interrupted, what: &str) -> Error {
    let class = match why {
        Interrupted::Cancelled => Class::Cancelled,
        Interrupted::OutOfTime => Class::OutOfTime,
    };
    Error::new(class, format!("the job was stopped before {what}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_installation_of_another_user_does_not_count_for_root() {
        let top = tempfile::tempdir().unwrap();
        let url = "https://x.example/tools.sh".parse().unwrap();
        let buildtools = Buildtools { url, sha256: "a1".repeat(32) };
        let installation = Installation::new(top.path().to_owned(), &buildtools);
        assert!(!installation.is_complete());
        fs::create_dir(&installation.directory).unwrap();
        assert!(!installation.is_complete());
        fs::write(installation.file(COMPLETE), "").unwrap();
        assert!(installation.is_complete());
        if geteuid().is_root() {
            std::os::unix::fs::chown(&installation.directory, Some(65_432), None).unwrap();
            assert!(!installation.is_complete());
        }
    }
}
