//! Implements each request with the same operation in the source.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt, OpenOptionsExt, lchown};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fuser::{FileAttr, FileHandle, FileType, INodeNo, OpenAccMode, OpenFlags, Request};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags, renameat2};
use nix::sys::stat::Mode;

use crate::attributes::{Change, attributes, kind};
use crate::faults::FaultInjector;
use crate::handles::{Entry, Handles, OpenDirectory, OpenFile};
use crate::nodes::Nodes;

/// How long the kernel may cache a reply.
#[derive(Clone, Copy, Debug)]
pub struct Caching {
    /// Attributes of files. Their names are looked up each time.
    pub files: Duration,
    /// Names and attributes of directories.
    pub directories: Duration,
}

pub struct Share {
    pub nodes: Nodes,
    pub files: Handles<OpenFile>,
    pub directories: Handles<OpenDirectory>,
    pub injector: Arc<FaultInjector>,
    pub caching: Caching,
    hard_links: bool,
    root: bool,
    /// Directories that changed since the kernel last asked about them.
    changed: Mutex<HashSet<u64>>,
}

impl Share {
    pub fn new(source: &Path, injector: Arc<FaultInjector>, caching: Caching, hard_links: bool) -> Share {
        Share {
            nodes: Nodes::new(source.to_path_buf()),
            files: Handles::default(),
            directories: Handles::default(),
            injector,
            caching,
            hard_links,
            root: nix::unistd::geteuid().is_root(),
            changed: Mutex::default(),
        }
    }

    /// The attributes of a name that the kernel gets.
    pub fn told(&self, path: &Path, parent: INodeNo, name: &OsStr) -> io::Result<FileAttr> {
        let metadata = path.symlink_metadata()?;
        let ino = INodeNo(metadata.ino());
        self.nodes.tell(ino, parent, name);
        Ok(attributes(&metadata, ino))
    }

    /// Runs an operation that creates a name, gives the file to the caller, and returns its attributes.
    pub fn made(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        make: impl FnOnce(&Path) -> io::Result<()>,
    ) -> io::Result<FileAttr> {
        let path = self.nodes.child(parent, name)?;
        make(&path)?;
        self.give(request, &path)?;
        self.change_entries(parent);
        self.told(&path, parent, name)
    }

