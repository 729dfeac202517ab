//! Publishes to an S3 bucket.
//!
//! One budget for all parts in flight limits the memory, for any number and size of files.

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
use super::source::{Source, SourceMeta};
use crate::aws;
use agent_objects::key::exact;
use agent_objects::retry::{Retries, is_transient};
use agent_types::error::{Error, Result};

const MIB: u64 = 1024 * 1024;

/// Larger files are uploaded in parts.
const MAX_SINGLE_PUT: u64 = 16 * MIB;
/// S3's maximum number of parts.
const MAX_PARTS: u64 = 10_000;
/// Minimum size of a part. It is above S3's minimum (5 MiB), to save requests.
const MIN_PART: u64 = 8 * MIB;
/// Memory for all parts in flight.
const BUDGET_MIB: u32 = 64;
/// Time limit for the request that aborts a multipart upload.
const ABORT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

#[derive(Clone, Debug)]
pub struct Bucket {
    store: Arc<dyn ObjectStore>,
    name: String,
    budget: Arc<Semaphore>,
    retries: Retries,
}

impl Bucket {
    pub fn new(store: Arc<dyn ObjectStore>, name: &str, retries: Retries) -> Bucket {
        let budget = Arc::new(Semaphore::new(BUDGET_MIB as usize));
        Bucket { store, name: name.to_owned(), budget, retries }
    }

