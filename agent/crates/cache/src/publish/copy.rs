//! Copies one local file, completely or not at all.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

use agent_fs::dir::FileMeta;

/// Bytes per read and write. With the number of workers it limits the memory.
const CHUNK: usize = 256 * 1024;

/// Bytes per sample in a comparison of two files.
pub(crate) const WINDOW: u64 = 64 * 1024;

/// Why a file was not copied.
#[derive(Debug)]
pub enum Failure {
    /// The local file: unreadable, or changed during the copy.
    Source(io::Error),
    /// The share failed.
    Share(io::Error),
    /// The job must stop.
    Stopped,
}

/// Copies a file whose state is `before`; returns the number of writes.
///
/// # Errors
/// What stopped the copy. A file that changes during the copy is rejected.
pub fn copy(
    mut from: &File,
    before: &FileMeta,
    mut to: &File,
    stop: &dyn Fn() -> bool,
) -> Result<u64, Failure> {
    let bytes = before.size;
    // One byte more than the length, to detect growth.
    let mut buffer = vec![0; usize::try_from(bytes + 1).map_or(CHUNK, |size| size.min(CHUNK))];
    let (mut done, mut writes) = (0, 0);
    loop {
        if stop() {
            return Err(Failure::Stopped);
        }
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Failure::Source(error)),
        };
        done += read as u64;
        if done > bytes {
            return Err(Failure::Source(changed()));
        }
        to.write_all(&buffer[..read]).map_err(Failure::Share)?;
        writes += 1;
    }
    let after = FileMeta::of_open(from).map_err(Failure::Source)?;
    match done == bytes && (before.size, before.modified) == (after.size, after.modified) {
        true => Ok(writes),
        false => Err(Failure::Source(changed())),
    }
}

/// The samples of a file that are compared: start and length.
pub(crate) fn samples(bytes: u64) -> [(u64, u64); 3] {
    [0, bytes / 2, bytes.saturating_sub(WINDOW)].map(|from| (from, WINDOW.min(bytes - from)))
}

/// Whether samples of two files of the same size are equal: at the start, in the middle and at the end. It is
/// a cheap test whether two sources have the same name; BitBake verifies the checksum of what it uses from a
/// mirror.
pub fn look_alike(ours: &File, theirs: &File, bytes: u64) -> Result<bool, Failure> {
    for (from, length) in samples(bytes) {
        if window(ours, from, length).map_err(Failure::Source)?
            != window(theirs, from, length).map_err(Failure::Share)?
        {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(crate) fn window(file: &File, from: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, from)?;
    Ok(bytes)
}

pub(crate) fn changed() -> io::Error {
    io::Error::other("it changed during the copy")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::cell::Cell;
    use std::io::Write;

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.sync_all().unwrap();
        io::Seek::rewind(&mut file).unwrap();
        file
    }

    fn content(file: &File) -> Vec<u8> {
        window(file, 0, file.metadata().unwrap().len()).unwrap()
    }

    #[test]
    fn copies_every_byte() {
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7] {
            let bytes: Vec<u8> = (0..length).map(|at| (at * 31 % 251) as u8).collect();
            let (from, to) = (file(&bytes), file(b""));
            copy(&from, &FileMeta::of_open(&from).unwrap(), &to, &|| false).unwrap();
            assert!(content(&to) == bytes, "{length} bytes");
        }
    }

    #[test]
    fn rejects_a_file_that_changes_during_the_copy() {
        for change in ["grows", "shrinks", "changes"] {
            let from = file(&vec![b'a'; 3 * CHUNK]);
            let looks = Cell::new(0);
            // Called before each piece: the change is between the first and the second.
            let stop = || {
                looks.set(looks.get() + 1);
                match change {
                    _ if looks.get() != 2 => {}
                    "grows" => from.write_all_at(b"x", 3 * CHUNK as u64).unwrap(),
                    "shrinks" => from.set_len(CHUNK as u64 + 1).unwrap(),
                    _ => from.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap(),
                }
                false
            };
            let copied = copy(&from, &FileMeta::of_open(&from).unwrap(), &file(b""), &stop);
            assert!(matches!(copied, Err(Failure::Source(_))), "{change}: {copied:?}");
        }
    }

    #[test]
    fn stops_between_two_pieces() {
        let from = file(&vec![b'a'; 3 * CHUNK]);
        let looks = Cell::new(0);
        let stop = || looks.replace(looks.get() + 1) == 1;
        let to = file(b"");
        assert!(matches!(copy(&from, &FileMeta::of_open(&from).unwrap(), &to, &stop), Err(Failure::Stopped)));
        assert_eq!(to.metadata().unwrap().len(), CHUNK as u64);
    }

    #[test]
    fn compares_both_ends_and_the_middle() {
        let length = 5 * WINDOW;
        let same = vec![b'a'; length as usize];
        for (at, alike) in
            [(None, true), (Some(0), false), (Some(length / 2), false), (Some(length - 1), false)]
        {
            let mut other = same.clone();
            if let Some(at) = at {
                other[at as usize] = b'b';
            }
            assert_eq!(look_alike(&file(&same), &file(&other), length).unwrap(), alike, "{at:?}");
        }
        assert!(look_alike(&file(b""), &file(b""), 0).unwrap());
    }
}
