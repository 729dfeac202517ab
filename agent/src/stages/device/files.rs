//! The files that a device needs, from the build directory. Layer code writes there: no link is followed out of it, and
//! each file is opened once, so that what is read is what was looked at.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use agent_devices::request::FileRole;
use agent_fs::dir::Kind;
use agent_fs::tree::{LinkTarget, Tree};
use agent_types::error::{Error, Result};

use crate::config::DeviceTests;

/// Names that a message shows.
const SHOWN: usize = 8;

/// A file of the request.
#[derive(Debug)]
pub struct DeviceFile {
    pub role: FileRole,
    /// Its shortest name in the deploy directory.
    pub name: String,
    /// Opened once: what is read is what was looked at.
    pub file: File,
}

/// Finds and opens the files; the inner error is the reason why there are none.
pub fn find(build: &Path, device: &DeviceTests) -> Result<std::result::Result<Vec<DeviceFile>, String>> {
    let tree = Tree::open(build)?;
    let Some(deploy) = deploy_directory(&tree, &device.machine)? else {
        return Ok(Err(format!(
            "{} has no */deploy/images/{}: nothing was built for this machine",
            build.display(),
            device.machine
        )));
    };
    let found = select(&tree, &deploy, &globs(&device.files)?)?;
    if found.chosen.is_empty() {
        let others: Vec<&str> = found.others.iter().map(String::as_str).take(SHOWN).collect();
        return Ok(Err(format!(
            "no file in {} matches {}; it has {}",
            deploy.display(),
            device.files.join(", "),
            if others.is_empty() { "no files".to_owned() } else { others.join(", ") },
        )));
    }
    let mut files = Vec::new();
    for (path, name) in found.chosen {
        files.push(DeviceFile { role: FileRole::Image, name, file: open(&tree, &path)? });
    }
    if device.needs_export() {
        let name = device.export();
        let file = open(&tree, Path::new(&name))?;
        files.push(DeviceFile { role: FileRole::TestExport, name, file });
    }
    Ok(Ok(files))
}

/// The deploy directory of the machine. `TMPDIR` is not always `tmp`: distros without a name have `tmp-glibc`.
fn deploy_directory(tree: &Tree, machine: &str) -> Result<Option<PathBuf>> {
    for (name, kind) in tree.list(Path::new("")).map_err(unreadable)? {
        let deploy = Path::new(&name).join("deploy/images").join(machine);
        if kind == Kind::Directory
            && tree.metadata(&deploy).is_ok_and(|found| found.kind() == Kind::Directory)
        {
            return Ok(Some(deploy));
        }
    }
    Ok(None)
}

/// What the globs match.
struct Selection {
    /// From the path of a file to its shortest name.
    chosen: BTreeMap<PathBuf, String>,
    others: Vec<String>,
}

fn select(tree: &Tree, deploy: &Path, globs: &GlobSet) -> Result<Selection> {
    let mut found = Selection { chosen: BTreeMap::new(), others: Vec::new() };
    for (name, kind) in tree.list(deploy).map_err(unreadable)? {
        // A name that is not text cannot be in a request.
        let Ok(name) = name.into_string() else { continue };
        let path = deploy.join(&name);
        let target = match kind {
            Kind::File => path,
            Kind::Link => {
                let text = tree.link(&path).map_err(unreadable)?;
                match tree.follow(&path, &text).map_err(unreadable)? {
                    LinkTarget::File(target) => target,
                    _ => continue,
                }
            }
            _ => continue,
        };
        if !globs.is_match(&name) {
            found.others.push(name);
            continue;
        }
        let known = found.chosen.entry(target).or_insert_with(|| name.clone());
        if (name.len(), &name) < (known.len(), known) {
            *known = name;
        }
    }
    Ok(found)
}

/// The globs of `[device] files`.
pub fn globs(patterns: &[String]) -> Result<GlobSet> {
    let bad = |error: globset::Error| Error::usage("[device] files has an invalid glob").because(&error);
    let mut all = GlobSetBuilder::new();
    for pattern in patterns {
        all.add(GlobBuilder::new(pattern).literal_separator(true).build().map_err(bad)?);
    }
    all.build().map_err(bad)
}

fn open(tree: &Tree, path: &Path) -> Result<File> {
    let seen = tree.metadata(path).map_err(unreadable)?.identity();
    Ok(tree.open_file(path, seen).map_err(unreadable)?.0)
}

fn unreadable(error: std::io::Error) -> Error {
    Error::machine("cannot read the files for the device from the build directory").because(&error)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_shortest_name_of_each_file_is_chosen_and_no_link_leads_out() {
        let build = tempfile::tempdir().unwrap();
        let deploy = build.path().join("tmp-glibc/deploy/images/m");
        fs_err::create_dir_all(&deploy).unwrap();
        for name in ["img-m-20260101.wic", "bzImage--6.6-m.bin", "img-m.manifest", "other.wic"] {
            fs_err::write(deploy.join(name), name).unwrap();
        }
        symlink("img-m-20260101.wic", deploy.join("img-m.wic")).unwrap();
        symlink("bzImage--6.6-m.bin", deploy.join("bzImage")).unwrap();
        symlink("bzImage--6.6-m.bin", deploy.join("bzImage-m.bin")).unwrap();
        symlink("/etc/passwd", deploy.join("img-m.ext4")).unwrap();
        symlink("gone", deploy.join("img-m.wic.gz")).unwrap();
        fs_err::create_dir(deploy.join("img-m.wic.xz")).unwrap();
        let tree = Tree::open(build.path()).unwrap();
        let found = deploy_directory(&tree, "m").unwrap().unwrap();
        assert_eq!(found, Path::new("tmp-glibc/deploy/images/m"));
        assert_eq!(deploy_directory(&tree, "other").unwrap(), None);
        let selected =
            select(&tree, &found, &globs(&["img-m*".to_owned(), "bzImage*".to_owned()]).unwrap()).unwrap();
        let names: Vec<&str> = selected.chosen.values().map(String::as_str).collect();
        assert_eq!(names, ["bzImage", "img-m.wic", "img-m.manifest"]);
        assert_eq!(selected.others, ["other.wic"]);
        // What is read is what was opened.
        let path = selected.chosen.keys().next().unwrap();
        let mut file = open(&tree, path).unwrap();
        fs_err::rename(deploy.join("other.wic"), build.path().join(path)).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "bzImage--6.6-m.bin");
    }
}
