//! The locks of definitions: which pins count, and what `build-agent lock` writes into the lock of another tool.

use std::fmt::Write;
use std::path::PathBuf;

use serde_json::json;

use super::super::problem::Place;
use super::super::render;
use super::super::settings::{GitSource, Repo, RepoSource, Wanted};
use super::super::tree::{Node, Value};
use super::{Fetched, build};

/// The first format of kas with `overrides.repos.ID.commit`.
const KAS_VERSION: i64 = 14;

/// The tool that reads a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockFormat {
    /// kas: `kas.lock.yml` for `kas.yml`.
    Kas,
    /// bitbake-setup: `sources-fixed-revisions.json`.
    Setup,
}

/// A lock file.
#[derive(Clone, Debug, PartialEq)]
pub struct LockFile {
    pub format: LockFormat,
    pub path: PathBuf,
    /// Its name in messages.
    pub shown: String,
    /// Whether it lies in a repository that the definition includes files of: it is not written.
    pub is_external: bool,
    /// As it was read; an empty one, if the file does not exist.
    pub tree: Node,
}

/// A repository whose commit no file names, besides the locks that are being replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Float {
    /// In the definition.
    pub key: String,
    /// In the manifest.
    pub name: String,
    pub source: GitSource,
    /// The commit of which files were included.
    pub commit: Option<String>,
}

/// The locks of a definition.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Locks {
    /// The first one gets new pins.
    pub files: Vec<LockFile>,
    pub floats: Vec<Float>,
}

/// The texts of changed locks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockUpdate {
    pub files: Vec<(PathBuf, String)>,
    /// The pins that cannot be replaced: key, file.
    pub external: Vec<(String, String)>,
}

/// Whether the pin of this repository is being replaced. `updates`: `None`: none is; empty: all are.
pub fn is_replaced(updates: Option<&[String]>, key: &str) -> bool {
    updates.is_some_and(|keys| keys.is_empty() || keys.iter().any(|other| other == key))
}

/// The repositories with a branch or a tag and no commit. `keys`: the names in the manifest, by the keys of the definition.
pub fn floats(keys: &[(String, String)], repos: &[Repo], fetched: &Fetched) -> Vec<Float> {
    let float = |(key, name): &(String, String)| match &repos.iter().find(|repo| repo.name == *name)?.source {
        RepoSource::Git(source) if matches!(source.wanted, Wanted::Branch(_) | Wanted::Tag(_)) => {
            let included = fetched.get(key).filter(|found| found.source == RepoSource::Git(source.clone()));
            let commit = included.and_then(|found| found.commit.clone());
            Some(Float { key: key.clone(), name: name.clone(), source: source.clone(), commit })
        }
        _ => None,
    };
    keys.iter().filter_map(float).collect()
}

impl LockFormat {
    /// Where the pins are.
    fn table(self) -> &'static [&'static str] {
        match self {
            LockFormat::Kas => &["overrides", "repos"],
            LockFormat::Setup => &["sources"],
        }
    }

    /// Where the commit of a pin is.
    fn commit(self) -> &'static [&'static str] {
        match self {
            LockFormat::Kas => &["commit"],
            LockFormat::Setup => &["git-remote", "rev"],
        }
    }
}

fn at<'t>(tree: &'t Node, path: &[&str]) -> Option<&'t Node> {
    path.iter().try_fold(tree, |node, key| node.child(key))
}

/// Sets a value, with the tables around it.
fn set(tree: &mut Node, path: &[&str], value: Node) {
    let Some((key, inner)) = path.split_first() else {
        *tree = value;
        return;
    };
    if !tree.child(key).is_some_and(|node| matches!(node.value, Value::Table(_))) && !inner.is_empty() {
        tree.insert(key, Node::table(value.place.clone()));
    }
    match tree.child_mut(key) {
        Some(node) => set(node, inner, value),
        None => tree.insert(key, value),
    }
}

impl LockFile {
    /// A lock that does not exist yet.
    pub fn new(format: LockFormat, path: PathBuf, shown: String) -> LockFile {
        let place = Place::File { file: shown.as_str().into(), line: 1, column: 1 };
        LockFile { format, path, shown, is_external: false, tree: Node::table(place) }
    }

    pub fn commit(&self, key: &str) -> Option<&str> {
        let pin = at(&self.tree, self.format.table())?.child(key)?;
        at(pin, self.format.commit())?.as_text()
    }

    fn pin(&mut self, key: &str, commit: &str) {
        let place = self.tree.place.clone();
        let old = at(&self.tree, &["header", "version"]).map(|version| &version.value);
        if self.format == LockFormat::Kas && !matches!(old, Some(Value::Integer(KAS_VERSION..))) {
            set(&mut self.tree, &["header", "version"], build::integer(KAS_VERSION, &place));
        }
        let path = [self.format.table(), &[key], self.format.commit()].concat();
        set(&mut self.tree, &path, build::text(commit, &place));
    }

    fn text(&self) -> String {
        match self.format {
            LockFormat::Setup => format!("{:#}\n", render::json(&self.tree)),
            LockFormat::Kas if self.path.extension().is_some_and(|end| end == "json") => {
                format!("{:#}\n", render::json(&self.tree))
            }
            LockFormat::Kas => {
                let mut text = String::new();
                yaml(&self.tree, 0, &mut text);
                text
            }
        }
    }
}

impl Locks {
    /// The commit that the lock files name now, also where it is being replaced.
    pub fn pinned(&self, key: &str) -> Option<&str> {
        // The last one counts, as when they are read.
        self.files.iter().rev().find_map(|file| file.commit(key))
    }

