//! Selects the files and links of a tree that the rules match.
//!
//! Links to directories are recorded but not followed, so a loop is only a link. A link to a file of the tree
//! also selects that file, even if no rule matches its name: in the deploy directory, an image has such a link,
//! and the name of its target contains a date. An `exclude` of the same rule still excludes the file.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::rules::Rule;
use agent_fs::dir::{Identity, Kind, is_absent};
use agent_fs::names::text;
use agent_fs::tree::{LinkTarget, Tree};
use agent_objects::key::LONGEST_KEY;

/// What the rules selected from a tree.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// By path.
    pub files: BTreeMap<PathBuf, Identity>,
    /// By path.
    pub links: BTreeMap<PathBuf, Link>,
    /// Entries that could not be read; each fails the publication.
    pub problems: Vec<Problem>,
    /// Sockets, fifos and devices that rules match.
    pub special: Vec<PathBuf>,
    /// Rules that select no file, and required ones that select only files of zero bytes.
    pub unmatched: Vec<Unmatched>,
}

/// A symbolic link that a rule matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The text of the link.
    pub text: OsString,
    pub target: LinkTarget,
}

/// A path of the tree that cannot be published, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub path: PathBuf,
    pub message: String,
}

impl Problem {
    pub fn new(path: &Path, message: impl ToString) -> Problem {
        Problem { path: path.to_owned(), message: message.to_string() }
    }
}

/// A rule that selects no file, or only empty ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmatched {
    pub include: String,
    pub required: bool,
    /// What exists instead; follows the words "the artifact rule".
    pub help: String,
}

/// Walks the tree, but enters only directories that rules can match in.
pub fn collect(tree: &Tree, rules: &[Rule]) -> Collected {
    let mut found = Collected::default();
    let mut selected = vec![Selected::default(); rules.len()];
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        let entries = match tree.list(&directory) {
            Ok(entries) => entries,
            Err(error) => {
                found.problems.push(Problem::new(&directory, format!("cannot read the directory: {error}")));
                continue;
            }
        };
        for (name, kind) in entries {
            let path = directory.join(name);
            if kind == Kind::Directory {
                if rules.iter().any(|rule| rule.enters(&path)) {
                    match path.as_os_str().len() <= LONGEST_KEY {
                        true => directories.push(path),
                        // No key can be longer. The limit also ends the walk of a hostile tree.
                        false => found.problems.push(Problem::new(&path, "the path is too long for a key")),
                    }
                }
                continue;
            }
            let matching: Vec<usize> = (0..rules.len()).filter(|n| rules[*n].matches(&path)).collect();
            if matching.is_empty() {
                continue;
            }
            match add_entry(tree, &path, kind, &mut found, |target| {
                matching.iter().any(|n| !rules[*n].excludes(target))
            }) {
                Ok(None) => {}
                Ok(Some(Content::Some)) => matching.iter().for_each(|n| selected[*n].files += 1),
                Ok(Some(Content::Empty)) => {
                    matching.iter().for_each(|n| selected[*n].empty.push(path.clone()));
                }
                Err(error) => found.problems.push(Problem::new(&path, error)),
            }
        }
    }
    for (rule, selected) in rules.iter().zip(selected).filter(|(_, selected)| selected.files == 0) {
        // Empty files are published, but do not satisfy a required rule.
        if !selected.empty.is_empty() && !rule.required {
            continue;
        }
        let help = match selected.empty.is_empty() {
            true => format!("matches no file: {}", describe_existing(tree, rule)),
            false => format!("matches only files of zero bytes: {}", some(&selected.empty)),
        };
        found.unmatched.push(Unmatched { include: rule.include.clone(), required: rule.required, help });
    }
    found
}

/// What one rule selected.
#[derive(Clone, Debug, Default)]
struct Selected {
    /// Number of files that are not empty.
    files: usize,
    empty: Vec<PathBuf>,
}

/// Whether a file is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Some,
    Empty,
}

/// Lists the first few paths.
fn some(paths: &[PathBuf]) -> String {
    const SHOWN: usize = 5;
    let names: Vec<String> = paths.iter().take(SHOWN).map(|path| format!("`{}`", shown(path))).collect();
    let more = paths.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    names.join(", ") + &more
}

/// Records one matching entry. Returns whether the selected file is empty, or `None` if there is no file.
fn add_entry(
    tree: &Tree,
    path: &Path,
    kind: Kind,
    found: &mut Collected,
    wants: impl Fn(&Path) -> bool,
) -> std::io::Result<Option<Content>> {
    match kind {
        Kind::File => add_file(tree, path, found),
        Kind::Link => {
            let text = tree.link(path)?;
            let target = tree.follow(path, &text)?;
            let file = match &target {
                LinkTarget::File(file) if wants(file) => Some(file.clone()),
                _ => None,
            };
            found.links.insert(path.to_owned(), Link { text, target });
            match file {
                Some(file) => add_file(tree, &file, found),
                None => Ok(None),
            }
        }
        Kind::Special => {
            found.special.push(path.to_owned());
            Ok(None)
        }
        Kind::Directory => Ok(None),
    }
}

fn add_file(tree: &Tree, path: &Path, found: &mut Collected) -> std::io::Result<Option<Content>> {
    let meta = tree.metadata(path)?;
    if meta.kind() != Kind::File {
        return Err(std::io::Error::other("it is no longer a regular file"));
    }
    found.files.insert(path.to_owned(), meta.identity());
    Ok(Some(if meta.size == 0 { Content::Empty } else { Content::Some }))
}

/// Describes the closest existing directory of a rule that selects nothing.
fn describe_existing(tree: &Tree, rule: &Rule) -> String {
    let mut directory = PathBuf::new();
    let mut wanted = PathBuf::from(&rule.include);
    wanted = wanted.components().filter(|part| *part != std::path::Component::CurDir).collect();
    for part in wanted.components() {
        let next = directory.join(part);
        match tree.metadata(&next).map(|meta| meta.kind()) {
            Ok(Kind::Directory) => directory = next,
            Ok(Kind::Link) => {
                return format!("`{}` is a link; links to directories are not followed", shown(&next));
            }
            Ok(_) => break,
            Err(error) if is_absent(&error) => break,
            Err(error) => return format!("`{}` cannot be read: {error}", shown(&next)),
        }
    }
    if directory == wanted {
        return format!("it is a directory; write `{}/**` for all files in it", shown(&directory));
    }
    let place = match directory.as_os_str().is_empty() {
        true => "the published directory".to_owned(),
        false => format!("`{}`", shown(&directory)),
    };
    let names = match tree.list(&directory) {
        Ok(names) => names,
        Err(error) => return format!("{place} cannot be read: {error}"),
    };
    const SHOWN: usize = 8;
    let more = names.len().saturating_sub(SHOWN);
    let mut list: Vec<String> = names
        .iter()
        .take(SHOWN)
        .map(|(name, kind)| text(name).0 + if *kind == Kind::Directory { "/" } else { "" })
        .collect();
    if more > 0 {
        list.push(format!("and {more} more"));
    }
    match list.is_empty() {
        true => format!("{place} is empty"),
        false => format!("{place} contains {}", list.join(", ")),
    }
}

fn shown(path: &Path) -> String {
    text(path.as_os_str()).0
}

#[cfg(test)]
#[allow(clippy::print_stdout)] // prints SKIPPED
#[path = "collect_tests.rs"]
mod tests;
