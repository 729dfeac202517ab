//! Publishes to an S3 bucket.
//!
//! One budget for all parts in flight limits the memory, for any number and size of files.

use std::sync::Arc;

use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use tokio_util::sync::CancellationToken;

use super::collect::Problem;
use super::failure::Failure;
use super::names::INDEX;
use super::source::{Source, SourceMeta};
use crate::aws;
use agent_objects::key::exact;
use agent_objects::parts::{self, MAX_SINGLE_PUT, MemoryBudget, Mode, PartsError};
use agent_objects::retry::{Retries, is_transient};
use agent_objects::{Created, Objects};
use agent_types::error::{Error, Result};

/// Memory for all content in flight.
const BUDGET: u64 = 64 * 1024 * 1024;

#[derive(Clone, Debug)]
pub struct Bucket {
    objects: Objects,
    name: String,
    budget: MemoryBudget,
}

impl Bucket {
    pub fn new(store: Arc<dyn ObjectStore>, name: &str, retries: Retries) -> Bucket {
        let objects = Objects::new(store, retries);
        Bucket { objects, name: name.to_owned(), budget: MemoryBudget::new(BUDGET) }
    }

    pub fn shown(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.name)
    }

    /// Whether the object exists; also false, if the role has no permission to find out.
    #[tracing::instrument(name = "s3", skip_all, fields(call = "head", bucket = self.name, key))]
    pub async fn exists(&self, key: &str) -> Result<bool> {
        let path = exact(key).map_err(Error::usage)?;
        match self.objects.head(&path).await {
            Ok(there) => Ok(there.is_some()),
            // Without s3:ListBucket, S3 answers 403 for objects that do not exist.
            Err(object_store::Error::PermissionDenied { .. }) => Ok(false),
            Err(source) => Err(self.failed("access", key, &source, "s3:GetObject")),
        }
    }

    /// Uploads the file. Replaces an object that an earlier, failed attempt left.
    ///
    /// The policy of a bucket can make indexes final, and knows them by their names only (cloudformation/cache.yml). So
    /// a file with that name in a directory, such as that of an OCI image, is created by a conditional request.
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
        let (store, retries) = (self.objects.store(), self.objects.retries());
        let mut retry = retries.begin();
        loop {
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            let Err(source) = store.put_opts(&path, content.clone().into(), options).await else {
                return Ok(true);
            };
            let exists = matches!(source, object_store::Error::AlreadyExists { .. });
            match retries.run(|| self.read(&path)).await {
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
        self.objects.retries().run(|| self.read(&path)).await.ok().map(Into::into)
    }

    async fn read(&self, path: &Key) -> object_store::Result<bytes::Bytes> {
        self.objects.store().get(path).await?.bytes().await
    }

    async fn put_single(&self, key: &Key, source: Source) -> Result<SourceMeta, Failure> {
        let length = source.len();
        let _reserved = self.budget.reserve(length).await;
        // One byte more, to notice that the file grew.
        let (source, content) = source.next(to_usize(length)?.saturating_add(1)).await?;
        let facts = source.finish()?;
        let written = match key.filename() == Some(INDEX) {
            true => match self.objects.create(key, content.clone()).await {
                Ok(Created::Different) => self.objects.replace(key, content).await,
                created => created.map(|_| ()),
            },
            false => self.objects.replace(key, content).await,
        };
        match written {
            Ok(()) => Ok(facts),
            Err(source) => Err(self.failed("write", key.as_ref(), &source, "s3:PutObject").into()),
        }
    }

    async fn put_parts(
        &self,
        key: &Key,
        source: Source,
        stop: &CancellationToken,
    ) -> Result<SourceMeta, Failure> {
        let sent =
            parts::upload(&self.objects, &self.budget, key, source, Mode::Replace, stop.cancelled()).await;
        match sent {
            Ok(facts) => Ok(facts),
            Err(PartsError::Content(problem)) => Err(problem.into()),
            Err(PartsError::Stopped) => Err(Failure::Stopped),
            Err(PartsError::Store(source)) => {
                Err(self.failed("write", key.as_ref(), &source, "s3:PutObject").into())
            }
            Err(PartsError::Exists) => {
                let shown = self.shown(key.as_ref());
                Err(Error::usage(format!("{shown} exists, and an index is never replaced"))
                    .hint("publish to another destination, or use another build number")
                    .into())
            }
        }
    }

    fn failed(&self, what: &str, key: &str, source: &object_store::Error, action: &str) -> Error {
        tracing::warn!("cannot {what} {}: {source}", self.shown(key));
        aws::upstream(format!("cannot {what} {}", self.shown(key)), source, action)
    }
}

