//! One Zstandard frame of raw blocks (RFC 8878, section 3.1.1).

use std::io::{self, Read, Write};

/// Frame header: no content size, no checksum, no dictionary; a window of 128 KiB (exponent 7).
const HEADER: [u8; 6] = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 7 << 3];

/// Block_Maximum_Size for that window, and for any.
const BLOCK: usize = 128 << 10;

/// Length of a block's own header.
const BLOCK_HEADER: usize = 3;

/// Copies all of `input` into a frame in `output`.
pub fn write(mut input: impl Read, mut output: impl Write) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(HEADER.len() + BLOCK_HEADER + BLOCK);
    buffer.extend_from_slice(&HEADER);
    loop {
        let header = buffer.len();
        buffer.resize(header + BLOCK_HEADER, 0);
        let count = input.by_ref().take(BLOCK as u64).read_to_end(&mut buffer)?;
        // A block that is not full is the last, be it empty.
        let is_last = count < BLOCK;
        buffer[header..][..BLOCK_HEADER].copy_from_slice(&block_header(count, is_last));
        output.write_all(&buffer)?;
        if is_last {
            return output.flush();
        }
        buffer.clear();
    }
}

/// Bit 0: last block. Bits 1 and 2: its type, 0 is raw. The others: its size. Little endian.
fn block_header(size: usize, is_last: bool) -> [u8; BLOCK_HEADER] {
    let [low, middle, high, ..] = (size << 3 | usize::from(is_last)).to_le_bytes();
    [low, middle, high]
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    /// Gives a few bytes at a time, with interruptions in between.
    struct Halting<'a> {
        rest: &'a [u8],
        step: usize,
        calls: usize,
    }

    impl Read for Halting<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.calls += 1;
            if self.calls.is_multiple_of(3) {
                return Err(ErrorKind::Interrupted.into());
            }
            let count = self.step.min(self.rest.len()).min(buffer.len());
            let (now, rest) = self.rest.split_at(count);
            buffer[..count].copy_from_slice(now);
            self.rest = rest;
            Ok(count)
        }
    }

    fn content(length: usize) -> Vec<u8> {
        (0..length).map(|index| (index * 7 + index / 251) as u8).collect()
    }

    #[test]
    fn what_is_written_is_read_back_by_the_library() {
        for length in [0, 1, 3, 6_000, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK + 17] {
            let content = content(length);
            for step in [1_000, 65_536, usize::MAX] {
                let mut frame = Vec::new();
                write(Halting { rest: &content, step, calls: 0 }, &mut frame).unwrap();
                assert_eq!(zstd::decode_all(frame.as_slice()).unwrap(), content, "{length} bytes by {step}");
            }
        }
    }

    #[test]
    fn a_short_content_is_one_write() {
        struct Writes(Vec<usize>);
        impl Write for Writes {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.push(bytes.len());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut writes = Writes(Vec::new());
        write(content(6_000).as_slice(), &mut writes).unwrap();
        assert_eq!(writes.0, [HEADER.len() + BLOCK_HEADER + 6_000]);
    }

    #[test]
    fn failures_of_either_side_are_told() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(ErrorKind::ConnectionReset.into())
            }
        }
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert_eq!(write(Broken, io::sink()).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(write(io::empty(), Broken).unwrap_err().kind(), ErrorKind::StorageFull);
    }
}
