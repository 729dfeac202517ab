//! A `zstd` that starts in no time, before the host's on the PATH of the real BitBake.
//!
//! BitBake pipes each file of signatures through a `zstd` of its own, tens of thousands in a layer check,
//! and the start of that program is most of the work. The crate in `quick-zstd/` is the same library without
//! what the program puts around it. The directory is the same in each run of a work directory, because
//! PATH is a part of the names of BitBake's caches.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use fs_err as fs;

use crate::error::Result;
use crate::exec::{User, remove};

use super::front::closed_to;
use super::{Accepted, Refusal};

/// The program, beside the agent's own binary.
const PROGRAM: &str = "build-agent-zstd";

/// The name under which BitBake calls it.
const NAME: &str = "zstd";

fn directory(work: &Path) -> PathBuf {
    work.join("quick")
}

/// Makes the directory in `work` for BitBake that runs as `user`, if the program lies beside the agent's
/// binary `own` and the user can run it. Otherwise there is none, and the host's `zstd` does the work.
pub fn make(work: &Path, own: &Path, user: Option<&User>) -> Accepted<()> {
    remove(work).map_err(|error| Refusal(error.message))?;
    let Ok(program) = fs::canonicalize(own.with_file_name(PROGRAM)) else { return Ok(()) };
    if user.is_some_and(|user| closed_to(&program, user).is_some()) {
        return Ok(());
    }
    let directory = directory(work);
    fs::create_dir(&directory)?;
    fs::set_permissions(&directory, PermissionsExt::from_mode(0o755))?;
    symlink(&program, directory.join(NAME))?;
    Ok(())
}

/// Removes the directory.
pub fn remove(work: &Path) -> Result<()> {
    remove::remove_tree(&directory(work), work)
}

/// The PATH that the real BitBake gets. `front` is the directory of the stand-in, `path` the PATH as it is
/// without that.
pub fn path_of_bitbake(front: &Path, path: &OsStr) -> OsString {
    match front.parent().map(directory) {
        Some(quick) if quick.join(NAME).is_file() => [quick.as_os_str(), path].join(OsStr::new(":")),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn it_is_on_the_path_only_where_the_program_is_there_and_open() {
        let place = tempfile::tempdir().unwrap();
        std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let work = place.path().join("work");
        std::fs::create_dir(&work).unwrap();
        let own = place.path().join("build-agent");
        let program = place.path().join(PROGRAM);
        let nobody = User { name: "nobody".into(), uid: 65_000, gid: 65_000, home: "/".into() };
        let path = |user: Option<&User>| {
            make(&work, &own, user).unwrap();
            path_of_bitbake(&work.join("front"), OsStr::new("/a::/b")).into_string().unwrap()
        };
        let with = format!("{}:/a::/b", work.join("quick").display());
        assert_eq!(path(None), "/a::/b");
        std::fs::write(&program, "").unwrap();
        for (mode, user, wanted) in [
            (0o755, Some(&nobody), with.as_str()),
            (0o755, None, &with),
            (0o700, Some(&nobody), "/a::/b"),
            (0o700, None, &with),
        ] {
            std::fs::set_permissions(&program, PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!(path(user), wanted, "{mode:o}");
        }
        // What an earlier run left does not count.
        std::fs::remove_file(&program).unwrap();
        assert_eq!(path(None), "/a::/b");
        assert!(!work.join("quick").exists());
    }
}
