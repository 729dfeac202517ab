//! Some small files as one object: a tar archive in which nothing but files with expected names is accepted.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read};

/// The files of an archive by their names.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Packs files whose names have no directory.
///
/// # Errors
/// None, as long as the names are short.
pub fn pack(files: &Files) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, &content[..])?;
    }
    archive.into_inner()
}

/// Reads an archive back. `is_expected` decides by the names; all files together have at most `limit` bytes.
///
/// # Errors
/// When it is damaged, holds anything else, or is larger.
pub fn unpack(from: impl Read, is_expected: impl Fn(&str) -> bool, limit: u64) -> io::Result<Files> {
    let mut files = Files::new();
    let mut left = limit;
    for entry in tar::Archive::new(from).entries()? {
        let mut entry = entry?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let refused = |why: &str| {
            Err(io::Error::new(ErrorKind::InvalidData, format!("`{}` {why}", name.escape_debug())))
        };
        if entry.header().entry_type() != tar::EntryType::Regular || !is_expected(&name) {
            return refused("does not belong there");
        }
        if files.contains_key(&name) {
            return refused("is there twice");
        }
        let size = entry.size();
        if size > left {
            return refused("is too large");
        }
        left -= size;
        let mut content = Vec::new();
        Read::by_ref(&mut entry).take(size).read_to_end(&mut content)?;
        if content.len() as u64 != size {
            return refused("is truncated");
        }
        files.insert(name, content);
    }
    Ok(files)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn files(names: &[(&str, &str)]) -> Files {
        names.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect()
    }

    fn known(name: &str) -> bool {
        ["a", "b"].contains(&name)
    }

    #[test]
    fn files_come_back_as_they_were() {
        for wanted in [files(&[]), files(&[("a", "1"), ("b", "")]), files(&[("a", &"x".repeat(1_000_000))])] {
            assert_eq!(unpack(&pack(&wanted).unwrap()[..], known, 1 << 20).unwrap(), wanted);
        }
    }

    #[test]
    fn anything_unexpected_is_refused() {
        let whole = pack(&files(&[("a", "some text"), ("b", "more text")])).unwrap();
        for length in [1, 100, 511, 513, 520, 1023, 1100, 1530] {
            let truncated = unpack(&whole[..length], known, 100);
            assert!(truncated.is_err() || truncated.unwrap().len() < 2, "{length}");
        }
        assert!(unpack(&whole[..], known, 17).is_err(), "larger than the limit");
        for name in ["c", "a/b", "A"] {
            assert!(unpack(&pack(&files(&[(name, "1")])).unwrap()[..], known, 100).is_err(), "{name}");
        }
        let special = |kind, name: &str, size: u64| {
            let mut archive = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_ustar();
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(kind);
            header.set_size(size);
            header.set_cksum();
            archive.append(&header, &b"x"[..]).unwrap();
            archive.into_inner().unwrap()
        };
        let link = tar::EntryType::Symlink;
        for (kind, name, size) in [
            (link, "a", 0),
            (tar::EntryType::Link, "a", 0),
            (tar::EntryType::Directory, "a", 0),
            (tar::EntryType::Fifo, "a", 0),
            (tar::EntryType::Regular, "../a", 1),
            (tar::EntryType::Regular, "/a", 1),
            (tar::EntryType::Regular, "./a", 1),
            // Memory grows with what comes and not with what is promised.
            (tar::EntryType::Regular, "a", 1 << 40),
        ] {
            assert!(unpack(&special(kind, name, size)[..], known, 100).is_err(), "{kind:?} {name} {size}");
        }
        let twice =
            [&pack(&files(&[("a", "1")])).unwrap()[..1024], &pack(&files(&[("a", "2")])).unwrap()].concat();
        assert!(unpack(&twice[..], known, 100).is_err());
        assert!(unpack(&b"no archive at all"[..], known, 100).is_err());
    }
}
