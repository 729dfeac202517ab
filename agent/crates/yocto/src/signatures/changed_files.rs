//! The files of a change, and which of them BitBake can see.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// A file that differs between base and head.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChangedFile {
    /// Relative to the top of the checkout; of a removed file its old path.
    pub path: PathBuf,
    pub change: FileChange,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileChange {
    Added,
    Changed,
    Removed,
    /// From this path.
    Renamed(PathBuf),
}

/// Directories in which BitBake may read every file.
const OF_METADATA: [&str; 8] =
    ["classes", "classes-global", "classes-recipe", "conf", "files", "lib", "scripts", "dynamic-layers"];

/// Top directories of services.
const OF_SERVICES: [&str; 4] = [".github", ".gitlab", ".circleci", ".ci"];

/// Files of documentation, of services and of the agent itself.
const NAMES: [&str; 16] = [
    ".editorconfig",
    ".gitattributes",
    ".gitignore",
    ".gitlab-ci.yml",
    ".mailmap",
    ".pre-commit-config.yaml",
    "AUTHORS",
    "CHANGELOG",
    "CODEOWNERS",
    "CODE_OF_CONDUCT",
    "CONTRIBUTING",
    "MAINTAINERS",
    "README",
    "SECURITY",
    "build-agent.lock",
    "build-agent.toml",
];

const TEXTS: [&str; 4] = ["adoc", "md", "rst", "txt"];

/// Whether BitBake may read the file at this path of a layer's repository: all but documentation and the files of
/// services and of the agent. BitBake also reads a file that metadata mentions: the caller checks that.
pub fn seen_by_bitbake(path: &Path) -> bool {
    let mut above: Vec<&OsStr> = path.iter().collect();
    let Some(name) = above.pop().and_then(OsStr::to_str) else { return true };
    let above: Vec<String> = above.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if above.first().is_some_and(|top| OF_SERVICES.contains(&top.as_str())) {
        return false;
    }
    let is_metadata = |part: &String| part.starts_with("recipes") || OF_METADATA.contains(&part.as_str());
    if above.iter().any(is_metadata) {
        return true;
    }
    let is_text = path.extension().and_then(OsStr::to_str).is_some_and(|kind| TEXTS.contains(&kind));
    !is_text && !NAMES.contains(&name)
}

/// The least share of common lines by which a recipe counts as renamed, in percent, like git's default.
const SIMILAR: usize = 50;

/// Makes one renamed recipe of a removed and an added one with similar text. `text_of`: of a removed file at the base,
/// of an added one at the head.
pub fn with_renames(
    changes: Vec<ChangedFile>,
    text_of: impl Fn(&ChangedFile) -> Option<String>,
) -> Vec<ChangedFile> {
    let is_recipe = |file: &ChangedFile| file.path.extension() == Some(OsStr::new("bb"));
    let of = |change: FileChange| {
        let wanted = changes.iter().filter(move |file| is_recipe(file) && file.change == change);
        wanted.filter_map(|file| Some((file.path.clone(), text_of(file)?))).collect::<Vec<_>>()
    };
    let (mut removed, added) = (of(FileChange::Removed), of(FileChange::Added));
    let mut renamed: HashMap<PathBuf, PathBuf> = HashMap::new();
    for (new, text) in &added {
        let best = removed.iter().enumerate().map(|(index, (_, old))| (similarity(old, text), index)).max();
        if let Some((_, index)) = best.filter(|(share, _)| *share >= SIMILAR) {
            renamed.insert(new.clone(), removed.remove(index).0);
        }
    }
    let gone: Vec<PathBuf> = renamed.values().cloned().collect();
    let mut all: Vec<ChangedFile> = changes
        .into_iter()
        .filter(|file| file.change != FileChange::Removed || !gone.contains(&file.path))
        .map(|file| match renamed.remove(&file.path) {
            Some(from) => ChangedFile { change: FileChange::Renamed(from), ..file },
            None => file,
        })
        .collect();
    all.sort();
    all
}

/// Common lines in percent of the longer text's.
fn similarity(one: &str, other: &str) -> usize {
    let mut lines: HashMap<&str, usize> = HashMap::new();
    for line in one.lines() {
        *lines.entry(line).or_default() += 1;
    }
    let mut common = 0;
    for line in other.lines() {
        if let Some(left) = lines.get_mut(line).filter(|left| **left > 0) {
            *left -= 1;
            common += 1;
        }
    }
    common * 100 / one.lines().count().max(other.lines().count()).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_documentation_and_files_of_services_are_not_seen() {
        for (path, seen) in [
            ("README.md", false),
            ("meta-x/README", false),
            ("docs/guide.rst", false),
            ("MAINTAINERS", false),
            (".github/workflows/ci.yml", false),
            ("build-agent.toml", false),
            ("build-agent.lock", false),
            ("meta-x/docs/a.txt", false),
            ("LICENSE", true),
            ("recipes-x/y/files/README.md", true),
            ("recipes-x/y/README.md", true),
            ("meta-x/conf/notes.txt", true),
            ("meta-x/lib/oeqa/README", true),
            ("dynamic-layers/z/recipes-q/a.txt", true),
            ("meta-x/docs/a.inc", true),
            ("x/.github/a.yml", true),
            ("recipes-x/y/y.bb", true),
            ("SECURITY.bb", true),
        ] {
            assert_eq!(seen_by_bitbake(Path::new(path)), seen, "{path}");
        }
    }

    #[test]
    fn a_recipe_with_another_name_and_nearly_the_same_text_is_renamed() {
        let file = |path: &str, change| ChangedFile { path: path.into(), change };
        let texts = [
            ("a/old_1.bb", "A\nB\nC\nD\n"),
            ("a/new_1.bb", "A\nB\nC\nE\n"),
            ("a/other.bb", "X\nY\n"),
            ("a/old.patch", "A\n"),
            ("a/new.patch", "A\n"),
        ];
        let text_of = |file: &ChangedFile| {
            let found = texts.iter().find(|(path, _)| file.path == Path::new(path));
            found.map(|(_, text)| (*text).to_owned())
        };
        let changes = vec![
            file("a/old_1.bb", FileChange::Removed),
            file("a/new_1.bb", FileChange::Added),
            file("a/other.bb", FileChange::Added),
            file("a/old.patch", FileChange::Removed),
            file("a/new.patch", FileChange::Added),
        ];
        let wanted = [
            file("a/new.patch", FileChange::Added),
            file("a/new_1.bb", FileChange::Renamed("a/old_1.bb".into())),
            file("a/old.patch", FileChange::Removed),
            file("a/other.bb", FileChange::Added),
        ];
        assert_eq!(with_renames(changes, text_of), wanted);
    }
}
