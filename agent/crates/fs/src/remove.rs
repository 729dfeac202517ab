//! The one place that deletes.
//!
//! Layer code can write what is deleted here, also while it is being deleted: links are unlinked
//! and never followed, not even those that turn up in the middle of the way.

mod tree;

use std::ffi::OsString;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use fs_err as fs;
use nix::errno::Errno;

use super::dir::{Access, DirHandle, Links, errno};
use agent_types::error::{Error, Result};

/// Where [`clear`] puts what cannot be deleted, below the work directory.
const SET_ASIDE: &str = "set-aside";

/// Deletes the directory, file or link at `path`, which must lie strictly below `inside`. Missing is
/// fine. Directories without write permission are deleted, too, and trees of any depth. Deletes as much
/// as can be deleted.
///
/// # Errors
/// When `path` does not lie there, with nothing deleted; when something cannot be deleted.
pub fn remove_tree(path: &Path, inside: &Path) -> Result<()> {
    match Place::of(path, inside)? {
        Some(place) => place.remove(path),
        None => Ok(()),
    }
}

/// Deletes as [`remove_tree`] does, or frees the name all the same: what cannot be deleted is moved to
/// `set-aside/` below `inside`. Says so when that happened.
///
/// # Errors
/// When `path` does not lie there, and when it can neither be deleted nor moved.
pub fn clear(path: &Path, inside: &Path) -> Result<Option<SetAside>> {
    let Some(place) = Place::of(path, inside)? else { return Ok(None) };
    let Err(why) = place.remove(path) else { return Ok(None) };
    match place.set_aside(inside) {
        Ok(to) => Ok(Some(SetAside { from: path.to_owned(), to, why })),
        Err(error) => Err(why.because(&error)),
    }
}

/// Tries again to delete what earlier jobs could not delete below `inside`. Gives what is still there.
///
/// # Errors
/// When that cannot be looked at.
pub fn retry_set_aside(inside: &Path) -> Result<Vec<Error>> {
    let entries = match std::fs::read_dir(inside.join(SET_ASIDE)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(&inside.join(SET_ASIDE), error)),
    };
    let tried = entries.flatten().map(|entry| remove_tree(&entry.path(), inside));
    Ok(tried.filter_map(Result::err).collect())
}

/// Something that could not be deleted and was moved out of the way.
#[derive(Debug)]
pub struct SetAside {
    pub from: PathBuf,
    pub to: PathBuf,
    pub why: Error,
}

impl fmt::Display for SetAside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SetAside { from, to, why } = self;
        write!(f, "{} of an earlier job was moved to {}: {}", from.display(), to.display(), why.message)?;
        why.causes.iter().try_for_each(|cause| write!(f, ": {cause}"))
    }
}

impl SetAside {
    /// What people can do about it.
    pub fn hint(&self) -> String {
        let why = self.why.hint.as_deref().unwrap_or_default();
        format!("this job goes on, and later jobs try again to delete it; {why}")
    }
}

/// Deletes the file or link at `path`, which must lie strictly below `inside`. Missing is fine.
///
/// # Errors
/// As [`remove_tree`], and for a directory.
pub fn remove_file(path: &Path, inside: &Path) -> Result<()> {
    match Place::of(path, inside)? {
        Some(place) => {
            place.directory.remove_file(&place.name).map(drop).map_err(|error| failed(path, error))
        }
        None => Ok(()),
    }
}

/// Where something lies: its name in a directory that is held open, so that it stays the same
/// directory whatever happens to the way there.
struct Place {
    directory: DirHandle,
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
        let directory = DirHandle::open_with(&inside_real, Links::Refuse, Access::PathOnly)
            .map_err(|error| failed(inside, error))?
            .open_dir_with(way, Access::PathOnly)
            .map_err(|error| failed(path, error))?;
        Ok(Some(Place { directory, name: name.to_owned() }))
    }

    /// Deletes it with all below it. `path` is its name for people.
    fn remove(&self, path: &Path) -> Result<()> {
        tree::remove(&self.directory, &self.name).map_err(|left| {
            let what = path.parent().unwrap_or(path).join(&left.path);
            failed(&what, left.why)
        })
    }

    /// Moves it to a free name below `inside`; gives that.
    fn set_aside(&self, inside: &Path) -> std::io::Result<PathBuf> {
        let home = inside.join(SET_ASIDE);
        // Whether it is there, and a directory, is seen when it is opened.
        let _ = std::fs::create_dir(&home);
        let directory = DirHandle::open_with(&home, Links::Refuse, Access::PathOnly)?;
        let mut number = 1u32;
        loop {
            let mut name = self.name.clone();
            name.push(format!("-{number}"));
            if directory.metadata(&name).is_err() {
                self.directory.rename(&self.name, &directory, &name)?;
                return Ok(home.join(name));
            }
            number = number.checked_add(1).ok_or(Errno::EEXIST)?;
        }
    }
}

