//! Which of the inputs of a query can have a part in the signatures of tasks: without owners and times, without what is
//! for people alone, and without the state of a repository whose metadata does not ask for it. So the base of a change is
//! found by another checkout of the same commit.

use std::path::Path;

use agent_yocto::signatures::seen_by_bitbake;

use super::hermeticity::{is_metadata, is_python};
use super::key::Inputs;
use super::listing::Listing;
use super::tracked::Tracked;
use super::{CacheResult, admission};
use agent_fs::read;

/// No metadata is larger.
const LONGEST: u64 = 4 << 20;

/// Words by which metadata names a file of its own layer. A name alone (`file://README.md`) is one of the source.
const OWN_PLACES: [&str; 6] = ["LAYERDIR", "THISDIR", "FILE_DIRNAME", "COREBASE", "_BASE}", "TOPDIR"];

/// The inputs that can decide signatures. `own`: the top of the work tree under test as BitBake sees it, and where it
/// lies.
///
/// # Errors
/// When its metadata cannot be read.
pub fn seen(inputs: &Inputs, own: (&Path, &Path)) -> CacheResult<Inputs> {
    let mut seen = inputs.clone();
    let own_part = admission::part_of_tree(own.0);
    for (name, listing) in inputs.listings() {
        let nothing = Tracked::default();
        let tracked = inputs.tracked().get(name).unwrap_or(&nothing);
        let mut hidden = Vec::new();
        if *name == own_part {
            hidden = listing
                .entries()
                .map(|(path, _)| path)
                .filter(|path| !seen_by_bitbake(Path::new(path)))
                .collect();
            let mentioned = mentioned(listing, own.1, &hidden)?;
            hidden.retain(|path| !mentioned.contains(&file_name(path)));
        }
        let kept = listing.entries().filter(|(path, _)| !hidden.contains(path));
        let kept = kept.filter_map(|(path, entry)| Some((path.to_owned(), reduced(entry, tracked)?)));
        seen.replace_tree(name, Listing::from_entries(kept));
    }
    Ok(seen)
}

/// An entry of a listing without what git does not know of a file; `None` for a directory, and for values of git that
/// nobody asks for.
fn reduced(entry: &str, tracked: &Tracked) -> Option<String> {
    let mut words = entry.split(' ');
    let (kind, mode, _owner, digest) = (words.next()?, words.next()?, words.next()?, words.next()?);
    match kind {
        "d" => None,
        "v" => tracked.asks_git.then(|| entry.to_owned()),
        _ => {
            let runs = u32::from_str_radix(mode, 8).is_ok_and(|mode| mode & 0o100 != 0);
            Some(format!("{kind} {} - {digest}", if runs { "0755" } else { "0644" }))
        }
    }
}

fn file_name(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).to_owned()
}

/// The names of those of these files that the metadata of the tree mentions.
fn mentioned(listing: &Listing, directory: &Path, files: &[&str]) -> CacheResult<Vec<String>> {
    let mut names: Vec<String> = files.iter().map(|path| file_name(path)).collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return Ok(names);
    }
    let mut mentioned = Vec::new();
    let is_text = |path: &Path| is_metadata(path) || is_python(path);
    for (path, entry) in listing.entries() {
        if !entry.starts_with('f') || !is_text(Path::new(path)) {
            continue;
        }
        let text = read::whole(&directory.join(path), LONGEST)?;
        let text = String::from_utf8_lossy(&text);
        for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
            if OWN_PLACES.iter().any(|place| line.contains(place)) {
                mentioned.extend(names.iter().filter(|name| line.contains(name.as_str())).cloned());
            }
        }
    }
    Ok(mentioned)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::stat_cache::StatCache;
    use super::super::tree::{self, Surroundings};
    use super::*;

    fn key(top: &Path) -> String {
        let top = top.canonicalize().unwrap();
        let around = Surroundings { skip: &[], trees: std::slice::from_ref(&top) };
        let tree = tree::read(&top, &around, &StatCache::default()).unwrap();
        let mut inputs = Inputs::default();
        inputs.add_tree(admission::part_of_tree(Path::new("/seen")), tree);
        seen(&inputs, (Path::new("/seen"), &top)).unwrap().key().as_str().to_owned()
    }

    #[test]
    fn only_what_bitbake_can_see_is_part_of_the_key() {
        use std::os::unix::fs::PermissionsExt;
        let top = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = top.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write(".git/HEAD", "ref: refs/heads/main\n");
        std::fs::create_dir(top.path().join(".git/refs")).unwrap();
        write("recipes/a/a.bb", "LIC_FILES_CHKSUM = \"file://README.md\"\n# ${LAYERDIR}/docs/a.md\n");
        write("recipes/a/files/a.sh", "x");
        write("README.md", "1");
        let mut before = key(top.path());
        let mode = |path: &str, mode: u32| {
            std::fs::set_permissions(top.path().join(path), PermissionsExt::from_mode(mode)).unwrap();
        };
        let table: [(&str, &dyn Fn(), bool); 9] = [
            ("a text for people", &|| write("README.md", "2"), false),
            ("a new one", &|| write("docs/a.md", "1"), false),
            ("an empty directory", &|| std::fs::create_dir(top.path().join("recipes/b")).unwrap(), false),
            ("another branch", &|| write(".git/HEAD", "0123456789012345678901234567890123456789\n"), false),
            ("rights", &|| mode("recipes/a/a.bb", 0o664), false),
            ("the right to run it", &|| mode("recipes/a/files/a.sh", 0o755), true),
            ("a recipe", &|| write("recipes/a/a.bb", "X = \"${LAYERDIR}/docs/a.md\"\n"), true),
            ("a text that it mentions", &|| write("docs/a.md", "2"), true),
            ("a license", &|| write("LICENSE", "1"), true),
        ];
        for (name, change, counts) in table {
            change();
            let after = key(top.path());
            assert_eq!(after != before, counts, "{name}");
            before = after;
        }
        // Metadata that asks for it.
        write("recipes/a/a.bb", "X := \"${@os.popen('git describe --tags').read()}\"\n");
        let before = key(top.path());
        write(".git/HEAD", "ref: refs/heads/other\n");
        assert_ne!(key(top.path()), before);
    }
}
