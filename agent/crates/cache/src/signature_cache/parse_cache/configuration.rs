//! What must be the same for a parse cache to be of use: the inputs of a query, less the words of the
//! call and the files that BitBake looks at itself.

use std::fmt::Write;

use super::super::digest::Digest;
use super::super::key::{Inputs, Key, Parts, key_of};
use super::super::listing::Listing;
use super::super::tracked::Tracked;

/// Raised when entries of the same configuration must not be used any more.
const FORMAT: &[u8] = b"parse caches 3";

/// Inputs that no recipe can see. The handler of signatures is in BitBake's own hash of the
/// configuration, and the list of variables that it lets in is not, but their values are.
const NOT_SEEN: [&str; 4] = [
    "the words of the call",
    "umask and streams",
    "environment BB_SIGNATURE_HANDLER",
    "environment BB_ENV_PASSTHROUGH_ADDITIONS",
];

/// The parts and the key that they make.
pub fn of(inputs: &Inputs) -> (Parts, Key) {
    let mut parts = Parts::new();
    for (name, digest) in inputs.parts() {
        let digest = match (inputs.listings().get(name), inputs.tracked().get(name)) {
            (Some(listing), Some(tracked)) => rest_of(listing, tracked),
            _ => digest.clone(),
        };
        if !NOT_SEEN.contains(&name.as_str()) {
            parts.insert(name.clone(), digest);
        }
    }
    parts.insert("format of parse caches".into(), Digest::of(FORMAT));
    let key = key_of(&parts);
    (parts, key)
}

/// Stands for all of a tree that must be the same.
fn rest_of(listing: &Listing, tracked: &Tracked) -> Digest {
    let rest = listing.entries().filter(|(path, entry)| !tracked.leaves_out(entry, path));
    let text = rest.fold(String::new(), |mut text, (path, entry)| {
        let _ = writeln!(text, "{entry} {path}");
        text
    });
    Digest::of(text.as_bytes())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::super::listing::Tree;
    use super::*;

    const PARTS: [&str; 8] = [
        "build directory",
        "build user",
        "conf/local.conf",
        "environment INHERIT",
        "environment PATH",
        "format of the store",
        "programs in /usr/bin",
        "the list of layers",
    ];

    const FILES: [&str; 7] = [
        "conf/layer.conf",
        "classes/a.bbclass",
        "lib/a.py",
        "recipes-x/y/y_1.0.bb",
        "recipes-x/y/y.inc",
        "recipes-x/y/y/a.patch",
        "recipes-x/y/y/table.json",
    ];

    /// All inputs with the same value, but for one.
    fn key(asks_git: bool, other: &str) -> Key {
        let value = |name: &str| if name == other { "2" } else { "1" };
        let mut inputs = Inputs::default();
        for name in PARTS.iter().chain(&NOT_SEEN) {
            inputs.add(*name, value(name).as_bytes());
        }
        let mut text: String =
            FILES.iter().map(|path| format!("f 0644 0:0 {} {path}\n", value(path))).collect();
        text +=
            &format!("v - - {} .git/HEAD\nl 0000 0:0 {} recipes-x/y/z_1.0.bb\n", value("git"), value("link"));
        if other == "new recipe" {
            text += "d 0755 0:0 - recipes-x/z\nf 0644 0:0 1 recipes-x/z/z_1.0.bb\n";
        }
        let listing = Listing::parse(&text).unwrap();
        let tracked = Tracked { asks_git, ..Tracked::default() };
        inputs.add_tree("files of /l", Tree { listing, tracked });
        of(&inputs).1
    }

    #[test]
    fn any_changed_input_that_bitbake_does_not_look_at_changes_the_key() {
        let before = key(false, "");
        for name in PARTS.iter().chain(&FILES[..3]).chain(&["link", "recipes-x/y/y/table.json"]) {
            assert_ne!(key(false, name), before, "{name}");
        }
        for name in NOT_SEEN.iter().chain(&FILES[3..6]).chain(&["git", "new recipe"]) {
            assert_eq!(key(false, name), before, "{name}");
        }
        assert_ne!(key(true, "git"), key(true, ""));
    }
}