fn canonical(path: &Path) -> Result<Option<PathBuf>> {
    match fs::canonicalize(path) {
        Ok(path) => Ok(Some(path)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn failed(path: &Path, error: std::io::Error) -> Error {
    let hint = match errno(&error) {
        Errno::EXDEV | Errno::EBUSY => {
            "something is mounted there or still writes there: unmount it, or end it"
        }
        Errno::EPERM => "see whether it is immutable (`lsattr`); `chattr -i` as root changes that",
        Errno::EROFS => {
            "its file system is mounted read-only: `mount -o remount,rw`, or give another --work-dir"
        }
        _ => "look who owns it and whether a process still uses it",
    };
    Error::machine(format!("cannot delete {}", path.display())).because(&error).hint(hint)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use nix::sys::stat::Mode;

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

    /// Makes a tree that is deeper than any path can say, with a file in each directory.
    fn make_deep(top: &Path, depth: usize) {
        let mut here = DirHandle::open(top).unwrap();
        for _ in 0..depth {
            here.create_dir("d", Mode::S_IRWXU).unwrap();
            here.create_file("f", Mode::S_IRUSR).unwrap();
            here = here.open_dir("d").unwrap();
        }
    }

    /// In a process of its own, because the limit is the whole process'.
    #[test]
    fn a_tree_of_any_depth_is_deleted_with_few_open_files() {
        const ALONE: &str = "BUILD_AGENT_TEST_ALONE";
        const NAME: &str = "remove::tests::a_tree_of_any_depth_is_deleted_with_few_open_files";
        if std::env::var_os(ALONE).is_none() {
            let own = std::env::current_exe().unwrap();
            let limited = format!("ulimit -n 64 && exec \"$0\" --exact {NAME} --nocapture");
            let mut alone = std::process::Command::new("sh");
            let done = alone.arg("-c").arg(limited).arg(own).env(ALONE, "1").output().unwrap();
            let said = String::from_utf8_lossy(&done.stdout);
            assert!(done.status.success() && said.contains("1 passed"), "{done:?}");
            return;
        }
        let trees = Trees::new();
        make_deep(&trees.at("work/tree/sub"), 5000);
        remove_tree(&trees.at("work/tree"), &trees.at("work")).unwrap();
        assert_eq!(fs::read_dir(trees.at("work")).unwrap().count(), 0);
        assert!(trees.at("outside/precious").exists());
    }

    #[test]
    fn more_subdirectories_than_are_held_in_memory_are_deleted() {
        let trees = Trees::new();
        for number in 0..5000 {
            fs::create_dir_all(trees.at(&format!("work/tree/{number}/x"))).unwrap();
        }
        remove_tree(&trees.at("work/tree"), &trees.at("work")).unwrap();
        assert!(!trees.at("work/tree").exists());
    }

    /// Somebody puts links in the place of directories, and moves directories, while they are deleted.
    #[test]
    fn what_is_exchanged_meanwhile_leads_nowhere() {
        let trees = Trees::new();
        let tree = trees.at("work/tree");
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0u64.. {
                    if over.load(std::sync::atomic::Ordering::Relaxed) {
                        return;
                    }
                    let directory = tree.join(format!("{}", number % 16));
                    // Each of these may fail, because the other one was quicker.
                    let _ = std::fs::create_dir_all(directory.join("a/b/c"));
                    let _ = std::fs::rename(directory.join("a/b"), tree.join("moved"));
                    let _ = std::fs::rename(directory.join("a"), directory.join("x"));
                    let _ = symlink(trees.at("outside"), directory.join("a"));
                    let _ = std::fs::remove_dir(&directory);
                    let _ = symlink(trees.at("outside"), &directory);
                }
            });
            for _ in 0..100 {
                // It may be told that somebody writes there.
                let _ = remove_tree(&tree, &trees.at("work"));
            }
            over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert!(trees.at("outside/precious").exists());
        remove_tree(&tree, &trees.at("work")).unwrap();
        assert_eq!(fs::read_dir(trees.at("work")).unwrap().count(), 0);
    }

    /// Whether the file was made immutable; only root may, and not on every file system.
    fn chattr(flag: &str, file: &Path) -> bool {
        let done = std::process::Command::new("chattr").arg(flag).arg(file).output();
        done.is_ok_and(|done| done.status.success())
    }

    #[test]
    fn what_cannot_be_deleted_is_moved_aside_and_tried_again() {
        let base = tempfile::tempdir_in("/var/tmp").unwrap();
        let (work, tree) = (base.path().join("work"), base.path().join("work/build"));
        let make = || {
            fs::create_dir_all(tree.join("a/b")).unwrap();
            fs::write(tree.join("a/b/fixed"), "").unwrap();
            fs::write(tree.join("a/b/free"), "").unwrap();
        };
        make();
        assert!(clear(&tree, &work).unwrap().is_none(), "all of it could be deleted");
        make();
        if !chattr("+i", &tree.join("a/b/fixed")) {
            eprintln!("SKIPPED what_cannot_be_deleted_is_moved_aside_and_tried_again: chattr is refused");
            return;
        }
        let aside = clear(&tree, &work).unwrap().unwrap();
        assert_eq!((&aside.from, aside.to.as_path()), (&tree, &*work.join("set-aside/build-1")));
        let told = aside.why.to_string();
        assert!(told.contains("work/build/a/b/fixed") && told.contains("chattr -i"), "{told}");
        assert!(!tree.exists(), "the next job has its place");
        assert_eq!(fs::read_dir(aside.to.join("a/b")).unwrap().count(), 1, "the rest is gone");
        make();
        assert!(chattr("+i", &tree.join("a/b/free")));
        assert_eq!(clear(&tree, &work).unwrap().unwrap().to, work.join("set-aside/build-2"));

        assert_eq!(retry_set_aside(&work).unwrap().len(), 2);
        for (number, name) in [(1, "fixed"), (2, "free")] {
            assert!(chattr("-i", &work.join(format!("set-aside/build-{number}/a/b/{name}"))));
        }
        assert_eq!(retry_set_aside(&work).unwrap().len(), 0);
        assert_eq!(fs::read_dir(work.join("set-aside")).unwrap().count(), 0);
    }
}
