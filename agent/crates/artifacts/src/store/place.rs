//! Where objects go: a bucket or a directory, the same to all that publishes.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::bucket::Bucket;
use super::directory::Directory;
use super::failure::Failure;
use super::names;
use super::retry::Retries;
use super::source::{Source, SourceMeta};
use crate::aws;
use agent_types::artifact::Destination;
use agent_types::error::{Error, Result};

/// A destination, ready to be written to.
#[derive(Clone, Debug)]
pub enum Place {
    Bucket {
        bucket: Bucket,
        /// Before every key.
        prefix: String,
    },
    Directory {
        directory: Directory,
        prefix: String,
    },
}

impl Place {
    /// `below` is put behind the destination's own prefix.
    ///
    /// # Errors
    /// Usage or machine, when the destination cannot be one.
    pub async fn open(
        destination: &Destination,
        below: &str,
        kms_key_id: Option<&str>,
        retries: Retries,
    ) -> Result<Place> {
        match destination {
            Destination::S3 { bucket, prefix } => {
                let store = aws::bucket(bucket, kms_key_id).await?;
                Ok(Place::Bucket {
                    bucket: Bucket::new(Arc::new(store), bucket, retries),
                    prefix: names::join(prefix, below),
                })
            }
            Destination::Directory(path) => {
                let (path, prefix) = (path.clone(), below.to_owned());
                let opened = tokio::task::spawn_blocking(move || Directory::open(&path, &prefix)).await;
                let directory =
                    opened.map_err(|error| Error::internal("opening it broke off").because(&error))??;
                Ok(Place::Directory { directory, prefix: below.to_owned() })
            }
        }
    }

    /// The key of a path of the tree.
    pub fn key(&self, path: &str) -> String {
        match self {
            Place::Bucket { prefix, .. } | Place::Directory { prefix, .. } => names::join(prefix, path),
        }
    }

    /// The key as people and their tools write it.
    pub fn shown(&self, key: &str) -> String {
        match self {
            Place::Bucket { bucket, .. } => bucket.shown(key),
            Place::Directory { directory, .. } => directory.shown(key),
        }
    }

    pub async fn holds(&self, key: &str) -> Result<bool> {
        match self {
            Place::Bucket { bucket, .. } => bucket.holds(key).await,
            Place::Directory { directory, .. } => directory.holds(key).map_err(|error| {
                Error::machine(format!("cannot look at {}", self.shown(key))).because(&error)
            }),
        }
    }

    /// Writes a file of the tree.
    pub async fn put(
        &self,
        key: &str,
        source: Source,
        stop: &CancellationToken,
    ) -> Result<SourceMeta, Failure> {
        match self {
            Place::Bucket { bucket, .. } => bucket.put(key, source, stop).await,
            Place::Directory { directory, .. } => directory.put(key, source, stop).await,
        }
    }

    /// Writes what must not be there yet; `false` when it is.
    pub async fn create(&self, key: &str, content: Vec<u8>) -> Result<bool> {
        match self {
            Place::Bucket { bucket, .. } => bucket.create(key, content).await,
            Place::Directory { directory, .. } => directory
                .create(key, &content)
                .map_err(|error| Error::machine(format!("cannot write {}", self.shown(key))).because(&error)),
        }
    }
}
