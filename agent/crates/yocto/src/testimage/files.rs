//! Reads the results of tests in the directory of a build or of exported tests. Layer code writes there, so no link is
//! followed out of it.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use agent_fs::dir::Kind;
use agent_fs::tree::{LinkTarget, Tree};

use super::results::{self, Run};

/// Bytes of a file with results; a world of ptests has some tens of MiB.
const RESULTS_LIMIT: u64 = 256 << 20;
/// Bytes of a manifest or a description of a package.
const FACTS_LIMIT: u64 = 4 << 20;
/// Bytes of a console's log, from its end.
const CONSOLE_LIMIT: u64 = 4 << 20;

/// The files of such a directory.
#[derive(Clone, Debug)]
pub struct BuildFiles {
    root: PathBuf,
}

impl BuildFiles {
    pub fn new(root: impl Into<PathBuf>) -> BuildFiles {
        BuildFiles { root: root.into() }
    }

    /// The runs in the file with results in this directory. Without a file there are none.
    ///
    /// # Errors
    /// Why the file cannot be relied upon.
    pub fn runs(&self, directory: &Path) -> Result<Vec<Run>, String> {
        let path = directory.join(results::FILE_NAME);
        match self.read(&path, RESULTS_LIMIT) {
            Ok(bytes) => {
                let text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
                results::parse(&text)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// A short text by its absolute path, if it lies in the directory.
    pub fn text(&self, path: &Path) -> Option<String> {
        let relative = path.strip_prefix(&self.root).ok()?;
        let bytes = self.read(relative, FACTS_LIMIT).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The ends of the logs of consoles in this directory (an absolute path), the newest last.
    pub fn consoles(&self, directory: &Path) -> String {
        let Ok(relative) = directory.strip_prefix(&self.root) else { return String::new() };
        let Ok(tree) = Tree::open(&self.root) else { return String::new() };
        let names = tree.list(relative).unwrap_or_default().into_iter();
        let is_log = |name: &std::ffi::OsString| name.to_string_lossy().starts_with("qemu_boot_log");
        let logs = names.filter(|(name, kind)| *kind == Kind::File && is_log(name));
        let ends = logs.filter_map(|(name, _)| end_of(&tree, &relative.join(name)).ok());
        ends.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect::<Vec<_>>().join("\n")
    }

    /// How many bytes the files of a directory (an absolute path) have; grows while something is logged.
    pub fn size(&self, directory: &Path) -> u64 {
        let Ok(relative) = directory.strip_prefix(&self.root) else { return 0 };
        let Ok(tree) = Tree::open(&self.root) else { return 0 };
        let names = tree.list(relative).unwrap_or_default().into_iter();
        let files = names.filter(|(_, kind)| *kind == Kind::File);
        files.filter_map(|(name, _)| Some(tree.metadata(&relative.join(name)).ok()?.size)).sum()
    }

    /// The whole file, also through links that stay in the directory.
    fn read(&self, relative: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
        let tree = Tree::open(&self.root).map_err(|error| std::io::Error::other(error.to_string()))?;
        let mut path = relative.to_owned();
        let mut found = tree.metadata(&path)?;
        if found.kind() == Kind::Link {
            let text = tree.link(&path)?;
            path = match tree.follow(&path, &text)? {
                LinkTarget::File(path) => path,
                _ => return Err(std::io::Error::other("it is a link to no file of the build directory")),
            };
            found = tree.metadata(&path)?;
        }
        let (file, found) = tree.open_file(&path, found.identity())?;
        if found.size > limit {
            return Err(std::io::Error::other(format!("it is larger than {limit} bytes")));
        }
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

fn end_of(tree: &Tree, path: &Path) -> std::io::Result<Vec<u8>> {
    let seen = tree.metadata(path)?.identity();
    let (mut file, found) = tree.open_file(path, seen)?;
    file.seek(SeekFrom::Start(found.size.saturating_sub(CONSOLE_LIMIT)))?;
    let mut bytes = Vec::new();
    file.take(CONSOLE_LIMIT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn results_are_read_only_from_the_build_directory() {
        let top = tempfile::tempdir().unwrap();
        let build = top.path().join("build");
        fs_err::create_dir_all(build.join("results")).unwrap();
        let files = BuildFiles::new(&build);
        let results = Path::new("results");
        assert_eq!(files.runs(results), Ok(Vec::new()), "no file, no run");
        let path = build.join("results/testresults.json");
        fs_err::write(&path, "{}").unwrap();
        assert_eq!(files.runs(results), Ok(Vec::new()));
        for (content, wanted) in
            [(&b"{"[..], "it is not JSON"), (b"\xff{}", "it is not UTF-8"), (b"[]", "not a table")]
        {
            fs_err::write(&path, content).unwrap();
            let error = files.runs(results).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
        fs_err::remove_file(&path).unwrap();
        fs_err::write(top.path().join("outside"), "{}").unwrap();
        for target in ["../../outside", "/etc/passwd", "gone", "."] {
            symlink(target, &path).unwrap();
            assert!(files.runs(results).is_err(), "{target}");
            fs_err::remove_file(&path).unwrap();
        }
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(files.runs(results).is_err());
        fs_err::remove_file(&path).unwrap();
        fs_err::File::create(&path).unwrap().set_len(RESULTS_LIMIT + 1).unwrap();
        assert!(files.runs(results).unwrap_err().contains("larger"));
    }

    #[test]
    fn manifests_are_found_through_the_links_of_the_deploy_directory() {
        let build = tempfile::tempdir().unwrap();
        let deploy = build.path().join("tmp/deploy");
        fs_err::create_dir_all(&deploy).unwrap();
        fs_err::write(deploy.join("img-20260101.manifest"), "zlib-ptest core2-64 1\n").unwrap();
        symlink("img-20260101.manifest", deploy.join("img.manifest")).unwrap();
        let files = BuildFiles::new(build.path());
        assert_eq!(files.text(&deploy.join("img.manifest")).unwrap(), "zlib-ptest core2-64 1\n");
        assert_eq!(files.text(Path::new("/etc/passwd")), None);
        assert_eq!(files.text(&deploy.join("gone")), None);
    }

    #[test]
    fn consoles_are_those_of_qemu() {
        let build = tempfile::tempdir().unwrap();
        let logs = build.path().join("logs");
        fs_err::create_dir_all(&logs).unwrap();
        fs_err::write(logs.join("qemu_boot_log.1"), "first").unwrap();
        fs_err::write(logs.join("qemu_boot_log.2"), "second").unwrap();
        fs_err::write(logs.join("other"), "x").unwrap();
        symlink("/etc/passwd", logs.join("qemu_boot_log")).unwrap();
        let files = BuildFiles::new(build.path());
        assert_eq!(files.consoles(&logs), "first\nsecond");
        assert_eq!(files.size(&logs), 12);
        assert_eq!((files.consoles(Path::new("/etc")), files.size(Path::new("/gone"))), (String::new(), 0));
    }
}
