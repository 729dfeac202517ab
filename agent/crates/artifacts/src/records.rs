//! Small files in a bucket or a directory, each written as a whole, and large files under their digest.
//!
//! A reader sees all of a file or nothing. [`RecordStore::create`] never replaces a file: of several machines that create
//! the same one, exactly one gets [`Created::New`].

mod bucket;
mod directory;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use self::bucket::Bucket;
use self::directory::{Directory, OpenFile};
use crate::store::join;
use agent_objects::Created;
use agent_objects::retry::Retries;
use agent_types::artifact::Destination;
use agent_types::error::{Error, Result};

/// How long failed requests are retried: a job goes on without the store.
const RETRIES: Retries = Retries { within: Duration::from_secs(10), delay: Duration::from_millis(250) };

/// An open store.
#[derive(Debug)]
pub struct RecordStore {
    place: Place,
    /// Whether S3 refused to read an object. It says the same of objects that do not exist to a role that may not list.
    refused: AtomicBool,
}

#[derive(Debug)]
enum Place {
    Bucket(Bucket),
    Directory(Directory),
}

/// A file in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Below the root of the store. Anybody who may write there chose it.
    pub path: String,
    pub bytes: u64,
    /// By the clock of the store.
    pub modified: SystemTime,
}

/// Size and digest of a large file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDigest {
    pub bytes: u64,
    /// Lower-case hexadecimal.
    pub sha256: String,
}

impl RecordStore {
    /// Opens the share or the destination. `is_share`: its directory must exist, because it is mounted. `index` names
    /// files that an upload in parts must not replace.
    ///
    /// # Errors
    /// Usage, if the region is unknown or the endpoint is not a URL; machine, if the share is not there.
    pub async fn open(
        root: &Destination,
        is_share: bool,
        kms_key_id: Option<&str>,
        index: &'static str,
    ) -> Result<RecordStore> {
        let place = match root {
            Destination::S3 { bucket, prefix } => {
                Place::Bucket(Bucket::open(bucket, prefix, is_share, kms_key_id, index).await?)
            }
            Destination::Directory(path) => {
                let looked = path.clone();
                // On a file server that hangs, this does not return.
                if is_share && !directory::blocking(move || Ok(looked.is_dir())).await? {
                    return Err(Error::machine(format!("the share `{}` is not there", path.display()))
                        .hint("mount it, or remove [cache] share"));
                }
                Place::Directory(Directory::new(path.clone()))
            }
        };
        Ok(RecordStore::at(place))
    }

    fn at(place: Place) -> RecordStore {
        RecordStore { place, refused: AtomicBool::new(false) }
    }

    /// A path as people and their tools write it.
    pub fn shown(&self, path: &str) -> String {
        match &self.place {
            Place::Bucket(bucket) => bucket.shown(path),
            Place::Directory(directory) => directory.shown(path),
        }
    }

    /// Whether S3 refused [`RecordStore::read_if_allowed`] an object, which may not exist.
    pub fn was_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// The content of a file of at most `limit` bytes; `None`, if there is none.
    ///
    /// # Errors
    /// If it cannot be read, or is larger.
    pub async fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        match &self.place {
            Place::Bucket(bucket) => bucket.read(path, limit).await.map_err(bucket.unreadable(path)),
            Place::Directory(directory) => directory.read(path, limit).await,
        }
    }

    /// [`RecordStore::read`]; `None` also if S3 refuses it, see [`RecordStore::was_refused`].
    ///
    /// # Errors
    /// As [`RecordStore::read`].
    pub async fn read_if_allowed(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let Place::Bucket(bucket) = &self.place else { return self.read(path, limit).await };
        match bucket.read(path, limit).await {
            Err(object_store::Error::PermissionDenied { .. }) => {
                self.refused.store(true, Ordering::Relaxed);
                Ok(None)
            }
            read => read.map_err(bucket.unreadable(path)),
        }
    }

    /// Writes a whole file, and replaces an older one.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn write(&self, path: &str, content: Vec<u8>) -> Result<()> {
        match &self.place {
            Place::Bucket(bucket) => bucket.write(path, content).await,
            Place::Directory(directory) => directory.write(path, content).await,
        }
    }

    /// Writes a new file; one that is there stays. If an answer gets lost, the file's content tells whether it was
    /// created: so content that must differ from that of others needs a random part.
    ///
    /// # Errors
    /// If it cannot be written. The file may appear nevertheless, even later.
    pub async fn create(&self, path: &str, content: Vec<u8>) -> Result<Created> {
        match &self.place {
            Place::Bucket(bucket) => bucket.create(path, content).await,
            Place::Directory(directory) => directory.create(path, content).await,
        }
    }

    /// The first `most` files below a path, in the order of their paths.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub async fn list(&self, below: &str, most: usize) -> Result<Vec<Record>> {
        match &self.place {
            Place::Bucket(bucket) => bucket.list(below, most).await,
            Place::Directory(directory) => directory.list(below, most).await,
        }
    }

    /// Removes a file. One that is gone is no error.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub async fn remove(&self, path: &str) -> Result<()> {
        match &self.place {
            Place::Bucket(bucket) => bucket.remove(path).await,
            Place::Directory(directory) => directory.remove(path).await,
        }
    }

    /// Stores a large file below `parent`, under its digest. One that is there stays. `name` is for messages.
    ///
    /// # Errors
    /// If it cannot be read, changes meanwhile, or cannot be stored.
    pub async fn upload(&self, parent: &str, from: File, name: &Path) -> Result<FileDigest> {
        let source = OpenFile { file: Arc::new(from), name: name.to_owned() };
        let digest = source.digest().await?;
        let path = join(parent, &digest.sha256);
        match &self.place {
            Place::Bucket(bucket) => bucket.upload(&path, source, &digest).await?,
            Place::Directory(directory) => directory.upload(&path, source, &digest).await?,
        }
        Ok(digest)
    }

    /// Copies a large file from below `parent` to `to`, which appears when size and digest are right.
    ///
    /// # Errors
    /// If it cannot be read or written, or has another content.
    pub async fn download(&self, parent: &str, digest: &FileDigest, to: &Path) -> Result<()> {
        self.download_file(&join(parent, &digest.sha256), digest, to).await
    }

    /// Copies a large file to `to`, which appears when size and digest are right.
    ///
    /// # Errors
    /// If it cannot be read or written, or has another content.
    pub async fn download_file(&self, path: &str, digest: &FileDigest, to: &Path) -> Result<()> {
        let part = PathBuf::from(format!("{}.part", to.display()));
        let done = match &self.place {
            Place::Bucket(bucket) => bucket.download(path, digest, &part).await,
            Place::Directory(directory) => directory.download(path, digest, &part).await,
        };
        let (from, to) = (part.clone(), to.to_owned());
        directory::blocking(move || match done {
            Ok(()) => Ok(fs_err::rename(from, to)?),
            Err(error) => {
                let _ = fs_err::remove_file(from);
                Err(error)
            }
        })
        .await
    }
}

/// The error for a file whose content does not have its digest.
fn damaged(shown: &str) -> Error {
    Error::upstream(format!("{shown} is damaged: its size or its digest is wrong"))
        .hint("remove it, and let the job upload it again")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "records_tests.rs"]
mod tests;
