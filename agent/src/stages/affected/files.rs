//! Compares the files of the base with those of the head.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use agent_fs::read;
use agent_types::error::{Error, Result};
use agent_yocto::signatures::{ChangedFile, FileChange, with_renames};

/// A larger file counts as changed.
const LARGEST: u64 = 256 << 20;
/// No recipe and no manifest is larger.
const LARGEST_TEXT: u64 = 4 << 20;
/// A larger tree is not a layer, but for example a home directory.
const MOST_FILES: usize = 400_000;

/// The kind of a path in a tree.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    File { runs: bool, size: u64 },
    Link,
    Other,
}

/// The files that differ between two trees, without the state of git. `skip`: directories below the second one.
///
/// # Errors
/// When one of them cannot be read.
pub fn changed(before: &Path, after: &Path, skip: &[PathBuf]) -> Result<Vec<ChangedFile>> {
    let (old, new) = (tree(before, &[])?, tree(after, skip)?);
    let paths: BTreeSet<&PathBuf> = old.keys().chain(new.keys()).collect();
    let mut changes = Vec::new();
    for path in paths {
        let change = match (old.get(path), new.get(path)) {
            (Some(_), None) => FileChange::Removed,
            (None, Some(_)) => FileChange::Added,
            (Some(one), Some(other)) if differ(&before.join(path), *one, &after.join(path), *other) => {
                FileChange::Changed
            }
            _ => continue,
        };
        changes.push(ChangedFile { path: path.clone(), change });
    }
    let text_of = |file: &ChangedFile| {
        let tree = if file.change == FileChange::Removed { before } else { after };
        let bytes = read::whole(&tree.join(&file.path), LARGEST_TEXT).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    Ok(with_renames(changes, text_of))
}

/// Files and links by their paths in the tree.
fn tree(root: &Path, skip: &[PathBuf]) -> Result<BTreeMap<PathBuf, Kind>> {
    let mut found = BTreeMap::new();
    let entries = WalkDir::new(root).into_iter().filter_entry(|entry| {
        let is_skipped = skip.iter().any(|skipped| skipped == entry.path());
        entry.depth() == 0 || (entry.file_name() != ".git" && !is_skipped && !is_byte_code(entry.path()))
    });
    for entry in entries {
        let unreadable = |error: walkdir::Error| {
            Error::machine(format!("cannot read the files of {}", root.display())).because(&error)
        };
        let entry = entry.map_err(unreadable)?;
        let metadata = entry.metadata().map_err(unreadable)?;
        let kind = if metadata.is_dir() {
            continue;
        } else if metadata.is_file() {
            Kind::File { runs: read::mode(&metadata) & 0o100 != 0, size: metadata.len() }
        } else if metadata.is_symlink() {
            Kind::Link
        } else {
            Kind::Other
        };
        found.insert(entry.path().strip_prefix(root).unwrap_or(entry.path()).to_owned(), kind);
        if found.len() > MOST_FILES {
            return Err(Error::usage(format!("{} has more than {MOST_FILES} files", root.display())));
        }
    }
    Ok(found)
}

fn is_byte_code(path: &Path) -> bool {
    path.file_name() == Some(OsStr::new("__pycache__")) || path.extension() == Some(OsStr::new("pyc"))
}

fn differ(before: &Path, one: Kind, after: &Path, other: Kind) -> bool {
    match (one, other) {
        (Kind::Link, Kind::Link) => fs_err::read_link(before).ok() != fs_err::read_link(after).ok(),
        (Kind::File { .. }, Kind::File { .. }) if one == other => {
            match (read::whole(before, LARGEST), read::whole(after, LARGEST)) {
                (Ok(one), Ok(other)) => one != other,
                _ => true,
            }
        }
        _ => one != other,
    }
}

/// The recipes in these directories.
pub fn recipes(layers: &[PathBuf], skip: &[PathBuf]) -> Vec<PathBuf> {
    let trees = layers.iter().filter_map(|layer| Some((layer, tree(layer, skip).ok()?)));
    let files = trees.flat_map(|(layer, tree)| tree.into_keys().map(move |path| layer.join(path)));
    files.filter(|file| file.extension() == Some(OsStr::new("bb"))).collect()
}

/// The keys of a manifest that affect signatures.
const SIGNATURE_KEYS: [&str; 4] = ["release", "repos", "layer", "config"];

/// The keys that affect signatures and differ between two manifests: `repos and config`.
pub fn changed_keys(before: &Path, after: &Path) -> Option<String> {
    let read = |path: &Path| -> Option<toml::Table> {
        let bytes = read::whole(path, LARGEST_TEXT).ok()?;
        String::from_utf8(bytes).ok()?.parse().ok()
    };
    let (Some(before), Some(after)) = (read(before), read(after)) else {
        return Some("everything".to_owned());
    };
    let differing: Vec<&str> =
        SIGNATURE_KEYS.into_iter().filter(|key| before.get(*key) != after.get(*key)).collect();
    (!differing.is_empty()).then(|| differing.join(" and "))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn write(path: &Path, text: &str) {
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, text).unwrap();
    }

    #[test]
    fn files_are_compared_by_content_kind_and_execute_permission() {
        let place = tempfile::tempdir().unwrap();
        let (old, new) = (place.path().join("old"), place.path().join("new"));
        let recipe = "SUMMARY = \"x\"\nLICENSE = \"MIT\"\n";
        for (path, before, after) in [
            ("same", Some("1"), Some("1")),
            ("changed", Some("1"), Some("2")),
            ("gone", Some("1"), None),
            ("added/deep", None, Some("1")),
            ("runs", Some("1"), Some("1")),
            ("a/old_1.bb", Some(recipe), None),
            ("a/new_1.bb", None, Some(recipe)),
            (".git/HEAD", Some("1"), Some("2")),
            ("x/__pycache__/y.pyc", None, Some("1")),
            ("out/result.json", None, Some("1")),
        ] {
            for (root, text) in [(&old, before), (&new, after)] {
                if let Some(text) = text {
                    write(&root.join(path), text);
                }
            }
        }
        fs_err::set_permissions(new.join("runs"), PermissionsExt::from_mode(0o755)).unwrap();
        symlink("same", old.join("link")).unwrap();
        symlink("changed", new.join("link")).unwrap();
        let found = changed(&old, &new, &[new.join("out")]).unwrap();
        let told: Vec<(String, FileChange)> =
            found.into_iter().map(|file| (file.path.display().to_string(), file.change)).collect();
        let wanted = [
            ("a/new_1.bb", FileChange::Renamed("a/old_1.bb".into())),
            ("added/deep", FileChange::Added),
            ("changed", FileChange::Changed),
            ("gone", FileChange::Removed),
            ("link", FileChange::Changed),
            ("runs", FileChange::Changed),
        ];
        assert_eq!(told, wanted.map(|(path, change)| (path.to_owned(), change)));
    }

    #[test]
    fn only_keys_that_affect_signatures_count() {
        let place = tempfile::tempdir().unwrap();
        let (old, new) = (place.path().join("old"), place.path().join("new"));
        write(&old, "name = 'x'\n[config]\nmachines = ['a']\n[repos.poky]\nbranch = 'x'\n");
        for (text, wanted) in [
            (
                "name = 'y'\n[config]\nmachines = [\"a\"]\n[repos.poky]\nbranch = 'x'\n[build]\ntargets = ['t']",
                None,
            ),
            ("[config]\nmachines = ['b']\n[repos.poky]\nbranch = 'x'\n", Some("config")),
            ("[config]\nmachines = ['b']\n[repos.poky]\nbranch = 'y'\n", Some("repos and config")),
            ("[", Some("everything")),
        ] {
            write(&new, text);
            assert_eq!(changed_keys(&old, &new).as_deref(), wanted, "{text}");
        }
    }
}
