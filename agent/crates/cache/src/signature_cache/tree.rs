//! What a directory tree holds, as far as BitBake can see it: names, kinds, owners, permission bits,
//! contents, targets of links. Byte code of Python is skipped, because the runs themselves write it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::digest::Digest;
use super::listing::{Listing, Tree};
use super::stat_cache::StatCache;
use super::tracked::Tracked;
use super::{CacheResult, NotCacheable, git_state};
use agent_fs::read;

/// A tree with more is no layer but somebody's home.
const MOST_ENTRIES: usize = 400_000;
/// Bytes of a file whose digest is made: a sparse one of any size takes no space on a disk.
const LARGEST: u64 = 1 << 30;

/// What must be known to read a tree.
pub struct Surroundings<'a> {
    /// Directories that are not looked into where they lie below the tree: the agent's own.
    pub skip: &'a [PathBuf],
    /// All trees that are read. A link may lead from one to another, and nowhere else.
    pub trees: &'a [PathBuf],
}

/// Reads the tree at `root`, which is canonical.
///
/// # Errors
/// When something cannot be read, changes meanwhile, or leads to files that no key covers.
pub fn read(root: &Path, around: &Surroundings, cache: &StatCache) -> CacheResult<Tree> {
    let mut listing = Listing::default();
    let mut tracked = Tracked::default();
    let mut repositories = Vec::new();
    let local = read::is_local(root);
    let skip = |path: &Path| around.skip.iter().any(|skipped| skipped == path && skipped != root);
    let entries = WalkDir::new(root).into_iter().filter_entry(|entry| {
        entry.file_name() != ".git" && !is_byte_code(entry.path()) && !skip(entry.path())
    });
    for (count, entry) in entries.enumerate() {
        let entry = entry.map_err(|error| NotCacheable(format!("cannot read the tree: {error}")))?;
        if count > MOST_ENTRIES {
            return Err(NotCacheable(format!("{} has more than {MOST_ENTRIES} files", root.display())));
        }
        let path = entry.path();
        let relative = path.strip_prefix(root).unwrap_or(path);
        let metadata =
            entry.metadata().map_err(|error| NotCacheable(format!("cannot read the tree: {error}")))?;
        if metadata.is_dir() {
            listing.add(relative, 'd', &metadata, "-");
            if path.join(".git").symlink_metadata().is_ok() {
                repositories.push(path.to_owned());
            }
        } else if metadata.is_symlink() {
            let target = fs::read_link(path)?;
            stays_inside(path, &target, around.trees)?;
            listing.add(relative, 'l', &metadata, Digest::of(target.as_os_str().as_bytes()).as_str());
        } else if metadata.is_file() {
            if metadata.len() > LARGEST {
                let message = format!("{} is larger than {} GiB", path.display(), LARGEST >> 30);
                return Err(NotCacheable(message));
            }
            let content = cache.content(path, relative, Some(&metadata).filter(|_| local))?;
            if let Some(line) = content.reaches_out {
                return Err(NotCacheable(format!("a line of {} reaches outside: {line}", name_of(root))));
            }
            listing.add(relative, 'f', &metadata, content.digest.as_str());
            tracked.add(relative, &metadata, content.asks_git);
        } else {
            listing.add(relative, 's', &metadata, "-");
        }
    }
    for directory in repositories {
        git_state::add(&mut listing, root, &directory)?;
    }
    Ok(Tree { listing, tracked })
}

/// `__pycache__` and `*.pyc`: Python itself checks them against their sources.
fn is_byte_code(path: &Path) -> bool {
    path.file_name() == Some(OsStr::new("__pycache__")) || path.extension() == Some(OsStr::new("pyc"))
}

/// A link that leads to something outside of all trees makes BitBake read what no key covers. One that
/// leads to nothing is fine: when something appears there, it is found then.
fn stays_inside(link: &Path, target: &Path, trees: &[PathBuf]) -> CacheResult<()> {
    match fs::canonicalize(link) {
        Ok(real) if trees.iter().any(|tree| real.starts_with(tree)) => Ok(()),
        Ok(real) if real == Path::new("/dev/null") => Ok(()),
        Ok(_) => {
            let (link, target) = (link.display(), target.display());
            Err(NotCacheable(format!("the link {link} leads outside of the layers, to {target}")))
        }
        Err(_) => Ok(()),
    }
}

