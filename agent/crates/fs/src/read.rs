//! Reads files that layer code may have made: whatever lies there, nothing hangs and no link leads away.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Error, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, SFlag};
use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC,
    XFS_SUPER_MAGIC, statfs,
};

/// Flags for `custom_flags` to open a file in whose place anything may lie: a link as the last component is an
/// error, and opening does not wait for the other end of a pipe.
pub const NO_FOLLOW: i32 =
    OFlag::O_NOFOLLOW.union(OFlag::O_NONBLOCK).union(OFlag::O_NOCTTY).union(OFlag::O_CLOEXEC).bits();

/// Opens a regular file; anything else is an error. Only the last step of the way is sure to be no link.
pub fn open(path: &Path) -> io::Result<(File, Metadata)> {
    let with_path = |error: Error| Error::new(error.kind(), format!("{}: {error}", path.display()));
    let file = OpenOptions::new().read(true).custom_flags(NO_FOLLOW).open(path).map_err(with_path)?;
    let metadata = file.metadata().map_err(with_path)?;
    if !metadata.is_file() {
        return Err(with_path(Error::new(ErrorKind::InvalidInput, "this is not a regular file")));
    }
    Ok((file, metadata))
}

/// Whether the kernel of this machine knows all that happens to the files there. On a network file
/// system another machine may have changed a file while its old numbers are still told; opening it
/// asks the server (nfs(5), close-to-open).
pub fn is_local(path: &Path) -> bool {
    let kinds = [
        EXT4_SUPER_MAGIC,
        XFS_SUPER_MAGIC,
        BTRFS_SUPER_MAGIC,
        OVERLAYFS_SUPER_MAGIC,
        TMPFS_MAGIC,
        F2FS_SUPER_MAGIC,
    ];
    statfs(path).is_ok_and(|stat| kinds.contains(&stat.filesystem_type()))
}

/// The whole content of a regular file of at most `limit` bytes.
pub fn whole(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let too_large = || {
        Error::new(ErrorKind::FileTooLarge, format!("{}: it is larger than {limit} bytes", path.display()))
    };
    bounded(open(path)?.0, limit)?.ok_or_else(too_large)
}

/// All that there is to read, or `None` when it is more than `limit` bytes.
pub(crate) fn bounded(source: impl Read, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut content = Vec::new();
    source.take(limit.saturating_add(1)).read_to_end(&mut content)?;
    Ok(Some(content).filter(|content| content.len() as u64 <= limit))
}

/// Permission bits.
pub fn mode(metadata: &Metadata) -> u32 {
    metadata.mode() & (Mode::all() | Mode::from_bits_retain(0o7000)).bits() & !SFlag::S_IFMT.bits()
}
