//! Local files to publish. Layer code writes them, at any moment.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;

use crate::publish::Trees;
use crate::publish::copy::{Failure, changed};
use crate::publish::local::Object;
use crate::publish::put;
use agent_fs::dir::FileMeta;
use agent_objects::parts::{MAX_SINGLE_PUT, Pieces};

/// The open files of an object.
#[derive(Debug)]
pub struct Opened {
    pub primary: LocalFile,
    /// Each of them fits into one request.
    pub sidecars: Vec<LocalFile>,
}

/// An open regular file.
#[derive(Debug)]
pub struct LocalFile {
    pub name: String,
    pub facts: FileMeta,
    file: File,
    read: u64,
}

impl Opened {
    /// Opens the files of an object.
    ///
    /// # Errors
    /// If one of them cannot be published.
    pub async fn open(trees: &Arc<Trees>, object: &Object) -> Result<Opened, Failure> {
        let (trees, object) = (Arc::clone(trees), object.clone());
        blocking(move || {
            let tree = trees.of(object.area).ok_or_else(|| Failure::Source(changed()))?;
            let here = tree.below(&object.from).map_err(Failure::Source)?;
            let open = |name: &String| {
                let (file, facts) = put::open(&here, name)?;
                Ok(LocalFile { name: name.clone(), facts, file, read: 0 })
            };
            let primary = open(&object.primary)?;
            if let Some(stamp) = &object.stamp {
                put::check_stamp(&here, stamp, &primary.facts)?;
            }
            let sidecars = object.sidecars.iter().map(open).collect::<Result<Vec<_>, Failure>>()?;
            if let Some(large) = sidecars.iter().find(|file| file.facts.size > MAX_SINGLE_PUT) {
                let why = format!("{} has {} bytes", large.name, large.facts.size);
                return Err(Failure::Source(io::Error::other(why)));
            }
            Ok(Opened { primary, sidecars })
        })
        .await
    }

    /// The size of all files.
    pub fn bytes(&self) -> u64 {
        self.primary.facts.size + self.sidecar_bytes()
    }

    pub fn sidecar_bytes(&self) -> u64 {
        self.sidecars.iter().map(|file| file.facts.size).sum()
    }
}

impl LocalFile {
    /// The names and whole contents of files, in the same order.
    ///
    /// # Errors
    /// If one of them cannot be read or changes meanwhile.
    pub async fn contents(files: Vec<LocalFile>) -> Result<Vec<(String, Bytes)>, Failure> {
        blocking(move || files.into_iter().map(LocalFile::content).collect()).await
    }

    fn content(self) -> Result<(String, Bytes), Failure> {
        // One byte more, to detect growth.
        let most = usize::try_from(self.facts.size).unwrap_or(usize::MAX).saturating_add(1);
        let (mut file, content) = self.piece(most)?;
        let name = std::mem::take(&mut file.name);
        file.check()?;
        Ok((name, content))
    }

    /// The samples of the file at these places.
    ///
    /// # Errors
    /// If they cannot be read.
    pub async fn samples(self, at: Vec<(u64, u64)>) -> Result<Vec<Vec<u8>>, Failure> {
        blocking(move || {
            let read = |(from, length): (u64, u64)| crate::publish::copy::window(&self.file, from, length);
            at.into_iter().map(read).collect::<io::Result<_>>().map_err(Failure::Source)
        })
        .await
    }

    fn piece(mut self, most: usize) -> Result<(LocalFile, Bytes), Failure> {
        let left = usize::try_from(self.facts.size.saturating_sub(self.read)).unwrap_or(usize::MAX);
        let mut piece = Vec::with_capacity(most.min(left.saturating_add(1)));
        let limit = u64::try_from(most).unwrap_or(u64::MAX);
        (&mut self.file).take(limit).read_to_end(&mut piece).map_err(Failure::Source)?;
        self.read += piece.len() as u64;
        // A file that keeps growing is not read without end.
        match self.read > self.facts.size {
            true => Err(Failure::Source(changed())),
            false => Ok((self, piece.into())),
        }
    }

    /// Rejects a file that changed while it was read.
    fn check(self) -> Result<(), Failure> {
        let after = FileMeta::of_open(&self.file).map_err(Failure::Source)?;
        let before = &self.facts;
        let same = (before.size, before.modified) == (after.size, after.modified);
        if same && self.read == before.size { Ok(()) } else { Err(Failure::Source(changed())) }
    }
}

impl Pieces for LocalFile {
    type Done = ();
    type Error = Failure;

    fn length(&self) -> u64 {
        self.facts.size
    }

    async fn next(self, most: usize) -> Result<(LocalFile, Bytes), Failure> {
        blocking(move || self.piece(most)).await
    }

    fn finish(self) -> Result<(), Failure> {
        self.check()
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let broken = |error| Failure::Source(io::Error::other(error));
    tokio::task::spawn_blocking(work).await.map_err(broken)?
}
