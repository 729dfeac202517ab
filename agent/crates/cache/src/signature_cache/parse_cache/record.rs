//! The files of the time when a parse cache was made, and whether BitBake would see what changed since.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};

use super::super::digest::Digest;
use super::super::key::Inputs;
use super::super::protocol::{Decoder, Encoder};
use super::super::tracked::{Stamp, is_included, is_recipe};
use super::super::{CacheResult, NotCacheable, admission};

/// By tree and path: the entry of its listing, and what BitBake compares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record(BTreeMap<String, BTreeMap<String, (String, Stamp)>>);

/// How much of a cache can be of use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// Recipes whose own file BitBake takes as unchanged.
    pub fresh: usize,
    /// Recipes whose own file has the same content.
    pub unchanged: usize,
    /// Those of them that BitBake parses again only because files have other stat data.
    pub stale: usize,
    /// All recipes that are there now.
    pub of: usize,
}

/// A rebase reads and writes entries of all recipes. To parse one recipe takes about as long as for so many.
const REBASE_PAYS: usize = 32;

/// Every recipe inherits it.
const BASE_CLASS: &str = "base.bbclass";

impl Use {
    /// Whether the cache is worth a rebase.
    pub fn wants_rebase(&self) -> bool {
        self.stale > 0 && self.stale * REBASE_PAYS >= self.of
    }

    /// Whether another cache may save much more: as many recipes have to be parsed as make a rebase pay.
    pub fn is_poor(&self) -> bool {
        self.saved() < self.of && (self.of - self.saved()) * REBASE_PAYS >= self.of
    }

    /// How many recipes BitBake need not parse.
    pub fn saved(&self) -> usize {
        if self.wants_rebase() { self.unchanged } else { self.fresh }
    }
}

/// A file with the content that it had when a cache was made, and other stat data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Its real path, escaped.
    pub path: String,
    pub old: Stamp,
    pub new: Stamp,
}

impl Record {
    pub fn of(inputs: &Inputs) -> Record {
        let mut record = Record::default();
        for (name, tracked) in inputs.tracked() {
            let listing = inputs.listings().get(name);
            let files = tracked.stamps.iter().filter_map(|(path, stamp)| {
                let entry = listing?.entry(path)?;
                Some((path.clone(), (entry.to_owned(), *stamp)))
            });
            record.0.insert(name.clone(), files.collect());
        }
        record
    }

    /// How much of a cache with this record is of use `now`.
    ///
    /// # Errors
    /// When BitBake could take something for unchanged that is not.
    pub fn use_for(&self, now: &Record) -> CacheResult<Use> {
        let mut usage = Use::default();
        let mut all_are_stale = false;
        for (tree, files) in &now.0 {
            let (mut unchanged, mut is_moved) = (0, false);
            for (path, (entry, stamp)) in files {
                let before = self.0.get(tree).and_then(|files| files.get(path));
                usage.of += usize::from(is_recipe(path));
                let why = match before {
                    Some((known, old)) if known == entry => {
                        usage.fresh += usize::from(is_recipe(path) && old == stamp);
                        unchanged += usize::from(is_recipe(path));
                        is_moved |= old != stamp;
                        all_are_stale |= old != stamp && path.rsplit('/').next() == Some(BASE_CLASS);
                        continue;
                    }
                    Some((_, old)) if old.seconds == stamp.seconds => "changed without a new time",
                    None if is_included(path) => "is new and may be included",
                    // That is how BitBake writes down a file that is not there.
                    _ if stamp.seconds == 0 => "has no time",
                    _ => continue,
                };
                return Err(NotCacheable(format!("{path} {why}, which BitBake would not see")));
            }
            usage.unchanged += unchanged;
            usage.stale += if is_moved { unchanged } else { 0 };
        }
        if all_are_stale {
            usage.stale = usage.unchanged;
        }
        Ok(usage)
    }

