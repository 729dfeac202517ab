//! The file system: every request of the kernel is done in the source, as the weather lets it.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, Metadata, OpenOptions};
use std::io;
use std::mem::forget;
use std::os::unix::fs::{DirBuilderExt, DirEntryExt, FileExt, MetadataExt, OpenOptionsExt, lchown, symlink};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};
use nix::fcntl::{AT_FDCWD, OFlag, renameat2};
use nix::sys::stat::{Mode, SFlag, mknod};
use nix::sys::statvfs::statvfs;

use crate::facts::{Change, attributes, kind};
use crate::handles::{Entry, Handles, OpenDirectory, OpenFile};
use crate::nodes::Nodes;
use crate::weather::{Operation, Weather};

/// How long the kernel may believe what it was told, without asking again.
#[derive(Clone, Copy, Debug)]
pub struct Caching {
    /// Attributes of what is not a directory. Its name is looked up anew each time.
    pub files: Duration,
    /// Names and attributes of directories.
    pub directories: Duration,
}

pub struct Share {
    nodes: Nodes,
    files: Handles<OpenFile>,
    directories: Handles<OpenDirectory>,
    weather: Arc<Weather>,
    caching: Caching,
    hard_links: bool,
    root: bool,
}

/// Answers with what `$work` gives, or not at all when the operation hangs: a reply that is dropped
/// would tell the kernel of an error.
macro_rules! answer {
    ($self:ident, $operation:ident, $reply:ident, $work:expr, |$value:pat_param| $well:expr) => {
        match $self.weather.pass(Operation::$operation, || $work) {
            Some(Ok($value)) => $well,
            Some(Err(error)) => $reply.error(error.into()),
            None => forget($reply),
        }
    };
}

impl Share {
    pub fn new(source: &Path, weather: Arc<Weather>, caching: Caching, hard_links: bool) -> Share {
        Share {
            nodes: Nodes::new(source.to_path_buf()),
            files: Handles::default(),
            directories: Handles::default(),
            weather,
            caching,
            hard_links,
            root: nix::unistd::geteuid().is_root(),
        }
    }

    /// The attributes of a name that the kernel will know from now on.
    fn told(&self, path: &Path, parent: INodeNo, name: &OsStr) -> io::Result<FileAttr> {
        let facts = path.symlink_metadata()?;
        let ino = INodeNo(facts.ino());
        self.nodes.tell(ino, parent, name);
        Ok(attributes(&facts, ino))
    }

    /// Does what makes a new name, gives it to the caller, and tells the kernel of it.
    fn made(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        make: impl FnOnce(&Path) -> io::Result<()>,
    ) -> io::Result<FileAttr> {
        let path = self.nodes.child(parent, name)?;
        make(&path)?;
        self.give(request, &path)?;
        self.told(&path, parent, name)
    }

    /// What was made belongs to the caller; the group is the directory's where that says so.
    fn give(&self, request: &Request, path: &Path) -> io::Result<()> {
        if !self.root {
            return Ok(());
        }
        let above = path.parent().map(fs::metadata).transpose()?;
        let inherited = above.is_some_and(|above| above.mode() & Mode::S_ISGID.bits() != 0);
        lchown(path, Some(request.uid()), (!inherited).then(|| request.gid()))
    }

    fn entry(&self, reply: ReplyEntry, attributes: &FileAttr) {
        let (facts, name) = self.caching.of(attributes);
        reply.entry_with_ttls(&facts, &name, attributes, Generation(0));
    }

    /// Of the file that is open where it lost its last name.
    fn facts(&self, ino: INodeNo) -> io::Result<Metadata> {
        match self.nodes.path(ino) {
            Ok(path) => path.symlink_metadata(),
            Err(gone) => self.files.of(ino.0).ok_or(gone)?.file.metadata(),
        }
    }

    fn change(&self, ino: INodeNo, change: &Change) -> io::Result<FileAttr> {
        match self.nodes.path(ino) {
            Ok(path) => change.apply(&path)?,
            Err(gone) => change.apply_open(&self.files.of(ino.0).ok_or(gone)?.file)?,
        }
        Ok(attributes(&self.facts(ino)?, ino))
    }

