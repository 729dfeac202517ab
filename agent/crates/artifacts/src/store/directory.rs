//! A directory as the destination.
//!
//! A file is written beside its place and renamed, so that a reader sees all of it or nothing. The
//! directory may lie in a checkout with planted links: below it nothing is opened through a symbolic
//! link, and a link in a file's place is replaced and not written through.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, renameat};
use nix::sys::stat::{Mode, fchmod, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};
use tokio_util::sync::CancellationToken;

use super::collect::Problem;
use super::failure::Failure;
use super::leftovers::{self, Running};
use super::source::{Source, SourceMeta, off_the_runtime};
use agent_types::error::{Error, Result};

const PIECE: usize = 1024 * 1024;
const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
/// rw-r--r--: published is for all users of the machine, whatever the agent's umask.
const PUBLIC: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR).union(Mode::S_IRGRP).union(Mode::S_IROTH);

/// Tells the temporary files of one process apart.
static COUNT: AtomicU64 = AtomicU64::new(0);

#[derive(Clone, Debug)]
pub struct Directory {
    root: Arc<OwnedFd>,
    path: PathBuf,
    /// Says that this publication runs; gone with the last clone.
    running: Arc<Running>,
}

impl Directory {
    /// Creates the directory when it is missing, and removes the temporary files of publications that were
    /// killed there. `prefix` is where this one is going to write.
    ///
    /// # Errors
    /// Machine, when it cannot be made or written, or is a symbolic link.
    pub fn open(path: &Path, prefix: &str) -> Result<Directory> {
        if fs_err::symlink_metadata(path).is_err() {
            fs_err::create_dir_all(path)?;
        }
        let root = open(path, DIRECTORY, Mode::empty()).map_err(|errno| {
            Error::machine(format!("cannot publish to the directory `{}`", path.display()))
                .because(&errno)
                .hint("name a directory that is no symbolic link and belongs to the agent's user")
        })?;
        leftovers::remove(&root);
        let running =
            Running::begin(&root, prefix).map_err(|error| unwritable(&path.display().to_string(), &error))?;
        Ok(Directory { root: Arc::new(root), path: path.to_owned(), running: Arc::new(running) })
    }

    pub fn shown(&self, key: &str) -> String {
        match key {
            "" => self.path.display().to_string(),
            key => self.path.join(key).display().to_string(),
        }
    }

    /// Whether something has this name.
    pub fn holds(&self, key: &str) -> io::Result<bool> {
        let mut at: Option<OwnedFd> = None;
        let parts: Vec<&str> = key.split('/').collect();
        for (n, part) in parts.iter().enumerate() {
            let below = at.as_ref().unwrap_or(&self.root);
            match fstatat(below, *part, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Err(Errno::ENOENT) => return Ok(false),
                Err(errno) => return Err(errno.into()),
                Ok(_) if n + 1 == parts.len() => return Ok(true),
                Ok(_) => at = Some(openat(below, *part, DIRECTORY, Mode::empty())?),
            }
        }
        Ok(true)
    }

    /// Writes the file to the end, replacing what had its name.
    pub async fn put(
        &self,
        key: &str,
        source: Source,
        stop: &CancellationToken,
    ) -> Result<SourceMeta, Failure> {
        let path = source.path().to_owned();
        let failed = {
            let (path, shown) = (path.clone(), self.shown(key));
            move |error: io::Error| not_written(&path, &shown, &error)
        };
        let (directory, key) = (self.clone(), key.to_owned());
        let at = failed.clone();
        let mut draft = off_the_runtime(&path, move || directory.draft(&key).map_err(at)).await?;
        let mut source = source;
        loop {
            let (next, piece) = source.next(PIECE).await?;
            if piece.is_empty() {
                let facts = next.finish()?;
                off_the_runtime(&path, move || draft.replace().map_err(failed)).await?;
                return Ok(facts);
            }
            if stop.is_cancelled() {
                return Err(Failure::Stopped);
            }
            source = next;
            let at = failed.clone();
            draft = off_the_runtime(&path, move || draft.write(&piece).map_err(at)).await?;
        }
    }

    /// Writes a file that must not be there yet; `false` when it is.
    pub fn create(&self, key: &str, content: &[u8]) -> io::Result<bool> {
        self.draft(key)?.write(content)?.create()
    }

    fn draft(&self, key: &str) -> io::Result<Draft> {
        let (parents, name) = key.rsplit_once('/').unwrap_or(("", key));
        let mut directory = self.root.clone();
        for part in parents.split('/').filter(|part| !part.is_empty()) {
            match mkdirat(&*directory, part, Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
            directory = Arc::new(openat(&*directory, part, DIRECTORY, Mode::empty())?);
        }
        // Short, so that it fits where the name fits.
        let draft = leftovers::part_name(self.running.id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&*directory, draft.as_str(), flags, PUBLIC)?;
        let made = Draft { directory, draft, name: name.to_owned(), file: File::from(fd), renamed: false };
        fchmod(&made.file, PUBLIC)?;
        Ok(made)
    }
}

/// The directory is to blame for what would hit every other file, too.
fn not_written(path: &Path, shown: &str, error: &io::Error) -> Failure {
    match hint(error) {
        Some(_) => unwritable(shown, error).into(),
        None => Problem::new(path, format!("cannot write `{shown}`: {error}")).into(),
    }
}

fn unwritable(shown: &str, error: &io::Error) -> Error {
    let failed = Error::machine(format!("cannot write `{shown}`")).because(error);
    match hint(error) {
        Some(hint) => failed.hint(hint),
        None => failed,
    }
}

fn hint(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Some("make room there, or name another destination")
        }
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => {
            Some("let the agent's user write there, or name another destination")
        }
        _ => None,
    }
}

/// A file beside its place. Dropped before it is in place, it leaves nothing behind.
struct Draft {
    directory: Arc<OwnedFd>,
    draft: String,
    name: String,
    file: File,
    renamed: bool,
}

impl Draft {
    fn write(mut self, piece: &[u8]) -> io::Result<Draft> {
        self.file.write_all(piece)?;
        Ok(self)
    }

    fn replace(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        renameat(&*self.directory, self.draft.as_str(), &*self.directory, self.name.as_str())?;
        self.renamed = true;
        Ok(())
    }

    fn create(self) -> io::Result<bool> {
        self.file.sync_all()?;
        // A rename replaces; a link fails when the name is taken, also on NFS.
        match linkat(
            &*self.directory,
            self.draft.as_str(),
            &*self.directory,
            self.name.as_str(),
            AtFlags::empty(),
        ) {
            Ok(()) => Ok(true),
            Err(Errno::EEXIST) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.renamed {
            // What cannot be removed has a name of its own and is in nobody's way.
            let _ = unlinkat(&*self.directory, self.draft.as_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}
