//! What BitBake can see of the machine: its kind, its distribution, the programs on the PATH.
//!
//! Programs count by name, size and time and not by content: hashing a whole `/usr/bin` for each
//! query would cost more than it could find. BitBake's interpreter is one of them.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::CacheResult;
use super::key::{Inputs, readable};
use super::protocol::Encoder;
use agent_fs::read;

/// What `oe.lsb` reads to name the distribution (meta/lib/oe/lsb.py, all releases).
const DISTRIBUTION: [&str; 6] = [
    "/etc/os-release",
    "/etc/lsb-release",
    "/etc/redhat-release",
    "/etc/SuSE-release",
    "/etc/debian_version",
    "/usr/lib/os-release",
];

/// What else of the machine lets sanity.bbclass end BitBake, beside missing programs.
const SANITY: [(&str, &str); 2] = [
    ("host libc for 32 bits", "/usr/include/gnu/stubs-32.h"),
    ("host mmap_min_addr", "/proc/sys/vm/mmap_min_addr"),
];

/// Adds the machine. `path` is BitBake's PATH; directories of it that lie in one of the `known` ones
/// are skipped.
pub fn add(inputs: &mut Inputs, path: &OsStr, known: &[PathBuf]) -> CacheResult<()> {
    let names = nix::sys::utsname::uname().map_err(std::io::Error::from)?;
    let names = [names.sysname(), names.release(), names.machine()];
    inputs.add_list("host kernel", names.map(OsStr::as_bytes));
    for file in DISTRIBUTION {
        // Often a link to the last of them.
        match fs::canonicalize(file) {
            Ok(real) => inputs.add(format!("host {file}"), &read::whole(&real, 1 << 20)?),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    for (name, file) in SANITY {
        let content = fs::read(file).unwrap_or_default();
        inputs.add_list(
            name,
            [Path::new(file).exists().to_string().as_bytes(), &content[..content.len().min(64)]],
        );
    }
    for directory in std::env::split_paths(path) {
        if !known.iter().any(|known| directory.starts_with(known)) {
            inputs.add(format!("programs in {}", readable(directory.as_os_str())), &programs(&directory)?);
        }
    }
    Ok(())
}

/// The programs of a directory by name, kind, size and time; links by their target, because package
/// managers write them again each time.
fn programs(directory: &Path) -> CacheResult<Vec<u8>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(b"absent".to_vec()),
        Err(error) => return Err(error.into()),
    };
    let mut programs = Vec::new();
    for entry in entries {
        let entry = entry?;
        let metadata = entry.metadata()?;
        let mut encoder = Encoder::default();
        encoder.bytes(entry.file_name().as_bytes()).number(metadata.mode().into());
        if metadata.is_symlink() {
            encoder.bytes(fs::read_link(entry.path())?.as_os_str().as_bytes());
        } else if metadata.is_file() {
            encoder
                .number(metadata.size())
                .number(metadata.mtime() as u64)
                .number(metadata.mtime_nsec() as u64);
        }
        programs.push(encoder.finish().to_vec());
    }
    programs.sort_unstable();
    Ok(programs
        .iter()
        .fold(Encoder::default(), |mut encoder, program| {
            encoder.bytes(program);
            encoder
        })
        .finish()
        .to_vec())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn a_new_an_upgraded_and_a_redirected_program_are_seen() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let seen = || {
            let mut inputs = Inputs::default();
            add(&mut inputs, directory.path().as_os_str(), &[]).unwrap();
            inputs.key()
        };
        fs::write(at("gcc-13"), "1").unwrap();
        symlink("gcc-13", at("gcc")).unwrap();
        let mut keys = vec![seen()];
        assert_eq!(seen(), keys[0]);
        fs::write(at("git"), "").unwrap();
        keys.push(seen());
        let later = SystemTime::now() + Duration::from_secs(1);
        fs::File::options().write(true).open(at("gcc-13")).unwrap().set_modified(later).unwrap();
        keys.push(seen());
        fs::remove_file(at("gcc")).unwrap();
        symlink("git", at("gcc")).unwrap();
        keys.push(seen());
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[index + 1..].contains(key), "{index}");
        }
    }
}
