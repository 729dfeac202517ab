//! Deletes by name in a directory that is held open: for many files, and for directories in which
//! strangers write.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Deletes a file or link; says whether it was there. No directory, whatever it is called.
///
/// # Errors
/// Those of `unlinkat(2)`, and `EINVAL` when the name is a path.
pub fn file_at(directory: impl AsFd, name: &OsStr) -> io::Result<bool> {
    at(directory, name, UnlinkatFlags::NoRemoveDir)
}

/// Deletes an empty directory; says whether it was there.
///
/// # Errors
/// As [`file_at`].
pub fn directory_at(directory: impl AsFd, name: &OsStr) -> io::Result<bool> {
    at(directory, name, UnlinkatFlags::RemoveDir)
}

fn at(directory: impl AsFd, name: &OsStr, flags: UnlinkatFlags) -> io::Result<bool> {
    if name.is_empty() || name == "." || name == ".." || name.as_bytes().contains(&b'/') {
        return Err(Errno::EINVAL.into());
    }
    match unlinkat(directory, name, flags) {
        Ok(()) => Ok(true),
        // An answer of a file server that came late is repeated: what is gone is gone.
        Err(Errno::ENOENT | Errno::ESTALE) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::symlink;

    use fs_err as fs;

    use super::*;

    #[test]
    fn only_the_named_thing_itself_is_deleted() {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name);
        fs::create_dir_all(at("full")).unwrap();
        fs::create_dir_all(at("empty")).unwrap();
        fs::write(at("full/file"), "").unwrap();
        symlink("full", at("link")).unwrap();
        let open = File::open(base.path()).unwrap();
        for name in ["", ".", "..", "full/file", "/"] {
            assert!(file_at(&open, OsStr::new(name)).is_err(), "{name:?}");
            assert!(directory_at(&open, OsStr::new(name)).is_err(), "{name:?}");
        }
        assert!(file_at(&open, OsStr::new("full")).is_err());
        assert!(directory_at(&open, OsStr::new("full")).is_err());
        assert!(directory_at(&open, OsStr::new("link")).is_err());
        assert!(file_at(&open, OsStr::new("link")).unwrap());
        assert!(!file_at(&open, OsStr::new("link")).unwrap());
        assert!(directory_at(&open, OsStr::new("empty")).unwrap());
        assert!(at("full/file").exists() && !at("empty").exists());
    }
}
