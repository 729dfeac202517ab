//! What a user may do with files, by owner, group and mode; and work with that user's rights.
//!
//! Access control lists are not looked at: they may let more users in than the mode says, which the kernel
//! knows.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::sys::stat::SFlag;
use nix::unistd::{Gid, Uid, getegid, geteuid, getgroups, setfsgid, setfsuid};

/// Symbolic links that one path may lead through, as in the kernel.
const LINKS: usize = 40;

/// A set of `r`, `w` and `x`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permission(u32);

impl Permission {
    pub const READ: Permission = Permission(0o4);
    /// To run a file, or to reach what lies in a directory.
    pub const EXECUTE: Permission = Permission(0o1);
    /// To make and delete names in a directory.
    pub const CHANGE: Permission = Permission(0o3);
    /// A program: the dynamic loader and `/proc/self/exe` read it, too.
    pub const RUN: Permission = Permission(0o5);
}

/// The user whose rights count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    uid: u32,
    gid: u32,
    /// Supplementary groups.
    groups: Vec<u32>,
}

/// Where a user comes no further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Barrier {
    /// With all links resolved.
    pub path: PathBuf,
    /// Permission bits; `None` when the agent itself cannot look at it.
    pub mode: Option<u32>,
}

impl Credentials {
    /// Of a user without supplementary groups: the agent drops them for all that it starts.
    pub fn of(uid: u32, gid: u32) -> Credentials {
        Credentials { uid, gid, groups: Vec::new() }
    }

    /// Those of the agent itself.
    pub fn own() -> Credentials {
        let groups = getgroups().unwrap_or_default().into_iter().map(Gid::as_raw).collect();
        Credentials { uid: geteuid().as_raw(), gid: getegid().as_raw(), groups }
    }

    /// Whether the bits of something that belongs to `owner` and `group` let the user in. Root runs what
    /// anybody may run, and may do all else.
    pub fn may(&self, wanted: Permission, owner: u32, group: u32, mode: u32) -> bool {
        if self.uid == 0 {
            let is_directory = SFlag::from_bits_truncate(mode) & SFlag::S_IFMT == SFlag::S_IFDIR;
            let runs = wanted.0 & Permission::EXECUTE.0 != 0 && !is_directory;
            return !runs || mode & 0o111 != 0;
        }
        // Only one class counts: an owner without the right does not get it as one of the others.
        let shift = if owner == self.uid {
            6
        } else if group == self.gid || self.groups.contains(&group) {
            3
        } else {
            0
        };
        (mode >> shift) & wanted.0 == wanted.0
    }

    /// The first place on the way to `path`, from the top, that keeps the user from having `wanted` at its
    /// end: a directory that cannot be passed, or the end itself. Follows links as the kernel does. What is
    /// missing is no barrier.
    pub fn barrier(&self, path: &Path, wanted: Permission) -> Option<Barrier> {
        let path = std::path::absolute(path).ok()?;
        let mut at = PathBuf::from("/");
        let mut ahead: VecDeque<OsString> = names(&path);
        let mut links = 0;
        let mut here = std::fs::symlink_metadata(&at);
        loop {
            let facts = match &here {
                Ok(facts) => facts,
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    return Some(Barrier { path: at, mode: None });
                }
                Err(_) => return None,
            };
            if facts.is_symlink() {
                links += 1;
                let text = std::fs::read_link(&at).ok().filter(|_| links <= LINKS)?;
                at.pop();
                if text.is_absolute() {
                    at = PathBuf::from("/");
                }
                names(&text).into_iter().rev().for_each(|name| ahead.push_front(name));
            } else {
                let (is_end, mode) = (ahead.is_empty(), facts.mode());
                if !is_end && !facts.is_dir() {
                    return None;
                }
                let wanted = if is_end { wanted } else { Permission::EXECUTE };
                if !self.may(wanted, facts.uid(), facts.gid(), mode) {
                    return Some(Barrier { path: at, mode: Some(mode & 0o7777) });
                }
                let name = ahead.pop_front()?;
                if name == ".." {
                    at.pop();
                } else {
                    at.push(name);
                }
            }
            here = std::fs::symlink_metadata(&at);
        }
    }

    /// Works with this user's rights to files, on a thread of its own, because rights belong to threads:
    /// whatever lies in the way, the work gets at nothing that the user could not reach. Groups of the
    /// agent's own stay.
    ///
    /// # Errors
    /// Those of the work, and [`io::ErrorKind::PermissionDenied`] when the kernel does not let the agent act
    /// as that user.
    pub fn act<T: Send, E: From<io::Error> + Send>(
        &self,
        work: impl FnOnce() -> Result<T, E> + Send,
    ) -> Result<T, E> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        let limited = || {
            setfsgid(gid);
            setfsuid(uid);
            // Neither says whether it worked; both give what holds.
            if setfsuid(uid) != uid || setfsgid(gid) != gid {
                let message = format!("the kernel does not let the agent act as uid {uid}");
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, message).into());
            }
            work()
        };
        std::thread::scope(|scope| match scope.spawn(limited).join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }
}

/// The names of a path, with `..` as it stands: what it leads to depends on links.
fn names(path: &Path) -> VecDeque<OsString> {
    let is_name = |component: &Component| matches!(component, Component::Normal(_) | Component::ParentDir);
    path.components().filter(is_name).map(|component| component.as_os_str().to_owned()).collect()
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