    /// The files that have the same content `now` and other stat data. One with an unusual name is skipped: BitBake
    /// parses again what is made of it.
    pub fn moved(&self, now: &Record) -> Vec<Moved> {
        let mut moved = Vec::new();
        for (tree, files) in &now.0 {
            let (Some(root), Some(before)) = (admission::root_of_part(tree), self.0.get(tree)) else {
                continue;
            };
            for (path, (entry, new)) in files {
                let Some((known, old)) = before.get(path) else { continue };
                let path = format!("{root}/{path}");
                if known == entry && old != new && !path.contains('\\') {
                    moved.push(Moved { path, old: *old, new: *new });
                }
            }
        }
        moved
    }

    /// The digest of the files' contents, whatever their stat data.
    pub fn content(&self) -> Digest {
        let mut encoder = Encoder::default();
        for (tree, files) in &self.0 {
            encoder.bytes(tree.as_bytes()).number(files.len() as u64);
            for (path, (entry, _)) in files {
                encoder.bytes(path.as_bytes()).bytes(entry.as_bytes());
            }
        }
        Digest::of(encoder.finish())
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::default();
        for (tree, files) in &self.0 {
            encoder.bytes(tree.as_bytes()).number(files.len() as u64);
            for (path, (entry, stamp)) in files {
                encoder.bytes(path.as_bytes()).bytes(entry.as_bytes());
                encoder.number(stamp.seconds as u64).number(stamp.nanoseconds as u64);
                encoder.number(stamp.size).number(stamp.inode);
            }
        }
        encoder.finish().to_vec()
    }

