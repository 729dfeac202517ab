//! Reads files that anybody may have written: those of a layer, and what may stand in the place of a
//! file that the agent expects.
//!
//! A layer can hold a named pipe, a link to `/dev/zero` or a file of ten gigabytes that takes no
//! space. Reading here neither waits nor fills the memory.
//!
//! Where nobody vouches for a source and the agent is root, a path that the source has chosen must not make
//! root read for it: [`read_named`] reads with the build user's rights.

use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use fs_err::OpenOptions;
use fs_err::os::unix::fs::OpenOptionsExt;
use nix::fcntl::OFlag;

use super::access::{Credentials, Permission};
use super::dir::FileMeta;
use super::read::bounded;

/// Bytes: for what people write by hand (manifests, locks, `layer.conf`).
pub const PAGE: u64 = 256 * 1024;

/// Bytes: for what programs write, too (patches).
pub const SOURCE: u64 = 8 * 1024 * 1024;

/// Opens a regular file.
///
/// # Errors
/// Those of opening, and [`ErrorKind::InvalidInput`] if it is not a regular file.
pub fn open(path: &Path) -> std::io::Result<fs_err::File> {
    let mut options = OpenOptions::new();
    // Without it, opening a pipe waits for somebody who writes into it.
    let file = options.read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!("`{}` is not a regular file", path.display()),
        ));
    }
    Ok(file)
}

/// The content of a regular file of at most `limit` bytes.
///
/// # Errors
/// Besides those of [`open`] and of reading: [`ErrorKind::FileTooLarge`].
pub fn read(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    bounded(open(path)?, limit)?.ok_or_else(|| {
        Error::new(ErrorKind::FileTooLarge, format!("`{}` is larger than {limit} bytes", path.display()))
    })
}

/// A user whose rights count instead of the agent's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    pub uid: u32,
    pub gid: u32,
    /// Resolved directories that hold the source itself: what lies there is no secret to it, whoever owns it.
    pub own: Vec<PathBuf>,
}

static READER: RwLock<Option<Reader>> = RwLock::new(None);

/// From now on [`read_named`] reads with this user's rights.
pub fn read_named_as(reader: Reader) {
    *READER.write().unwrap_or_else(PoisonError::into_inner) = Some(reader);
}

/// [`read`] for a path that the source may have chosen: by a manifest's key, or by a symbolic link.
///
/// # Errors
/// As [`read`]; [`ErrorKind::PermissionDenied`] also for what only root may read.
pub fn read_named(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    match &*READER.read().unwrap_or_else(PoisonError::into_inner) {
        Some(reader) => reader.read(path, limit),
        None => read(path, limit),
    }
}

impl Reader {
    fn read(&self, path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
        let real = fs_err::canonicalize(path)?;
        if self.own.iter().any(|own| real.starts_with(own)) {
            return read(path, limit);
        }
        let bytes = self.credentials().act(|| {
            let bytes = read(path, limit)?;
            self.may_read(path)?;
            Ok(bytes)
        });
        bytes.map_err(|error: Error| match error.kind() {
            ErrorKind::PermissionDenied => Error::new(
                error.kind(),
                format!("{error} (read as uid {}, because nobody vouches for this source)", self.uid),
            ),
            _ => error,
        })
    }

    /// Whether the user may look into a directory.
    ///
    /// # Errors
    /// Why not.
    pub fn may_enter(&self, directory: &Path) -> std::io::Result<()> {
        self.credentials().act(|| {
            fs_err::read_dir(directory)?.next().transpose()?;
            self.may_read(directory)
        })
    }

    /// Root has groups that the thread keeps; they are not the user's.
    fn may_read(&self, path: &Path) -> std::io::Result<()> {
        let FileMeta { owner, group, mode, .. } = FileMeta::of_open(fs_err::File::open(path)?)?;
        match self.credentials().may(Permission::READ, owner, group, mode) {
            true => Ok(()),
            false => {
                Err(Error::new(ErrorKind::PermissionDenied, format!("`{}` is not readable", path.display())))
            }
        }
    }

    fn credentials(&self) -> Credentials {
        Credentials::of(self.uid, self.gid)
    }
}

/// [`read`] for text in UTF-8.
///
/// # Errors
/// As [`read`], and [`ErrorKind::InvalidData`] for what is no text.
pub fn read_text(path: &Path, limit: u64) -> std::io::Result<String> {
    let no_text = |_| Error::new(ErrorKind::InvalidData, format!("`{}` is not UTF-8", path.display()));
    String::from_utf8(read(path, limit)?).map_err(no_text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_regular_files_of_a_bounded_size_are_read() {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join(name);
        fs_err::write(at("file"), "12345678").unwrap();
        symlink("file", at("link")).unwrap();
        symlink("/dev/zero", at("zero")).unwrap();
        fs_err::create_dir(at("dir")).unwrap();
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs_err::File::create(at("sparse")).unwrap().set_len(10 << 30).unwrap();
        assert_eq!(read(&at("file"), 8).unwrap(), b"12345678");
        assert_eq!(read_text(&at("link"), 8).unwrap(), "12345678");
        let table = [
            ("fifo", ErrorKind::InvalidInput),
            ("zero", ErrorKind::InvalidInput),
            ("dir", ErrorKind::InvalidInput),
            ("sparse", ErrorKind::FileTooLarge),
            ("gone", ErrorKind::NotFound),
        ];
        for (name, kind) in table {
            let error = read(&at(name), 8).unwrap_err();
            assert_eq!(error.kind(), kind, "{name}: {error}");
            assert!(error.to_string().contains(name), "{error}");
        }
        assert_eq!(read(&at("file"), 7).unwrap_err().kind(), ErrorKind::FileTooLarge);
    }

    #[test]
    fn what_only_root_may_read_is_not_read_for_a_source() {
        use std::os::unix::fs::PermissionsExt;
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let top = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
        let at = |name: &str| top.path().join(name);
        let open =
            |path: &Path, mode| fs_err::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        open(top.path(), 0o755);
        for directory in ["closed", "own"] {
            fs_err::create_dir(at(directory)).unwrap();
        }
        for name in ["public", "private", "group", "closed/file", "own/file"] {
            fs_err::write(at(name), "text").unwrap();
        }
        open(&at("private"), 0o600);
        open(&at("group"), 0o640);
        open(&at("own/file"), 0o600);
        open(&at("closed"), 0o700);
        for (link, target) in [("own/out", "../private"), ("own/in", "file"), ("own/public", "../public")] {
            symlink(target, at(link)).unwrap();
        }
        let reader = Reader { uid: 65534, gid: 65534, own: vec![fs_err::canonicalize(at("own")).unwrap()] };
        for (name, readable) in [
            ("public", true),
            ("private", false),
            ("group", false),
            ("closed/file", false),
            ("own/file", true),
            ("own/in", true),
            ("own/public", true),
            ("own/out", false),
        ] {
            let read = reader.read(&at(name), PAGE);
            assert_eq!(read.is_ok(), readable, "{name}: {read:?}");
        }
        assert!(reader.may_enter(top.path()).is_ok() && reader.may_enter(&at("closed")).is_err());
        // The rights were a thread's own.
        assert!(read(&at("private"), PAGE).is_ok());
    }
}
