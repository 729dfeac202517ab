//! The index of a tier: which files of shared state exist, answered from memory.
//!
//! BitBake asks for the existence of every object that a build could use. Each question to S3 takes milliseconds and
//! costs money; there are thousands. So each build that publishes also writes the names of its files to one object
//! of the index ([`publish_additions`]), and a reader gets a few objects of the index instead. Objects of the index
//! are only created, never changed, so that concurrent builds do not lose each other's names.
//!
//! The index may be wrong in two ways. A file that it has and S3 has not (it was pruned) gives 404 when BitBake
//! downloads it, and BitBake runs the task instead. A file that it lacks (its build was killed before it wrote the
//! index) is built again. Both end when somebody lists all files and writes that as a new base: a reader does so if
//! the base is missing or older than a limit, and so does a prune.

pub mod segment;
mod table;

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use object_store::path::Path;
use object_store::{Error, Result};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::BucketTier;
use super::walk::walk;
use crate::names;
use agent_objects::{Created, ListedObject, key};
use agent_types::tiers::TierKind;
use agent_types::words::count;
use segment::{CLOCK_SKEW, Encoder, Kind, MAX_COMPRESSED};
use table::Table;

/// The age of a base after which a reader lists all files again.
pub const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Maximum number of objects of the index that are listed.
const MAX_LISTED: usize = 20_000;
/// Maximum number of objects of the index that are read, and their compressed bytes in sum. The newest come first.
const MAX_READ: usize = 2_000;
const MAX_READ_BYTES: u64 = 2 * MAX_COMPRESSED;
/// Objects of the index that are read in parallel.
const PARALLEL: usize = 8;
/// Compressed bytes after which a base gets another object: about 250,000 files.
const PART_BYTES: u64 = 16 << 20;
/// What a compressor may still write at the end.
const PART_MARGIN: u64 = 1 << 20;
/// Lists that run in parallel when all files are listed.
const LISTS: usize = 16;

/// The index of one tier and one release. Can be asked at any time; until it is [`Index::ready`] it knows nothing.
#[derive(Debug)]
pub struct Index {
    tier: BucketTier,
    release: String,
    state: RwLock<State>,
    ready: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    table: Table,
    /// What this job published before the index was filled: a listing may lack it.
    published: Vec<(String, u64)>,
    /// Whether no listing comes any more.
    is_filled: bool,
    /// Why the index is incomplete.
    trouble: Option<String>,
}

/// The objects of an index that say which files exist.
#[derive(Debug, Default)]
struct Contents {
    /// When the listing of the newest base began.
    base: Option<SystemTime>,
    /// The base and what was published since.
    keys: Vec<Path>,
}

impl Index {
    pub fn new(tier: BucketTier, release: &str) -> Index {
        let ready = watch::Sender::new(false);
        Index { tier, release: release.to_owned(), state: RwLock::default(), ready }
    }

    /// Reads the objects of the index, with one request for their list.
    ///
    /// # Errors
    /// If the tier cannot be listed. An object that cannot be read is skipped.
    pub async fn load(tier: &BucketTier, release: &str) -> Result<Index> {
        let index = Index::new(tier.clone(), release);
        index.load_contents().await?;
        index.write().is_filled = true;
        index.ready.send_replace(true);
        Ok(index)
    }

    /// Reads the objects of the index; lists all files if there is no base, or it is older than `max_age`. Then
    /// `writes` says whether the new base is written. Failures are kept for [`Index::trouble`].
    pub async fn fill(&self, max_age: Duration, writes: bool) {
        self.fill_unless_current(max_age, writes).await;
        let mut state = self.write();
        (state.is_filled, state.published) = (true, Vec::new());
    }

