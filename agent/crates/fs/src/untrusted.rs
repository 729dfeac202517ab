//! Reads files that anybody may have written: those of a layer, and what may stand in the place of a
//! file that the agent expects.
//!
//! A layer can hold a named pipe, a link to `/dev/zero` or a file of ten gigabytes that takes no
//! space. Reading here neither waits nor fills the memory.

use std::io::{Error, ErrorKind, Read};
use std::path::Path;

use fs_err::OpenOptions;
use fs_err::os::unix::fs::OpenOptionsExt;
use nix::fcntl::OFlag;

/// Bytes: for what people write by hand (manifests, locks, `layer.conf`).
pub const PAGE: u64 = 256 * 1024;

/// Bytes: for what programs write, too (patches).
pub const SOURCE: u64 = 8 * 1024 * 1024;

/// The content of a regular file of at most `limit` bytes.
///
/// # Errors
/// Besides those of opening and reading: [`ErrorKind::InvalidInput`] for what is no regular file, and
/// [`ErrorKind::FileTooLarge`].
pub fn read(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut options = OpenOptions::new();
    // Without it, opening a pipe waits for somebody who writes into it.
    let file = options.read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, format!("`{}` is no regular file", path.display())));
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let message = format!("`{}` is larger than {limit} bytes", path.display());
        return Err(Error::new(ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
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
}
