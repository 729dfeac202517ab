//! Uploads large objects in parts, with bounded memory.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error, MultipartUpload, ObjectMeta, ObjectStoreExt, PutPayload};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use crate::meter::RequestClass;
use crate::objects::Objects;
use crate::retry::is_transient;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Larger objects are uploaded in parts.
pub const MAX_SINGLE_PUT: u64 = 16 * MIB;
/// S3's maximum number of parts.
const MAX_PARTS: u64 = 10_000;
/// Minimum size of a part. It is above S3's minimum (5 MiB), to save requests.
const MIN_PART: u64 = 8 * MIB;
/// Time limit for the request that aborts an upload.
const ABORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Content that is read in pieces.
pub trait Pieces: Send + Sized {
    /// What is known of the whole content.
    type Done: Send;
    type Error: Send;

    /// The length of all pieces.
    fn length(&self) -> u64;

    /// The next piece of up to `most` bytes. A shorter piece is the last; an empty one is the end.
    fn next(self, most: usize) -> impl Future<Output = Result<(Self, Bytes), Self::Error>> + Send;

    /// Called after the last piece, and before the object appears.
    ///
    /// # Errors
    /// If the content changed while it was read.
    fn finish(self) -> Result<Self::Done, Self::Error>;
}

/// The memory for all content in flight.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    kib: u32,
    left: Arc<Semaphore>,
}

/// A part of the budget; free again when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Reserved(#[expect(dead_code)] Option<OwnedSemaphorePermit>);

impl MemoryBudget {
    pub fn new(bytes: u64) -> MemoryBudget {
        let kib = u32::try_from(bytes / KIB).unwrap_or(u32::MAX).max(1);
        MemoryBudget { kib, left: Arc::new(Semaphore::new(kib as usize)) }
    }

    /// Waits until the bytes fit. A larger number takes the whole budget.
    pub async fn reserve(&self, bytes: u64) -> Reserved {
        let kib = u32::try_from(bytes.div_ceil(KIB)).unwrap_or(self.kib).clamp(1, self.kib);
        // Nobody closes the semaphore.
        Reserved(Arc::clone(&self.left).acquire_many_owned(kib).await.ok())
    }
}

/// What an upload does with an object that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Replace,
    /// It stays. The bucket's client should complete uploads only if there is no object (`If-None-Match: *`).
    Create,
}

/// Why an object was not uploaded in parts.
#[derive(Debug)]
pub enum PartsError<E> {
    /// The content could not be read.
    Content(E),
    Store(Error),
    /// Another object is there, and stays. See [`Mode::Create`].
    Exists,
    Stopped,
}

/// Uploads the content as one object. If it fails or is stopped, the parts are removed.
///
/// # Errors
/// What prevented it; no object was written.
pub async fn upload<P: Pieces>(
    objects: &Objects,
    budget: &MemoryBudget,
    key: &Path,
    pieces: P,
    mode: Mode,
    stop: impl Future<Output = ()>,
) -> Result<P::Done, PartsError<P::Error>> {
    let mut begun = None;
    let mut parts = JoinSet::new();
    let work = async {
        // `complete` compares this with the object, to see whether it is new.
        let earlier = objects.head(key).await.ok().flatten();
        if mode == Mode::Create && earlier.is_some() {
            return Err(PartsError::Exists);
        }
        let begin = || objects.counted(RequestClass::WriteOrList, objects.store().put_multipart(key));
        let upload = begun.insert(objects.retries().run(begin).await.map_err(PartsError::Store)?);
        let length = pieces.length();
        let sent = send(objects, budget, upload.as_mut(), pieces, &mut parts).await?;
        let done = sent.finish().map_err(PartsError::Content)?;
        if mode == Mode::Create && objects.head(key).await.is_ok_and(|there| there.is_some()) {
            return Err(PartsError::Exists);
        }
        complete(objects, upload.as_mut(), key, length, earlier.as_ref()).await?;
        objects.meter().wrote(length);
        Ok(done)
    };
    let done = tokio::select! {
        biased;
        () = stop => Err(PartsError::Stopped),
        done = work => done,
    };
    if done.is_err()
        && let Some(mut upload) = begun
    {
        // Parts that arrive after the abort would stay in the bucket and cost money.
        parts.shutdown().await;
        // The abort may fail, too; then a lifecycle rule of the bucket removes the parts.
        let abort = objects.counted(RequestClass::Delete, upload.abort());
        let _ = tokio::time::timeout(ABORT_TIMEOUT, abort).await;
    }
    done
}

async fn send<P: Pieces>(
    objects: &Objects,
    budget: &MemoryBudget,
    upload: &mut dyn MultipartUpload,
    mut pieces: P,
    parts: &mut JoinSet<object_store::Result<()>>,
) -> Result<P, PartsError<P::Error>> {
    let size = part_size(pieces.length());
    loop {
        let reserved = budget.reserve(size).await;
        let most = usize::try_from(size).unwrap_or(usize::MAX);
        let (next, content) = pieces.next(most).await.map_err(PartsError::Content)?;
        pieces = next;
        if content.is_empty() {
            break;
        }
        let part = upload.put_part(PutPayload::from(content));
        let objects = objects.clone();
        parts.spawn(async move {
            let sent = objects.counted(RequestClass::WriteOrList, part).await;
            drop(reserved);
            sent
        });
        while let Some(sent) = parts.try_join_next() {
            check(sent)?;
        }
    }
    while let Some(sent) = parts.join_next().await {
        check(sent)?;
    }
    Ok(pieces)
}