    async fn fill_unless_current(&self, max_age: Duration, writes: bool) {
        let base = match self.load_contents().await {
            Ok(base) => base,
            Err(error) => {
                self.write().trouble = Some(format!("its index cannot be read: {error}"));
                self.ready.send_replace(true);
                return;
            }
        };
        let now = SystemTime::now();
        let is_old = |base: SystemTime| now.duration_since(base).is_ok_and(|age| age > max_age);
        // An old base answers until the listing is complete.
        if let Some(base) = base {
            self.ready.send_replace(true);
            if !is_old(base) {
                return;
            }
        }
        if let Err(error) = self.refresh(writes).await {
            self.write().trouble = Some(format!("its shared state cannot be listed: {error}"));
        }
        self.ready.send_replace(true);
    }

    pub fn kind(&self) -> TierKind {
        self.tier.kind
    }

    /// Waits until the index can answer, but not longer than `limit`.
    pub async fn ready(&self, limit: Duration) -> bool {
        let mut ready = self.ready.subscribe();
        let waited = tokio::time::timeout(limit, ready.wait_for(|ready| *ready)).await;
        matches!(waited, Ok(Ok(_)))
    }

    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Whether this file existed, by its path below `sstate/<release>/`.
    pub fn contains(&self, path: &str) -> bool {
        self.size(path).is_some()
    }

