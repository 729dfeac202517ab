//! What the builds of a batch write into the store, and read from it: the lock, and the result of each attempt of each cell.
//!
//! Builds of an untrusted source write here. So everything that is read is bounded, and only the manifest decides which cells
//! are read.

use std::collections::BTreeMap;
use std::time::SystemTime;

use agent_artifacts::records::RecordStore;
use agent_artifacts::results::part;
use agent_objects::Created;
use agent_types::error::{Error, Result};
use agent_types::sanitize::sanitize_line;

use super::graph::CellIdentity;
use super::key::BatchKey;

/// Maximum bytes of a lock.
const LARGEST_LOCK: u64 = 1 << 20;

/// Maximum bytes of a result, or of another report.
pub const LARGEST_RESULT: u64 = 64 << 20;

/// Maximum number of files of all attempts of a batch.
const MOST_FILES: usize = 5000;

const STARTED: &str = "started";
const RESULT: &str = "result.json";

/// The part of the store for one batch.
#[derive(Debug)]
pub struct BatchStore {
    pub store: RecordStore,
    pub key: BatchKey,
}

/// One run of a cell: attempts sort by their time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt(String);

impl Attempt {
    /// `build` distinguishes builds that start at the same time.
    pub fn new(now: SystemTime, build: &str) -> Attempt {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Attempt(format!("{:013}-{}", since.as_millis(), part(build)))
    }

    fn parse(text: &str) -> Option<Attempt> {
        let (time, build) = text.split_once('-')?;
        let is_time = time.len() == 13 && time.bytes().all(|byte| byte.is_ascii_digit());
        (is_time && !build.is_empty()).then(|| Attempt(text.to_owned()))
    }

    /// The build that ran it.
    pub fn build(&self) -> &str {
        self.0.split_once('-').map_or("", |(_, build)| build)
    }
}

/// The attempts of a cell in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempts {
    pub number: usize,
    pub latest: Attempt,
}

/// The result of the latest attempt of a cell: its bytes, or why it cannot be read; `None`, if it left none.
pub type Stored = Option<Result<Vec<u8>, String>>;

/// The attempts of all cells in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub cells: BTreeMap<String, Attempts>,
    /// Files of no cell of this batch; they are not read.
    pub unexpected: Vec<String>,
}

impl BatchStore {
    /// Stores the lock of the batch. The first one counts: the second value is the lock that is there.
    ///
    /// # Errors
    /// If it cannot be stored.
    pub async fn store_lock(&self, lock: &str) -> Result<(Created, String)> {
        let created = self.store.create(&self.key.lock(), lock.as_bytes().to_vec()).await?;
        let stored = match created {
            Created::New | Created::Equal => lock.to_owned(),
            Created::Different => self.lock().await?.unwrap_or_default(),
        };
        Ok((created, stored))
    }

    /// The lock that `warm` stored; `None`, if there is none.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn lock(&self) -> Result<Option<String>> {
        let path = self.key.lock();
        let Some(bytes) = self.store.read(&path, LARGEST_LOCK).await? else { return Ok(None) };
        let damaged = |_| Error::upstream(format!("{} is not text", self.store.shown(&path)));
        String::from_utf8(bytes).map(Some).map_err(damaged)
    }

    /// Records that an attempt begins: if it leaves no result, an earlier result does not count any more.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn begin(&self, cell: &str, attempt: &Attempt) -> Result<()> {
        self.store.write(&self.file(cell, attempt, STARTED), b"started\n".to_vec()).await
    }

    /// Stores the result of an attempt.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn finish(&self, cell: &str, attempt: &Attempt, result: Vec<u8>) -> Result<()> {
        self.store.write(&self.file(cell, attempt, RESULT), result).await
    }

    fn file(&self, cell: &str, attempt: &Attempt, name: &str) -> String {
        format!("{}/{cell}/{}/{name}", self.key.cells(), attempt.0)
    }

    /// Lists the attempts of each cell.
    ///
    /// # Errors
    /// If the files cannot be listed, or are too many: then a later attempt may be missing.
    pub async fn list(&self, cells: &[CellIdentity]) -> Result<Found> {
        let below = self.key.cells();
        let records = self.store.list(&below, MOST_FILES).await?;
        if records.len() >= MOST_FILES {
            return Err(Error::upstream(format!(
                "{} has {MOST_FILES} files or more",
                self.store.shown(&below)
            ))
            .hint("the batch cannot have written them: check who can write there"));
        }
        let mut found = Found::default();
        let mut attempts: BTreeMap<&str, Vec<Attempt>> = BTreeMap::new();
        for record in &records {
            let rest = record.path.strip_prefix(&format!("{below}/")).unwrap_or(&record.path);
            match parse_path(rest, cells) {
                Some((cell, attempt)) => {
                    let known = attempts.entry(cell).or_default();
                    if !known.contains(&attempt) {
                        known.push(attempt);
                    }
                }
                None => found.unexpected.push(sanitize_line(rest).into_owned()),
            }
        }
        for (cell, mut all) in attempts {
            all.sort_by(|one, other| one.0.cmp(&other.0));
            let number = all.len();
            let Some(latest) = all.pop() else { continue };
            found.cells.insert(cell.to_owned(), Attempts { number, latest });
        }
        Ok(found)
    }

    /// Reads the result of an attempt.
    pub async fn result(&self, cell: &str, attempt: &Attempt) -> Stored {
        let read = self.store.read(&self.file(cell, attempt, RESULT), LARGEST_RESULT).await;
        read.map_err(|error| error.message).transpose()
    }
}

