//! Removes temporary files of killed publications before the next publication to the same directory.
//!
//! Each publication has a marker file at the top of the directory. It is locked while the publication runs, and
//! says where it writes. The kernel releases the lock of a killed process, so a marker that can be locked is
//! stale. Clocks and process ids do not decide, because they mean nothing on another machine.

use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Write};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::Mode;
use nix::unistd::geteuid;

use agent_fs::dir::{DirHandle, FileMeta, Kind, errno};

const START: &str = ".publish-";
const END: &str = ".part";

/// How long a marker without content may belong to a publication that is starting.
const BEGINNING: Duration = Duration::from_secs(60);

/// On file systems without locks, a marker older than any job is stale.
const OLD: Duration = Duration::from_secs(7 * 24 * 3600);

/// Maximum depth of directories to search; keys have at most this many parts.
const DEPTH: usize = 512;

/// The name of the `n`th temporary file of a publication. It is short, so it fits wherever the file's name fits.
pub fn part_name(id: &str, n: u64) -> String {
    format!(".{id}-{n}{END}")
}

/// The marker of a running publication. It is deleted on drop.
#[derive(Debug)]
pub struct Running {
    root: DirHandle,
    id: String,
    /// `None`, if the file system has no locks.
    _lock: Option<Flock<File>>,
}

impl Running {
    /// Marks a publication below `prefix` as running.
    pub fn begin(root: &DirHandle, prefix: &str) -> io::Result<Running> {
        loop {
            let id = chance();
            let name = format!("{START}{id}{END}");
            let mode = Mode::S_IRUSR | Mode::S_IWUSR | Mode::S_IRGRP | Mode::S_IROTH;
            let mut file = match root.create_file(&name, mode) {
                Err(error) if errno(&error) == Errno::EEXIST => continue,
                made => made?,
            };
            // The newline shows that the content is complete, even for an empty prefix.
            file.write_all(format!("{prefix}\n").as_bytes())?;
            let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => Some(lock),
                // Another publication locked it, because it considers the marker stale.
                Err((_, Errno::EWOULDBLOCK)) => continue,
                Err((_, Errno::EINTR)) => {
                    let _ = root.remove_file(&name);
                    continue;
                }
                Err(_) => None,
            };
            let running = Running { root: root.clone(), id, _lock: lock };
            // The loop repeats if the file was removed before it was locked.
            if root.metadata(&name).is_ok() {
                return Ok(running);
            }
        }
    }

    pub fn id(&self) -> &str {
        &self.id
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.root.remove_file(format!("{START}{}{END}", self.id));
    }
}

/// Removes the temporary files of killed publications. A file that cannot be removed does no harm; the next
/// publication tries again.
pub fn remove(root: &DirHandle) {
    for (name, _) in entries(root) {
        let id = name.strip_prefix(START).and_then(|rest| rest.strip_suffix(END));
        let Some(id) = id.filter(|id| is_id(id)) else { continue };
        let Some((prefix, _lock)) = abandoned(root, &name) else { continue };
        let start = format!(".{id}-");
        // Reached through no link.
        if root.open_dir(&prefix).map_or(true, |directory| remove_parts(&directory, &start, DEPTH)) {
            let _ = root.remove_file(&name);
        }
    }
}

/// The prefix in a stale marker, with the marker's lock, so that no other publication cleans up at the same
/// time. `None`, if the publication still runs.
fn abandoned(root: &DirHandle, name: &str) -> Option<(String, Option<Flock<File>>)> {
    let (mut file, meta) = root.open_file_read_write(name).ok()?;
    if !is_own_file(&meta) {
        return None;
    }
    let mut prefix = String::new();
    (&mut file).take(8192).read_to_string(&mut prefix).ok()?;
    let age = age(&meta);
    let is_whole = prefix.ends_with('\n');
    let prefix = prefix.trim_end_matches('\n').to_owned();
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        // A publication that was killed before it wrote the prefix has written no other file.
        Ok(lock) if is_whole || age > BEGINNING => Some((prefix, Some(lock))),
        Ok(_) => None,
        Err((_, Errno::EWOULDBLOCK)) => None,
        Err(_) => (age > OLD).then_some((prefix, None)),
    }
}

/// Removes the temporary files whose names have this start; false, if one remains.
fn remove_parts(directory: &DirHandle, start: &str, depth: usize) -> bool {
    let mut all = true;
    for (name, kind) in entries(directory) {
        let number = name.strip_prefix(start).and_then(|rest| rest.strip_suffix(END));
        if number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())) {
            if directory.metadata(&name).is_ok_and(|meta| is_own_file(&meta)) {
                all &= directory.remove_file(&name).is_ok();
            }
        } else if kind.is_none_or(|kind| kind == Kind::Directory) && depth > 0 {
            match directory.open_dir(&name) {
                Ok(deeper) => all &= remove_parts(&deeper, start, depth - 1),
                Err(error) => {
                    all &= matches!(errno(&error), Errno::ENOTDIR | Errno::ELOOP | Errno::ENOENT);
                }
            }
        }
    }
    all
}

