//! Publishes one object.
//!
//! 1. A download that a tier has under the same name is compared with it.
//! 2. The sidecar files are created, then the primary file. The bucket refuses each that exists.
//! 3. If the primary file is this one, sidecar files with other content are replaced: they come from an interrupted
//!    publisher, or from one that runs now. The publisher of the primary file decides which are right. Those with the
//!    same content are created again, because they may be what a prune is about to delete.

use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange};

use super::file::{LocalFile, Opened};
use super::known::KnownDownload;
use super::{Publisher, below, share_failure};
use crate::publish::Trees;
use crate::publish::copy::{Failure, changed, samples};
use crate::publish::local::{Area, Object};
use crate::publish::put::PutOutcome;
use agent_objects::key::exact;
use agent_objects::parts::{self, MAX_SINGLE_PUT, Mode, PartsError};
use agent_objects::{Created, Objects};

impl Publisher {
    /// Publishes an object. New objects of at least `large` bytes are deferred.
    ///
    /// # Errors
    /// What stopped it. Then none of the object's files is there, or all but the primary file are.
    pub async fn put(&self, trees: &Arc<Trees>, object: &Object, large: u64) -> Result<PutOutcome, Failure> {
        let opened = Opened::open(trees, object).await?;
        if object.area == Area::Downloads {
            for there in self.known.downloads(object) {
                match self.or_stop(compare(trees, object, &there, opened.primary.facts.size)).await? {
                    // The tier of a pull request may have a download that differs from the shared one.
                    PutOutcome::Differs if !there.is_written => {}
                    outcome => return Ok(outcome),
                }
            }
        }
        if opened.primary.facts.size >= large {
            return Ok(PutOutcome::Large(opened.primary.facts.size));
        }
        let bytes = opened.bytes();
        let Opened { primary, sidecars: mut small } = opened;
        let is_small = primary.facts.size <= MAX_SINGLE_PUT;
        let in_memory: u64 = if is_small { bytes } else { bytes - primary.facts.size };
        let _reserved = self.small.reserve(in_memory).await;
        let (primary_name, primary_size) = (primary.name.clone(), primary.facts.size);
        let large = if is_small {
            small.push(primary);
            None
        } else {
            Some(primary)
        };
        let mut contents = LocalFile::contents(small).await?;
        let primary = match large {
            Some(file) => Some(Primary::File(file)),
            None => contents.pop().map(|(_, content)| Primary::Content(content)),
        };
        let Some(primary) = primary else { return Err(Failure::Source(changed())) };

        let mut existed = Vec::new();
        for (name, content) in &contents {
            let key = self.key(object, name)?;
            let created = self.or_stop(async { self.create(&key, content.clone()).await }).await?;
            if created != Created::New {
                existed.push((key, content, created));
            }
        }
        let key = self.key(object, &primary_name)?;
        let created = match primary {
            Primary::Content(content) => self.or_stop(async { self.create(&key, content).await }).await?,
            Primary::File(file) => self.create_in_parts(&key, file).await?,
        };
        if created != Created::Different {
            // A stop waits for this: without it, the archive keeps the sidecar files of another one.
            for (key, content, was) in existed {
                if was == Created::Different {
                    self.writer.objects.replace(&key, content.clone()).await.map_err(share_failure)?;
                } else if created == Created::New {
                    self.create(&key, content.clone()).await?;
                }
            }
        }
        let outcome = match created {
            Created::New => PutOutcome::Published { bytes },
            Created::Equal => PutOutcome::Present,
            Created::Different => {
                let there = async { self.writer.objects.head(&key).await.map_err(share_failure) };
                match self.or_stop(there).await? {
                    Some(there) if there.size == primary_size => match object.area {
                        Area::Sstate => PutOutcome::Present,
                        Area::Downloads => {
                            let there = KnownDownload {
                                objects: self.writer.objects.clone(),
                                key: key.to_string(),
                                size: there.size,
                                is_written: true,
                                is_served: false,
                            };
                            self.or_stop(compare(trees, object, &there, primary_size)).await?
                        }
                    },
                    _ => PutOutcome::Differs,
                }
            }
        };
        if object.area == Area::Sstate && outcome != PutOutcome::Differs {
            let files = contents.iter().map(|(name, content)| (name.as_str(), content.len() as u64));
            self.add_to_index(object, files.chain([(primary_name.as_str(), primary_size)]));
        }
        Ok(outcome)
    }

