//! The files that may change although a parse cache is used.
//!
//! BitBake looks at the time of each file that a recipe was made of (`cacheValidUpdate` in bb/cache.py),
//! at the list of its appends, and whether the local files of its SRC_URI still are where they were. It does
//! not look at Python, at what a recipe reads by itself while it is parsed, or at the configuration's
//! files, of which it only knows a hash of the values. So just these are left to BitBake: recipes, their
//! appends, includes and patches, and what nobody reads while parsing. Everything else must be the same.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Below them lies code, wherever they lie themselves.
const CODE: [&str; 9] =
    ["bitbake", "classes", "classes-global", "classes-recipe", "conf", "files", "lib", "licenses", "scripts"];

/// What BitBake writes down the stat data of, for each recipe that is made of it.
const COMPARED: [&str; 5] = ["bb", "bbappend", "bbclass", "conf", "inc"];

/// What recipes are made of.
const METADATA: [&str; 3] = ["bb", "bbappend", "inc"];

/// What a recipe hands on without a look at it. BitBake computes its checksums each time.
const PAYLOAD: [&str; 9] = ["patch", "diff", "service", "socket", "timer", "sh", "c", "h", "cpp"];

/// What is for people.
const TEXT: [&str; 2] = ["md", "rst"];

/// What BitBake compares; dunfell, langdale and mickledore only the seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub seconds: i64,
    pub nanoseconds: i64,
    pub size: u64,
    pub inode: u64,
}

/// What else than its listing is known of a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tracked {
    /// By the paths of the listing: what may change although a parse cache is used, and what else BitBake compares.
    pub stamps: BTreeMap<String, Stamp>,
    /// Whether its metadata may ask for the state of its repository.
    pub asks_git: bool,
}

impl Tracked {
    /// Adds a regular file by its path in the tree.
    pub fn add(&mut self, path: &Path, metadata: &Metadata, asks_git: bool) {
        self.asks_git |= asks_git;
        let path = path.as_os_str().as_bytes().escape_ascii().to_string();
        if is_tracked(&path) || COMPARED.contains(&extension(&path)) {
            let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
            let stamp = Stamp { seconds, nanoseconds, size: metadata.size(), inode: metadata.ino() };
            self.stamps.insert(path, stamp);
        }
    }

    /// Whether an entry of the tree's listing may be another, or missing.
    pub fn leaves_out(&self, entry: &str, path: &str) -> bool {
        match entry.as_bytes().first() {
            Some(b'f') => is_tracked(path),
            Some(b'd') => holds_recipes(path),
            // Values of git.
            Some(b'v') => !self.asks_git,
            _ => false,
        }
    }
}

/// Whether a regular file is left to BitBake.
fn is_tracked(path: &str) -> bool {
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
    let extension = extension(name);
    let is = |list: &[&str]| list.contains(&extension);
    is(&TEXT)
        || path.starts_with(".github/")
        || (holds_recipes(directory) && (is(&METADATA) || is(&PAYLOAD) || name == "run-ptest"))
        || (extension == "bbclass" && directory.rsplit('/').next() == Some("classes-recipe"))
}

fn extension(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(_, extension)| extension)
}

/// Whether the directory is one for recipes, or lies in one.
fn holds_recipes(directory: &str) -> bool {
    let steps = directory.split('/').take_while(|step| !CODE.contains(step));
    steps.into_iter().any(|step| step.starts_with("recipes"))
}

pub fn is_recipe(path: &str) -> bool {
    extension(path) == "bb"
}

/// Whether others may name the file by its absolute path: then BitBake does not see that it is new.
pub fn is_included(path: &str) -> bool {
    matches!(extension(path), "inc" | "bbclass")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn only_what_bitbake_looks_at_or_nobody_reads_may_change() {
        let tracked = [
            "recipes-x/y/y_1.0.bb",
            "meta/recipes-x/y/y_%.bbappend",
            "meta-x/dynamic-layers/z/recipes-x/y/y.inc",
            "recipes/y/files/a.patch",
            "meta/recipes-x/y/y/run-ptest",
            "meta/classes-recipe/y.bbclass",
            "README.md",
            ".github/workflows/x.yml",
        ];
        let not = [
            "recipes-x/y/y.py",
            "recipes-x/y/y.json",
            "recipes-x/y/y",
            "y_1.0.bb",
            "meta/lib/recipes-x/y.inc",
            "conf/recipes-x/y.inc",
            "conf/layer.conf",
            "recipes-x/y/y.conf",
            "meta/classes/y.bbclass",
            "meta/classes-global/y.bbclass",
            "recipes-x/y/y.bbclass",
            "conf/distro/include/y.inc",
            "lib/y/z.py",
            "files/passwd",
            "x/.github/x.yml",
            "LICENSE",
        ];
        for (paths, wanted) in [(&tracked[..], true), (&not, false)] {
            for path in paths {
                assert_eq!(Tracked::default().leaves_out("f 0644 0:0 x", path), wanted, "{path}");
                assert!(!Tracked::default().leaves_out("l 0000 0:0 x", path), "{path}");
                assert!(!Tracked::default().leaves_out("s 0644 0:0 -", path), "{path}");
            }
        }
        assert!(Tracked::default().leaves_out("d 0755 0:0 -", "meta/recipes-x/new"));
        assert!(!Tracked::default().leaves_out("d 0755 0:0 -", "meta/lib"));
        assert!(Tracked::default().leaves_out("v - - x", ".git/HEAD"));
        let asks = Tracked { asks_git: true, ..Tracked::default() };
        assert!(!asks.leaves_out("v - - x", ".git/HEAD"));
    }
}
