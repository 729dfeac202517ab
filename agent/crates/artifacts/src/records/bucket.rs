//! Records in a bucket.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use object_store::path::Path as Key;
use object_store::{Attribute, Attributes, GetOptions, GetRange, ObjectStore, PutOptions};

use super::directory::{OpenFile, PartFile};
use super::{FileDigest, RETRIES, Record, damaged};
use crate::aws;
use crate::store::{Problem, join};
use agent_objects::key::exact;
use agent_objects::parts::{self, MAX_SINGLE_PUT, MemoryBudget, Mode, PartsError};
use agent_objects::retry::is_transient;
use agent_objects::{Created, ListKeys, Objects};
use agent_types::error::{Error, Result};

/// Memory for the parts of uploads.
const BUDGET: u64 = 64 << 20;

#[derive(Debug)]
pub struct Bucket {
    objects: Objects,
    budget: MemoryBudget,
    name: String,
    prefix: String,
}

impl Bucket {
    pub async fn open(
        name: &str,
        prefix: &str,
        is_share: bool,
        kms_key_id: Option<&str>,
        index: &'static str,
    ) -> Result<Bucket> {
        let store = match is_share {
            true => aws::share_bucket(name).await?,
            false => aws::bucket(name, kms_key_id, index).await?,
        };
        let store = Arc::new(store);
        let keys: Arc<dyn ListKeys> =
            Arc::new(aws::BucketKeys::new(Arc::clone(&store)).map_err(|error| {
                Error::machine("this machine has no trusted certificates").because(&error)
            })?);
        Ok(Bucket::of(Objects::new(store, RETRIES).listed_by(keys), name, prefix))
    }

    pub fn of(objects: Objects, name: &str, prefix: &str) -> Bucket {
        let budget = MemoryBudget::new(BUDGET);
        Bucket { objects, budget, name: name.to_owned(), prefix: prefix.to_owned() }
    }

    pub fn shown(&self, path: &str) -> String {
        format!("s3://{}/{}", self.name, join(&self.prefix, path))
    }

    fn key(&self, path: &str) -> Result<Key> {
        exact(&join(&self.prefix, path)).map_err(Error::usage)
    }

    pub async fn read(&self, path: &str, limit: u64) -> object_store::Result<Option<Vec<u8>>> {
        let key = exact(&join(&self.prefix, path))
            .map_err(|message| object_store::Error::NotSupported { source: message.into() })?;
        Ok(self.objects.read(&key, limit).await?.map(Vec::from))
    }

    pub fn unreadable(&self, path: &str) -> impl FnOnce(object_store::Error) -> Error {
        move |error| self.failed("read", path, &error, "s3:GetObject")
    }

    pub async fn write(&self, path: &str, content: Vec<u8>) -> Result<()> {
        let key = self.key(path)?;
        let content = Bytes::from(content);
        let put = || put(self.objects.store(), &key, content.clone());
        let put = self.objects.retries().run(put).await;
        put.map_err(|error| self.failed("write", path, &error, "s3:PutObject"))
    }

    pub async fn create(&self, path: &str, content: Vec<u8>) -> Result<Created> {
        let created = self.objects.create(&self.key(path)?, content.into()).await;
        created.map_err(|error| self.failed("write", path, &error, "s3:PutObject"))
    }

    pub async fn list(&self, below: &str, most: usize) -> Result<Vec<Record>> {
        let prefix = format!("{}/", join(&self.prefix, below));
        let top = join(&self.prefix, "");
        let listed = self.objects.below(&prefix, most).await;
        let listed = listed.map_err(|error| self.failed("list", below, &error, "s3:ListBucket"))?;
        let record = |object: agent_objects::ListedObject| {
            let path = object.key.strip_prefix(&top)?.trim_start_matches('/');
            Some(Record { path: path.to_owned(), bytes: object.size, modified: object.modified })
        };
        Ok(listed.into_iter().filter_map(record).collect())
    }

    pub async fn remove(&self, path: &str) -> Result<()> {
        let refused = self.objects.delete_batch(vec![self.key(path)?]).await;
        match refused.into_iter().next() {
            None => Ok(()),
            Some((_, error)) => Err(self.failed("remove", path, &error, "s3:DeleteObject")),
        }
    }