/// The cell and the attempt that a file belongs to: `CELL/ATTEMPT/FILE`.
fn parse_path<'c>(path: &str, cells: &'c [CellIdentity]) -> Option<(&'c str, Attempt)> {
    let [cell, attempt, file] = path.split('/').collect::<Vec<_>>()[..] else { return None };
    let known = cells.iter().find(|known| known.id == cell)?;
    [STARTED, RESULT].contains(&file).then(|| Some((known.id.as_str(), Attempt::parse(attempt)?)))?
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use agent_types::artifact::Destination;

    use super::*;

    fn cell(id: &str) -> CellIdentity {
        CellIdentity { id: id.into(), name: "x".into(), release: "scarthgap".into(), machines: Vec::new() }
    }

    async fn batch(root: &std::path::Path, id: &str) -> BatchStore {
        let destination = Destination::Directory(root.to_owned());
        let store = RecordStore::open(&destination, false, None, "index.json").await.unwrap();
        BatchStore { store, key: BatchKey::new("x", Some("c0ffee"), false, "d1", id).unwrap() }
    }

    fn at(seconds: u64, build: &str) -> Attempt {
        Attempt::new(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds), build)
    }

    #[tokio::test]
    async fn the_latest_attempt_counts_and_batches_do_not_mix() {
        let root = tempfile::tempdir().unwrap();
        let (one, other) = (batch(root.path(), "b-1").await, batch(root.path(), "b-2").await);
        let cells = ["a", "b", "c"].map(cell);
        let (first, second) = (at(1_700_000_000, "p1"), at(1_700_000_100, "a/2"));
        for store in [&one, &other] {
            store.begin("a", &first).await.unwrap();
            store.finish("a", &first, b"first".to_vec()).await.unwrap();
        }
        one.begin("a", &second).await.unwrap();
        one.finish("b", &second, b"second".to_vec()).await.unwrap();
        let latest = async |store: &BatchStore, cell: &str| {
            let found = store.list(&cells).await.unwrap().cells.remove(cell)?;
            let result =
                store.result(cell, &found.latest).await.map(|read| String::from_utf8(read.unwrap()).unwrap());
            Some((found, result))
        };
        let attempts = |number, latest: &Attempt, result: Option<&str>| {
            Some((Attempts { number, latest: latest.clone() }, result.map(str::to_owned)))
        };
        assert_eq!(latest(&one, "a").await, attempts(2, &second, None), "the second attempt was lost");
        assert_eq!(latest(&one, "b").await, attempts(1, &second, Some("second")));
        assert_eq!(latest(&one, "c").await, None);
        assert_eq!(latest(&other, "a").await, attempts(1, &first, Some("first")));
        assert!(!second.build().contains('/'), "{second:?}");
        // An attempt that ends late does not replace a later one.
        one.finish("a", &second, b"new".to_vec()).await.unwrap();
        one.finish("a", &first, b"late".to_vec()).await.unwrap();
        assert_eq!(latest(&one, "a").await, attempts(2, &second, Some("new")));
    }

    #[tokio::test]
    async fn what_is_not_of_the_batch_is_named_and_not_read() {
        let root = tempfile::tempdir().unwrap();
        let store = batch(root.path(), "b-1").await;
        let attempt = at(1_700_000_000, "1");
        store.finish("a", &attempt, b"x".to_vec()).await.unwrap();
        for path in
            ["a/x/result.json", "a/1700000000000-1/other", "z/1700000000000-1/result.json", "a/result.json"]
        {
            store.store.write(&format!("{}/{path}", store.key.cells()), b"x".to_vec()).await.unwrap();
        }
        let found = store.list(&[cell("a")]).await.unwrap();
        assert_eq!((found.cells.len(), found.unexpected.len()), (1, 4), "{found:?}");
    }

    #[tokio::test]
    async fn the_first_lock_counts() {
        let root = tempfile::tempdir().unwrap();
        let store = batch(root.path(), "b-1").await;
        assert_eq!(store.lock().await.unwrap(), None);
        assert_eq!(store.store_lock("one").await.unwrap(), (Created::New, "one".to_owned()));
        assert_eq!(store.store_lock("two").await.unwrap(), (Created::Different, "one".to_owned()));
        assert_eq!(store.lock().await.unwrap().as_deref(), Some("one"));
    }
}
