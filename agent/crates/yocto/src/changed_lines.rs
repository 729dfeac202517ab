//! What a change touches: compares the files of its base with those of its head, line by line.
//!
//! Two directories are compared, and no history: the checkout of a change is mostly shallow. A file that was moved is
//! compared with what it was before, so that an upgrade of a recipe (`a_1.0.bb` becomes `a_1.1.bb`) touches the lines
//! that differ.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use similar::{Algorithm, DiffTag};
use walkdir::WalkDir;

use agent_fs::untrusted;

/// Time limit for one file. After it, all lines after the common beginning count as changed.
const LIMIT: Duration = Duration::from_secs(2);

/// Minimum share of common lines by which a new file counts as a moved and edited one.
const SIMILAR: f32 = 0.5;

/// The lines of a file that a change touches. They count from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Lines {
    All,
    Some(Vec<Range<u32>>),
}

/// What a change touches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// Relative to the checkout. `None`: the base is not known, so that everything counts.
    files: Option<BTreeMap<PathBuf, Lines>>,
    /// Files that only the base has. A moved file is none of them.
    removed: BTreeSet<PathBuf>,
}

impl Changes {
    /// For a change without a known base.
    pub fn everything() -> Changes {
        Changes { files: None, removed: BTreeSet::new() }
    }

    /// Compares the files below these directories, which are relative to both roots and hold layers. Blocks.
    pub fn between(base: &Path, head: &Path, directories: &[PathBuf]) -> Changes {
        let [old, new] = [base, head].map(|root| files(root, directories));
        let mut gone: BTreeSet<&PathBuf> = old.difference(&new).collect();
        let mut changed = BTreeMap::new();
        for file in &new {
            let Some(now) = content(head, file) else {
                changed.insert(file.clone(), Lines::All);
                continue;
            };
            let before = match old.contains(file) {
                true => content(base, file),
                false => origin(base, file, &now, &gone).map(|(origin, text)| {
                    gone.remove(origin);
                    text
                }),
            };
            match before {
                None => drop(changed.insert(file.clone(), Lines::All)),
                Some(before) if before == now && old.contains(file) => {}
                Some(before) => drop(changed.insert(file.clone(), Lines::Some(differing(&before, &now)))),
            }
        }
        let removed = gone.into_iter().cloned().collect();
        Changes { files: Some(changed), removed }
    }

    /// Whether the base is known.
    pub fn is_known(&self) -> bool {
        self.files.is_some()
    }

    /// Whether the change touches the file: edits, adds or moves it.
    pub fn touches(&self, file: &Path) -> bool {
        self.files.as_ref().is_none_or(|files| files.contains_key(file))
    }

    /// The files that the change edits, adds, moves or removes; `None`: the base is not known.
    pub fn touched(&self) -> Option<impl Iterator<Item = &Path>> {
        let files = self.files.as_ref()?;
        Some(files.keys().chain(&self.removed).map(PathBuf::as_path))
    }

    /// Whether the change touches the line.
    pub fn touches_line(&self, file: &Path, line: u32) -> bool {
        let Some(files) = &self.files else { return true };
        match files.get(file) {
            None => false,
            Some(Lines::All) => true,
            Some(Lines::Some(ranges)) => ranges.iter().any(|range| range.contains(&line)),
        }
    }
}

/// The agent's output directory in a checkout.
const OUTPUT: &str = "build-agent-out";

/// Whether a directory holds no files of the layer: a repository of its own (as kas makes them), or a build directory.
fn is_foreign(entry: &walkdir::DirEntry) -> bool {
    let has = |name: &str| entry.path().join(name).exists();
    let inner = entry.depth() > 0 && entry.file_type().is_dir();
    entry.file_name() == ".git"
        || (inner && (entry.file_name() == OUTPUT || has(".git") || has("conf/bblayers.conf")))
}

/// The files below these directories, relative to the root: also links to files, but nothing through links to
/// directories, and nothing of other repositories and of build directories.
pub fn files(root: &Path, directories: &[PathBuf]) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for directory in directories {
        let walk = WalkDir::new(root.join(directory)).into_iter().filter_entry(|entry| !is_foreign(entry));
        let paths = walk.filter_map(Result::ok).map(walkdir::DirEntry::into_path);
        let regular = paths.filter(|path| path.metadata().is_ok_and(|metadata| metadata.is_file()));
        found.extend(regular.filter_map(|path| path.strip_prefix(root).ok().map(Path::to_owned)));
    }
    found
}

