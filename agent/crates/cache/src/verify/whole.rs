//! Checks whether an archive is complete: by its structure if the format allows it, or by decompression.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;

/// What is wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It is truncated.
    Truncated,
    /// It is not what its name says, or cannot be decompressed.
    Damaged,
}

/// An archive of which any part can be read.
pub trait ReadAt {
    /// # Errors
    /// If it cannot be read, or ends before.
    fn read_exact_at(&self, to: &mut [u8], at: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_exact_at(&self, to: &mut [u8], at: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, to, at)
    }
}

impl ReadAt for [u8] {
    fn read_exact_at(&self, to: &mut [u8], at: u64) -> io::Result<()> {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        let end = at.checked_add(to.len());
        let part = end.and_then(|end| self.get(at..end)).ok_or(io::ErrorKind::UnexpectedEof)?;
        to.copy_from_slice(part);
        Ok(())
    }
}

const ZSTD: u32 = 0xFD2F_B528;

/// `0x184D2A50` to `…5F`: frames for other programs, as pzstd writes them.
const SKIPPABLE: u32 = 0x184D_2A50;

/// Maximum window, which is the memory for decompression: 128 MiB, as in `zstd -d`.
const WINDOW_LOG: u32 = 27;

/// Follows the frames and blocks of a zstd file to its end, and reads only their headers (RFC 8878).
///
/// # Errors
/// If the file cannot be read.
pub fn zstd(file: &(impl ReadAt + ?Sized), size: u64) -> io::Result<Option<Wrong>> {
    let mut at = 0;
    let mut frames = 0;
    while at < size {
        let magic = match number(file, at, 4)? {
            Some(magic) => magic as u32,
            None => return Ok(Some(Wrong::Truncated)),
        };
        let end = match magic {
            ZSTD => zstd_frame(file, at + 4)?,
            _ if magic & !0xF == SKIPPABLE => number(file, at + 4, 4)?.map(|length| at + 8 + length),
            _ if frames == 0 => return Ok(Some(Wrong::Damaged)),
            _ => return Ok(Some(Wrong::Truncated)),
        };
        match end {
            Some(end) if end <= size => at = end,
            _ => return Ok(Some(Wrong::Truncated)),
        }
        frames += 1;
    }
    Ok((frames == 0).then_some(Wrong::Truncated))
}

/// The end of the frame whose header is at this offset; `None`, if the file ends before.
fn zstd_frame(file: &(impl ReadAt + ?Sized), header: u64) -> io::Result<Option<u64>> {
    let Some(descriptor) = number(file, header, 1)? else { return Ok(None) };
    let single_segment = descriptor & 0x20 != 0;
    let has_checksum = descriptor & 0x04 != 0;
    let dictionary = [0, 1, 2, 4][(descriptor & 3) as usize];
    let content_size = match descriptor >> 6 {
        0 => u64::from(single_segment),
        1 => 2,
        2 => 4,
        _ => 8,
    };
    let mut at = header + 1 + u64::from(!single_segment) + dictionary + content_size;
    loop {
        let Some(block) = number(file, at, 3)? else { return Ok(None) };
        let length = match (block >> 1) & 3 {
            // A block of one repeated byte.
            1 => 1,
            _ => block >> 3,
        };
        at += 3 + length;
        if block & 1 == 1 {
            return Ok(Some(at + if has_checksum { 4 } else { 0 }));
        }
    }
}

/// Checks both ends of a gzip file: its header, and the size of the tar archive at its end, which is a
/// multiple of 512. Only decompression can check the middle.
///
/// # Errors
/// If the file cannot be read.
pub fn gzip(file: &(impl ReadAt + ?Sized), size: u64) -> io::Result<Option<Wrong>> {
    match number(file, 0, 3)? {
        Some(0x08_8B_1F) => {}
        Some(_) => return Ok(Some(Wrong::Damaged)),
        None => return Ok(Some(Wrong::Truncated)),
    }
    let unpacked = match size.checked_sub(4).filter(|at| *at >= 18 - 4) {
        Some(at) => number(file, at, 4)?,
        None => None,
    };
    Ok(unpacked.is_none_or(|size| size % 512 != 0).then_some(Wrong::Truncated))
}

