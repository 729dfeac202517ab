//! The objects that an index consists of: their names and their content.
//!
//! ```text
//! index/<release>/20261129T113000Z-0123456789abcdef.base.zst   all files, as they were listed at that time
//! index/<release>/20261129T113000Z-0f1e2d3c4b5a6978.part.zst   a part of them, if they do not fit into one object
//! index/<release>/20261129T120000Z-fedcba9876543210.add.zst    the files that one build published
//! ```
//!
//! The content is text, compressed with zstd: the first line is [`HEADER`], each other line is the size of a file, a
//! blank, and its path below `sstate/<release>/`.

use std::io::{self, Read, Write};
use std::time::{Duration, SystemTime};

use crate::stamp;

const HEADER: &str = "build-agent-index/1";

/// Maximum compressed bytes of one object. 500,000 files need about 30 MB.
pub const MAX_COMPRESSED: u64 = 64 << 20;

/// Maximum decompressed bytes of one object. Archives of zeros stop here.
const MAX_TEXT: u64 = 1 << 30;

/// Maximum bytes of a line: a size and a path of S3's longest key.
const MAX_LINE: usize = 1100;

/// The decompressor allocates at most 8 MiB (`log2`), whatever the object asks for.
const WINDOW: u32 = 23;

/// Clocks of machines differ by at most this much. Additions of this time before a base are read with it.
pub const CLOCK_SKEW: Duration = Duration::from_secs(60 * 60);

/// What an object of the index contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All files, with the parts of the same time.
    Base,
    /// Some of the files of the base that has the same time. It is written before the base.
    Part,
    /// Files that a build published.
    Additions,
}

impl Kind {
    const fn suffix(self) -> &'static str {
        match self {
            Kind::Base => ".base.zst",
            Kind::Part => ".part.zst",
            Kind::Additions => ".add.zst",
        }
    }
}

/// A new name. `since`: for a base, when its listing began; for additions, when they were complete.
pub fn name(kind: Kind, since: SystemTime) -> String {
    stamp::stamp(since) + kind.suffix()
}

/// Parses the name of an object of the index. `None` also for times in the future: a base from there would never be
/// replaced.
pub fn parse_name(name: &str, now: SystemTime) -> Option<(Kind, SystemTime)> {
    let (kind, stamp) = [Kind::Base, Kind::Part, Kind::Additions]
        .into_iter()
        .find_map(|kind| Some((kind, name.strip_suffix(kind.suffix())?)))?;
    let time = stamp::time_of(stamp)?;
    (time <= now + CLOCK_SKEW).then_some((kind, time))
}

/// Writes the content of an object.
pub struct Encoder {
    encoder: zstd::stream::Encoder<'static, Vec<u8>>,
}

impl Encoder {
    /// # Errors
    /// If the compressor cannot be set up.
    pub fn new() -> io::Result<Encoder> {
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3)?;
        writeln!(encoder, "{HEADER}")?;
        Ok(Encoder { encoder })
    }

    /// Bytes of the content so far, without those that the compressor has not written yet.
    pub fn written(&self) -> u64 {
        self.encoder.get_ref().len() as u64
    }

    /// # Errors
    /// If the content gets too large for readers.
    pub fn add(&mut self, path: &str, size: u64) -> io::Result<()> {
        if self.written() > MAX_COMPRESSED - (1 << 20) {
            return Err(io::Error::other("the index is larger than its limit"));
        }
        writeln!(self.encoder, "{size} {path}")
    }

    /// # Errors
    /// If the compressor fails.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        self.encoder.finish()
    }
}

/// Reads the content of an object, and calls `add` for each file. Others may have written it: nothing in it makes
/// this function use much memory or stop the agent. Lines without sense are skipped.
///
/// # Errors
/// If it is no index, or if it ends early. What came before the end was added.
pub fn decode(content: &[u8], mut add: impl FnMut(&str, u64)) -> io::Result<()> {
    let mut decoder = zstd::stream::Decoder::new(content)?;
    decoder.window_log_max(WINDOW)?;
    let mut text = decoder.take(MAX_TEXT);
    let mut buffer = vec![0; 64 << 10];
    let (mut filled, mut is_first) = (0, true);
    loop {
        let read = text.read(&mut buffer[filled..])?;
        filled += read;
        let mut rest = &buffer[..filled];
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line = std::str::from_utf8(&rest[..end]).unwrap_or_default();
            rest = &rest[end + 1..];
            if std::mem::take(&mut is_first) {
                if line != HEADER {
                    return Err(io::Error::other("it has no header of an index"));
                }
            } else if let Some((size, path)) = entry(line) {
                add(path, size);
            }
        }
        let left = rest.len();
        if left > MAX_LINE || (read == 0 && (left > 0 || is_first)) {
            return Err(io::Error::other("it has a line that does not end"));
        }
        if read == 0 {
            return Ok(());
        }
        buffer.copy_within(filled - left..filled, 0);
        filled = left;
    }
}