    /// Its size.
    pub fn size(&self, path: &str) -> Option<u64> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).table.size(path)
    }

    /// Forgets a file that does not exist any more.
    pub fn forget(&self, path: &str) {
        self.write().table.remove(path);
    }

    /// Adds a file that this job published.
    pub fn insert(&self, path: &str, size: u64) {
        let mut state = self.write();
        state.table.insert(path, size);
        if !state.is_filled {
            state.published.push((path.to_owned(), size));
        }
    }

    /// Number of files.
    pub fn len(&self) -> usize {
        self.state.read().unwrap_or_else(PoisonError::into_inner).table.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Why the index is incomplete, for people.
    pub fn trouble(&self) -> Option<String> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let full = || state.table.is_full().then(|| format!("it has more than {} files", table::MAX_ENTRIES));
        state.trouble.clone().or_else(full)
    }

    /// Reads base and additions. Returns the time of the base.
    async fn load_contents(&self) -> Result<Option<SystemTime>> {
        let contents = contents(&self.tier, &self.release, SystemTime::now()).await?;
        let reads = contents.keys.into_iter().map(|key| self.load_object(key));
        let read: Vec<Result<()>> = stream::iter(reads).buffer_unordered(PARALLEL).collect().await;
        let mut failed = read.into_iter().filter_map(Result::err);
        if let Some(first) = failed.next() {
            let all = count(failed.count() as u64 + 1, "object");
            self.write().trouble = Some(format!("{all} of its index cannot be read: {first}"));
        }
        Ok(contents.base)
    }

    async fn load_object(&self, key: Path) -> Result<()> {
        // `None`: a prune deleted it after the listing.
        let Some(content) = self.tier.objects.read(&key, MAX_COMPRESSED).await? else { return Ok(()) };
        let table = Table::like(&self.state.read().unwrap_or_else(PoisonError::into_inner).table);
        let decoded = tokio::task::spawn_blocking(move || {
            let mut table = table;
            let whole = segment::decode(&content, |path, size| table.insert(path, size));
            (table, whole)
        });
        let (table, whole) = decoded.await.map_err(|error| generic(io::Error::other(error)))?;
        self.write().table.merge(&table);
        whole.map_err(|error| generic(io::Error::other(format!("{key}: {error}"))))
    }

    /// Lists all files, in place of what was known.
    async fn refresh(&self, writes: bool) -> Result<()> {
        let mut table = Table::like(&self.state.read().unwrap_or_else(PoisonError::into_inner).table);
        let mut base = match writes {
            true => Some(BaseWriter::new(&self.tier, &self.release, SystemTime::now())?),
            false => None,
        };
        let (listed, mut failed) = (AtomicUsize::new(0), None);
        let prefix = format!("{}/", self.tier.share.sstate(&self.release));
        let each = |objects: Vec<ListedObject>| {
            listed.fetch_add(objects.len(), Ordering::Relaxed);
            for object in &objects {
                let path = object.key.strip_prefix(&prefix).unwrap_or_default();
                if names::sstate(path.as_ref()).is_some() {
                    table.insert(path, object.size);
                    let added = base.as_mut().map_or(Ok(()), |base| base.add(path, object.size));
                    failed = failed.take().or(added.err());
                }
            }
        };
        let stop = || listed.load(Ordering::Relaxed) >= table::MAX_ENTRIES;
        // The first files of a share that is too large for an index are better than none.
        let _ended = walk(&self.tier.objects, prefix.clone(), LISTS, &stop, each).await?;
        {
            let mut state = self.write();
            for (path, size) in std::mem::take(&mut state.published) {
                table.insert(&path, size);
            }
            state.table = table;
        }
        match (base, failed) {
            (_, Some(error)) => Err(error),
            (Some(base), None) => base.finish().await.map(|_| ()),
            (None, None) => Ok(()),
        }
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes the names of files that were published: paths below `sstate/<release>/`, with their sizes. The files exist
/// by now. Returns the key; `None`, if there was nothing to write.
///
/// # Errors
/// If the object cannot be written.
pub async fn publish_additions<'a>(
    tier: &BucketTier,
    release: &str,
    files: impl IntoIterator<Item = (&'a str, u64)>,
) -> Result<Option<Path>> {
    let mut encoder = Encoder::new().map_err(generic)?;
    let mut is_empty = true;
    for (path, size) in files {
        is_empty = false;
        encoder.add(path, size).map_err(generic)?;
    }
    if is_empty {
        return Ok(None);
    }
    create(tier, release, Kind::Additions, SystemTime::now(), encoder).await.map(Some)
}

/// Writes a new base while its files are listed. Memory does not grow with their number.
pub struct BaseWriter {
    tier: BucketTier,
    release: String,
    since: SystemTime,
    encoder: Encoder,
    /// Parts that are being written.
    parts: JoinSet<Result<Path>>,
    /// Compressed bytes of one object and of all, which readers accept.
    part_bytes: u64,
    left: u64,
}

impl BaseWriter {
    /// `since` is the time before the listing begins.
    ///
    /// # Errors
    /// If the compressor cannot be set up.
    pub fn new(tier: &BucketTier, release: &str, since: SystemTime) -> Result<BaseWriter> {
        Ok(BaseWriter {
            tier: tier.clone(),
            release: release.to_owned(),
            since,
            encoder: Encoder::new().map_err(generic)?,
            parts: JoinSet::new(),
            part_bytes: PART_BYTES,
            left: MAX_READ_BYTES,
        })
    }

    /// Adds a file by its path below `sstate/<release>/`. Those that no reader would read are left out.
    ///
    /// # Errors
    /// If the compressor fails.
    pub fn add(&mut self, path: &str, size: u64) -> Result<()> {
        if self.encoder.written() + PART_MARGIN > self.left {
            return Ok(());
        }
        if self.encoder.written() >= self.part_bytes {
            let full = std::mem::replace(&mut self.encoder, Encoder::new().map_err(generic)?);
            self.left = self.left.saturating_sub(full.written() + PART_MARGIN);
            let (tier, release, since) = (self.tier.clone(), self.release.clone(), self.since);
            self.parts.spawn(async move { create(&tier, &release, Kind::Part, since, full).await });
        }
        self.encoder.add(path, size).map_err(generic)
    }

    /// Writes the rest. The base appears last, when all of its parts exist.
    ///
    /// # Errors
    /// If an object cannot be written.
    pub async fn finish(mut self) -> Result<Path> {
        while let Some(part) = self.parts.join_next().await {
            part.map_err(|error| generic(io::Error::other(error)))??;
        }
        create(&self.tier, &self.release, Kind::Base, self.since, self.encoder).await
    }
}

/// The objects of the index that no reader needs any more, because a newer base has their files. They may be deleted.
///
/// # Errors
/// If the index cannot be listed.
pub async fn obsolete(tier: &BucketTier, release: &str) -> Result<Vec<Path>> {
    let now = SystemTime::now();
    let listed = listed(tier, release, now).await?;
    let Some(base) = newest_base(&listed) else { return Ok(Vec::new()) };
    // A job that began before the new base may be reading the one before it.
    let needed = base.checked_sub(2 * CLOCK_SKEW).unwrap_or(base);
    Ok(listed.into_iter().filter(|object| object.time < needed).map(|object| object.key).collect())
}

async fn create(
    tier: &BucketTier,
    release: &str,
    kind: Kind,
    since: SystemTime,
    encoder: Encoder,
) -> Result<Path> {
    let content = Bytes::from(encoder.finish().map_err(generic)?);
    let name = segment::name(kind, since);
    let key = Path::from(format!("{}/{name}", tier.share.index(release)));
    match tier.objects.create(&key, content).await? {
        Created::New | Created::Equal => Ok(key),
        Created::Different => Err(generic(io::Error::other(format!("{key} exists")))),
    }
}

/// An object of an index.
struct Listed {
    time: SystemTime,
    kind: Kind,
    key: Path,
    size: u64,
}

/// All objects of the index.
async fn listed(tier: &BucketTier, release: &str, now: SystemTime) -> Result<Vec<Listed>> {
    let mut listed = Vec::new();
    let prefix = format!("{}/", tier.share.index(release));
    let take = |object: ListedObject| {
        let name = object.key.strip_prefix(&prefix).unwrap_or_default();
        let parsed = segment::parse_name(name, now).zip(key::exact(&object.key).ok());
        listed.extend(parsed.map(|((kind, time), key)| Listed { time, kind, key, size: object.size }));
    };
    tier.objects.each_below(&prefix, MAX_LISTED, take).await?;
    Ok(listed)
}

fn newest_base(listed: &[Listed]) -> Option<SystemTime> {
    listed.iter().filter(|object| object.kind == Kind::Base).map(|object| object.time).max()
}

/// Chooses what to read: the newest base and all additions since, as far as the limits allow.
async fn contents(tier: &BucketTier, release: &str, now: SystemTime) -> Result<Contents> {
    let listed = listed(tier, release, now).await?;
    let base = newest_base(&listed);
    let since = base.and_then(|base| base.checked_sub(CLOCK_SKEW));
    let is_wanted = |object: &Listed| match object.kind {
        Kind::Base | Kind::Part => base == Some(object.time),
        Kind::Additions => since.is_none_or(|since| object.time >= since),
    };
    let mut wanted: Vec<Listed> = listed.into_iter().filter(is_wanted).collect();
    // The base first, then the newest.
    wanted.sort_by_key(|object| std::cmp::Reverse((object.kind != Kind::Additions, object.time)));
    let mut bytes = 0;
    let fits = |object: &Listed| {
        bytes += object.size;
        bytes <= MAX_READ_BYTES
    };
    let small = wanted.into_iter().filter(|object| object.size <= MAX_COMPRESSED);
    let keys = small.take(MAX_READ).take_while(fits).map(|object| object.key).collect();
    Ok(Contents { base, keys })
}

fn generic(error: io::Error) -> Error {
    Error::Generic { store: "index", source: Box::new(error) }
}

/// Fills the index in the background. The task ends with the returned handle.
pub fn fill_in_background(index: &Arc<Index>, max_age: Duration, writes: bool) -> Filling {
    let index = Arc::clone(index);
    Filling(tokio::spawn(async move { index.fill(max_age, writes).await }))
}

/// A task that fills an index; dropped, it stops.
#[derive(Debug)]
pub struct Filling(tokio::task::JoinHandle<()>);

impl Drop for Filling {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
