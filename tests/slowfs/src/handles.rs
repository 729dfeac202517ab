//! The kernel's open files and directories.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::{FileHandle, FileType};
use nix::errno::Errno;

/// Files or directories by the kernel's handle.
#[derive(Debug)]
pub struct Handles<T> {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<T>>>,
}

impl<T> Default for Handles<T> {
    fn default() -> Handles<T> {
        Handles { next: AtomicU64::new(1), open: Mutex::default() }
    }
}

impl<T> Handles<T> {
    fn open(&self) -> MutexGuard<'_, HashMap<u64, Arc<T>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, opened: T) -> FileHandle {
        let handle = self.next.fetch_add(1, Relaxed);
        self.open().insert(handle, Arc::new(opened));
        FileHandle(handle)
    }

    pub fn get(&self, handle: FileHandle) -> io::Result<Arc<T>> {
        self.open().get(&handle.0).cloned().ok_or_else(|| Errno::EBADF.into())
    }

    pub fn remove(&self, handle: FileHandle) {
        self.open().remove(&handle.0);
    }
}

#[derive(Debug)]
pub struct OpenFile {
    pub file: File,
    ino: u64,
    /// Whether written data may not have reached the server.
    pub written: AtomicBool,
}

impl OpenFile {
    pub fn new(file: File) -> io::Result<OpenFile> {
        let ino = file.metadata()?.ino();
        Ok(OpenFile { file, ino, written: AtomicBool::new(false) })
    }
}

impl Handles<OpenFile> {
    /// An open file, which may have lost its last name.
    pub fn of(&self, ino: u64) -> Option<Arc<OpenFile>> {
        self.open().values().find(|open| open.ino == ino).cloned()
    }
}

/// The entries of a directory, read completely at the first request.
pub type OpenDirectory = Mutex<Vec<Entry>>;

/// Inode number, kind and name.
pub type Entry = (u64, FileType, OsString);
