//! `zstd -c -N` that starts in no time: for BitBake, which starts one for each of the tens of thousands of
//! signatures that yocto-check-layer has it write.
//!
//! It is the same library at its fastest level, without what the program puts around it: threads, other formats
//! and their libraries, tables for contents of unknown size. Called with any other words it becomes the next
//! `zstd` on the PATH.

mod next;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

/// Whatever was asked for: signatures become hardly larger by it.
const LEVEL: i32 = 1;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    if !asks_to_compress(&words) {
        let error = next::become_it(&words);
        eprintln!("zstd: {error}");
        return ExitCode::from(if error.kind() == ErrorKind::NotFound { 127 } else { 126 });
    }
    match unbuffered().and_then(|(input, output)| compress(input, output)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("zstd: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `-c -3`: lib/bb/compress/zstd.py of BitBake, through which siggen.py writes from kirkstone on.
fn asks_to_compress(words: &[OsString]) -> bool {
    let is_level = |word: &OsStr| {
        let digits = word.as_encoded_bytes().strip_prefix(b"-").unwrap_or_default();
        (1..=2).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit)
    };
    matches!(words, [stdout, level] if stdout == "-c" && is_level(level))
}

/// Standard input and output as they are: the library's own ones copy everything once more.
fn unbuffered() -> io::Result<(File, File)> {
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    let output = io::stdout().as_fd().try_clone_to_owned()?;
    Ok((input.into(), output.into()))
}

/// One frame of all that comes. It is held in memory, as it was in whoever sends it: for a known size the
/// library takes small tables.
fn compress(mut input: impl Read, mut output: impl Write) -> io::Result<()> {
    let mut content = Vec::new();
    input.read_to_end(&mut content)?;
    output.write_all(&zstd::bulk::compress(&content, LEVEL)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_bitbakes_own_words_are_understood() {
        for (words, wanted) in [
            ("-c -3", true),
            ("-c -19", true),
            ("-3 -c", false),
            ("-c", false),
            ("-c -", false),
            ("-c --3", false),
            ("-c -+3", false),
            ("-c -d", false),
            ("-d -c", false),
            ("-c -3 file", false),
            ("-c -123", false),
            ("-c -3d", false),
            ("", false),
        ] {
            let words: Vec<OsString> = words.split_whitespace().map(Into::into).collect();
            assert_eq!(asks_to_compress(&words), wanted, "{words:?}");
        }
    }

    /// Gives a few bytes at a time, with interruptions in between.
    struct Halting<'a> {
        rest: &'a [u8],
        calls: usize,
    }

    impl Read for Halting<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.calls += 1;
            if self.calls.is_multiple_of(3) {
                return Err(ErrorKind::Interrupted.into());
            }
            let count = self.rest.len().min(buffer.len()).min(1_000);
            let (now, rest) = self.rest.split_at(count);
            buffer[..count].copy_from_slice(now);
            self.rest = rest;
            Ok(count)
        }
    }

    #[test]
    fn a_frame_holds_what_came_and_is_smaller() {
        for length in [0, 1, 6_000, 128 << 10, 300_000] {
            let content: Vec<u8> = (0..length).map(|index| (index / 7 + index / 251) as u8).collect();
            let mut frame = Vec::new();
            compress(Halting { rest: &content, calls: 0 }, &mut frame).unwrap();
            assert_eq!(zstd::decode_all(frame.as_slice()).unwrap(), content, "{length} bytes");
            assert!(length < 6_000 || frame.len() < length / 4, "{length} bytes in {}", frame.len());
        }
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
        assert_eq!(compress(Broken, io::sink()).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(compress(io::empty(), Broken).unwrap_err().kind(), ErrorKind::StorageFull);
    }
}
