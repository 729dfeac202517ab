//! What the file system says about an entry of a directory.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::dir::Type;
use nix::errno::Errno;
use nix::sys::stat::{FileStat, SFlag, fstat};

/// What a directory entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    File,
    Directory,
    Link,
    /// A socket, a fifo, a device.
    Special,
}

impl Kind {
    pub(super) fn of_type(kind: Type) -> Kind {
        match kind {
            Type::File => Kind::File,
            Type::Directory => Kind::Directory,
            Type::Symlink => Kind::Link,
            _ => Kind::Special,
        }
    }
}

/// Tells a file from another one that took its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
}

/// Metadata of an entry itself, never of what a symbolic link leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMeta {
    /// Bytes.
    pub size: u64,
    /// Nanoseconds since 1970; before it negative.
    pub modified: i64,
    /// Likewise the time of the last change of the inode, which nobody can set.
    pub changed: i64,
    pub device: u64,
    pub inode: u64,
    /// With the bits that say what it is.
    pub mode: u32,
    pub owner: u32,
    pub group: u32,
    pub links: u64,
}

impl FileMeta {
    pub fn of(stat: &FileStat) -> FileMeta {
        FileMeta {
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
            changed: nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
            device: stat.st_dev,
            inode: stat.st_ino,
            mode: stat.st_mode,
            owner: stat.st_uid,
            group: stat.st_gid,
            links: stat.st_nlink,
        }
    }

    /// Of an open file or directory.
    pub fn of_open(file: impl AsFd) -> io::Result<FileMeta> {
        Ok(FileMeta::of(&fstat(file)?))
    }

    pub fn kind(&self) -> Kind {
        match SFlag::from_bits_truncate(self.mode) & SFlag::S_IFMT {
            SFlag::S_IFREG => Kind::File,
            SFlag::S_IFDIR => Kind::Directory,
            SFlag::S_IFLNK => Kind::Link,
            _ => Kind::Special,
        }
    }

    pub fn identity(&self) -> Identity {
        Identity { device: self.device, inode: self.inode }
    }

    /// When the file was used last, nanoseconds since 1970: its mtime, which a use sets (never the atime,
    /// which EFS does not keep). Strangers may set it to any time, but not the ctime, and no honest
    /// mtime is later than that.
    pub fn used(&self) -> i64 {
        self.modified.min(self.changed)
    }

    pub fn modified_at(&self) -> SystemTime {
        let distance = Duration::from_nanos(self.modified.unsigned_abs());
        let at = if self.modified < 0 {
            UNIX_EPOCH.checked_sub(distance)
        } else {
            UNIX_EPOCH.checked_add(distance)
        };
        at.unwrap_or(UNIX_EPOCH)
    }
}

fn nanoseconds(seconds: i64, more: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(more)
}

/// The error number of the operating system; `UnknownErrno` for an error that has none.
pub fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}

/// Whether somebody has deleted it meanwhile. NFS says so with `ESTALE`.
pub fn is_gone(error: &io::Error) -> bool {
    matches!(errno(error), Errno::ENOENT | Errno::ESTALE)
}

/// Whether nothing is there: not the name itself, or what should be its directory is none.
pub fn is_absent(error: &io::Error) -> bool {
    matches!(errno(error), Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::ENAMETOOLONG)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_are_times() {
        let facts = FileMeta {
            size: 0,
            modified: -1,
            changed: 7,
            device: 0,
            inode: 0,
            mode: 0,
            owner: 0,
            group: 0,
            links: 1,
        };
        assert_eq!(facts.modified_at(), UNIX_EPOCH - Duration::from_nanos(1));
        assert_eq!((facts.used(), FileMeta { modified: 9, ..facts }.used()), (-1, 7));
    }

    #[test]
    fn errors_say_whether_something_is_there() {
        for (errno, gone, absent) in [
            (Errno::ENOENT, true, true),
            (Errno::ESTALE, true, false),
            (Errno::ENOTDIR, false, true),
            (Errno::ELOOP, false, true),
            (Errno::ENAMETOOLONG, false, true),
            (Errno::EACCES, false, false),
        ] {
            let error = io::Error::from(errno);
            assert_eq!((is_gone(&error), is_absent(&error)), (gone, absent), "{errno}");
        }
        let other = io::Error::other("no number");
        assert!(!is_gone(&other) && !is_absent(&other));
    }
}