    fn key(&self, object: &Object, name: &str) -> Result<Path, Failure> {
        let share = &self.writer.share;
        let area = match object.area {
            Area::Sstate => share.sstate(&self.sources.release),
            Area::Downloads => share.downloads(),
        };
        let invalid = |why: String| Failure::Source(std::io::Error::other(why));
        exact(&format!("{area}/{}", below(object, name))).map_err(invalid)
    }

    async fn create(&self, key: &Path, content: Bytes) -> Result<Created, Failure> {
        self.writer.objects.create(key, content).await.map_err(share_failure)
    }

    async fn create_in_parts(&self, key: &Path, file: LocalFile) -> Result<Created, Failure> {
        let stop = async {
            self.interrupt.interrupted().await;
        };
        let uploaded = parts::upload(&self.writer.objects, &self.parts, key, file, Mode::Create, stop).await;
        match uploaded {
            Ok(()) => Ok(Created::New),
            Err(PartsError::Exists) => Ok(Created::Different),
            Err(PartsError::Content(failure)) => Err(failure),
            Err(PartsError::Store(error)) => Err(share_failure(error)),
            Err(PartsError::Stopped) => Err(Failure::Stopped),
        }
    }

    fn add_to_index<'f>(&self, object: &Object, files: impl Iterator<Item = (&'f str, u64)>) {
        let mut added = super::lock(&self.added);
        for (name, size) in files {
            let path = below(object, name);
            self.known.insert(&path, size);
            added.push((path, size));
        }
    }

    async fn or_stop<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        self.interrupt.or(work).await.unwrap_or(Err(Failure::Stopped))
    }
}

enum Primary {
    Content(Bytes),
    File(LocalFile),
}

/// Compares a download with an object of its name: the size, and samples of the content, because one of them may be
/// wrong.
async fn compare(
    trees: &Arc<Trees>,
    object: &Object,
    there: &KnownDownload,
    size: u64,
) -> Result<PutOutcome, Failure> {
    if there.size != size {
        return Ok(PutOutcome::Differs);
    }
    // BitBake has verified what it got from there.
    if there.is_served {
        return Ok(PutOutcome::Present);
    }
    let mut at: Vec<(u64, u64)> = match samples(size) {
        // Small ones are compared as a whole, with one request.
        [(_, length), ..] if size <= 3 * length => vec![(0, size)],
        three => three.to_vec(),
    };
    at.retain(|(_, length)| *length > 0);
    let ours = Opened::open(trees, object).await?.primary.samples(at.clone()).await?;
    let key = exact(&there.key).map_err(|why| Failure::Source(std::io::Error::other(why)))?;
    for ((from, length), ours) in at.into_iter().zip(ours) {
        match range(&there.objects, &key, from, length).await.map_err(share_failure)? {
            Some(theirs) if theirs == ours => {}
            _ => return Ok(PutOutcome::Differs),
        }
    }
    Ok(PutOutcome::Present)
}

async fn range(objects: &Objects, key: &Path, from: u64, length: u64) -> Result<Option<Bytes>, Error> {
    let options = GetOptions { range: Some(GetRange::Bounded(from..from + length)), ..GetOptions::default() };
    let Some(got) = objects.get(key, options).await? else { return Ok(None) };
    let bytes = got.bytes().await?;
    objects.meter().read(bytes.len() as u64);
    Ok(Some(bytes))
}
