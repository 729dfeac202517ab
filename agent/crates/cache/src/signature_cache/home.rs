//! What in the build user's home directory changes how programs start: settings of git, and Python packages that
//! every Python program of the user loads. Layer code can write them, and they stay when the job ends.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::digest::Digest;
use super::key::Inputs;
use super::{CacheResult, NotCacheable};
use agent_fs::read;

/// Files and directories.
const STARTUP: [&str; 3] = [".gitconfig", ".config/git", ".local/lib"];

/// So many files count by content; of more, only size and time. A build user of its own has none.
const MOST_READ: usize = 5_000;

/// With more nothing is reused.
const MOST_FILES: usize = 200_000;
const LARGEST: u64 = 64 << 20;

/// Adds names and contents.
///
/// # Errors
/// When there is too much of it, or it cannot be read.
pub fn add(inputs: &mut Inputs, home: &Path) -> CacheResult<()> {
    let mut found: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
    for name in STARTUP {
        let top = home.join(name);
        if top.symlink_metadata().is_err() {
            continue;
        }
        for entry in WalkDir::new(&top).follow_links(true).into_iter().filter_entry(is_startup) {
            let entry =
                entry.map_err(|error| NotCacheable(format!("cannot read the home directory: {error}")))?;
            if found.len() >= MOST_FILES {
                return Err(NotCacheable(format!("{} holds more than {MOST_FILES} files", top.display())));
            }
            let content = if entry.file_type().is_file() && found.len() >= MOST_READ {
                let metadata = fs_err::metadata(entry.path())?;
                format!("{} {} {}", metadata.len(), metadata.mtime(), metadata.mtime_nsec()).into_bytes()
            } else if entry.file_type().is_file() {
                // A link was followed to its file.
                let real = fs_err::canonicalize(entry.path())?;
                Digest::of(&read::whole(&real, LARGEST)?).as_str().as_bytes().to_vec()
            } else {
                Vec::new()
            };
            found.insert(entry.path().strip_prefix(home).unwrap_or(entry.path()).to_owned(), content);
        }
    }
    if !found.is_empty() {
        let list = found.iter().flat_map(|(path, content)| [path.as_os_str().as_bytes(), content.as_slice()]);
        inputs.add_list("startup files in the build user's home", list);
    }
    Ok(())
}

/// Of `.local/lib` only `python*`; byte code counts, because Python does not always check it.
fn is_startup(entry: &walkdir::DirEntry) -> bool {
    let in_lib = entry.path().parent().and_then(Path::file_name) == Some(OsStr::new("lib"));
    !(entry.depth() == 1 && in_lib) || entry.file_name().as_bytes().starts_with(b"python")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn what_starts_with_every_program_is_an_input() {
        let home = tempfile::tempdir().unwrap();
        let digest = || {
            let mut inputs = Inputs::default();
            add(&mut inputs, home.path()).unwrap();
            inputs.key()
        };
        let write = |path: &str, text: &str| {
            let path = home.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let mut before = digest();
        for (path, text, counts) in [
            (".cache/x", "1", false),
            (".local/share/x", "1", false),
            (".local/lib/other/x", "1", true),
            (".local/lib/other/x", "2", false),
            (".gitconfig", "[core]\nfsmonitor = /tmp/x\n", true),
            (".gitconfig", "[core]\nfsmonitor = /tmp/y\n", true),
            (".config/git/config", "1", true),
            (".local/lib/python3.11/site-packages/usercustomize.py", "1", true),
            (".local/lib/python3.11/site-packages/usercustomize.py", "2", true),
            (".local/lib/python3.11/site-packages/a.pth", "import x", true),
            (".local/lib/python3.11/site-packages/__pycache__/a.pyc", "1", true),
        ] {
            write(path, text);
            let after = digest();
            assert_eq!(after != before, counts, "{path} {text}");
            before = after;
        }
        std::os::unix::fs::symlink("/nonexistent", home.path().join(".config/git/gone")).unwrap();
        assert!(add(&mut Inputs::default(), home.path()).is_err());
    }
}