fn entry(line: &str) -> Option<(u64, &str)> {
    let (size, path) = line.split_once(' ')?;
    (line.len() <= MAX_LINE && !path.is_empty()).then_some((size.parse().ok()?, path))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn encode(files: &[(&str, u64)]) -> Vec<u8> {
        let mut encoder = Encoder::new().unwrap();
        for (path, size) in files {
            encoder.add(path, *size).unwrap();
        }
        encoder.finish().unwrap()
    }

    fn compressed(text: &[u8]) -> Vec<u8> {
        zstd::stream::encode_all(text, 3).unwrap()
    }

    fn decoded(content: &[u8]) -> (Vec<(String, u64)>, bool) {
        let mut files = Vec::new();
        let whole = decode(content, |path, size| files.push((path.to_owned(), size))).is_ok();
        (files, whole)
    }

    #[test]
    fn reads_what_was_written() {
        let files: Vec<(String, u64)> =
            (0..5000).map(|number| (format!("{:02x}/00/object {number}", number % 256), number)).collect();
        let borrowed: Vec<(&str, u64)> = files.iter().map(|(path, size)| (path.as_str(), *size)).collect();
        assert_eq!(decoded(&encode(&borrowed)), (files, true));
        assert_eq!(decoded(&encode(&[])), (Vec::new(), true));
    }

    #[test]
    fn hostile_content_does_no_harm() {
        let good = encode(&[("a", 1), ("b", 2)]);
        let line = |text: &str| compressed(format!("{HEADER}\n{text}").as_bytes());
        let a = vec![("a".to_owned(), 1)];
        for (content, files, whole) in [
            (Vec::new(), vec![], false),
            (b"not compressed".to_vec(), vec![], false),
            (compressed(b""), vec![], false),
            (compressed(b"build-agent-index/9\n1 a\n"), vec![], false),
            (compressed(HEADER.as_bytes()), vec![], false),
            (line("1 a\nx b\n-1 c\n 2 d\n99999999999999999999999 e\n3 \n4\n\n"), a.clone(), true),
            (line("1 a\n2 b"), a.clone(), false),
            (compressed(&[HEADER.as_bytes(), b"\n1 \xff\xfe\n1 a\n"].concat()), a.clone(), true),
            (line(&format!("1 a\n2 {}\n", "x".repeat(MAX_LINE))), a.clone(), true),
            (line(&format!("1 a\n2 {}\n", "x".repeat(200_000))), a, false),
            (good[..good.len() - 3].to_vec(), vec![], false),
        ] {
            let (found, is_whole) = decoded(&content);
            assert_eq!(is_whole, whole, "{content:?}");
            // A compressed block that is cut off may have been decoded or not.
            assert!(found == files || !whole && found.len() <= 2, "{found:?}");
        }
    }

    #[test]
    fn a_bomb_stops_at_the_limits() {
        // A gigabyte of zeros in 32 KiB, in lines and without lines.
        let mut bomb = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
        writeln!(bomb, "{HEADER}").unwrap();
        let line = [b"1 ", "a".repeat(1000).as_bytes(), b"\n"].concat();
        for _ in 0..100_000 {
            bomb.write_all(&line).unwrap();
        }
        bomb.write_all(&vec![b'0'; 10 << 20]).unwrap();
        let (mut count, content) = (0u64, bomb.finish().unwrap());
        assert!(content.len() < 1 << 20);
        assert!(decode(&content, |_, _| count += 1).is_err());
        assert_eq!(count, 100_000);

        // A frame that asks for a window of 2 GiB, and one of 8 MiB: the largest that is accepted.
        let text = format!("{HEADER}\n1 a\n");
        for (window, whole) in [(31, false), (23, true)] {
            let block = u32::try_from(text.len() << 3 | 1).unwrap().to_le_bytes();
            let head = [0x28, 0xb5, 0x2f, 0xfd, 0, (window - 10) << 3];
            let frame = [&head[..], &block[..3], text.as_bytes()].concat();
            assert_eq!(decoded(&frame).1, whole, "{window}");
        }
    }

    #[test]
    fn names_tell_kind_and_time() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_763_832_900);
        for kind in [Kind::Base, Kind::Part, Kind::Additions] {
            assert_eq!(parse_name(&name(kind, now), now), Some((kind, now)));
            assert_eq!(parse_name(&name(kind, now + 2 * CLOCK_SKEW), now), None);
        }
        for bad in ["", ".base.zst", "x.base.zst", "20251122T173500Z-0123456789abcdef.zst", "README"] {
            assert_eq!(parse_name(bad, now), None, "{bad}");
        }
    }
}