    pub fn shown(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.name)
    }

    /// Whether the object exists; also false, if the role has no permission to find out.
    #[tracing::instrument(name = "s3", skip_all, fields(call = "head", bucket = self.name, key))]
    pub async fn exists(&self, key: &str) -> Result<bool> {
        let path = exact(key).map_err(Error::usage)?;
        match self.retries.run(|| self.store.head(&path)).await {
            Ok(_) => Ok(true),
            // Without s3:ListBucket, S3 answers 403 for objects that do not exist.
            Err(object_store::Error::NotFound { .. } | object_store::Error::PermissionDenied { .. }) => {
                Ok(false)
            }
            Err(source) => Err(self.failed("access", key, &source, "s3:GetObject")),
        }
    }

    /// Uploads the file. Replaces an object that an earlier, failed attempt left.
    #[tracing::instrument(name = "s3", skip_all, fields(call = "put", bucket = self.name, key, bytes = source.len()))]
    pub async fn put(
        &self,
        key: &str,
        source: Source,
        stop: &CancellationToken,
    ) -> Result<SourceMeta, Failure> {
        let path = exact(key).map_err(|message| Problem::new(source.path(), message))?;
        if source.len() <= MAX_SINGLE_PUT {
            tokio::select! {
                biased;
                () = stop.cancelled() => Err(Failure::Stopped),
                sent = self.put_single(&path, source) => sent,
            }
        } else {
            self.put_parts(&path, source, stop).await
        }
    }

    /// Writes a new object; false, if it exists already.
    ///
    /// The answer to a successful request may get lost. So the object is read before a retry, and before it is
    /// assumed that another publication wrote it.
    #[tracing::instrument(name = "s3", skip_all, fields(call = "create", bucket = self.name, key))]
    pub async fn create(&self, key: &str, content: Vec<u8>) -> Result<bool> {
        let path = exact(key).map_err(Error::usage)?;
        let mut retry = self.retries.begin();
        loop {
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            let Err(source) = self.store.put_opts(&path, content.clone().into(), options).await else {
                return Ok(true);
            };
            let exists = matches!(source, object_store::Error::AlreadyExists { .. });
            match self.retries.run(|| self.read(&path)).await {
                Ok(there) => return Ok(there == content),
                // It existed for a moment and is gone again.
                Err(object_store::Error::NotFound { .. }) if exists => {}
                Err(_) if exists => return Ok(false),
                Err(_) if is_transient(&source) => {}
                Err(_) => return Err(self.failed("write", key, &source, "s3:PutObject")),
            }
            if !retry.delay().await {
                return Err(self.failed("write", key, &source, "s3:PutObject"));
            }
        }
    }

    /// The content of an object, if it can be read.
    pub async fn content(&self, key: &str) -> Option<Vec<u8>> {
        let path = exact(key).ok()?;
        self.retries.run(|| self.read(&path)).await.ok().map(Into::into)
    }

    async fn read(&self, path: &Key) -> object_store::Result<bytes::Bytes> {
        self.store.get(path).await?.bytes().await
    }

    async fn put_single(&self, key: &Key, source: Source) -> Result<SourceMeta, Failure> {
        let length = source.len();
        let _permit = self.reserve(length).await?;
        // One byte more, to notice that the file grew.
        let (source, content) = source.next(to_usize(length)?.saturating_add(1)).await?;
        let facts = source.finish()?;
        match self.retries.run(|| self.store.put(key, content.clone().into())).await {
            Ok(_) => Ok(facts),
            Err(source) => Err(self.failed("write", key.as_ref(), &source, "s3:PutObject").into()),
        }
    }

    async fn put_parts(
        &self,
        key: &Key,
        source: Source,
        stop: &CancellationToken,
    ) -> Result<SourceMeta, Failure> {
        let failed =
            |source: &object_store::Error| self.failed("write", key.as_ref(), source, "s3:PutObject");
        // `complete` compares this with the object, to see whether it is new.
        let earlier = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(Failure::Stopped),
            earlier = self.store.head(key) => earlier.ok(),
        };
        let mut upload = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(Failure::Stopped),
            upload = self.retries.run(|| self.store.put_multipart(key)) => {
                upload.map_err(|source| failed(&source))?
            }
        };
        let length = source.len();
        let mut parts = JoinSet::new();
        let sent = tokio::select! {
            biased;
            () = stop.cancelled() => Err(Failure::Stopped),
            sent = self.send_parts(upload.as_mut(), source, &mut parts, &failed) => sent,
        };
        let completed = match sent {
            Ok(facts) => tokio::select! {
                biased;
                () = stop.cancelled() => Err(Failure::Stopped),
                completed = self.complete(upload.as_mut(), key, length, earlier.as_ref()) => {
                    completed.map(|()| facts).map_err(|source| failed(&source).into())
                }
            },
            Err(failure) => Err(failure),
        };
        if completed.is_err() {
            // Parts that arrive after the abort would stay in the bucket and cost money.
            parts.shutdown().await;
            // The abort may fail, too; then a lifecycle rule of the bucket removes the parts.
            let _ = tokio::time::timeout(ABORT_TIMEOUT, upload.abort()).await;
        }
        completed
    }

    /// Completes an upload. The answer may get lost, and a retry then finds no upload. So the object is checked
    /// as well.
    async fn complete(
        &self,
        upload: &mut dyn MultipartUpload,
        key: &Key,
        length: u64,
        earlier: Option<&ObjectMeta>,
    ) -> object_store::Result<()> {
        let mut retry = self.retries.begin();
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
            if !is_transient(&error) || !retry.delay().await {
                return Err(error);
            }
        }
    }

    async fn send_parts(
        &self,
        upload: &mut dyn MultipartUpload,
        mut source: Source,
        parts: &mut JoinSet<object_store::Result<()>>,
        failed: &impl Fn(&object_store::Error) -> Error,
    ) -> Result<SourceMeta, Failure> {
        let size = part_size(source.len());
        loop {
            let permit = self.reserve(size).await?;
            let (next, content) = source.next(to_usize(size)?).await?;
            source = next;
            if content.is_empty() {
                break;
            }
            let part = upload.put_part(PutPayload::from(content));
            parts.spawn(async move {
                let sent = part.await;
                drop(permit);
                sent
            });
            while let Some(sent) = parts.try_join_next() {
                check_part(sent, failed)?;
            }
        }
        while let Some(sent) = parts.join_next().await {
            check_part(sent, failed)?;
        }
        Ok(source.finish()?)
    }

    /// Waits until the bytes fit into the budget. A larger number takes the whole budget.
    async fn reserve(&self, bytes: u64) -> Result<OwnedSemaphorePermit, Failure> {
        let mib = u32::try_from(bytes.div_ceil(MIB)).unwrap_or(BUDGET_MIB).clamp(1, BUDGET_MIB);
        let permit = self.budget.clone().acquire_many_owned(mib).await;
        permit.map_err(|error| Error::internal("the upload budget is closed").because(&error).into())
    }

    fn failed(&self, what: &str, key: &str, source: &object_store::Error, action: &str) -> Error {
        tracing::warn!("cannot {what} {}: {source}", self.shown(key));
        aws::upstream(format!("cannot {what} {}", self.shown(key)), source, action)
    }
}

fn check_part(
    part: Result<object_store::Result<()>, tokio::task::JoinError>,
    failed: &impl Fn(&object_store::Error) -> Error,
) -> Result<(), Failure> {
    match part {
        Ok(Ok(())) => Ok(()),
        Ok(Err(source)) => Err(failed(&source).into()),
        Err(error) => Err(Error::internal("an upload task panicked").because(&error).into()),
    }
}

/// Size of a part, so that no file needs more than [`MAX_PARTS`].
fn part_size(length: u64) -> u64 {
    length.div_ceil(MAX_PARTS).max(MIN_PART)
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

    #[test]
    fn accepts_keys_unchanged_or_rejects_them() {
        for key in ["a b+c:d#e%20f/ä~", "x", "%0A", "a\\b", ".hidden/..x"] {
            assert_eq!(exact(key).unwrap().as_ref(), key);
        }
        for key in ["", "/a", "a/", "a//b", "a/../b", "a/./b", "a\nb", &"x".repeat(1025)] {
            assert!(exact(key).is_err(), "{key}");
        }
    }
}
