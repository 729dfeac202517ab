//! Maps the kernel's inode numbers to paths.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use fuser::INodeNo;
use nix::errno::Errno;

/// Inode numbers are those of the source, so that hard links are one file; only the top has 1, as the kernel
/// requires.
#[derive(Debug)]
pub struct Nodes {
    source: PathBuf,
    known: Mutex<HashMap<u64, Node>>,
}

#[derive(Debug, Default)]
struct Node {
    /// Known locations: parent and name, the latest last. Some may no longer exist.
    names: Vec<(u64, OsString)>,
    /// The number of lookups that the kernel has not forgotten.
    told: u64,
}

impl Nodes {
    pub fn new(source: PathBuf) -> Nodes {
        Nodes { source, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<u64, Node>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The path of a directory's entry in the source. `ESTALE`, if the directory no longer exists.
    pub fn child(&self, parent: INodeNo, name: &OsStr) -> io::Result<PathBuf> {
        Ok(self.directory(&self.known(), parent.0)?.join(name))
    }

    /// The path of an inode in the source, checked again, because a name may belong to another inode now.
    /// `ESTALE`, if no known name leads to it.
    pub fn path(&self, ino: INodeNo) -> io::Result<PathBuf> {
        if ino == INodeNo::ROOT {
            return Ok(self.source.clone());
        }
        let known = self.known();
        let names = known.get(&ino.0).map(|node| node.names.clone()).unwrap_or_default();
        let paths = names
            .iter()
            .rev()
            .filter_map(|(parent, name)| Some(self.directory(&known, *parent).ok()?.join(name)));
        let paths: Vec<PathBuf> = paths.collect();
        drop(known);
        let leads_there =
            |path: &PathBuf| path.symlink_metadata().is_ok_and(|metadata| metadata.ino() == ino.0);
        paths.into_iter().find(leads_there).ok_or_else(|| Errno::ESTALE.into())
    }

    /// Directories have only one name: the latest.
    fn directory(&self, known: &HashMap<u64, Node>, ino: u64) -> io::Result<PathBuf> {
        let mut names: Vec<&OsStr> = Vec::new();
        let mut at = ino;
        while at != INodeNo::ROOT.0 {
            let latest = known.get(&at).and_then(|node| node.names.last());
            let (parent, name) = latest.ok_or(Errno::ESTALE)?;
            names.push(name);
            at = *parent;
        }
        let mut path = self.source.clone();
        path.extend(names.iter().rev());
        Ok(path)
    }

    /// Records that the kernel got the inode by this name.
    pub fn tell(&self, ino: INodeNo, parent: INodeNo, name: &OsStr) {
        let mut known = self.known();
        let node = known.entry(ino.0).or_default();
        node.told += 1;
        node.add(parent, name);
    }

    /// Records another name of a known inode.
    pub fn rename(&self, ino: INodeNo, parent: INodeNo, name: &OsStr) {
        if let Some(node) = self.known().get_mut(&ino.0) {
            node.add(parent, name);
        }
    }

    pub fn forget(&self, ino: INodeNo, times: u64) {
        let mut known = self.known();
        if let Some(node) = known.get_mut(&ino.0) {
            node.told = node.told.saturating_sub(times);
            if node.told == 0 {
                known.remove(&ino.0);
            }
        }
    }
}

impl Node {
    fn add(&mut self, parent: INodeNo, name: &OsStr) {
        self.names.retain(|(at, known)| *at != parent.0 || known != name);
        self.names.push((parent.0, name.to_os_string()));
        // Temporary names come and go; a file with more links than this is found by the latest.
        let surplus = self.names.len().saturating_sub(8);
        self.names.drain(..surplus);
    }
}
