//! Closes the directory in which CodeBuild keeps the environment of its shells.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use agent_fs::read::NO_FOLLOW;

/// Has the environment of CodeBuild's shell, with `AWS_CONTAINER_CREDENTIALS_RELATIVE_URI` and the project's secrets.
const STATE: &str = "env.sh";

/// CodeBuild's directories are two levels deep.
const DEPTH: usize = 4;

/// Closes `<root>/output/tmp`, and every directory below `root` with an `env.sh`, to all users but root. A directory
/// that holds one of `keep` stays open, but not its files. Returns what could not be closed.
pub fn close(root: &Path, user: u32, keep: &[PathBuf]) -> Vec<String> {
    let mut directories = vec![root.join("output/tmp")];
    find(root, DEPTH, keep, &mut directories);
    directories.sort();
    directories.dedup();
    let mut open = Vec::new();
    for directory in directories {
        let needed = keep.iter().any(|one| one.starts_with(&directory));
        let targets = if needed { files_in(&directory) } else { vec![directory] };
        for target in targets {
            match close_one(&target, user) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    open.push(format!("{} cannot be closed to the build user: {error}", target.display()));
                }
                _ => {}
            }
        }
    }
    open
}

/// Adds the directories with an `env.sh`. Skips the checkout, where a layer may have one of its own.
fn find(directory: &Path, depth: usize, keep: &[PathBuf], found: &mut Vec<PathBuf>) {
    if depth == 0 || keep.iter().any(|one| one == directory) {
        return;
    }
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => find(&entry.path(), depth - 1, keep, found),
            Ok(kind) if kind.is_file() && entry.file_name() == STATE => found.push(directory.to_owned()),
            _ => {}
        }
    }
}

fn files_in(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    files.map(|entry| entry.path()).collect()
}

/// Takes it from the build user, and takes the rights of group and others.
fn close_one(path: &Path, user: u32) -> io::Result<()> {
    let file: File = OpenOptions::new().read(true).custom_flags(NO_FOLLOW).open(path)?;
    let metadata = file.metadata()?;
    if metadata.uid() == user {
        fchown(&file, Some(0), Some(0))?;
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        file.set_permissions(std::fs::Permissions::from_mode(mode & !0o077))?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs;

    const USER: u32 = 48_611;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    /// CodeBuild's directories, with all rights for everybody.
    fn codebuild() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let top = tempfile::tempdir().unwrap();
        let source = top.path().join("output/src1/src/layer");
        fs::create_dir_all(&source).unwrap();
        let tmp = top.path().join("output/tmp");
        fs::create_dir(&tmp).unwrap();
        for (path, bits) in
            [(tmp.join(STATE), 0o666), (tmp.join("script.sh"), 0o644), (source.join(STATE), 0o644)]
        {
            fs::write(&path, "x").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(bits)).unwrap();
        }
        fs::set_permissions(&tmp, fs::Permissions::from_mode(0o755)).unwrap();
        (top, tmp, source)
    }

    #[test]
    fn the_directory_is_closed_once_and_the_checkout_stays_open() {
        let (top, tmp, source) = codebuild();
        for _ in 0..2 {
            assert_eq!(close(top.path(), USER, std::slice::from_ref(&source)), [""; 0]);
            assert_eq!((mode(&tmp), mode(&source), mode(&source.join(STATE))), (0o700, 0o755, 0o644));
        }
    }

    #[test]
    fn other_directories_with_the_same_file_are_closed_too() {
        let (top, _, source) = codebuild();
        let other = top.path().join("shell/state");
        fs::create_dir_all(&other).unwrap();
        fs::write(other.join(STATE), "x").unwrap();
        assert_eq!(close(top.path(), USER, &[source]), [""; 0]);
        assert_eq!((mode(&other), mode(other.parent().unwrap())), (0o700, 0o755));
    }

    #[test]
    fn a_directory_that_the_job_needs_loses_only_its_files() {
        let (top, tmp, source) = codebuild();
        let out = tmp.join("build-agent-out");
        fs::create_dir(&out).unwrap();
        assert_eq!(close(top.path(), USER, &[source, out.clone()]), [""; 0]);
        let modes = [&tmp, &out, &tmp.join(STATE), &tmp.join("script.sh")].map(|path| mode(path));
        assert_eq!(modes, [0o755, 0o755, 0o600, 0o600]);
    }

    #[test]
    fn the_build_user_owns_nothing_of_it_any_more() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let (top, tmp, source) = codebuild();
        std::os::unix::fs::chown(&tmp, Some(USER), Some(USER)).unwrap();
        assert_eq!(close(top.path(), USER, &[source]), [""; 0]);
        assert_eq!((fs::metadata(&tmp).unwrap().uid(), mode(&tmp)), (0, 0o700));
    }

    #[test]
    fn a_link_is_not_followed_and_is_reported() {
        let (top, tmp, source) = codebuild();
        fs::remove_dir_all(&tmp).unwrap();
        std::os::unix::fs::symlink(&source, &tmp).unwrap();
        let open = close(top.path(), USER, std::slice::from_ref(&source));
        assert!(open.len() == 1 && open[0].contains("output/tmp cannot be closed"), "{open:?}");
        assert_eq!(mode(&source), 0o755);
        let nowhere = top.path().join("nowhere");
        assert_eq!(close(&nowhere, USER, &[]), [""; 0], "not in CodeBuild");
    }
}