    /// The keys of all repositories that have a pin or could get one.
    pub fn keys(&self) -> Vec<&str> {
        let pins = self.files.iter().filter_map(|file| at(&file.tree, file.format.table()));
        let pinned = pins.flat_map(Node::entries).map(|pin| pin.key.as_str());
        self.floats.iter().map(|float| float.key.as_str()).chain(pinned).collect()
    }

    /// The files with these commits, by key: each lock that pins the repository gets the new commit, as in kas. A pin that
    /// is new goes into the lock of the first file.
    pub fn updated(&self, commits: &[(&str, &str)]) -> LockUpdate {
        let mut written = LockUpdate::default();
        let mut files = self.files.clone();
        let mut changed = vec![false; files.len()];
        for (key, commit) in commits {
            let mut is_known = false;
            for (file, changed) in files.iter_mut().zip(&mut changed) {
                let Some(old) = file.commit(key) else { continue };
                is_known = true;
                if old.eq_ignore_ascii_case(commit) {
                    continue;
                }
                if file.is_external {
                    written.external.push(((*key).to_owned(), file.shown.clone()));
                    continue;
                }
                file.pin(key, commit);
                *changed = true;
            }
            if let (false, Some((first, changed))) = (is_known, files.first_mut().zip(changed.first_mut())) {
                first.pin(key, commit);
                *changed = true;
            }
        }
        let changed = files.iter().zip(changed).filter(|(_, changed)| *changed);
        written.files = changed.map(|(file, _)| (file.path.clone(), file.text())).collect();
        written
    }
}

/// Tables as blocks, everything else as JSON, which YAML contains.
fn yaml(node: &Node, indent: usize, text: &mut String) {
    for entry in node.entries() {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let is_plain =
            entry.key.starts_with(|c: char| c.is_ascii_lowercase()) && entry.key.chars().all(is_word);
        let is_plain =
            is_plain && !["y", "n", "yes", "no", "on", "off", "true", "false", "null"].contains(&&*entry.key);
        let key = if is_plain { entry.key.clone() } else { json!(entry.key).to_string() };
        // Writing into a String cannot fail.
        let _ = match entry.node.entries().is_empty() {
            true => writeln!(text, "{:indent$}{key}: {}", "", render::json(&entry.node)),
            false => writeln!(text, "{:indent$}{key}:", ""),
        };
        yaml(&entry.node, indent + 2, text);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::super::super::problem::Problems;
    use super::super::yaml::{Syntax, parse};
    use super::*;

    fn file(name: &str, text: &str, is_external: bool) -> LockFile {
        let mut problems = Problems::default();
        let tree = parse(name, text.as_bytes(), Syntax::Yaml, &mut problems, &mut Vec::new()).unwrap();
        let format = if name.starts_with("sources") { LockFormat::Setup } else { LockFormat::Kas };
        LockFile { tree, is_external, ..LockFile::new(format, name.into(), name.to_owned()) }
    }

    #[test]
    fn pins_go_where_they_are_and_new_ones_into_the_first_lock() {
        let top = LockFile::new(LockFormat::Kas, "kas.lock.yml".into(), "kas.lock.yml".into());
        let inner =
            "header:\n  version: 9\noverrides:\n  repos:\n    a:\n      commit: '1'\n      branch: x\n";
        let outer = "header: {version: 14}\noverrides: {repos: {b: {commit: '2'}}}";
        let files = vec![top, file("b.lock.yml", inner, false), file("r:c.lock.yml", outer, true)];
        let locks = Locks { files, floats: Vec::new() };
        assert_eq!((locks.pinned("a"), locks.pinned("c")), (Some("1"), None));
        let written = locks.updated(&[("a", "3"), ("b", "4"), ("no", "5")]);
        assert_eq!(written.external, [("b".to_owned(), "r:c.lock.yml".to_owned())]);
        assert_eq!(written.files.len(), 2);
        assert_eq!(
            written.files[0].1,
            "header:\n  version: 14\noverrides:\n  repos:\n    \"no\":\n      commit: \"5\"\n"
        );
        assert_eq!(
            written.files[1].1,
            "header:\n  version: 14\noverrides:\n  repos:\n    a:\n      commit: \"3\"\n      branch: \"x\"\n"
        );
        assert_eq!(locks.updated(&[("a", "1"), ("b", "2")]), LockUpdate::default());
    }

    #[test]
    fn the_lock_of_bitbake_setup_is_json() {
        let old = "{sources: {a: {path: p, git-remote: {rev: '1', branch: x}}}}";
        let locks =
            Locks { files: vec![file("sources-fixed-revisions.json", old, false)], floats: Vec::new() };
        let written = locks.updated(&[("a", "2"), ("b", "3")]);
        let wanted = serde_json::json!({ "sources": {
            "a": { "path": "p", "git-remote": { "rev": "2", "branch": "x" } },
            "b": { "git-remote": { "rev": "3" } },
        } });
        let text: serde_json::Value = serde_json::from_str(&written.files[0].1).unwrap();
        assert_eq!(text, wanted);
    }

    #[test]
    fn updates_name_the_pins_that_are_replaced() {
        for (updates, replaced) in [
            (None, false),
            (Some(&[][..]), true),
            (Some(&["a".to_owned()][..]), true),
            (Some(&["b".to_owned()][..]), false),
        ] {
            assert_eq!(is_replaced(updates, "a"), replaced, "{updates:?}");
        }
    }
}
