//! `zstd -c -N` in no time: for BitBake, which starts one for each of the tens of thousands of signatures
//! that yocto-check-layer has it write and nobody reads.
//!
//! It writes the same content as a valid frame that is not compressed. Called with any other words it becomes
//! the next `zstd` on the PATH.

mod frame;
mod next;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    if !asks_to_compress(&words) {
        let error = next::become_it(&words);
        eprintln!("zstd: {error}");
        return ExitCode::from(if error.kind() == ErrorKind::NotFound { 127 } else { 126 });
    }
    match unbuffered().and_then(|(input, output)| frame::write(input, output)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("zstd: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Standard input and output as they are: the library's own ones copy everything once more.
fn unbuffered() -> io::Result<(File, File)> {
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    let output = io::stdout().as_fd().try_clone_to_owned()?;
    Ok((input.into(), output.into()))
}

/// `-c -3`, as lib/bb/compress/zstd.py of BitBake has it since there is one (honister).
fn asks_to_compress(words: &[OsString]) -> bool {
    let is_level = |word: &OsStr| {
        let digits = word.as_encoded_bytes().strip_prefix(b"-").unwrap_or_default();
        (1..=2).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit)
    };
    matches!(words, [stdout, level] if stdout == "-c" && is_level(level))
}

#[cfg(test)]
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
}
