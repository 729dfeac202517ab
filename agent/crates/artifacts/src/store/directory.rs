//! Publishes to a directory.
//!
//! A file is written to a temporary file and renamed, so that readers see all of it or nothing. The directory
//! may be in a checkout with hostile links: below it, symbolic links are never followed, and a link with the
//! name of a file is replaced.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::sys::stat::{Mode, fchmod};
use tokio_util::sync::CancellationToken;

use super::collect::Problem;
use super::failure::Failure;
use super::source::{Source, SourceMeta, run_blocking};
use super::stale_temp_files::{self, Running};
use agent_fs::dir::{Access, DirHandle, Links, errno};
use agent_types::error::{Error, Result};

const PIECE: usize = 1024 * 1024;
/// rw-r--r--: all users of the machine can read published files, whatever the agent's umask.
const PUBLIC: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR).union(Mode::S_IRGRP).union(Mode::S_IROTH);

/// Numbers the temporary files of this process.
static COUNT: AtomicU64 = AtomicU64::new(0);

#[derive(Clone, Debug)]
pub struct Directory {
    root: DirHandle,
    path: PathBuf,
    /// Marks this publication as running, until the last clone is dropped.
    running: Arc<Running>,
}

impl Directory {
    /// Creates the directory if it is missing, and removes temporary files of killed publications. `prefix` is
    /// where this publication will write.
    ///
    /// # Errors
    /// Machine, if it cannot be created or written, or is a symbolic link.
    pub fn open(path: &Path, prefix: &str) -> Result<Directory> {
        if fs_err::symlink_metadata(path).is_err() {
            fs_err::create_dir_all(path)?;
        }
        let root = DirHandle::open_with(path, Links::Refuse, Access::Read).map_err(|error| {
            Error::machine(format!("cannot publish to the directory `{}`", path.display()))
                .because(&error)
                .hint("use a directory that is not a symbolic link and belongs to the agent's user")
        })?;
        stale_temp_files::remove(&root);
        let running =
            Running::begin(&root, prefix).map_err(|error| unwritable(&path.display().to_string(), &error))?;
        Ok(Directory { root, path: path.to_owned(), running: Arc::new(running) })
    }

    pub fn shown(&self, key: &str) -> String {
        match key {
            "" => self.path.display().to_string(),
            key => self.path.join(key).display().to_string(),
        }
    }

    /// Whether an entry with this key exists.
    pub fn exists(&self, key: &str) -> io::Result<bool> {
        let (above, name) = key.rsplit_once('/').unwrap_or(("", key));
        let found = self.root.open_dir_with(above, Access::PathOnly).and_then(|above| above.metadata(name));
        match found {
            Ok(_) => Ok(true),
            Err(error) if errno(&error) == Errno::ENOENT => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes the whole file and replaces an existing one.
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
        let mut temp_name = run_blocking(&path, move || directory.temp_name(&key).map_err(at)).await?;
        let mut source = source;
        loop {
            let (next, piece) = source.next(PIECE).await?;
            if piece.is_empty() {
                let meta = next.finish()?;
                run_blocking(&path, move || temp_name.replace().map_err(failed)).await?;
                return Ok(meta);
            }
            if stop.is_cancelled() {
                return Err(Failure::Stopped);
            }
            source = next;
            let at = failed.clone();
            temp_name = run_blocking(&path, move || temp_name.write(&piece).map_err(at)).await?;
        }
    }

    /// Writes a new file; false, if it exists already.
    pub fn create(&self, key: &str, content: &[u8]) -> io::Result<bool> {
        self.temp_name(key)?.write(content)?.create()
    }

    fn temp_name(&self, key: &str) -> io::Result<TempFile> {
        let (parents, name) = key.rsplit_once('/').unwrap_or(("", key));
        let directory = self.root.create_dirs(parents, Mode::from_bits_truncate(0o755))?;
        // A short name: it fits wherever the file's name fits.
        let temp_name = stale_temp_files::part_name(self.running.id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let file = directory.create_file(&temp_name, PUBLIC)?;
        let made = TempFile { directory, temp_name, name: name.to_owned(), file, renamed: false };
        fchmod(&made.file, PUBLIC)?;
        Ok(made)
    }
}

/// The failure to write a file. An error that would hit all files is one of the directory.
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
            Some("free space there, or use another destination")
        }
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => {
            Some("give the agent's user write access, or use another destination")
        }
        _ => None,
    }
}

/// A temporary file that is renamed to its final name. It is deleted if it is dropped before.
struct TempFile {
    directory: DirHandle,
    temp_name: String,
    name: String,
    file: File,
    renamed: bool,
}

impl TempFile {
    fn write(mut self, piece: &[u8]) -> io::Result<TempFile> {
        self.file.write_all(piece)?;
        Ok(self)
    }

    fn replace(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        self.directory.rename(&self.temp_name, &self.directory, &self.name)?;
        self.renamed = true;
        Ok(())
    }

    fn create(self) -> io::Result<bool> {
        self.file.sync_all()?;
        // Unlike a rename, a hard link fails if the name exists, also on NFS.
        match self.directory.hard_link(&self.temp_name, &self.directory, &self.name) {
            Ok(()) => Ok(true),
            Err(error) if errno(&error) == Errno::EEXIST => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.renamed {
            // A file that cannot be removed has a unique name and does no harm.
            let _ = self.directory.remove_file(&self.temp_name);
        }
    }
}