fn entries(directory: &DirHandle) -> Vec<(String, Option<Kind>)> {
    let Ok(entries) = directory.entries() else { return Vec::new() };
    entries.filter_map(|entry| entry.ok().and_then(|e| Some((e.name.into_string().ok()?, e.kind)))).collect()
}

fn is_own_file(meta: &FileMeta) -> bool {
    meta.kind() == Kind::File && meta.owner == geteuid().as_raw()
}

fn age(meta: &FileMeta) -> Duration {
    SystemTime::now().duration_since(meta.modified_at()).unwrap_or_default()
}

/// Sixteen random hexadecimal digits, because other machines may publish to the same directory.
fn chance() -> String {
    let mut chance = RandomState::new().build_hasher();
    chance.write_u32(std::process::id());
    format!("{:016x}", chance.finish())
}

fn is_id(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    fn opened(path: &Path) -> DirHandle {
        DirHandle::open(path).unwrap()
    }

    /// Creates what a killed publication leaves: its marker, without a lock, and two temporary files.
    fn killed(top: &Path, id: &str, prefix: &str) {
        let place = top.join(prefix).join("images/deep");
        fs_err::create_dir_all(&place).unwrap();
        fs_err::write(top.join(format!("{START}{id}{END}")), format!("{prefix}\n")).unwrap();
        fs_err::write(place.join(part_name(id, 7)), "half").unwrap();
        fs_err::write(top.join(prefix).join(part_name(id, 0)), "half").unwrap();
        fs_err::write(place.join("image.wic"), "whole").unwrap();
    }

    fn files(top: &Path) -> Vec<String> {
        let all = walkdir::WalkDir::new(top).sort_by_file_name().into_iter().map(Result::unwrap);
        let path = |entry: walkdir::DirEntry| entry.path().strip_prefix(top).unwrap().display().to_string();
        all.filter(|entry| !entry.file_type().is_dir()).map(path).collect()
    }

    #[test]
    fn removes_only_files_of_killed_publications() {
        let top = tempfile::tempdir().unwrap();
        let (dead, other) = ("0123456789abcdef", "fedcba9876543210");
        killed(top.path(), dead, "a/b/1");
        let begun = top.path().join(".publish-aaaaaaaaaaaaaaaa.part");
        fs_err::write(&begun, "a/b").unwrap();
        // Published files may have such names, and files of other users must stay.
        for name in [".0123456789abcdef-x.part", "image.part", &part_name(other, 1)] {
            fs_err::write(top.path().join("a/b/1").join(name), "own").unwrap();
        }
        fs_err::write(top.path().join(".publish-x.part"), "a").unwrap();
        remove(&opened(top.path()));
        assert_eq!(
            files(top.path()),
            [
                // Its publication may be starting.
                ".publish-aaaaaaaaaaaaaaaa.part",
                ".publish-x.part",
                "a/b/1/.0123456789abcdef-x.part",
                &format!("a/b/1/.{other}-1.part"),
                "a/b/1/image.part",
                "a/b/1/images/deep/image.wic",
            ]
        );
    }

    #[test]
    fn keeps_files_of_running_publications() {
        let top = tempfile::tempdir().unwrap();
        let root = opened(top.path());
        let running = Running::begin(&root, "a").unwrap();
        fs_err::create_dir(top.path().join("a")).unwrap();
        fs_err::write(top.path().join("a").join(part_name(running.id(), 0)), "half").unwrap();
        let second = Running::begin(&root, "").unwrap();
        assert_ne!(running.id(), second.id());
        remove(&root);
        assert_eq!(files(top.path()).len(), 3);
        drop(second);
        drop(running);
        assert_eq!(files(top.path()).len(), 1, "the marker is deleted on drop");
    }

    #[test]
    fn does_not_follow_links() {
        let top = tempfile::tempdir().unwrap();
        let id = "0123456789abcdef";
        let elsewhere = top.path().join("elsewhere");
        killed(&elsewhere, id, "");
        fs_err::remove_file(elsewhere.join(format!("{START}{id}{END}"))).unwrap();
        let place = top.path().join("place");
        fs_err::create_dir(&place).unwrap();
        for (link, prefix) in [("linked", "linked"), ("deep/linked", "deep"), ("x", "../elsewhere")] {
            fs_err::create_dir_all(place.join(link).parent().unwrap()).unwrap();
            symlink(&elsewhere, place.join(link)).unwrap();
            fs_err::write(place.join(format!("{START}{id}{END}")), format!("{prefix}\n")).unwrap();
            remove(&opened(&place));
            assert_eq!(files(&elsewhere).len(), 3, "{link}");
        }
        symlink(elsewhere.join("images"), place.join(format!("{START}{id}{END}"))).unwrap();
        remove(&opened(&place));
    }
}
