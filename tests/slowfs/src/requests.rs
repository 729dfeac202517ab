//! Handles the kernel's requests: passes each through the fault injector and sends the reply.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::io;
use std::mem::forget;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, FileAttr, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use nix::sys::stat::{Mode, SFlag, mknod};
use nix::sys::statvfs::statvfs;

use crate::attributes::{Change, attributes};
use crate::faults::Operation;
use crate::handles::OpenDirectory;
use crate::share::{Caching, Share};

/// Replies with the result of `$work`, or never if the operation hangs: a dropped reply would report an error to the
/// kernel.
macro_rules! answer {
    ($self:ident, $operation:ident, $reply:ident, $work:expr, |$value:pat_param| $well:expr) => {
        match $self.injector.run(Operation::$operation, || $work) {
            Some(Ok($value)) => $well,
            Some(Err(error)) => $reply.error(error.into()),
            None => forget($reply),
        }
    };
}

fn tell(reply: ReplyEntry, attributes: &FileAttr, caching: Caching) {
    let (attributes_ttl, name_ttl) = caching.of(attributes);
    reply.entry_with_ttls(&attributes_ttl, &name_ttl, attributes, Generation(0));
}

impl Filesystem for Share {
    fn init(&mut self, _: &Request, kernel: &mut KernelConfig) -> io::Result<()> {
        // Otherwise the kernel serializes lookups in a directory.
        let parallel = kernel.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS);
        // As much as an NFS client reads and writes in one request.
        let size = kernel.set_max_write(1 << 20);
        let waiting = kernel.set_max_background(64);
        if parallel.is_err() || size.is_err() || waiting.is_err() {
            return Err(io::Error::other(
                "this kernel's FUSE is too old: it does not process requests in parallel",
            ));
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let look = || self.told(&self.nodes.child(parent, name)?, parent, name);
        answer!(self, Lookup, reply, look(), |attributes| tell(reply, &attributes, self.caching));
    }

    fn forget(&self, _: &Request, ino: INodeNo, times: u64) {
        self.nodes.forget(ino, times);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let look = || io::Result::Ok(attributes(&self.metadata(ino)?, ino));
        if self.was_told(ino) {
            return match look() {
                Ok(attr) => reply.attr(&self.caching.of(&attr).0, &attr),
                Err(error) => reply.error(error.into()),
            };
        }
        answer!(self, Getattr, reply, look(), |attr| reply.attr(&self.caching.of(&attr).0, &attr));
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
        answer!(self, Setattr, reply, self.change(ino, &change), |attr| {
            reply.attr(&self.caching.of(&attr).0, &attr);
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
        answer!(self, Mknod, reply, self.made(request, parent, name, make), |attr| tell(
            reply,
            &attr,
            self.caching
        ));
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
        answer!(self, Mkdir, reply, self.made(request, parent, name, make), |attr| tell(
            reply,
            &attr,
            self.caching
        ));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let make = |path: &Path| symlink(target, path);
        answer!(self, Symlink, reply, self.made(request, parent, name, make), |attr| tell(
            reply,
            &attr,
            self.caching
        ));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let remove = || self.remove(parent, name, |path| fs::remove_file(path));
        answer!(self, Unlink, reply, remove(), |()| reply.ok());
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let remove = || self.remove(parent, name, |path| fs::remove_dir(path));
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
        let flags = nix::fcntl::RenameFlags::from_bits_truncate(flags.bits());
        let rename = || self.rename((parent, name), (new_parent, new_name), flags);
        answer!(self, Rename, reply, rename(), |()| reply.ok());
    }

    fn link(&self, _: &Request, ino: INodeNo, new_parent: INodeNo, new_name: &OsStr, reply: ReplyEntry) {
        answer!(self, Link, reply, self.link(ino, new_parent, new_name), |attr| tell(
            reply,
            &attr,
            self.caching
        ));
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
        let create = || self.create(request, parent, name, mode, OpenFlags(flags));
        answer!(self, Create, reply, create(), |(attr, handle)| {
            reply.created(&Duration::ZERO, &attr, Generation(0), handle, FopenFlags::empty());
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
        answer!(self, Read, reply, self.read(handle, offset, size), |bytes| reply.data(&bytes));
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
        answer!(self, Write, reply, self.write(handle, offset, bytes), |()| reply
            .written(bytes.len() as u32));
    }

    /// An NFS client contacts the server only if it has data to send.
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
        answer!(self, Fsync, reply, self.sync(handle, data_only), |()| reply.ok());
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

    /// Costs nothing on NFS either: the first read requests the listing.
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
            // The kernel asks until it gets no entry; NFS marks the last entry.
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

    /// A network server has its directories on disk when it replies.
    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer!(self, Fsync, reply, Ok(()), |()| reply.ok());
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let ask = || Ok(statvfs(&self.nodes.path(INodeNo::ROOT)?)?);
        answer!(self, Statfs, reply, ask(), |stat| {
            let (block, fragment) = (stat.block_size() as u32, stat.fragment_size() as u32);
            let (files, free) = (stat.files(), stat.files_free());
            let (all, left, ours) = (stat.blocks(), stat.blocks_free(), stat.blocks_available());
            reply.statfs(all, left, ours, files, free, block, stat.name_max() as u32, fragment);
        });
    }
}
