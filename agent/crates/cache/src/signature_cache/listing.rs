//! The entries of a directory tree as lines of text.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use agent_fs::read;

use super::digest::Digest;
use super::tracked::Tracked;

/// Everything of one tree by its path in it. Paths are escaped, so that each is one line of text and
/// no two are the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing(BTreeMap<String, String>);

/// A tree as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    pub listing: Listing,
    pub tracked: Tracked,
}

impl From<Listing> for Tree {
    fn from(listing: Listing) -> Tree {
        Tree { listing, tracked: Tracked::default() }
    }
}

impl Listing {
    /// One line for each entry.
    pub fn text(&self) -> String {
        self.0.iter().fold(String::new(), |mut text, (path, entry)| {
            let _ = writeln!(text, "{entry} {path}");
            text
        })
    }

    pub fn digest(&self) -> Digest {
        Digest::of(self.text().as_bytes())
    }

    /// The other way round; `None` when the text is none of [`Listing::text`].
    pub fn parse(text: &str) -> Option<Listing> {
        let entry = |line: &str| {
            let mut fields = line.splitn(5, ' ');
            let (kind, mode, owner, digest) =
                (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
            Some((fields.next()?.to_owned(), format!("{kind} {mode} {owner} {digest}")))
        };
        text.lines().map(entry).collect::<Option<_>>().map(Listing)
    }

    /// Paths of entries that are in one only, or differ; in order.
    pub fn differing<'a>(&'a self, other: &'a Listing) -> Vec<&'a str> {
        let mine = self.0.iter().filter(|(path, entry)| other.0.get(*path) != Some(entry));
        let theirs = other.0.keys().filter(|path| !self.0.contains_key(*path));
        let mut paths: Vec<&str> = mine.map(|(path, _)| path).chain(theirs).map(String::as_str).collect();
        paths.sort_unstable();
        paths
    }

    /// Entries and their paths.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(path, entry)| (path.as_str(), entry.as_str()))
    }

    /// From entries and their paths.
    pub(super) fn from_entries(entries: impl IntoIterator<Item = (String, String)>) -> Listing {
        Listing(entries.into_iter().collect())
    }

    pub(super) fn entry(&self, path: &str) -> Option<&str> {
        self.0.get(path).map(String::as_str)
    }

    /// Owner and mode decide what the build user can read, and what git says of a repository.
    pub(super) fn add(&mut self, path: &Path, kind: char, metadata: &Metadata, digest: &str) {
        let path = path.as_os_str().as_bytes().escape_ascii().to_string();
        let mode = if kind == 'l' { 0 } else { read::mode(metadata) };
        let (uid, gid) = (metadata.uid(), metadata.gid());
        self.0.insert(path, format!("{kind} {mode:04o} {uid}:{gid} {digest}"));
    }

    /// Adds a value that is no file of the tree but belongs to it.
    pub(super) fn add_value(&mut self, path: &Path, value: &[u8]) {
        let path = path.as_os_str().as_bytes().escape_ascii().to_string();
        self.0.insert(path, format!("v - - {}", Digest::of(value)));
    }
}