fn content(root: &Path, file: &Path) -> Option<Vec<u8>> {
    untrusted::read_named(&root.join(file), untrusted::SOURCE).ok()
}

/// The removed file that became the new one.
fn origin<'a>(
    base: &Path,
    file: &Path,
    now: &[u8],
    gone: &BTreeSet<&'a PathBuf>,
) -> Option<(&'a PathBuf, Vec<u8>)> {
    let candidates = gone.iter().filter(|old| old.extension() == file.extension());
    let with_text = candidates.filter_map(|old| Some((*old, content(base, old)?)));
    let mut best: Option<(f32, &PathBuf, Vec<u8>)> = None;
    for (old, text) in with_text {
        let similarity = if text == now && old.file_name() == file.file_name() {
            1.0
        } else if old.parent() == file.parent() && stem(old) == stem(file) {
            similarity(&text, now)
        } else {
            continue;
        };
        if similarity >= SIMILAR && best.as_ref().is_none_or(|(known, ..)| *known < similarity) {
            best = Some((similarity, old, text));
        }
    }
    best.map(|(_, old, text)| (old, text))
}

/// The recipe's name: `a` of `a_1.0.bb`.
fn stem(file: &Path) -> Option<&str> {
    let name = file.file_stem()?.to_str()?;
    Some(name.split_once('_').map_or(name, |(stem, _)| stem))
}

fn lines(text: &[u8]) -> Vec<&[u8]> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    if text.is_empty() { Vec::new() } else { text.split(|byte| *byte == b'\n').collect() }
}

fn similarity(old: &[u8], new: &[u8]) -> f32 {
    let [old, new] = [old, new].map(lines);
    let ops = similar::capture_diff_slices_deadline(Algorithm::Myers, &old, &new, deadline());
    similar::diff_ratio(&ops, old.len(), new.len())
}

fn deadline() -> Option<Instant> {
    Instant::now().checked_add(LIMIT)
}

