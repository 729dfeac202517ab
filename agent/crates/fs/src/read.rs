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

/// Opens a regular file; anything else is an error. Only the last step of the way is sure to be no link.
pub fn open(path: &Path) -> io::Result<(File, Metadata)> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let with_path = |error: Error| Error::new(error.kind(), format!("{}: {error}", path.display()));
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path).map_err(with_path)?;
    let metadata = file.metadata().map_err(with_path)?;
    if !metadata.is_file() {
        return Err(with_path(Error::new(ErrorKind::InvalidInput, "this is no regular file")));
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
    let (file, _) = open(path)?;
    let mut content = Vec::new();
    file.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        let message = format!("{}: it is larger than {limit} bytes", path.display());
        return Err(Error::new(ErrorKind::FileTooLarge, message));
    }
    Ok(content)
}

/// Permission bits.
pub fn mode(metadata: &Metadata) -> u32 {
    metadata.mode() & (Mode::all() | Mode::from_bits_retain(0o7000)).bits() & !SFlag::S_IFMT.bits()
}
