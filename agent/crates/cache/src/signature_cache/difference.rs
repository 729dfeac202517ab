//! Why a stored answer could not be used: which inputs are not the same, by name.

use std::collections::BTreeMap;

use super::key::{Inputs, Parts};
use super::listing::Listing;

/// So many names are told; the rest is counted.
const NAMES: usize = 5;

/// How far two queries are from each other: different parts, then different files.
pub fn distance(now: &Inputs, then: &Parts) -> usize {
    differing(now.parts(), then).len()
}

/// The parts that differ, in words.
pub fn in_words(now: &Inputs, then: &Parts, listings: &BTreeMap<String, Listing>) -> String {
    let parts = differing(now.parts(), then);
    let mut words: Vec<String> = parts
        .iter()
        .take(NAMES)
        .map(|part| {
            let (Some(mine), Some(theirs)) = (now.listings().get(*part), listings.get(*part)) else {
                let how = match (now.parts().contains_key(*part), then.contains_key(*part)) {
                    (true, false) => "is new",
                    (false, true) => "is gone",
                    _ => "changed",
                };
                return format!("{part} {how}");
            };
            let files = mine.differing(theirs);
            let named = files.iter().take(NAMES).copied().collect::<Vec<_>>().join(", ");
            format!("{part} changed: {named}{}", more(files.len()))
        })
        .collect();
    if parts.len() > NAMES {
        words.push(more(parts.len()).trim_start().to_owned());
    }
    words.join("; ")
}

fn more(count: usize) -> String {
    match count.saturating_sub(NAMES) {
        0 => String::new(),
        more => format!(" and {more} more"),
    }
}

fn differing<'a>(now: &'a Parts, then: &'a Parts) -> Vec<&'a str> {
    let mine = now.iter().filter(|(name, digest)| then.get(*name) != Some(digest)).map(|(name, _)| name);
    let theirs = then.keys().filter(|name| !now.contains_key(*name));
    let mut names: Vec<&str> = mine.chain(theirs).map(String::as_str).collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn listing(files: &[(&str, &str)]) -> Listing {
        let text: String =
            files.iter().map(|(path, digest)| format!("f 0644 0:0 {digest} {path}\n")).collect();
        Listing::parse(&text).unwrap()
    }

    #[test]
    fn what_is_not_the_same_is_named() {
        let tree = "files of /r/poky";
        let mut then = Inputs::default();
        then.add("conf/local.conf", b"1");
        then.add("environment OLD", b"1");
        then.add_tree(tree, listing(&[("a", "1"), ("b", "1")]));
        let mut now = Inputs::default();
        now.add("conf/local.conf", b"2");
        now.add("environment NEW", b"1");
        now.add_tree(tree, listing(&[("a", "2"), ("c", "1")]));
        assert_eq!(distance(&now, then.parts()), 4);
        assert_eq!(distance(&then, then.parts()), 0);
        assert_eq!(
            in_words(&now, then.parts(), then.listings()),
            "conf/local.conf changed; environment NEW is new; environment OLD is gone; \
             files of /r/poky changed: a, b, c"
        );
        assert!(in_words(&now, then.parts(), &BTreeMap::new()).ends_with("files of /r/poky changed"));
    }

    #[test]
    fn a_flood_of_names_is_counted() {
        let files: Vec<String> = (0..9).map(|number| format!("file{number}")).collect();
        let all: Vec<(&str, &str)> = files.iter().map(|file| (file.as_str(), "1")).collect();
        let (mut now, mut then) = (Inputs::default(), Inputs::default());
        now.add_tree("t", listing(&all));
        then.add_tree("t", listing(&[]));
        for file in &files {
            now.add(format!("z{file}"), b"");
        }
        assert_eq!(
            in_words(&now, then.parts(), then.listings()),
            "t changed: file0, file1, file2, file3, file4 and 4 more; zfile0 is new; zfile1 is new; \
             zfile2 is new; zfile3 is new; and 5 more"
        );
    }
}
