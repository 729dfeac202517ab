//! A `zstd` that starts in no time and writes nothing, before the host's on the PATH of the real BitBake.
//!
//! BitBake pipes each file of signatures through a `zstd` of its own, tens of thousands in a layer check, and
//! nobody reads one unless the check fails: then the tool runs again, and these files are written. The program
//! is the crate in `quick-zstd/`. Its directory is on the PATH either way, because PATH is a part of the names of
//! BitBake's caches and of the keys of answers.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use fs_err as fs;

use agent_fs::remove;
use agent_process::User;
use agent_types::error::Result;

use super::shim_dir::barrier;
use super::{CacheResult, NotCacheable};

/// The program, beside the agent's own binary.
const PROGRAM: &str = "build-agent-zstd";

/// The name under which BitBake calls it.
const NAME: &str = "zstd";

/// What becomes of the files of signatures that BitBake writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SigdataMode {
    /// For `bitbake-diffsigs`.
    Written,
    /// They are empty.
    Discard,
}

/// Where it lies in the agent's `work` directory.
pub fn directory(work: &Path) -> PathBuf {
    work.join("quick")
}

/// Makes the directory in `work` for BitBake that runs as `user`. The program is in it if it lies beside the
/// agent's binary `own`, the user can run it, and it is wanted; otherwise the host's `zstd` does the work.
pub fn make(work: &Path, own: &Path, user: Option<&User>, sigdata: SigdataMode) -> CacheResult<()> {
    remove(work).map_err(|error| NotCacheable(error.message))?;
    let directory = directory(work);
    fs::create_dir(&directory)?;
    fs::set_permissions(&directory, PermissionsExt::from_mode(0o755))?;
    let Ok(program) = fs::canonicalize(own.with_file_name(PROGRAM)) else { return Ok(()) };
    let is_open = user.is_none_or(|user| barrier(&program, user).is_none());
    if is_open && sigdata == SigdataMode::Discard {
        symlink(&program, directory.join(NAME))?;
    }
    Ok(())
}

/// Whether the program is in the directory.
pub fn forgets(work: &Path) -> bool {
    directory(work).join(NAME).is_file()
}

/// Removes the directory.
pub fn remove(work: &Path) -> Result<()> {
    remove::remove_tree(&directory(work), work)
}

/// The PATH that the real BitBake gets. `shim_dir` is the directory of the shim, `path` the PATH as it is
/// without that.
pub fn path_of_bitbake(shim_dir: &Path, path: &OsStr) -> OsString {
    match shim_dir.parent().map(directory) {
        Some(quick) if quick.is_dir() => [quick.as_os_str(), path].join(OsStr::new(":")),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_the_same_and_the_program_there_only_where_it_can_run_and_is_wanted() {
        let place = tempfile::tempdir().unwrap();
        std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let work = place.path().join("work");
        std::fs::create_dir(&work).unwrap();
        let own = place.path().join("build-agent");
        let program = place.path().join(PROGRAM);
        let nobody = User { name: "nobody".into(), uid: 65_000, gid: 65_000, home: "/".into() };
        let is_there = |user: Option<&User>, sigdata: SigdataMode| {
            make(&work, &own, user, sigdata).unwrap();
            let path = path_of_bitbake(&work.join("front"), OsStr::new("/a::/b"));
            assert_eq!(path.into_string().unwrap(), format!("{}:/a::/b", work.join("quick").display()));
            forgets(&work)
        };
        use SigdataMode::{Discard, Written};
        assert!(!is_there(None, Discard));
        std::fs::write(&program, "").unwrap();
        for (mode, user, sigdata, wanted) in [
            (0o755, Some(&nobody), Discard, true),
            (0o755, None, Discard, true),
            (0o755, None, Written, false),
            (0o700, Some(&nobody), Discard, false),
            (0o700, None, Discard, true),
        ] {
            std::fs::set_permissions(&program, PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!(is_there(user, sigdata), wanted, "{mode:o} {sigdata:?}");
        }
        // What an earlier run left does not count.
        std::fs::remove_file(&program).unwrap();
        assert!(!is_there(None, Discard));
        remove(&work).unwrap();
        assert_eq!(path_of_bitbake(&work.join("front"), OsStr::new("/a")), "/a");
    }
}
