//! The one place that deletes.
//!
//! Layer code can write what is deleted here, also while it is being deleted: links are unlinked
//! and never followed, not even those that turn up in the middle of the way.

mod at;

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use fs_err as fs;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use nix::unistd::geteuid;

use agent_types::error::{Error, Result};

pub use at::{directory_at, file_at};

/// Deletes the directory, file or link at `path`, which must lie strictly below `inside`. Missing is
/// fine. Directories without write permission are deleted, too.
///
/// # Errors
/// When `path` does not lie there, with nothing deleted; when something cannot be deleted.
pub fn remove_tree(path: &Path, inside: &Path) -> Result<()> {
    let Some(place) = Place::of(path, inside)? else { return Ok(()) };
    let through = place.through();
    let kind = match std::fs::symlink_metadata(&through) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(path, error)),
    };
    if !kind.is_dir() {
        return gone(path, std::fs::remove_file(&through));
    }
    match std::fs::remove_dir_all(&through) {
        // Root needs no permissions; with its power a change of mode could be led astray by a link.
        Err(error) if error.kind() == ErrorKind::PermissionDenied && !geteuid().is_root() => {
            make_writable(&through);
            gone(path, std::fs::remove_dir_all(&through))
        }
        done => gone(path, done),
    }
}

/// Deletes the file or link at `path`, which must lie strictly below `inside`. Missing is fine.
///
/// # Errors
/// As [`remove_tree`], and for a directory.
pub fn remove_file(path: &Path, inside: &Path) -> Result<()> {
    match Place::of(path, inside)? {
        Some(place) => gone(path, std::fs::remove_file(place.through())),
        None => Ok(()),
    }
}

/// Where something lies: its name in a directory that is held open, so that it stays the same
/// directory whatever happens to the way there.
struct Place {
    directory: OwnedFd,
    name: OsString,
}

impl Place {
    /// `None` when the directory is missing.
    fn of(path: &Path, inside: &Path) -> Result<Option<Place>> {
        let refused = |why: &str| {
            let message = format!("refused to delete {}: it {why} {}", path.display(), inside.display());
            Error::internal(message)
        };
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(refused("has no name of its own below"));
        };
        let (Some(inside_real), Some(parent_real)) = (canonical(inside)?, canonical(parent)?) else {
            return Ok(None);
        };
        let Ok(way) = parent_real.strip_prefix(&inside_real) else {
            return Err(refused("does not lie below"));
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut directory =
            open(&inside_real, flags, Mode::empty()).map_err(|errno| failed(inside, errno.into()))?;
        for component in way.components() {
            let Component::Normal(step) = component else {
                return Err(refused("does not lie plainly below"));
            };
            directory =
                openat(&directory, step, flags, Mode::empty()).map_err(|errno| failed(path, errno.into()))?;
        }
        Ok(Some(Place { directory, name: name.to_owned() }))
    }

    /// A path to it by way of the open directory.
    fn through(&self) -> PathBuf {
        let name: &OsStr = &self.name;
        Path::new("/proc/self/fd").join(self.directory.as_raw_fd().to_string()).join(name)
    }
}

fn canonical(path: &Path) -> Result<Option<PathBuf>> {
    match fs::canonicalize(path) {
        Ok(path) => Ok(Some(path)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Gives the owner all permissions on all directories.
fn make_writable(tree: &Path) {
    let mut open = vec![tree.to_owned()];
    while let Some(directory) = open.pop() {
        // What cannot be changed is told by the deletion that follows.
        let _ = std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o700));
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        let directories = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        open.extend(directories.map(|entry| entry.path()));
    }
}

fn gone(path: &Path, result: std::io::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(path, error)),
        _ => Ok(()),
    }
}

fn failed(path: &Path, error: std::io::Error) -> Error {
    Error::machine(format!("cannot delete {}", path.display()))
        .because(&error)
        .hint("look who owns it and whether a process still uses it")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Trees {
        base: tempfile::TempDir,
    }

    impl Trees {
        /// `work/tree/{sub/file,link → outside}` and `outside/precious`.
        fn new() -> Trees {
            let base = tempfile::tempdir().unwrap();
            fs::create_dir_all(base.path().join("work/tree/sub")).unwrap();
            fs::write(base.path().join("work/tree/sub/file"), "x").unwrap();
            fs::create_dir_all(base.path().join("outside")).unwrap();
            fs::write(base.path().join("outside/precious"), "x").unwrap();
            symlink("../../outside", base.path().join("work/tree/link")).unwrap();
            Trees { base }
        }

        fn at(&self, path: &str) -> PathBuf {
            self.base.path().join(path)
        }
    }

    #[test]
    fn only_what_lies_strictly_inside_is_deleted() {
        let trees = Trees::new();
        let work = trees.at("work");
        for refused in
            ["work", "outside", "work/../outside", "work/tree/link/precious", "work/..", "work/tree/.."]
        {
            let error = remove_tree(&trees.at(refused), &work).unwrap_err();
            assert!(error.message.contains("refused"), "{refused}: {error}");
            assert!(remove_file(&trees.at(refused), &work).is_err(), "{refused}");
        }
        assert!(remove_tree(Path::new("/"), &work).is_err());
        assert!(trees.at("outside/precious").exists() && trees.at("work/tree/sub/file").exists());
    }

    #[test]
    fn links_are_unlinked_and_never_followed() {
        let trees = Trees::new();
        symlink("../outside", trees.at("work/link")).unwrap();
        remove_tree(&trees.at("work/link"), &trees.at("work")).unwrap();
        remove_tree(&trees.at("work/tree"), &trees.at("work")).unwrap();
        assert_eq!(fs::read_dir(trees.at("work")).unwrap().count(), 0);
        assert!(trees.at("outside/precious").exists());
    }

    #[test]
    fn the_way_may_lead_through_links_to_inside() {
        let trees = Trees::new();
        symlink("work", trees.at("alias")).unwrap();
        remove_tree(&trees.at("alias/tree/sub"), &trees.at("work")).unwrap();
        remove_file(&trees.at("work/tree/link"), &trees.at("alias")).unwrap();
        assert_eq!(fs::read_dir(trees.at("work/tree")).unwrap().count(), 0);
    }

    #[test]
    fn directories_without_permissions_are_deleted() {
        let trees = Trees::new();
        for path in ["work/tree/sub", "work/tree"] {
            fs::set_permissions(trees.at(path), PermissionsExt::from_mode(0o500)).unwrap();
        }
        remove_tree(&trees.at("work/tree"), &trees.at("work")).unwrap();
        assert!(!trees.at("work/tree").exists());
    }

    #[test]
    fn missing_is_fine() {
        let trees = Trees::new();
        for missing in ["work/none", "work/none/none"] {
            remove_tree(&trees.at(missing), &trees.at("work")).unwrap();
            remove_file(&trees.at(missing), &trees.at("work")).unwrap();
        }
        remove_tree(&trees.at("gone/x"), &trees.at("gone")).unwrap();
    }

    #[test]
    fn a_directory_is_no_file() {
        let trees = Trees::new();
        assert!(remove_file(&trees.at("work/tree"), &trees.at("work")).is_err());
        assert!(trees.at("work/tree/sub/file").exists());
    }
}
