//! The files of the time when a parse cache was made, and whether BitBake would see what changed since.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};

use super::super::key::Inputs;
use super::super::protocol::{Decoder, Encoder};
use super::super::tracked::{Stamp, is_included, is_recipe};
use super::super::{CacheResult, NotCacheable};

/// By tree and path: the entry of its listing, and what BitBake compares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record(BTreeMap<String, BTreeMap<String, (String, Stamp)>>);

/// How much of a cache can be of use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// Recipes whose own file BitBake takes as unchanged.
    pub fresh: usize,
    /// All recipes that are there now.
    pub of: usize,
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
        for (tree, files) in &now.0 {
            for (path, (entry, stamp)) in files {
                let before = self.0.get(tree).and_then(|files| files.get(path));
                usage.of += usize::from(is_recipe(path));
                let why = match before {
                    Some((known, old)) if known == entry => {
                        usage.fresh += usize::from(is_recipe(path) && old == stamp);
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
        }
        Ok(usage)
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
            assert_eq!(told, wanted.map(|(fresh, of)| Use { fresh, of }), "{name}");
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
