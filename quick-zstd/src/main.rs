//! A `zstd` for signatures that nobody reads: BitBake starts one for each of the tens of thousands of files of
//! signatures that yocto-check-layer has it write.
//!
//! It takes what it is given and leaves the file empty. Called for anything else it becomes the next `zstd` on
//! the PATH.

mod next;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

/// How the names of files begin that become signatures: `dump_sigtask` in bitbake/lib/bb/siggen.py, from kirkstone
/// on to a pipe through `zstd`.
const SIGNATURES: &str = "sigtask.";

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let written_to = std::fs::read_link("/proc/self/fd/1").unwrap_or_default();
    if !asks_to_compress(&words) || !is_for_signatures(&written_to) {
        let error = next::become_it(&words);
        eprintln!("zstd: {error}");
        return ExitCode::from(if error.kind() == ErrorKind::NotFound { 127 } else { 126 });
    }
    match io::stdin().as_fd().try_clone_to_owned().map(File::from).and_then(forget) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("zstd: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `-c -3`: lib/bb/compress/zstd.py of BitBake.
fn asks_to_compress(words: &[OsString]) -> bool {
    let is_level = |word: &OsStr| {
        let digits = word.as_encoded_bytes().strip_prefix(b"-").unwrap_or_default();
        (1..=2).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit)
    };
    matches!(words, [stdout, level] if stdout == "-c" && is_level(level))
}

fn is_for_signatures(file: &Path) -> bool {
    file.is_absolute()
        && file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(SIGNATURES.as_bytes()))
}

/// Reads all that comes: whoever sends it must not be stopped.
fn forget(mut input: impl Read) -> io::Result<()> {
    let mut buffer = [0; 64 << 10];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
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

    #[test]
    fn only_files_that_become_signatures_are_left_empty() {
        for (file, wanted) in [
            ("/b/tmp/stamps/x/zlib/sigtask.a1b2", true),
            ("/b/sigtask.a1b2 (deleted)", true),
            ("/b/tmp/stamps/x/zlib/1.0.do_fetch.sigdata.ab", false),
            ("/b/sigtask.d/file", false),
            ("/b/a.sigtask.x", false),
            ("pipe:[4711]", false),
            ("sigtask.x", false),
            ("", false),
        ] {
            assert_eq!(is_for_signatures(Path::new(file)), wanted, "{file}");
        }
    }

    #[test]
    fn all_is_read_and_failures_are_told() {
        struct Halting(usize);
        impl Read for Halting {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                self.0 += 1;
                match self.0 {
                    1 | 3 => Ok(1000),
                    2 => Err(ErrorKind::Interrupted.into()),
                    4 => Ok(0),
                    _ => Err(ErrorKind::ConnectionReset.into()),
                }
            }
        }
        let mut halting = Halting(0);
        forget(&mut halting).unwrap();
        assert_eq!(halting.0, 4);
        assert_eq!(forget(&mut halting).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}