    fn open_file(&self, ino: INodeNo, flags: OpenFlags) -> io::Result<FileHandle> {
        let mut options = OpenOptions::new();
        options.read(flags.acc_mode() != OpenAccMode::O_WRONLY);
        options.write(flags.acc_mode() != OpenAccMode::O_RDONLY);
        let file = options.custom_flags(OFlag::O_NOFOLLOW.bits()).open(self.nodes.path(ino)?)?;
        Ok(self.files.add(OpenFile::new(file)?))
    }

    fn list(&self, ino: INodeNo) -> io::Result<Vec<Entry>> {
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
    /// Of the attributes, and of the name.
    fn of(&self, attributes: &FileAttr) -> (Duration, Duration) {
        match attributes.kind {
            FileType::Directory => (self.directories, self.directories),
            _ => (self.files, Duration::ZERO),
        }
    }
}

impl Filesystem for Share {
    fn init(&mut self, _: &Request, kernel: &mut KernelConfig) -> io::Result<()> {
        // Without it the kernel itself lets one lookup after the other into a directory.
        let parallel = kernel.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS);
        // As much as an NFS client reads and writes in one request.
        let size = kernel.set_max_write(1 << 20);
        let waiting = kernel.set_max_background(64);
        if parallel.is_err() || size.is_err() || waiting.is_err() {
            return Err(io::Error::other("this kernel's FUSE is too old: it takes no requests side by side"));
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let look = || self.told(&self.nodes.child(parent, name)?, parent, name);
        answer!(self, Lookup, reply, look(), |attributes| self.entry(reply, &attributes));
    }

    fn forget(&self, _: &Request, ino: INodeNo, times: u64) {
        self.nodes.forget(ino, times);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let look = || Ok(attributes(&self.facts(ino)?, ino));
        answer!(self, Getattr, reply, look(), |facts| reply.attr(&self.caching.of(&facts).0, &facts));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = Change { mode, uid, gid, size, atime, mtime };
        answer!(self, Setattr, reply, self.change(ino, &change), |facts| {
            reply.attr(&self.caching.of(&facts).0, &facts);
        });
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        let read = || fs::read_link(self.nodes.path(ino)?);
        answer!(self, Readlink, reply, read(), |target| reply.data(target.as_os_str().as_encoded_bytes()));
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        device: u32,
        reply: ReplyEntry,
    ) {
        let make = |path: &Path| {
            Ok(mknod(path, SFlag::from_bits_truncate(mode), Mode::from_bits_truncate(mode), device.into())?)
        };
        answer!(self, Mknod, reply, self.made(request, parent, name, make), |facts| self
            .entry(reply, &facts));
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let make = |path: &Path| DirBuilder::new().mode(mode).create(path);
        answer!(self, Mkdir, reply, self.made(request, parent, name, make), |facts| self
            .entry(reply, &facts));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let make = |path: &Path| symlink(target, path);
        answer!(self, Symlink, reply, self.made(request, parent, name, make), |facts| self
            .entry(reply, &facts));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let remove = || fs::remove_file(self.nodes.child(parent, name)?);
        answer!(self, Unlink, reply, remove(), |()| reply.ok());
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let remove = || fs::remove_dir(self.nodes.child(parent, name)?);
        answer!(self, Rmdir, reply, remove(), |()| reply.ok());
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let rename = || {
            let (from, to) = (self.nodes.child(parent, name)?, self.nodes.child(new_parent, new_name)?);
            let how = nix::fcntl::RenameFlags::from_bits_truncate(flags.bits());
            renameat2(AT_FDCWD, &from, AT_FDCWD, &to, how)?;
            // What was renamed, and with RENAME_EXCHANGE what took its place; neither is there for sure by now.
            for (path, parent, name) in [(to, new_parent, new_name), (from, parent, name)] {
                if let Ok(facts) = path.symlink_metadata() {
                    self.nodes.rename(INodeNo(facts.ino()), parent, name);
                }
            }
            Ok(())
        };
        answer!(self, Rename, reply, rename(), |()| reply.ok());
    }

