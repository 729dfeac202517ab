//! An installation of Device Tester: an unpacked zip on a local disk, which belongs to the user who runs it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent_fs::access::Credentials;
use agent_process::{Runner, User, blocking, lesser_owner};
use agent_types::error::{Class, Error, Result};
use nix::fcntl::{Flock, FlockArg};

use super::reports::{QualificationReport, parse_qualification};
use crate::junit::{MOST_BYTES, SuiteReport, parse_suite};

/// The program for this kind of machine; AWS has none for others.
pub const PROGRAM: &str = "bin/devicetester_linux_x86-64";

/// Held while it runs, also by Device Tester itself: a lab that was killed leaves it to it.
const LOCK: &str = ".build-agent.lock";

/// Between two looks whether the lock is free.
const LOCK_POLL: Duration = Duration::from_secs(2);

/// Bytes of a configuration file.
const CONFIG_LIMIT: u64 = 1 << 20;

/// An installation that nobody else uses.
pub struct Installation {
    pub root: PathBuf,
    /// `None`: the lab itself, which is not root.
    pub user: Option<User>,
    lock: Flock<File>,
}

impl Installation {
    /// Opens an installation, and waits until no other run uses it.
    ///
    /// # Errors
    /// Why it cannot run here.
    pub async fn open(root: &Path, runner: &Runner) -> Result<Installation> {
        let user = usable_by(root)?;
        let path = root.join(LOCK);
        let mut waited = false;
        loop {
            let file = as_user(user.as_ref(), || {
                let mut options = fs_err::OpenOptions::new();
                fs_err::os::unix::fs::OpenOptionsExt::mode(
                    options.read(true).append(true).create(true),
                    0o600,
                )
                .open(&path)
            })?;
            match Flock::lock(file.into_file(), FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(Installation { root: root.to_owned(), user, lock }),
                Err((_, nix::errno::Errno::EWOULDBLOCK)) => {}
                Err((_, errno)) => {
                    return Err(Error::machine(format!("cannot lock {}", path.display())).because(&errno));
                }
            }
            if !waited {
                waited = true;
                runner.events.info(format!("another run uses {}; waiting for its end", root.display())).await;
            }
            let pause = tokio::time::sleep(LOCK_POLL);
            if runner.interrupt.or(pause).await.is_err() {
                return Err(Error::new(Class::Cancelled, "stopped while another run used Device Tester"));
            }
        }
    }

    /// The lock as a file that a child can hold.
    pub fn lock(&self) -> Result<Arc<OwnedFd>> {
        Ok(Arc::new(self.lock.try_clone()?.into()))
    }

    /// The suite with its version: `GGV2Q_2.5.4`, the newest if the name has none.
    ///
    /// # Errors
    /// If the installation does not have it.
    pub fn suite(&self, name: &str) -> Result<String> {
        let all = self.directories("tests")?;
        newest(name, &all).ok_or_else(|| {
            Error::machine(format!("{} has no suite {name}", self.root.display())).hint(format!(
                "it has {}",
                if all.is_empty() { "none".into() } else { all.into_iter().collect::<Vec<_>>().join(", ") }
            ))
        })
    }