    pub fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        flags: OpenFlags,
    ) -> io::Result<(FileAttr, FileHandle)> {
        let path = self.nodes.child(parent, name)?;
        let fresh = !path.exists();
        let mut options = OpenOptions::new();
        options.read(flags.acc_mode() != OpenAccMode::O_WRONLY).write(true).mode(mode);
        options.create(true).create_new(flags.0 & OFlag::O_EXCL.bits() != 0);
        let open = OpenFile::new(options.custom_flags(OFlag::O_NOFOLLOW.bits()).open(&path)?)?;
        if fresh {
            self.give(request, &path)?;
            self.change_entries(parent);
        }
        Ok((self.told(&path, parent, name)?, self.files.add(open)))
    }

    pub fn link(&self, ino: INodeNo, parent: INodeNo, name: &OsStr) -> io::Result<FileAttr> {
        if !self.hard_links {
            return Err(Errno::EPERM.into());
        }
        let path = self.nodes.child(parent, name)?;
        fs::hard_link(self.nodes.path(ino)?, &path)?;
        self.change_entries(parent);
        self.told(&path, parent, name)
    }

    pub fn rename(
        &self,
        (parent, name): (INodeNo, &OsStr),
        (new_parent, new_name): (INodeNo, &OsStr),
        flags: RenameFlags,
    ) -> io::Result<()> {
        let (from, to) = (self.nodes.child(parent, name)?, self.nodes.child(new_parent, new_name)?);
        renameat2(AT_FDCWD, &from, AT_FDCWD, &to, flags)?;
        // The renamed entry, and with RENAME_EXCHANGE the one it replaced; both may no longer exist.
        for (path, parent, name) in [(to, new_parent, new_name), (from, parent, name)] {
            self.change_entries(parent);
            if let Ok(metadata) = path.symlink_metadata() {
                self.nodes.rename(INodeNo(metadata.ino()), parent, name);
            }
        }
        Ok(())
    }

    pub fn remove(
        &self,
        parent: INodeNo,
        name: &OsStr,
        how: impl FnOnce(&Path) -> io::Result<()>,
    ) -> io::Result<()> {
        how(&self.nodes.child(parent, name)?)?;
        self.change_entries(parent);
        Ok(())
    }

    fn change_entries(&self, directory: INodeNo) {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).insert(directory.0);
    }

    /// Whether the kernel asks about a directory only because this process changed it. An NFS client need not ask:
    /// the reply to the change contains the new state.
    pub fn was_told(&self, directory: INodeNo) -> bool {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).remove(&directory.0)
    }

    /// A new file belongs to the caller; its group is the directory's, if the directory requires that.
    fn give(&self, request: &Request, path: &Path) -> io::Result<()> {
        if !self.root {
            return Ok(());
        }
        let above = path.parent().map(fs::metadata).transpose()?;
        let inherited = above.is_some_and(|above| above.mode() & Mode::S_ISGID.bits() != 0);
        lchown(path, Some(request.uid()), (!inherited).then(|| request.gid()))
    }

    /// The metadata of the open file, if it lost its last name.
    pub fn metadata(&self, ino: INodeNo) -> io::Result<Metadata> {
        match self.nodes.path(ino) {
            Ok(path) => path.symlink_metadata(),
            Err(gone) => self.files.of(ino.0).ok_or(gone)?.file.metadata(),
        }
    }

    pub fn change(&self, ino: INodeNo, change: &Change) -> io::Result<FileAttr> {
        match self.nodes.path(ino) {
            Ok(path) => change.apply(&path)?,
            Err(gone) => change.apply_open(&self.files.of(ino.0).ok_or(gone)?.file)?,
        }
        Ok(attributes(&self.metadata(ino)?, ino))
    }

    pub fn open_file(&self, ino: INodeNo, flags: OpenFlags) -> io::Result<FileHandle> {
        let mut options = OpenOptions::new();
        options.read(flags.acc_mode() != OpenAccMode::O_WRONLY);
        options.write(flags.acc_mode() != OpenAccMode::O_RDONLY);
        let file = options.custom_flags(OFlag::O_NOFOLLOW.bits()).open(self.nodes.path(ino)?)?;
        Ok(self.files.add(OpenFile::new(file)?))
    }

    pub fn read(&self, handle: FileHandle, offset: u64, size: u32) -> io::Result<Vec<u8>> {
        let open = self.files.get(handle)?;
        let mut bytes = vec![0; size as usize];
        let mut filled = 0;
        while filled < bytes.len() {
            match open.file.read_at(&mut bytes[filled..], offset + filled as u64)? {
                0 => break,
                count => filled += count,
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    pub fn write(&self, handle: FileHandle, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let open = self.files.get(handle)?;
        open.written.store(true, Relaxed);
        open.file.write_all_at(bytes, offset)
    }

    pub fn sync(&self, handle: FileHandle, data_only: bool) -> io::Result<()> {
        let open = self.files.get(handle)?;
        open.written.store(false, Relaxed);
        if data_only { open.file.sync_data() } else { open.file.sync_all() }
    }

    pub fn list(&self, ino: INodeNo) -> io::Result<Vec<Entry>> {
        let mut entries =
            vec![(ino.0, FileType::Directory, ".".into()), (ino.0, FileType::Directory, "..".into())];
        for entry in fs::read_dir(self.nodes.path(ino)?)? {
            let entry = entry?;
            entries.push((entry.ino(), kind(entry.file_type()?), entry.file_name()));
        }
        Ok(entries)
    }
}

impl Caching {
    /// The cache times of the attributes and of the name.
    pub fn of(&self, attributes: &FileAttr) -> (Duration, Duration) {
        match attributes.kind {
            FileType::Directory => (self.directories, self.directories),
            _ => (self.files, Duration::ZERO),
        }
    }
}
