//! Stores the names of units in an unnamed file on local disk. Memory has only what the plan needs, because
//! the names of a million units take about 200 MB.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::units::{Class, Part, Unit};
use agent_fs::dir::Kind;

/// Enough for nearly every unit.
const USUAL: usize = 512;

pub struct NameSpill {
    file: BufWriter<File>,
    end: u64,
}

/// A complete [`NameSpill`], for reading.
pub struct SpilledNames {
    file: File,
    end: u64,
}

impl NameSpill {
    /// # Errors
    /// If a temporary file cannot be created.
    pub fn new() -> io::Result<NameSpill> {
        Ok(NameSpill { file: BufWriter::with_capacity(1 << 16, tempfile::tempfile()?), end: 0 })
    }

    /// Stores a unit and returns the key to find it again.
    ///
    /// # Errors
    /// If the disk is full.
    pub fn push(&mut self, unit: &Unit) -> io::Result<u64> {
        let record = encode(unit);
        let length = u32::try_from(record.len()).map_err(io::Error::other)?;
        self.file.write_all(&length.to_le_bytes())?;
        self.file.write_all(&record)?;
        let key = self.end;
        self.end += 4 + u64::from(length);
        Ok(key)
    }

    /// # Errors
    /// If the disk is full.
    pub fn done(self) -> io::Result<SpilledNames> {
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(SpilledNames { file, end: self.end })
    }
}

impl SpilledNames {
    /// # Errors
    /// If it cannot be read, or the key is invalid.
    pub fn get(&self, key: u64) -> io::Result<Unit> {
        let left = usize::try_from(self.end.saturating_sub(key)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; left.min(USUAL)];
        self.file.read_exact_at(&mut bytes, key)?;
        let length = bytes.first_chunk().map_or(0, |length| u32::from_le_bytes(*length) as usize) + 4;
        if length > bytes.len() && length <= left {
            bytes.resize(length, 0);
            self.file.read_exact_at(&mut bytes, key)?;
        }
        bytes.get(4..length).and_then(decode).ok_or_else(|| io::Error::other("the list of units is corrupt"))
    }
}

/// Encodes directory, name and parts; the class is no longer needed.
fn encode(unit: &Unit) -> Vec<u8> {
    let mut record = Vec::with_capacity(USUAL);
    for text in [unit.directory.as_os_str(), OsStr::new(&unit.name)] {
        record.extend_from_slice(&(text.len() as u32).to_le_bytes());
        record.extend_from_slice(text.as_bytes());
    }
    for part in &unit.parts {
        record.push(part.suffix);
        record.push(u8::from(part.kind == Kind::Directory));
        for number in [part.size, part.inode, part.used.cast_unsigned()] {
            record.extend_from_slice(&number.to_le_bytes());
        }
    }
    record
}

fn decode(mut record: &[u8]) -> Option<Unit> {
    let record = &mut record;
    let directory = PathBuf::from(OsStr::from_bytes(text(record)?));
    let name = std::str::from_utf8(text(record)?).ok()?.to_owned();
    let mut parts = Vec::new();
    while !record.is_empty() {
        let [suffix, is_directory] = *take(record)?;
        let number = |record: &mut &[u8]| take(record).map(|bytes| u64::from_le_bytes(*bytes));
        parts.push(Part {
            suffix,
            kind: if is_directory == 1 { Kind::Directory } else { Kind::File },
            size: number(record)?,
            inode: number(record)?,
            used: number(record)?.cast_signed(),
        });
    }
    Some(Unit { directory, name, class: Class::Temporary, parts })
}

fn text<'a>(record: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_le_bytes(*take(record)?) as usize;
    let (text, rest) = record.split_at_checked(length)?;
    *record = rest;
    Some(text)
}

fn take<'a, const N: usize>(record: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (bytes, rest) = record.split_first_chunk()?;
    *record = rest;
    Some(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn units_round_trip() {
        let part = Part { suffix: 3, kind: Kind::File, size: 7, inode: u64::MAX, used: -5 };
        let units = [0, 1, 300, 5000].map(|length| Unit {
            directory: PathBuf::from(OsStr::from_bytes(b"sstate/\xff")).join("x".repeat(length)),
            name: "ä".repeat(length),
            class: Class::Temporary,
            parts: vec![part, Part { kind: Kind::Directory, ..part }],
        });
        let mut name_spill = NameSpill::new().unwrap();
        let keys = units.each_ref().map(|unit| name_spill.push(unit).unwrap());
        let spilled = name_spill.done().unwrap();
        for (key, unit) in keys.into_iter().zip(&units) {
            assert_eq!(&spilled.get(key).unwrap(), unit);
        }
        assert!(spilled.get(1 << 40).is_err());
        assert!(spilled.get(keys[3] + 1).is_err());
    }
}
