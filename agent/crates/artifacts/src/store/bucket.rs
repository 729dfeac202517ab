//! An S3 bucket as the destination.
//!
//! Memory is bounded by one budget for all parts in flight, whatever the number and size of files.

use std::sync::Arc;

use object_store::path::Path as Key;
use object_store::{
    MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::collect::Problem;
use super::failure::Failure;
use super::names::LONGEST_KEY;
use super::retry::{Retries, is_transient};
use super::source::{Source, SourceMeta};
use crate::aws;
use agent_types::error::{Error, Result};

const MIB: u64 = 1024 * 1024;

/// Files above this are uploaded in parts.
const SINGLE: u64 = 16 * MIB;
/// S3: at most this many parts.
const PARTS: u64 = 10_000;
/// More than S3's least (5 MiB): fewer requests.
const LEAST_PART: u64 = 8 * MIB;
/// For all parts in flight, MiB.
const BUDGET: u32 = 64;
/// For telling S3 to forget a multipart upload.
const ABORT: std::time::Duration = std::time::Duration::from_secs(10);

#[derive(Clone, Debug)]
pub struct Bucket {
    store: Arc<dyn ObjectStore>,
    name: String,
    budget: Arc<Semaphore>,
    retries: Retries,
}

impl Bucket {
    pub fn new(store: Arc<dyn ObjectStore>, name: &str, retries: Retries) -> Bucket {
        let budget = Arc::new(Semaphore::new(BUDGET as usize));
        Bucket { store, name: name.to_owned(), budget, retries }
    }

    pub fn shown(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.name)
    }

    /// Whether there is such an object; `false` also when the role may not ask.
    pub async fn holds(&self, key: &str) -> Result<bool> {
        let path = exact(key).map_err(Error::usage)?;
        match self.retries.run(|| self.store.head(&path)).await {
            Ok(_) => Ok(true),
            // Without s3:ListBucket the answer for "not there" is 403.
            Err(object_store::Error::NotFound { .. } | object_store::Error::PermissionDenied { .. }) => {
                Ok(false)
            }
            Err(source) => Err(self.broken("look at", key, &source, "s3:GetObject")),
        }
    }

    /// Uploads the file, replacing what an earlier, broken attempt left under its key.
    pub async fn put(
        &self,
        key: &str,
        source: Source,
        stop: &CancellationToken,
    ) -> Result<SourceMeta, Failure> {
        let path = exact(key).map_err(|message| Problem::new(source.path(), message))?;
        if source.len() <= SINGLE {
            tokio::select! {
                biased;
                () = stop.cancelled() => Err(Failure::Stopped),
                sent = self.put_single(&path, source) => sent,
            }
        } else {
            self.put_parts(&path, source, stop).await
        }
    }

    /// Writes an object that must not be there yet; `false` when it is.
    ///
    /// The answer to a request that was done may get lost, so that what is there is looked at before the
    /// request is repeated, and before it is believed that somebody else was first.
    pub async fn create(&self, key: &str, content: Vec<u8>) -> Result<bool> {
        let path = exact(key).map_err(Error::usage)?;
        let mut tries = self.retries.begin();
        loop {
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            let Err(source) = self.store.put_opts(&path, content.clone().into(), options).await else {
                return Ok(true);
            };
            let is_taken = matches!(source, object_store::Error::AlreadyExists { .. });
            match self.retries.run(|| self.read(&path)).await {
                Ok(there) => return Ok(there == content),
                // Taken by a write that was taken back.
                Err(object_store::Error::NotFound { .. }) if is_taken => {}
                Err(_) if is_taken => return Ok(false),
                Err(_) if is_transient(&source) => {}
                Err(_) => return Err(self.broken("write", key, &source, "s3:PutObject")),
            }
            if !tries.pause().await {
                return Err(self.broken("write", key, &source, "s3:PutObject"));
            }
        }
    }

    async fn read(&self, path: &Key) -> object_store::Result<bytes::Bytes> {
        self.store.get(path).await?.bytes().await
    }

    async fn put_single(&self, key: &Key, source: Source) -> Result<SourceMeta, Failure> {
        let length = source.len();
        let _room = self.room(length).await?;
        // One byte more: what comes beyond the length shows that the file grew.
        let (source, content) = source.next(to_usize(length)?.saturating_add(1)).await?;
        let facts = source.finish()?;
        match self.retries.run(|| self.store.put(key, content.clone().into())).await {
            Ok(_) => Ok(facts),
            Err(source) => Err(self.broken("write", key.as_ref(), &source, "s3:PutObject").into()),
        }
    }

    async fn put_parts(
        &self,
        key: &Key,
        source: Source,
        stop: &CancellationToken,
    ) -> Result<SourceMeta, Failure> {
        let broken =
            |source: &object_store::Error| self.broken("write", key.as_ref(), source, "s3:PutObject");
        // To tell later whether the object is new.
        let earlier = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(Failure::Stopped),
            earlier = self.store.head(key) => earlier.ok(),
        };
        let mut upload = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(Failure::Stopped),
            upload = self.retries.run(|| self.store.put_multipart(key)) => {
                upload.map_err(|source| broken(&source))?
            }
        };
        let length = source.len();
        let mut parts = JoinSet::new();
        let sent = tokio::select! {
            biased;
            () = stop.cancelled() => Err(Failure::Stopped),
            sent = self.send_parts(upload.as_mut(), source, &mut parts, &broken) => sent,
        };
        let completed = match sent {
            Ok(facts) => tokio::select! {
                biased;
                () = stop.cancelled() => Err(Failure::Stopped),
                completed = self.complete(upload.as_mut(), key, length, earlier.as_ref()) => {
                    completed.map(|()| facts).map_err(|source| broken(&source).into())
                }
            },
            Err(failure) => Err(failure),
        };
        if completed.is_err() {
            // Parts that arrive after the abort would stay, and be paid for.
            parts.shutdown().await;
            // A destination that fails the upload may fail the abort; a lifecycle rule is the net below.
            let _ = tokio::time::timeout(ABORT, upload.abort()).await;
        }
        completed
    }

    /// Completes an upload. The answer may get lost, and a repetition finds no upload any more: then the
    /// object itself says whether it is there.
    async fn complete(
        &self,
        upload: &mut dyn MultipartUpload,
        key: &Key,
        length: u64,
        earlier: Option<&ObjectMeta>,
    ) -> object_store::Result<()> {
        let mut tries = self.retries.begin();
        loop {
            let Err(error) = upload.complete().await else { return Ok(()) };
            if let Ok(there) = self.retries.run(|| self.store.head(key)).await
                && there.size == length
                && earlier.is_none_or(|earlier| {
                    (&earlier.e_tag, earlier.last_modified) != (&there.e_tag, there.last_modified)
                })
            {
                return Ok(());
            }
            if !is_transient(&error) || !tries.pause().await {
                return Err(error);
            }
        }
    }

    async fn send_parts(
        &self,
        upload: &mut dyn MultipartUpload,
        mut source: Source,
        parts: &mut JoinSet<object_store::Result<()>>,
        broken: &impl Fn(&object_store::Error) -> Error,
    ) -> Result<SourceMeta, Failure> {
        let size = part_size(source.len());
        loop {
            let room = self.room(size).await?;
            let (next, content) = source.next(to_usize(size)?).await?;
            source = next;
            if content.is_empty() {
                break;
            }
            let part = upload.put_part(PutPayload::from(content));
            parts.spawn(async move {
                let sent = part.await;
                drop(room);
                sent
            });
            while let Some(sent) = parts.try_join_next() {
                arrived(sent, broken)?;
            }
        }
        while let Some(sent) = parts.join_next().await {
            arrived(sent, broken)?;
        }
        Ok(source.finish()?)
    }

    /// Waits until so many bytes fit into the budget; what is larger takes all of it.
    async fn room(&self, bytes: u64) -> Result<OwnedSemaphorePermit, Failure> {
        let mib = u32::try_from(bytes.div_ceil(MIB)).unwrap_or(BUDGET).clamp(1, BUDGET);
        let room = self.budget.clone().acquire_many_owned(mib).await;
        room.map_err(|error| Error::internal("the upload budget is closed").because(&error).into())
    }

    fn broken(&self, what: &str, key: &str, source: &object_store::Error, action: &str) -> Error {
        aws::upstream(format!("cannot {what} {}", self.shown(key)), source, action)
    }
}