fn name_of(root: &Path) -> String {
    root.file_name().map_or_else(|| "/".into(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use tempfile::TempDir;

    use super::*;

    struct Tree(TempDir);

    impl Tree {
        fn new() -> Tree {
            let tree = Tree(tempfile::tempdir().unwrap());
            fs::create_dir_all(tree.at("conf/empty")).unwrap();
            fs::create_dir_all(tree.at(".git/refs/tags")).unwrap();
            fs::write(tree.at("conf/layer.conf"), "A = \"1\"\n").unwrap();
            fs::write(tree.at("run"), "#!/bin/sh\n").unwrap();
            fs::write(tree.at(".git/HEAD"), "ref: refs/heads/main\n").unwrap();
            symlink("run", tree.at("link")).unwrap();
            tree
        }

        fn root(&self) -> PathBuf {
            self.0.path().canonicalize().unwrap()
        }

        fn at(&self, path: &str) -> PathBuf {
            self.root().join(path)
        }

        fn read(&self) -> CacheResult<Listing> {
            let trees = [self.root()];
            let skip = [self.at("out")];
            let around = Surroundings { skip: &skip, trees: &trees };
            read(&self.root(), &around, &StatCache::default()).map(|tree| tree.listing)
        }
    }

    type Change = fn(&Tree);

    /// Each change on a tree of its own, and the entries that it changes.
    #[test]
    fn every_change_is_seen_and_named() {
        let table: [(&str, Change, &[&str]); 16] = [
            ("content", |t| fs::write(t.at("conf/layer.conf"), "A = \"2\"\n").unwrap(), &["conf/layer.conf"]),
            ("new file", |t| fs::write(t.at("conf/new"), "").unwrap(), &["conf/new"]),
            ("deleted file", |t| fs::remove_file(t.at("run")).unwrap(), &["run"]),
            ("renamed", |t| fs::rename(t.at("run"), t.at("walk")).unwrap(), &["run", "walk"]),
            ("empty directory", |t| fs::create_dir(t.at("conf/more")).unwrap(), &["conf/more"]),
            ("no directory", |t| fs::remove_dir(t.at("conf/empty")).unwrap(), &["conf/empty"]),
            (
                "executable",
                |t| fs::set_permissions(t.at("run"), PermissionsExt::from_mode(0o755)).unwrap(),
                &["run"],
            ),
            (
                "closed directory",
                |t| fs::set_permissions(t.at("conf"), PermissionsExt::from_mode(0o700)).unwrap(),
                &["conf"],
            ),
            ("new link", |t| symlink("run", t.at("other")).unwrap(), &["other"]),
            (
                "other target",
                |t| {
                    fs::remove_file(t.at("link")).unwrap();
                    symlink("conf", t.at("link")).unwrap();
                },
                &["link"],
            ),
            (
                "file in place of a link",
                |t| {
                    fs::remove_file(t.at("link")).unwrap();
                    fs::write(t.at("link"), "run").unwrap();
                },
                &["link"],
            ),
            ("odd name", |t| fs::write(t.at("a\nb"), "").unwrap(), &["a\\nb"]),
            ("branch", |t| fs::write(t.at(".git/HEAD"), "ref: refs/heads/x\n").unwrap(), &[".git/HEAD"]),
            ("tag", |t| fs::write(t.at(".git/refs/tags/v1"), "1\n").unwrap(), &[".git/refs/tags/v1"]),
            ("git's own business", |t| fs::write(t.at(".git/index"), "x").unwrap(), &[]),
            (
                "byte code and the agent's own",
                |t| {
                    for directory in ["__pycache__", "out"] {
                        fs::create_dir(t.at(directory)).unwrap();
                        fs::write(t.at(directory).join("x.pyc"), "x").unwrap();
                    }
                    fs::write(t.at("x.pyc"), "x").unwrap();
                },
                &[],
            ),
        ];
        for (name, change, wanted) in table {
            let tree = Tree::new();
            fs::set_permissions(tree.at("run"), PermissionsExt::from_mode(0o644)).unwrap();
            let before = tree.read().unwrap();
            assert_eq!(before, tree.read().unwrap(), "{name}");
            change(&tree);
            let after = tree.read().unwrap();
            assert_eq!(after.differing(&before), wanted, "{name}");
            assert_eq!(after.digest() == before.digest(), wanted.is_empty(), "{name}");
            assert_eq!(Listing::parse(&after.text()).unwrap(), after, "{name}");
        }
    }

    #[test]
    fn the_same_tree_elsewhere_is_the_same() {
        let (one, other) = (Tree::new(), Tree::new());
        assert_eq!(one.read().unwrap().digest(), other.read().unwrap().digest());
    }

    #[test]
    fn what_leads_outside_is_refused() {
        let table: [(&str, Change); 4] = [
            ("absolute link", |t| symlink("/etc/passwd", t.at("passwd")).unwrap()),
            ("upward link", |t| symlink("../..", t.at("up")).unwrap()),
            ("line", |t| fs::write(t.at("conf/a.inc"), "require /etc/x\n").unwrap()),
            ("external source", |t| fs::write(t.at("a.bbappend"), "EXTERNALSRC = \"x\"\n").unwrap()),
        ];
        for (name, change) in table {
            let tree = Tree::new();
            change(&tree);
            assert!(tree.read().is_err(), "{name}");
        }
        let tree = Tree::new();
        symlink("/dev/null", tree.at("null")).unwrap();
        symlink("nothing", tree.at("dangling")).unwrap();
        symlink(tree.at("conf"), tree.at("inside")).unwrap();
        tree.read().unwrap();
    }
}
