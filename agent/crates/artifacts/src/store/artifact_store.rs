//! The store that artifacts are published to: a bucket or a directory, with one interface.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::bucket::Bucket;
use super::directory::Directory;
use super::failure::Failure;
use super::names;
use super::source::{Source, SourceMeta};
use crate::aws;
use agent_objects::retry::Retries;
use agent_types::artifact::Destination;
use agent_types::error::{Error, Result};

/// An open destination, ready for writes.
#[derive(Clone, Debug)]
pub enum ArtifactStore {
    Bucket {
        bucket: Bucket,
        /// Prefix of every key.
        prefix: String,
    },
    Directory {
        directory: Directory,
        prefix: String,
    },
}

impl ArtifactStore {
    /// Opens the destination. `below` is appended to its prefix.
    ///
    /// # Errors
    /// Usage or machine, if the destination is invalid or cannot be opened.
    pub async fn open(
        destination: &Destination,
        below: &str,
        kms_key_id: Option<&str>,
        retries: Retries,
    ) -> Result<ArtifactStore> {
        match destination {
            Destination::S3 { bucket, prefix } => {
                let store = aws::bucket(bucket, kms_key_id, names::INDEX).await?;
                Ok(ArtifactStore::Bucket {
                    bucket: Bucket::new(Arc::new(store), bucket, retries),
                    prefix: names::join(prefix, below),
                })
            }
            Destination::Directory(path) => {
                let (path, prefix) = (path.clone(), below.to_owned());
                let opened = tokio::task::spawn_blocking(move || Directory::open(&path, &prefix)).await;
                let directory = opened
                    .map_err(|error| Error::internal("opening the directory panicked").because(&error))??;
                Ok(ArtifactStore::Directory { directory, prefix: below.to_owned() })
            }
        }
    }

    /// The key of a path of the tree.
    pub fn key(&self, path: &str) -> String {
        match self {
            ArtifactStore::Bucket { prefix, .. } | ArtifactStore::Directory { prefix, .. } => {
                names::join(prefix, path)
            }
        }
    }

    /// The key as people and their tools write it.
    pub fn shown(&self, key: &str) -> String {
        match self {
            ArtifactStore::Bucket { bucket, .. } => bucket.shown(key),
            ArtifactStore::Directory { directory, .. } => directory.shown(key),
        }
    }

    pub async fn exists(&self, key: &str) -> Result<bool> {
        match self {
            ArtifactStore::Bucket { bucket, .. } => bucket.exists(key).await,
            ArtifactStore::Directory { directory, .. } => directory.exists(key).map_err(|error| {
                Error::machine(format!("cannot access {}", self.shown(key))).because(&error)
            }),
        }
    }

    /// Reads an object of a bucket. `None`: it cannot be read, or the destination is a directory, where no answer
    /// gets lost.
    pub async fn read(&self, key: &str) -> Option<Vec<u8>> {
        match self {
            ArtifactStore::Bucket { bucket, .. } => bucket.content(key).await,
            ArtifactStore::Directory { .. } => None,
        }
    }

    /// Writes a file of the published tree.
    pub async fn put(
        &self,
        key: &str,
        source: Source,
        stop: &CancellationToken,
    ) -> Result<SourceMeta, Failure> {
        match self {
            ArtifactStore::Bucket { bucket, .. } => bucket.put(key, source, stop).await,
            ArtifactStore::Directory { directory, .. } => directory.put(key, source, stop).await,
        }
    }

    /// Writes a new object; false, if it exists already.
    pub async fn create(&self, key: &str, content: Vec<u8>) -> Result<bool> {
        match self {
            ArtifactStore::Bucket { bucket, .. } => bucket.create(key, content).await,
            ArtifactStore::Directory { directory, .. } => directory
                .create(key, &content)
                .map_err(|error| Error::machine(format!("cannot write {}", self.shown(key))).because(&error)),
        }
    }
}