    fn link(&self, _: &Request, ino: INodeNo, new_parent: INodeNo, new_name: &OsStr, reply: ReplyEntry) {
        let link = || {
            if !self.hard_links {
                return Err(nix::errno::Errno::EPERM.into());
            }
            let path = self.nodes.child(new_parent, new_name)?;
            fs::hard_link(self.nodes.path(ino)?, &path)?;
            self.told(&path, new_parent, new_name)
        };
        answer!(self, Link, reply, link(), |facts| self.entry(reply, &facts));
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let open = || self.open_file(ino, flags);
        answer!(self, Open, reply, open(), |handle| reply.opened(handle, FopenFlags::empty()));
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let create = || {
            let path = self.nodes.child(parent, name)?;
            let fresh = !path.exists();
            let mut options = OpenOptions::new();
            options.read(OpenFlags(flags).acc_mode() != OpenAccMode::O_WRONLY).write(true).mode(mode);
            options.create(true).create_new(flags & OFlag::O_EXCL.bits() != 0);
            let open = OpenFile::new(options.custom_flags(OFlag::O_NOFOLLOW.bits()).open(&path)?)?;
            if fresh {
                self.give(request, &path)?;
            }
            Ok((self.told(&path, parent, name)?, self.files.add(open)))
        };
        answer!(self, Create, reply, create(), |(facts, handle)| {
            reply.created(&Duration::ZERO, &facts, Generation(0), handle, FopenFlags::empty());
        });
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = || {
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
        };
        answer!(self, Read, reply, read(), |bytes| reply.data(&bytes));
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        bytes: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let write = || {
            let open = self.files.get(handle)?;
            open.written.store(true, Relaxed);
            open.file.write_all_at(bytes, offset)
        };
        answer!(self, Write, reply, write(), |()| reply.written(bytes.len() as u32));
    }

    /// An NFS client asks the server only when there is something to tell.
    fn flush(&self, _: &Request, _: INodeNo, handle: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        match self.files.get(handle) {
            Ok(open) if open.written.swap(false, Relaxed) => {
                answer!(self, Flush, reply, Ok(()), |()| reply.ok());
            }
            Ok(_) => reply.ok(),
            Err(error) => reply.error(error.into()),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, data_only: bool, reply: ReplyEmpty) {
        let sync = || {
            let open = self.files.get(handle)?;
            open.written.store(false, Relaxed);
            if data_only { open.file.sync_data() } else { open.file.sync_all() }
        };
        answer!(self, Fsync, reply, sync(), |()| reply.ok());
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.files.remove(handle);
        reply.ok();
    }

    /// Costs nothing on NFS either: the listing is asked for by the first reading.
    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(self.directories.add(OpenDirectory::default()), FopenFlags::empty());
    }

    fn readdir(&self, _: &Request, ino: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let open = match self.directories.get(handle) {
            Ok(open) => open,
            Err(error) => return reply.error(error.into()),
        };
        let mut entries = open.lock().unwrap_or_else(PoisonError::into_inner);
        let from = offset as usize;
        if from > 0 && from >= entries.len() {
            // The kernel asks until nothing comes; NFS says with the last entries that they are the last.
            return reply.ok();
        }
        let mut read = || {
            if from == 0 {
                *entries = self.list(ino)?;
            }
            Ok(())
        };
        answer!(self, Readdir, reply, read(), |()| {
            for (at, (ino, kind, name)) in entries.iter().enumerate().skip(from) {
                if reply.add(INodeNo(*ino), at as u64 + 1, *kind, name) {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.directories.remove(handle);
        reply.ok();
    }

    /// A server on the network has its directories on disk when it answers.
    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer!(self, Fsync, reply, Ok(()), |()| reply.ok());
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let ask = || Ok(statvfs(&self.nodes.path(INodeNo::ROOT)?)?);
        answer!(self, Statfs, reply, ask(), |facts| {
            let (block, fragment) = (facts.block_size() as u32, facts.fragment_size() as u32);
            let (files, free) = (facts.files(), facts.files_free());
            let (all, left, ours) = (facts.blocks(), facts.blocks_free(), facts.blocks_available());
            reply.statfs(all, left, ours, files, free, block, facts.name_max() as u32, fragment);
        });
    }
}