/// The lines of the new text that the old one does not have there.
fn differing(old: &[u8], new: &[u8]) -> Vec<Range<u32>> {
    let [old, new] = [old, new].map(lines);
    let ops = similar::capture_diff_slices_deadline(Algorithm::Myers, &old, &new, deadline());
    let number = |index: usize| u32::try_from(index).map_or(u32::MAX, |index| index.saturating_add(1));
    ops.iter()
        .filter(|op| matches!(op.tag(), DiffTag::Insert | DiffTag::Replace))
        .map(|op| number(op.new_range().start)..number(op.new_range().end))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Trees(tempfile::TempDir);

    impl Trees {
        fn new(base: &[(&str, &str)], head: &[(&str, &str)]) -> Trees {
            let trees = Trees(tempfile::tempdir().unwrap());
            for (root, files) in [(trees.base(), base), (trees.head(), head)] {
                fs_err::create_dir_all(&root).unwrap();
                for (name, text) in files {
                    fs_err::create_dir_all(root.join(name).parent().unwrap()).unwrap();
                    fs_err::write(root.join(name), text).unwrap();
                }
            }
            trees
        }

        fn base(&self) -> PathBuf {
            self.0.path().join("base")
        }

        fn head(&self) -> PathBuf {
            self.0.path().join("head")
        }

        fn changes(&self, directories: &[&str]) -> Changes {
            let directories: Vec<PathBuf> = directories.iter().map(PathBuf::from).collect();
            Changes::between(&self.base(), &self.head(), &directories)
        }
    }

    /// The touched ones of the lines 1 to 6.
    fn touched(changes: &Changes, file: &str) -> Vec<u32> {
        (1..=6).filter(|line| changes.touches_line(Path::new(file), *line)).collect()
    }

    #[test]
    fn only_lines_that_differ_are_touched() {
        for (old, new, wanted) in [
            ("a\nb\nc\n", "a\nb\nc\n", vec![]),
            ("a\nb\nc\n", "a\nX\nc\n", vec![2]),
            ("a\nb\nc\n", "a\nb\nX\nY\nc\n", vec![3, 4]),
            ("a\nb\nc\n", "a\nc\n", vec![]),
            ("a\nb", "a\nb\n", vec![]),
            ("", "a\n", vec![1]),
            ("a\n", "", vec![]),
            ("a\nb\nc\nd\n", "X\nb\nc\nY\n", vec![1, 4]),
            ("a\r\nb\r\n", "a\nb\r\n", vec![1]),
        ] {
            let trees = Trees::new(&[("x.bb", old)], &[("x.bb", new)]);
            let changes = trees.changes(&[""]);
            assert_eq!(touched(&changes, "x.bb"), wanted, "{old:?} {new:?}");
            assert_eq!(changes.touches(Path::new("x.bb")), old != new, "{old:?} {new:?}");
        }
    }

    #[test]
    fn a_new_file_is_touched_as_a_whole_and_a_moved_one_where_it_differs() {
        let text = "SUMMARY = \"a\"\nLICENSE = \"MIT\"\nPV = \"1\"\nX = \"1\"\n";
        let upgraded = text.replace("PV = \"1\"", "PV = \"2\"");
        let trees = Trees::new(
            &[
                ("r/a/a_1.0.bb", text),
                ("r/b/b_1.0.bb", text),
                ("r/c/c_1.0.bb", text),
                ("r/old/m.patch", "p\nq\n"),
            ],
            &[
                ("r/a/a_1.1.bb", &upgraded),
                ("r/b/b_1.0.bb", text),
                ("r/b/b_2.0.bb", text),
                ("r/c/c_2.0.bb", "other\ntext\nhere\n"),
                ("r/new/m.patch", "p\nq\n"),
            ],
        );
        let changes = trees.changes(&["r"]);
        for (file, lines) in [
            ("r/a/a_1.1.bb", vec![3]),
            ("r/b/b_1.0.bb", vec![]),
            // The old one is still there.
            ("r/b/b_2.0.bb", vec![1, 2, 3, 4, 5, 6]),
            ("r/c/c_2.0.bb", vec![1, 2, 3, 4, 5, 6]),
            ("r/new/m.patch", vec![]),
            ("r/gone", vec![]),
        ] {
            assert_eq!(touched(&changes, file), lines, "{file}");
        }
        assert!(changes.touches(Path::new("r/new/m.patch")), "it was moved");
        let removed: Vec<&Path> = changes.removed.iter().map(PathBuf::as_path).collect();
        assert_eq!(removed, [Path::new("r/c/c_1.0.bb")]);
        assert_eq!(changes.touched().map(Iterator::count), Some(5), "a, b_2.0, c, m.patch and the removed c");
    }

    #[test]
    fn only_the_layers_count_and_no_repository() {
        let trees = Trees::new(
            &[("meta-a/x.bb", "1"), ("meta-b/x.bb", "1")],
            &[
                ("meta-a/x.bb", "2"),
                ("meta-b/x.bb", "2"),
                ("meta-a/.git/config", "x"),
                ("meta-a/poky/.git", "gitdir: x"),
                ("meta-a/poky/meta/z.bb", "x"),
                ("meta-a/build/conf/bblayers.conf", "x"),
                ("meta-a/build/tmp/z.patch", "x"),
                ("meta-a/build-agent-out/z.bb", "x"),
            ],
        );
        symlink("/", trees.head().join("meta-a/out")).unwrap();
        symlink("x.bb", trees.head().join("meta-a/y.bb")).unwrap();
        let changes = trees.changes(&["meta-a"]);
        let files: Vec<&Path> = changes.files.as_ref().unwrap().keys().map(PathBuf::as_path).collect();
        assert_eq!(files, [Path::new("meta-a/x.bb"), Path::new("meta-a/y.bb")]);
    }

    #[test]
    fn without_a_base_everything_is_touched() {
        let changes = Changes::everything();
        assert!(!changes.is_known() && changes.touches(Path::new("x")) && changes.touched().is_none());
        assert_eq!(touched(&changes, "x"), [1, 2, 3, 4, 5, 6]);
    }
}