    /// The runs that left results, by the names of their directories.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn executions(&self) -> Result<BTreeSet<String>> {
        self.directories("results")
    }

    fn directories(&self, of: &str) -> Result<BTreeSet<String>> {
        let directory = self.root.join(of);
        self.act(|| {
            let entries = match fs_err::read_dir(&directory) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
                Err(error) => return Err(error),
            };
            let mut names = BTreeSet::new();
            for entry in entries {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    names.extend(entry.file_name().into_string().ok());
                }
            }
            Ok(names)
        })
    }

    /// A file of `configs/`; `None`, if there is none.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read_config(&self, name: &str) -> Result<Option<String>> {
        let path = self.root.join("configs").join(name);
        self.act(|| match agent_fs::untrusted::read(&path, CONFIG_LIMIT) {
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        })
    }

    /// Writes a file into `configs/`. The lab's own file is kept once, as `NAME.orig`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_config(&self, name: &str, text: &str) -> Result<PathBuf> {
        let directory = self.root.join("configs");
        let (path, kept) = (directory.join(name), directory.join(format!("{name}.orig")));
        self.act(|| {
            fs_err::create_dir_all(&directory)?;
            if path.symlink_metadata().is_ok() {
                match kept.symlink_metadata() {
                    Ok(_) => fs_err::remove_file(&path)?,
                    Err(_) => fs_err::rename(&path, &kept)?,
                }
            }
            write_new(&path, text.as_bytes())
        })?;
        Ok(path)
    }

    /// The reports of the run that began when there were these results. `execution`: its name, if the console had it.
    ///
    /// # Errors
    /// Why there are none that can be relied upon.
    pub fn reports(
        &self,
        before: &BTreeSet<String>,
        execution: Option<&str>,
    ) -> Result<(QualificationReport, SuiteReport), String> {
        let after = self.executions().map_err(|error| error.message)?;
        let new: Vec<&String> = after.difference(before).collect();
        let name = match (new.as_slice(), execution) {
            (new, Some(name)) if new.iter().any(|new| *new == name) => name,
            ([], _) => return Err("there are no results of this run".into()),
            ([only], _) => only,
            (many, _) => {
                return Err(format!("there are results of {} runs, and none is this one's", many.len()));
            }
        };
        let directory = self.root.join("results").join(name);
        let (first, second) = self
            .act(|| {
                let mut suites = Vec::new();
                for entry in fs_err::read_dir(&directory)? {
                    let name = entry?.file_name();
                    suites.extend(name.into_string().ok().filter(|name| name.ends_with("_Report.xml")));
                }
                let read = |name: &str| agent_fs::untrusted::read(&directory.join(name), MOST_BYTES);
                let first = read("awsiotdevicetester_report.xml")?;
                match suites.as_slice() {
                    [only] => Ok((first, read(only)?)),
                    [] => Err(io::Error::other("the suite's report is missing")),
                    more => Err(io::Error::other(format!("there are {} reports of suites", more.len()))),
                }
            })
            .map_err(|error| error.message)?;
        let named = |name: &'static str| move |why: String| format!("{name}: {why}");
        let qualification = parse_qualification(&String::from_utf8_lossy(&first));
        let suite = parse_suite(&String::from_utf8_lossy(&second));
        Ok((
            qualification.map_err(named("awsiotdevicetester_report.xml"))?,
            suite.map_err(named("the suite's report"))?,
        ))
    }

    /// Works with the rights of the user who runs Device Tester: links in the installation lead root nowhere.
    fn act<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> Result<T> {
        as_user(self.user.as_ref(), work)
    }
}

fn as_user<T: Send>(user: Option<&User>, work: impl FnOnce() -> io::Result<T> + Send) -> Result<T> {
    let done = match user {
        Some(user) => Credentials::of(user.uid, user.gid).act(work),
        None => work(),
    };
    done.map_err(Error::from)
}

/// Writes a new file that only its owner can read.
pub fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)
}

/// The user who can run the installation.
fn usable_by(root: &Path) -> Result<Option<User>> {
    let program = root.join(PROGRAM);
    if !program.is_file() {
        return Err(Error::machine(format!("{} is not there", program.display()))
            .hint("unpack the zip of AWS IoT Device Tester for Linux there (lab.toml, `directory`)"));
    }
    if !agent_fs::read::is_local(root) {
        return Err(Error::machine(format!("{} is not on a local disk", root.display()))
            .hint("AWS does not support Device Tester on NFS: unpack it on a local disk"));
    }
    let user = lesser_owner([root])?;
    if user.is_none() && nix::unistd::geteuid().is_root() {
        return Err(Error::machine(format!(
            "{} belongs to root, and Device Tester must not run as root",
            root.display()
        ))
        .hint(format!("give it to the build user: `chown -R builder {}`", root.display())));
    }
    Ok(user)
}

/// The newest of the directories `NAME_x.y.z`, or the one with exactly this name.
fn newest(name: &str, all: &BTreeSet<String>) -> Option<String> {
    if all.contains(name) {
        return Some(name.to_owned());
    }
    let version = |directory: &str| -> Option<Vec<u32>> {
        let version = directory.strip_prefix(name)?.strip_prefix('_')?;
        version.split('.').map(|part| part.parse().ok()).collect()
    };
    let versions = all.iter().filter_map(|directory| Some((version(directory)?, directory)));
    versions.max().map(|(_, directory)| directory.clone())
}

/// [`Installation::open`] does not block for long, but the rest reads and writes files.
pub async fn off_thread<T: Send + 'static>(
    installation: &Arc<Installation>,
    work: impl FnOnce(&Installation) -> T + Send + 'static,
) -> T {
    let installation = installation.clone();
    blocking(move || work(&installation)).await
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_of_a_suite_runs() {
        let all = ["GGV2Q_2.5.4", "GGV2Q_2.10.0", "GGV2Q_x", "GGV2QX_9.0.0", "Mine_1.0.0"];
        let all = all.map(str::to_owned).into();
        for (name, wanted) in [
            ("GGV2Q", Some("GGV2Q_2.10.0")),
            ("GGV2Q_2.5.4", Some("GGV2Q_2.5.4")),
            ("Mine", Some("Mine_1.0.0")),
            ("FRQ", None),
            ("GGV2Q_2", None),
        ] {
            assert_eq!(newest(name, &all).as_deref(), wanted, "{name}");
        }
    }
}