fn arrived(
    part: Result<object_store::Result<()>, tokio::task::JoinError>,
    broken: &impl Fn(&object_store::Error) -> Error,
) -> Result<(), Failure> {
    match part {
        Ok(Ok(())) => Ok(()),
        Ok(Err(source)) => Err(broken(&source).into()),
        Err(error) => Err(Error::internal("an upload broke off").because(&error).into()),
    }
}

/// The key with not one byte changed, or why S3 or its client cannot have it.
fn exact(key: &str) -> Result<Key, String> {
    if key.len() > LONGEST_KEY {
        return Err(format!("its key is longer than S3's {LONGEST_KEY} bytes: `{key}`"));
    }
    match Key::parse(key) {
        Ok(path) if path.as_ref() == key && !key.is_empty() => Ok(path),
        Ok(_) => Err(format!("`{key}` cannot be a key: it begins or ends with `/`")),
        Err(error) => Err(format!("`{key}` cannot be a key: {error}")),
    }
}

/// Bytes in a part, so that no file needs too many of them.
fn part_size(length: u64) -> u64 {
    length.div_ceil(PARTS).max(LEAST_PART)
}

fn to_usize(bytes: u64) -> Result<usize, Failure> {
    usize::try_from(bytes)
        .map_err(|error| Error::machine("a part does not fit into memory").because(&error).into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn no_file_needs_too_many_parts_and_no_part_is_too_small() {
        // S3's limits: 5 MiB to 5 GiB, 10,000 parts, 5 TiB.
        let table = [SINGLE + 1, 78 * 1024 * MIB, 80_000 * MIB, 80_000 * MIB + 1, 5 * 1024 * 1024 * MIB];
        for length in table {
            let size = part_size(length);
            assert!((5 * MIB..=5 * 1024 * MIB).contains(&size), "{length}: {size}");
            assert!(length.div_ceil(size) <= 10_000, "{length}: {size}");
        }
        assert_eq!(part_size(SINGLE + 1), 8 * MIB);
        assert!(part_size(80_000 * MIB + 1) > 8 * MIB);
    }

    #[test]
    fn keys_are_exact_or_refused() {
        for key in ["a b+c:d#e%20f/ä~", "x", "%0A", "a\\b", ".hidden/..x"] {
            assert_eq!(exact(key).unwrap().as_ref(), key);
        }
        for key in ["", "/a", "a/", "a//b", "a/../b", "a/./b", "a\nb", &"x".repeat(1025)] {
            assert!(exact(key).is_err(), "{key}");
        }
    }
}