/// Decompresses the whole file.
///
/// # Errors
/// If the file cannot be read.
pub fn unpacked(file: impl Read, is_zstd: bool) -> io::Result<Option<Wrong>> {
    let file = BufReader::with_capacity(1 << 20, Noting { file, failed: false });
    let (result, failed) = if is_zstd {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(file)?;
        decoder.window_log_max(WINDOW_LOG)?;
        let result = io::copy(&mut decoder, &mut io::sink());
        (result, decoder.finish().get_ref().failed)
    } else {
        let mut decoder = flate2::bufread::MultiGzDecoder::new(file);
        let result = io::copy(&mut decoder, &mut io::sink());
        (result, decoder.get_ref().get_ref().failed)
    };
    match result {
        Ok(_) => Ok(None),
        Err(error) if failed => Err(error),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Some(Wrong::Truncated)),
        Err(_) => Ok(Some(Wrong::Damaged)),
    }
}

/// Distinguishes read errors from decompression errors.
struct Noting<R> {
    file: R,
    failed: bool,
}

impl<R: Read> Read for Noting<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(to);
        self.failed |= read.is_err();
        read
    }
}

/// Reads a little-endian number; `None`, if the file ends before.
fn number(file: &(impl ReadAt + ?Sized), at: u64, bytes: usize) -> io::Result<Option<u64>> {
    let mut number = [0; 8];
    match file.read_exact_at(&mut number[..bytes], at) {
        Ok(()) => Ok(Some(u64::from_le_bytes(number))),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(bytes: &[u8]) -> (File, u64) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        (file, bytes.len() as u64)
    }

    /// Text of the size of a tar archive that does not fit into one block.
    fn content() -> Vec<u8> {
        let mut state = 1u32;
        let noise = std::iter::repeat_with(move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        noise.take(300 * 1024).chain(std::iter::repeat_n(7, 212 * 1024)).collect()
    }

    fn packed() -> Vec<Vec<u8>> {
        let encode = |checksum: bool, size: bool| {
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
            encoder.include_checksum(checksum).unwrap();
            if size {
                encoder.set_pledged_src_size(Some(content().len() as u64)).unwrap();
            }
            encoder.write_all(&content()).unwrap();
            encoder.finish().unwrap()
        };
        let plain = encode(false, false);
        let skippable = [&0x184D_2A50u32.to_le_bytes()[..], &4u32.to_le_bytes(), b"xyz!", &plain].concat();
        let empty = zstd::stream::encode_all(&b""[..], 1).unwrap();
        vec![plain.clone(), encode(true, true), [plain.clone(), plain].concat(), skippable, empty]
    }

    #[test]
    fn zstd_file_is_complete_only_with_its_last_byte() {
        for packed in packed() {
            let (whole, size) = file(&packed);
            assert_eq!(zstd(&whole, size).unwrap(), None);
            assert_eq!(unpacked(whole, true).unwrap(), None);
            let cuts = (0..packed.len()).step_by(packed.len() / 97 + 1).chain([packed.len() - 1]);
            for cut in cuts {
                let (torn, size) = file(&packed[..cut]);
                let between_frames = packed.len() / 2 == cut && packed[..cut] == packed[cut..];
                assert_eq!(zstd(&torn, size).unwrap().is_some(), !between_frames, "cut at {cut}");
            }
            let (longer, size) = file(&[&packed[..], b"rest"].concat());
            assert_eq!(zstd(&longer, size).unwrap(), Some(Wrong::Truncated));
        }
        let (other, size) = file(b"no archive at all");
        assert_eq!(zstd(&other, size).unwrap(), Some(Wrong::Damaged));
    }

    #[test]
    fn decompression_finds_a_changed_byte() {
        let mut packed = packed().swap_remove(1);
        let middle = packed.len() / 2;
        packed[middle] ^= 0x40;
        let (changed, size) = file(&packed);
        assert_eq!(zstd(&changed, size).unwrap(), None);
        assert_eq!(unpacked(changed, true).unwrap(), Some(Wrong::Damaged));
    }

    #[test]
    fn checks_gzip_files() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&content()).unwrap();
        let packed = encoder.finish().unwrap();
        let (whole, size) = file(&packed);
        assert_eq!(gzip(&whole, size).unwrap(), None);
        assert_eq!(unpacked(whole, false).unwrap(), None);
        for cut in [0, 2, 10, 17, packed.len() - 1] {
            let (torn, size) = file(&packed[..cut]);
            assert_eq!(gzip(&torn, size).unwrap(), Some(Wrong::Truncated), "cut at {cut}");
            assert!(unpacked(torn, false).unwrap().is_some() || cut == 0, "cut at {cut}");
        }
        let (other, size) = file(b"no archive at all, but long enough");
        assert_eq!(gzip(&other, size).unwrap(), Some(Wrong::Damaged));
    }
}
