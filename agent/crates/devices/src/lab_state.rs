//! The local files of a lab host.
//!
//! ```text
//! <state>/lock                        one lab at a time
//! <state>/devices/<device>/lease.json the newest lease under which this host drove the device
//! <state>/devices/<device>/attempt/   files of the attempt that runs
//! ```

use std::fs::{File, TryLockError};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use agent_types::error::{Error, Result};

use crate::fence::LeaseName;

const LARGEST: u64 = 4096;

/// The build user passes through, and lists nothing.
const PASS_THROUGH: u32 = 0o711;

/// The local files of a lab, which this process holds.
#[derive(Debug)]
pub struct LabState {
    root: PathBuf,
    lock: File,
}

/// The newest lease of a device, as this host knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownLease {
    pub number: u64,
    pub nonce: String,
}

impl LabState {
    /// Takes the directory, which is made if it is missing.
    ///
    /// # Errors
    /// Machine, if another lab has it, or it cannot be written.
    pub fn open(root: &Path) -> Result<LabState> {
        fs_err::create_dir_all(root)?;
        fs_err::set_permissions(root, std::fs::Permissions::from_mode(PASS_THROUGH))?;
        let path = root.join("lock");
        let mut options = fs_err::OpenOptions::new();
        let lock: File = options.read(true).write(true).create(true).truncate(false).open(&path)?.into();
        match lock.try_lock() {
            Ok(()) => Ok(LabState { root: root.to_owned(), lock }),
            Err(TryLockError::WouldBlock) => {
                Err(Error::machine(format!("another lab uses the state directory `{}`", root.display()))
                    .hint("stop it, or use another directory (`state` in lab.toml)"))
            }
            Err(TryLockError::Error(error)) => {
                Err(Error::machine(format!("cannot lock `{}`", path.display())).because(&error))
            }
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of a device; made if it is missing.
    ///
    /// # Errors
    /// Machine, if it cannot be made.
    pub fn device(&self, device: &str) -> Result<PathBuf> {
        let directory = self.root.join("devices").join(device);
        fs_err::create_dir_all(&directory)?;
        for directory in [self.root.join("devices"), directory.clone()] {
            fs_err::set_permissions(&directory, std::fs::Permissions::from_mode(PASS_THROUGH))?;
        }
        Ok(directory)
    }

    /// The newest lease under which this host drove the device. Its holder was a process that had this directory, so it
    /// has ended.
    ///
    /// # Errors
    /// Machine, if the file is damaged: then older numbers cannot be refused.
    pub fn known_lease(&self, device: &str) -> Result<Option<KnownLease>> {
        let path = self.device(device)?.join("lease.json");
        let content = match agent_fs::read::whole(&path, LARGEST) {
            Ok(content) => content,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        serde_json::from_slice(&content).map(Some).map_err(|error| {
            Error::machine(format!("`{}` is damaged", path.display()))
                .because(&error)
                .hint("remove it, if no other program controls the device")
        })
    }

    /// Records a lease before the device is driven under it.
    ///
    /// # Errors
    /// Machine, if this host has driven the device under a newer lease, or the file cannot be written.
    pub fn record_lease(&self, lease: &LeaseName) -> Result<()> {
        if let Some(known) = self.known_lease(&lease.device)?.filter(|known| known.number >= lease.number) {
            return Err(Error::machine(format!(
                "lease {} of the device {} is older than lease {}, under which this host drove it",
                lease.number, lease.device, known.number
            ))
            .hint("if the leases were removed from the store, remove the state directory of the lab, too"));
        }
        let known = KnownLease { number: lease.number, nonce: lease.nonce.clone() };
        let content = crate::record::to_json(&known)?;
        let directory = self.device(&lease.device)?;
        let (part, path) = (directory.join("lease.json.part"), directory.join("lease.json"));
        let mut file = fs_err::File::create(&part)?;
        // Exported tests, which are layer code, may pass through this directory.
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        file.write_all(&content)?;
        file.sync_all()?;
        fs_err::rename(part, path)?;
        Ok(fs_err::File::open(directory)?.sync_all()?)
    }
}

impl Drop for LabState {
    /// A child that starts at this moment has a copy of the descriptor until it executes its program, so closing it
    /// would not release the lock.
    fn drop(&mut self) {
        let _ = self.lock.unlock();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_lab_has_the_directory_and_refuses_older_leases() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("state");
        let state = LabState::open(&root).unwrap();
        assert!(LabState::open(&root).is_err());
        let lease = |number| LeaseName { device: "pi".into(), number, nonce: format!("n{number}") };
        assert_eq!(state.known_lease("pi").unwrap(), None);
        for (number, allowed) in [(3, true), (3, false), (2, false), (4, true)] {
            assert_eq!(state.record_lease(&lease(number)).is_ok(), allowed, "{number}");
        }
        assert_eq!(state.known_lease("pi").unwrap().unwrap().nonce, "n4");
        drop(state);
        let state = LabState::open(&root).unwrap();
        assert!(state.record_lease(&lease(4)).is_err());
        fs_err::write(root.join("devices/pi/lease.json"), "{").unwrap();
        assert!(state.record_lease(&lease(9)).is_err());
    }
}