fn to_usize(bytes: u64) -> Result<usize, Failure> {
    usize::try_from(bytes)
        .map_err(|error| Error::machine("a part does not fit into memory").because(&error).into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fmt;
    use std::time::Duration;

    use async_trait::async_trait;
    use futures_util::stream::BoxStream;
    use object_store::memory::InMemory;
    use object_store::{
        CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMultipartOptions,
        PutPayload, PutResult, Result,
    };

    use super::*;
    use agent_fs::dir::FileMeta;

    /// A bucket with the policy of cloudformation/cache.yml: indexes are created and never replaced.
    #[derive(Debug)]
    struct FinalIndexes(InMemory);

    impl fmt::Display for FinalIndexes {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("final indexes")
        }
    }

    #[async_trait]
    impl ObjectStore for FinalIndexes {
        async fn put_opts(&self, key: &Key, content: PutPayload, options: PutOptions) -> Result<PutResult> {
            if key.filename() == Some(INDEX) && options.mode != PutMode::Create {
                return Err(object_store::Error::PermissionDenied {
                    path: key.to_string(),
                    source: "explicit deny".into(),
                });
            }
            self.0.put_opts(key, content, options).await
        }

        async fn put_multipart_opts(
            &self,
            key: &Key,
            options: PutMultipartOptions,
        ) -> Result<Box<dyn MultipartUpload>> {
            self.0.put_multipart_opts(key, options).await
        }

        async fn get_opts(&self, key: &Key, options: GetOptions) -> Result<GetResult> {
            self.0.get_opts(key, options).await
        }

        fn delete_stream(&self, keys: BoxStream<'static, Result<Key>>) -> BoxStream<'static, Result<Key>> {
            self.0.delete_stream(keys)
        }

        fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, Result<ObjectMeta>> {
            self.0.list(prefix)
        }

        async fn list_with_delimiter(&self, prefix: Option<&Key>) -> Result<ListResult> {
            self.0.list_with_delimiter(prefix).await
        }

        async fn copy_opts(&self, from: &Key, to: &Key, options: CopyOptions) -> Result<()> {
            self.0.copy_opts(from, to, options).await
        }
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

    fn source(content: &str) -> Source {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, content.as_bytes()).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        let meta = FileMeta::of(&nix::sys::stat::fstat(&file).unwrap());
        Source::new(std::path::Path::new("x"), file, meta)
    }

    #[tokio::test]
    async fn a_file_with_the_name_of_an_index_can_be_published_where_indexes_are_final() {
        let put = async |bucket: &Bucket, key: &str, content: &str| {
            bucket.put(key, source(content), &CancellationToken::new()).await.is_ok()
        };
        let retries = Retries::within(Duration::ZERO);
        let guarded = Bucket::new(Arc::new(FinalIndexes(InMemory::new())), "b", retries);
        let plain = Bucket::new(Arc::new(InMemory::new()), "b", retries);
        for (key, content, of_guarded) in [
            ("builds/1/oci/index.json", "one", true),
            // Another attempt of the same job.
            ("builds/1/oci/index.json", "one", true),
            ("builds/1/oci/index.json", "two", false),
            ("builds/1/image.bin", "one", true),
            ("builds/1/image.bin", "two", true),
        ] {
            assert_eq!(put(&guarded, key, content).await, of_guarded, "{key} {content}");
            assert!(put(&plain, key, content).await, "{key} {content}");
        }
        assert_eq!(guarded.content("builds/1/oci/index.json").await.unwrap(), b"one");
        assert_eq!(plain.content("builds/1/oci/index.json").await.unwrap(), b"two");
    }
}