fn check<E>(part: Result<object_store::Result<()>, tokio::task::JoinError>) -> Result<(), PartsError<E>> {
    let panicked = |error| Error::Generic { store: "S3", source: Box::new(error) };
    part.map_err(panicked).and_then(|sent| sent).map_err(PartsError::Store)
}

/// Completes an upload. The answer may get lost, and a retry then finds no upload. So the object is checked as well.
async fn complete<E>(
    objects: &Objects,
    upload: &mut dyn MultipartUpload,
    key: &Path,
    length: u64,
    earlier: Option<&ObjectMeta>,
) -> Result<(), PartsError<E>> {
    let mut retry = objects.retries().begin();
    loop {
        let completed = objects.counted(RequestClass::WriteOrList, upload.complete()).await;
        let Err(error) = completed else { return Ok(()) };
        let exists = matches!(error, Error::Precondition { .. });
        let there = objects.head(key).await.ok().flatten();
        let is_new = |there: &ObjectMeta| {
            earlier.is_none_or(|earlier| {
                (&earlier.e_tag, earlier.last_modified) != (&there.e_tag, there.last_modified)
            })
        };
        if !exists && there.is_some_and(|there| there.size == length && is_new(&there)) {
            return Ok(());
        }
        if exists {
            return Err(PartsError::Exists);
        }
        if !is_transient(&error) || !retry.delay().await {
            return Err(PartsError::Store(error));
        }
    }
}

/// Size of a part, so that no object needs more than [`MAX_PARTS`].
fn part_size(length: u64) -> u64 {
    length.div_ceil(MAX_PARTS).max(MIN_PART)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::convert::Infallible;

    use object_store::memory::InMemory;

    use super::*;
    use crate::retry::Retries;

    struct Content(Bytes);

    impl Pieces for Content {
        type Done = ();
        type Error = Infallible;

        fn length(&self) -> u64 {
            self.0.len() as u64
        }

        async fn next(mut self, most: usize) -> Result<(Content, Bytes), Infallible> {
            let piece = self.0.split_to(most.min(self.0.len()));
            Ok((self, piece))
        }

        fn finish(self) -> Result<(), Infallible> {
            Ok(())
        }
    }

    #[test]
    fn part_size_is_within_the_limits_of_s3() {
        // S3's limits: 5 MiB to 5 GiB, 10,000 parts, 5 TiB.
        let table =
            [MAX_SINGLE_PUT + 1, 78 * 1024 * MIB, 80_000 * MIB, 80_000 * MIB + 1, 5 * 1024 * 1024 * MIB];
        for length in table {
            let size = part_size(length);
            assert!((5 * MIB..=5 * 1024 * MIB).contains(&size), "{length}: {size}");
            assert!(length.div_ceil(size) <= 10_000, "{length}: {size}");
        }
        assert_eq!(part_size(MAX_SINGLE_PUT + 1), 8 * MIB);
        assert!(part_size(80_000 * MIB + 1) > 8 * MIB);
    }

    #[tokio::test]
    async fn large_objects_are_whole_and_replace_only_if_told() {
        let objects = Objects::new(Arc::new(InMemory::new()), Retries::within(Duration::ZERO));
        // One part at a time.
        let budget = MemoryBudget::new(MIN_PART);
        let key = Path::from("k");
        let content = |byte: u8| Bytes::from(vec![byte; 2 * MIN_PART as usize + 7]);
        let upload = async |byte, mode| {
            upload(&objects, &budget, &key, Content(content(byte)), mode, std::future::pending()).await
        };
        assert!(upload(1, Mode::Create).await.is_ok());
        assert!(matches!(upload(2, Mode::Create).await, Err(PartsError::Exists)));
        assert_eq!(objects.read(&key, u64::MAX).await.unwrap().unwrap(), content(1));
        assert!(upload(3, Mode::Replace).await.is_ok());
        assert_eq!(objects.read(&key, u64::MAX).await.unwrap().unwrap(), content(3));
        let written = objects.meter().so_far().bytes_written;
        assert_eq!(written, 2 * content(0).len() as u64);
    }

    #[tokio::test]
    async fn a_stop_leaves_no_object() {
        let objects = Objects::new(Arc::new(InMemory::new()), Retries::within(Duration::ZERO));
        let budget = MemoryBudget::new(4 * MIN_PART);
        let whole = budget.reserve(u64::MAX).await;
        let key = Path::from("k");
        let stop = tokio::time::sleep(Duration::from_millis(10));
        let content = Content(Bytes::from_static(&[0; 9]));
        let stopped = upload(&objects, &budget, &key, content, Mode::Create, stop).await;
        assert!(matches!(stopped, Err(PartsError::Stopped)));
        assert_eq!(objects.head(&key).await.unwrap(), None);
        drop(whole);
    }
}
