//! The names of an index in memory. A name costs 33 bytes, however long it is.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

/// Maximum number of names: 2 million files need about 80 MB. A share with more answers "missing" for the rest.
pub const MAX_ENTRIES: usize = 2_000_000;

/// Two independent hashes of a name. Only the name itself is never stored, so that hostile names cost no memory.
type Digest = [u64; 2];

/// Files below `sstate/<release>/`, with their sizes.
#[derive(Debug, Default)]
pub struct Table {
    entries: HashMap<Digest, u64>,
    seeds: [RandomState; 2],
    /// Names that did not fit.
    dropped: u64,
}

impl Table {
    /// An empty table whose entries can be merged with those of `other`.
    pub fn like(other: &Table) -> Table {
        Table { entries: HashMap::new(), seeds: other.seeds.clone(), dropped: 0 }
    }

    pub fn insert(&mut self, name: &str, size: u64) {
        let digest = self.digest(name);
        self.insert_digest(digest, size);
    }

    pub fn remove(&mut self, name: &str) {
        self.entries.remove(&self.digest(name));
    }

    /// The size of the file; `None`, if it does not exist.
    pub fn size(&self, name: &str) -> Option<u64> {
        self.entries.get(&self.digest(name)).copied()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_full(&self) -> bool {
        self.dropped > 0
    }

    /// Adds all entries of a table that was made by [`Table::like`].
    pub fn merge(&mut self, other: &Table) {
        for (digest, size) in &other.entries {
            self.insert_digest(*digest, *size);
        }
    }

    fn insert_digest(&mut self, digest: Digest, size: u64) {
        if self.entries.len() >= MAX_ENTRIES && !self.entries.contains_key(&digest) {
            self.dropped += 1;
            return;
        }
        self.entries.insert(digest, size);
    }

    fn digest(&self, name: &str) -> Digest {
        [0, 1].map(|number: usize| {
            let mut hasher = self.seeds[number].build_hasher();
            hasher.write(name.as_bytes());
            hasher.finish()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_was_inserted_and_not_removed() {
        let mut table = Table::default();
        table.insert("a", 1);
        table.insert("b", 2);
        table.insert("b", 3);
        table.remove("a");
        table.remove("c");
        let mut other = Table::like(&table);
        other.insert("c", 4);
        table.merge(&other);
        assert_eq!(["a", "b", "c", "d"].map(|name| table.size(name)), [None, Some(3), Some(4), None]);
        assert_eq!((table.len(), table.is_full()), (2, false));
    }
}
