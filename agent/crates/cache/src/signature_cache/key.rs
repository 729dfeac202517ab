//! What an answer depends on, and the one number that stands for all of it.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use super::digest::Digest;
use super::listing::{Listing, Tree};
use super::protocol::Encoder;
use super::tracked::Tracked;

/// Names an answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key(Digest);

impl Key {
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

/// Digests of inputs by their names for people, e.g. `conf/local.conf` or `environment MACHINE`.
pub type Parts = BTreeMap<String, Digest>;

/// The part that lists the layers.
pub const LAYERS: &str = "the list of layers";

/// Every input of one query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inputs {
    parts: Parts,
    /// The files behind those parts that are trees.
    listings: BTreeMap<String, Listing>,
    /// What else is known of them.
    tracked: BTreeMap<String, Tracked>,
}

impl Inputs {
    pub fn add(&mut self, name: impl Into<String>, content: &[u8]) {
        self.parts.insert(name.into(), Digest::of(content));
    }

    /// A list of byte strings as one part.
    pub fn add_list<'a>(&mut self, name: impl Into<String>, list: impl IntoIterator<Item = &'a [u8]>) {
        let mut encoder = Encoder::default();
        for bytes in list {
            encoder.bytes(bytes);
        }
        self.add(name, encoder.finish());
    }

    pub fn add_tree(&mut self, name: impl Into<String>, tree: impl Into<Tree>) {
        let (name, tree) = (name.into(), tree.into());
        self.parts.insert(name.clone(), tree.listing.digest());
        self.listings.insert(name.clone(), tree.listing);
        self.tracked.insert(name, tree.tracked);
    }

    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// The same with another text in the place of a tree's listing.
    pub(super) fn replace_tree(&mut self, name: &str, listing: Listing) {
        self.parts.insert(name.to_owned(), listing.digest());
        self.listings.insert(name.to_owned(), listing);
    }

    pub fn listings(&self) -> &BTreeMap<String, Listing> {
        &self.listings
    }

    /// What BitBake itself looks at before it uses its parse caches, by the names of the trees.
    pub fn tracked(&self) -> &BTreeMap<String, Tracked> {
        &self.tracked
    }

    pub fn key(&self) -> Key {
        key_of(&self.parts)
    }
}

/// A name as one line of text; no two names have the same.
pub fn readable(name: &OsStr) -> String {
    name.as_encoded_bytes().escape_ascii().to_string()
}

/// The key of parts that were read back.
pub fn key_of(parts: &Parts) -> Key {
    let mut encoder = Encoder::default();
    for (name, digest) in parts {
        encoder.bytes(name.as_bytes()).bytes(digest.as_str().as_bytes());
    }
    Key(Digest::of(encoder.finish()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    type Named<'a> = &'a [(&'a str, &'a [&'a str])];

    fn inputs(parts: Named) -> Inputs {
        let mut inputs = Inputs::default();
        for (name, list) in parts {
            inputs.add_list(*name, list.iter().map(|text| text.as_bytes()));
        }
        inputs
    }

    #[test]
    fn the_key_changes_with_every_input_and_with_nothing_else() {
        let one = inputs(&[("a", &["1", "2"]), ("b", &["3"])]);
        assert_eq!(one.key(), inputs(&[("b", &["3"]), ("a", &["1", "2"])]).key(), "the order is no input");
        let others: [Named; 9] = [
            &[("a", &["1", "2"]), ("b", &["4"])],
            &[("a", &["2", "1"]), ("b", &["3"])],
            &[("a", &["12"]), ("b", &["3"])],
            &[("a", &["1", "2", ""]), ("b", &["3"])],
            &[("a", &["1"]), ("b", &["2", "3"])],
            &[("a", &["1", "2"]), ("c", &["3"])],
            &[("a", &["1", "2"])],
            &[("a", &["1", "2"]), ("b", &["3"]), ("c", &[])],
            &[("ab", &["1", "2"]), ("", &["3"])],
        ];
        for other in others {
            assert_ne!(one.key(), inputs(other).key(), "{other:?}");
        }
    }

    #[test]
    fn a_digest_is_a_plain_name() {
        let digest = Digest::of(b"abc");
        assert_eq!(digest.as_str(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(Digest::parse(digest.as_str()), Some(digest.clone()));
        for text in ["", "../..", &digest.as_str()[1..], &digest.as_str().to_uppercase()] {
            assert_eq!(Digest::parse(text), None, "{text}");
        }
    }
}