    pub async fn upload(&self, path: &str, from: OpenFile, digest: &FileDigest) -> Result<()> {
        let key = self.key(path)?;
        let failed = |error| self.failed("write", path, &error, "s3:PutObject");
        let there = self.objects.head(&key).await;
        if there.is_ok_and(|there| there.is_some_and(|there| there.size == digest.bytes)) {
            return Ok(());
        }
        let name = from.name.display().to_string();
        let unreadable =
            |problem: Problem| Error::machine(format!("cannot read `{name}`: {}", problem.message));
        let changed = || Error::machine(format!("`{name}` changed while it was uploaded"));
        let source = from.source().await?;
        if digest.bytes <= MAX_SINGLE_PUT {
            let most = usize::try_from(digest.bytes).unwrap_or(usize::MAX).saturating_add(1);
            let (source, content) = source.next(most).await.map_err(unreadable)?;
            if source.finish().map_err(unreadable)?.sha256 != digest.sha256 {
                return Err(changed());
            }
            return self.objects.replace(&key, content).await.map_err(failed);
        }
        let stop = std::future::pending();
        match parts::upload(&self.objects, &self.budget, &key, source, Mode::Replace, stop).await {
            Ok(meta) if meta.sha256 == digest.sha256 => Ok(()),
            Ok(_) => {
                self.remove(path).await?;
                Err(changed())
            }
            Err(PartsError::Content(problem)) => Err(unreadable(problem)),
            Err(PartsError::Store(error)) => Err(failed(error)),
            // Only uploads that create or can be stopped end like this.
            Err(PartsError::Exists | PartsError::Stopped) => Ok(()),
        }
    }

    pub async fn download(&self, path: &str, digest: &FileDigest, part: &Path) -> Result<()> {
        let key = self.key(path)?;
        let failed = |error: &object_store::Error| self.failed("read", path, error, "s3:GetObject");
        let mut file = PartFile::create(part).await?;
        let mut retry = self.objects.retries().begin();
        // A connection that breaks after some bytes is continued there.
        loop {
            let before = file.bytes();
            match self.fetch(&key, digest.bytes, &mut file).await? {
                Ok(true) if file.bytes() == digest.bytes => {
                    let sha256 = file.finish().await?;
                    return if sha256 == digest.sha256 { Ok(()) } else { Err(damaged(&self.shown(path))) };
                }
                Ok(true) if file.bytes() > digest.bytes => return Err(damaged(&self.shown(path))),
                Ok(false) => {
                    return Err(Error::upstream(format!("{} does not exist", self.shown(path))));
                }
                Err(error) if !is_transient(&error) => return Err(failed(&error)),
                other => {
                    if file.bytes() > before {
                        retry = self.objects.retries().begin();
                    }
                    if !retry.delay().await {
                        return Err(match other {
                            Err(error) => failed(&error),
                            Ok(_) => damaged(&self.shown(path)),
                        });
                    }
                }
            }
        }
    }

    /// Appends what is missing; false, if there is no such object.
    async fn fetch(&self, key: &Key, bytes: u64, file: &mut PartFile) -> Result<object_store::Result<bool>> {
        if file.bytes() == bytes && bytes > 0 {
            return Ok(Ok(true));
        }
        let range = (file.bytes() > 0).then(|| GetRange::Offset(file.bytes()));
        let got = match self.objects.get(key, GetOptions { range, ..GetOptions::default() }).await {
            Ok(Some(got)) => got,
            Ok(None) => return Ok(Ok(false)),
            Err(error) => return Ok(Err(error)),
        };
        if got.meta.size != bytes {
            return Err(damaged(&format!("s3://{}/{key}", self.name)));
        }
        let mut stream = got.into_stream();
        while let Some(piece) = stream.next().await {
            match piece {
                Ok(piece) if file.bytes() + piece.len() as u64 > bytes => {
                    return Err(damaged(&format!("s3://{}/{key}", self.name)));
                }
                Ok(piece) => file.append(piece).await?,
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(true))
    }

    fn failed(&self, what: &str, path: &str, error: &object_store::Error, action: &str) -> Error {
        aws::upstream(format!("cannot {what} {}", self.shown(path)), error, action)
    }
}

async fn put(store: &Arc<dyn ObjectStore>, key: &Key, content: Bytes) -> object_store::Result<()> {
    let kind = content_type(key.as_ref());
    let attributes = Attributes::from_iter([(Attribute::ContentType, kind)]);
    let options = PutOptions { attributes, ..PutOptions::default() };
    store.put_opts(key, content.into(), options).await.map(|_| ())
}

/// A browser shows a page only if its content type says so.
fn content_type(key: &str) -> &'static str {
    match key.rsplit_once('.').map(|(_, kind)| kind) {
        Some("html") => "text/html; charset=utf-8",
        Some("json" | "sarif") => "application/json",
        Some("xml") => "application/xml",
        Some("log" | "txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}
