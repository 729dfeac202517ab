//! The stores of a run: the local one, and those of the share, in a directory or in a bucket.

use std::path::PathBuf;
use std::sync::Arc;

use agent_process::User;
use agent_types::error::Result;

use super::bucket_store::{BucketStore, Pack, PackInputs, Published};
use super::key::{Inputs, Key};
use super::parse_cache::ParseCaches;
use super::protocol::Answer;
use super::store::{Found, Store, difference_from_packed, name_of_inputs};

/// The stores of a run.
#[derive(Clone, Debug)]
pub struct Stores {
    local: Store,
    /// Those of a share in a directory, in the order in which they are read.
    shared: Vec<Store>,
    /// A share in a bucket. What comes from there goes into the local store first.
    bucket: Option<Arc<BucketStore>>,
}

impl Stores {
    /// `shared` are those of a share in a directory.
    pub fn new(local: Store, shared: Vec<Store>, bucket: Option<BucketStore>) -> Stores {
        Stores { local, shared, bucket: bucket.map(Arc::new) }
    }

    fn all(&self) -> impl Iterator<Item = &Store> {
        [&self.local].into_iter().chain(&self.shared)
    }

    /// The answer of this key. Blocks.
    ///
    /// # Errors
    /// What was wrong with the one that there was, for people.
    pub(super) fn find(&self, key: &Key) -> std::result::Result<Option<Found>, String> {
        let mut wrong = None;
        for store in self.all() {
            match store.find(key) {
                Ok(Some(found)) => {
                    // It may have been found before there was a bucket.
                    self.add_to_bucket(key);
                    return Ok(Some(found));
                }
                Ok(None) => {}
                Err(error) => wrong = Some(error.message),
            }
        }
        match self.fetch(key) {
            Some(Ok(true)) => match self.local.find(key) {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => {}
                Err(error) => wrong = Some(error.message),
            },
            Some(Err(why)) => wrong = Some(why),
            Some(Ok(false)) | None => {}
        }
        wrong.map_or(Ok(None), Err)
    }

    /// Which input keeps the nearest stored answer from being used. Blocks.
    pub(super) fn why_not(&self, inputs: &Inputs, query: &str) -> Option<String> {
        let here = self.all().find_map(|store| store.why_not(inputs, query));
        here.or_else(|| {
            let name = name_of_inputs(query, inputs.parts())?;
            let read = |packed: &[u8]| difference_from_packed(inputs, query, packed);
            self.bucket.as_ref()?.read_inputs(&name, read)
        })
    }

    /// Whether an answer of this key came from the bucket into the local store.
    fn fetch(&self, key: &Key) -> Option<std::result::Result<bool, String>> {
        let bucket = self.bucket.as_ref()?;
        Some(bucket.fetch_answer(key, |packed| self.local.install(key, packed)))
    }

    /// Lets an answer of the local store be published.
    fn add_to_bucket(&self, key: &Key) {
        let Some(bucket) = &self.bucket else { return };
        let (local, name) = (self.local.clone(), key.as_str().to_owned());
        bucket.add_answer(key, Pack::new(move || local.pack(&name)));
    }

    /// Stores an answer wherever that is allowed. One store may be full or gone; the others still get it. Blocks.
    ///
    /// # Errors
    /// The first store's that could not be written.
    pub(super) fn insert(&self, inputs: &Inputs, query: &str, answer: &Answer, seconds: f64) -> Result<()> {
        let writable = self.all().filter(|store| store.writable);
        let inserted: Vec<_> = writable.map(|store| store.insert(inputs, query, answer, seconds)).collect();
        let is_here = inserted.first().is_some_and(|local| local.is_ok());
        if let Some(bucket) = self.bucket.as_ref().filter(|_| is_here) {
            let (local, key) = (self.local.clone(), inputs.key());
            self.add_to_bucket(&key);
            let name = key.as_str().to_owned();
            bucket.add_inputs(&key, PackInputs::new(move || local.pack_inputs(&name)));
        }
        inserted.into_iter().collect()
    }

    /// Whether a store has other signatures for this key, which are gone afterwards where it may be written. Blocks.
    pub(super) fn contradicts(&self, key: &Key, answer: &Answer) -> bool {
        let stored = self.all().filter(|store| store.contradicts(key, answer)).count() > 0;
        let Some(bucket) = &self.bucket else { return stored };
        let differs = |packed: &[u8]| {
            Store::unpacked(key, packed).is_ok_and(|found| found.answer.signatures != answer.signatures)
        };
        let contradicts = bucket.contradicts(key, differs) || stored;
        if contradicts {
            bucket.forget();
        }
        contradicts
    }

    /// Publishes in the bucket what this run added.
    pub(super) async fn publish(&self) -> Published {
        match &self.bucket {
            Some(bucket) => bucket.publish().await,
            None => Published::default(),
        }
    }

    /// The parse caches in the same stores as the answers. `own` is a directory for the parse caches of this check alone.
    pub(super) fn parse_caches(&self, own: PathBuf, user: &User) -> ParseCaches {
        let stores = self.all().map(Store::parse_caches).collect();
        ParseCaches::new(stores, self.bucket.clone(), own, user)
    }
}