    /// The other way round.
    ///
    /// # Errors
    /// When the bytes are none of [`Record::encoder`].
    pub fn decode(bytes: &[u8]) -> io::Result<Record> {
        let text = |bytes: &[u8]| {
            String::from_utf8(bytes.to_vec()).map_err(|_| io::Error::from(ErrorKind::InvalidData))
        };
        let mut decoder = Decoder(bytes);
        let mut record = Record::default();
        while !decoder.is_empty() {
            let tree = text(decoder.bytes()?)?;
            let mut files = BTreeMap::new();
            for _ in 0..decoder.number()? {
                let (path, entry) = (text(decoder.bytes()?)?, text(decoder.bytes()?)?);
                let (seconds, nanoseconds) = (decoder.number()? as i64, decoder.number()? as i64);
                let stamp = Stamp { seconds, nanoseconds, size: decoder.number()?, inode: decoder.number()? };
                files.insert(path, (entry, stamp));
            }
            record.0.insert(tree, files);
        }
        Ok(record)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::super::listing::{Listing, Tree};
    use super::super::super::tracked::Tracked;
    use super::*;

    type File<'a> = (&'a str, &'a str, i64, u64);

    fn record(files: &[File]) -> Record {
        let mut inputs = Inputs::default();
        let text: String =
            files.iter().map(|(path, digest, ..)| format!("f 0644 0:0 {digest} {path}\n")).collect();
        let mut tracked = Tracked::default();
        for (path, _, seconds, inode) in files {
            let stamp = Stamp { seconds: *seconds, nanoseconds: 5, size: 1, inode: *inode };
            tracked.stamps.insert((*path).to_owned(), stamp);
        }
        inputs.add_tree("files of /l", Tree { listing: Listing::parse(&text).unwrap(), tracked });
        Record::of(&inputs)
    }

    #[test]
    fn what_bitbake_would_not_see_is_refused() {
        let before = record(&[("a.bb", "1", 100, 1), ("a.inc", "1", 100, 2), ("b.bb", "1", 100, 3)]);
        // What lies there now, and how many of how many recipes are fresh.
        type Case<'a> = (&'a str, &'a [File<'a>], Option<(usize, usize)>);
        let table: [Case; 13] = [
            ("same", &[("a.bb", "1", 100, 1), ("a.inc", "1", 100, 2), ("b.bb", "1", 100, 3)], Some((2, 2))),
            ("changed", &[("a.bb", "2", 101, 1), ("b.bb", "1", 100, 3)], Some((1, 2))),
            ("changed, older", &[("a.bb", "2", 99, 1), ("b.bb", "1", 100, 3)], Some((1, 2))),
            ("changed in the same second", &[("a.bb", "2", 100, 1)], None),
            ("changed in the same second, another inode", &[("a.bb", "2", 100, 9)], None),
            ("include changed in the same second", &[("a.bb", "1", 100, 1), ("a.inc", "2", 100, 2)], None),
            ("changed, without time", &[("a.bb", "2", 0, 1)], None),
            ("touched", &[("a.bb", "1", 200, 1), ("b.bb", "1", 100, 4)], Some((0, 2))),
            ("removed", &[("b.bb", "1", 100, 3)], Some((1, 1))),
            ("new recipe", &[("b.bb", "1", 100, 3), ("c.bb", "1", 100, 4)], Some((1, 2))),
            ("new recipe without time", &[("c.bb", "1", 0, 4)], None),
            ("new include", &[("c.inc", "1", 200, 4)], None),
            ("new class", &[("c.bbclass", "1", 200, 4)], None),
        ];
        for (name, now, wanted) in table {
            let told = before.use_for(&record(now)).ok();
            assert_eq!(told.map(|usage| (usage.fresh, usage.of)), wanted, "{name}");
        }
    }

    /// As after a fresh clone, in which one file changed.
    #[test]
    fn files_with_the_same_content_are_moved_whatever_their_stat_data() {
        let before = record(&[("a.bb", "1", 100, 1), ("b.bb", "1", 100, 2), ("c.inc", "1", 100, 3)]);
        let now = record(&[
            ("a.bb", "1", 200, 1),
            ("b.bb", "2", 200, 2),
            ("c.inc", "1", 100, 4),
            ("d.bb", "1", 9, 5),
        ]);
        let usage = before.use_for(&now).unwrap();
        assert_eq!(usage, Use { fresh: 0, unchanged: 1, stale: 1, of: 3 });
        assert!(usage.wants_rebase());
        assert_eq!(usage.saved(), 1);
        let moved: Vec<_> = before
            .moved(&now)
            .into_iter()
            .map(|it| (it.path, it.old.seconds, it.new.seconds, it.new.inode))
            .collect();
        assert_eq!(moved, [("/l/a.bb".to_owned(), 100, 200, 1), ("/l/c.inc".to_owned(), 100, 100, 4)]);
        assert_eq!(before.moved(&before), []);
        assert_eq!(before.use_for(&before).unwrap().stale, 0);
        // The name of a stored cache in a bucket does not depend on stat data.
        let touched = record(&[("a.bb", "1", 7, 9), ("b.bb", "1", 7, 9), ("c.inc", "1", 7, 9)]);
        assert_eq!(touched.content(), before.content());
        assert_ne!(now.content(), before.content());
    }

    #[test]
    fn a_rebase_has_to_pay() {
        let with = |stale, unchanged, of| Use { fresh: 7, unchanged, stale, of };
        for (usage, wanted) in [
            (with(0, 100, 100), 7),
            (with(1, 100, 100), 7),
            (with(3, 100, 100), 7),
            (with(4, 100, 100), 100),
            (with(1, 3, 4), 3),
        ] {
            assert_eq!(usage.saved(), wanted, "{usage:?}");
        }
    }

    #[test]
    fn another_base_class_makes_all_recipes_stale() {
        let with = |class: &str, seconds| {
            let mut record = record(&[("a.bb", "1", 100, 1)]);
            let core = self::record(&[("b.bb", "1", 100, 3), (class, "1", seconds, 2)]);
            record.0.insert("files of /core".into(), core.0["files of /l"].clone());
            record
        };
        for (class, stale) in [("classes-global/base.bbclass", 2), ("classes/other.bbclass", 1)] {
            let usage = with(class, 100).use_for(&with(class, 200)).unwrap();
            assert_eq!((usage.fresh, usage.unchanged, usage.stale), (2, 2, stale), "{class}");
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        let before = record(&[("a\\n.bb", "1", -100, u64::MAX), ("a.inc", "1", i64::MAX, 2)]);
        let bytes = before.encode();
        assert_eq!(Record::decode(&bytes).unwrap(), before);
        for length in 1..bytes.len() {
            assert!(Record::decode(&bytes[..length]).is_err(), "{length} bytes");
        }
    }
}
