//! Checkouts in a bucket: one object for each commit, which trusted builds write.
//!
//! ```text
//! layers/<repo>/<commit>.tar.zst    the entry: see `agent_cache::layers::archive`
//! layers/<repo>/<commit>.json       the branches on which the commit was seen
//! ```

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agent_cache::bucket::{BucketTier, BucketTiers};
use agent_cache::layers::{BranchMembership, Entry, archive};
use agent_objects::{Created, ObjectPath, key};
use agent_types::tiers::TierKind;
use agent_types::traffic::Traffic;

use super::blocking::blocking;

/// A clone takes about as long.
const LIMIT: Duration = Duration::from_secs(5 * 60);

/// For the list of branches; the git server is asked otherwise.
const PROOFS: Duration = Duration::from_secs(30);

/// No packed checkout is larger: it has to fit into memory.
const LARGEST: u64 = 512 << 20;

/// No list of branches is larger.
const LARGEST_PROOFS: u64 = 256 << 10;

/// The layer store of the tier that trusted builds write.
pub struct BucketLayers {
    tier: BucketTier,
    /// Whether the job may add to it.
    pub adds: bool,
    /// Objects that are not whole: the next ones under their names replace them.
    damaged: Mutex<BTreeSet<String>>,
}

impl BucketLayers {
    /// `None`, if the job may not read that tier.
    pub fn of(tiers: &BucketTiers) -> Option<BucketLayers> {
        let is_shared = |tier: &&BucketTier| tier.kind == TierKind::Shared;
        let tier = tiers.read.iter().find(is_shared)?.clone();
        let adds = tiers.write.as_ref().is_some_and(|tier| is_shared(&tier));
        Some(BucketLayers { tier, adds, damaged: Mutex::default() })
    }

    fn at(&self, entry: &Entry, suffix: &str) -> Result<ObjectPath, String> {
        key::exact(&format!("{}/{}{suffix}", self.tier.share.layers(), entry.key()))
    }

    /// Makes the entry of a local store; false, if the bucket does not have it.
    pub async fn fetch(&self, entry: &Entry) -> (Result<bool, String>, Traffic) {
        let begun = Instant::now();
        let mut traffic = Traffic::default();
        let fetched = match tokio::time::timeout(LIMIT, self.try_to_fetch(entry, &mut traffic)).await {
            Ok(fetched) => fetched,
            Err(_) => Err(format!("{} took too long", self.tier.share)),
        };
        traffic.seconds_waited = begun.elapsed().as_secs_f64();
        (fetched, traffic)
    }

    async fn try_to_fetch(&self, entry: &Entry, traffic: &mut Traffic) -> Result<bool, String> {
        let path = self.at(entry, ".tar.zst")?;
        let read = self.tier.objects.read(&path, LARGEST).await;
        let Some(packed) = read.map_err(|error| error.to_string())? else { return Ok(false) };
        *traffic += Traffic { objects_read: 1, bytes_read: packed.len() as u64, ..Traffic::default() };
        let to = entry.clone();
        let made = blocking(move || archive::unpack(&packed[..], &to)).await;
        made.map(|_| true).map_err(|error| {
            self.damaged().insert(path.to_string());
            format!("s3://{}/{path}: {error}", self.tier.share.bucket())
        })
    }

    fn damaged(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the bucket has it; if nobody can tell, too, so that nothing is packed for nothing.
    pub async fn has(&self, entry: &Entry) -> bool {
        let Ok(path) = self.at(entry, ".tar.zst") else { return true };
        if self.damaged().contains(path.as_ref()) {
            return false;
        }
        !matches!(self.tier.objects.head(&path).await, Ok(None))
    }

    /// Adds an entry, and the branches that it was seen on.
    pub async fn add(&self, entry: &Entry) -> (Result<(), String>, Traffic) {
        let begun = Instant::now();
        let mut traffic = Traffic::default();
        let added = match tokio::time::timeout(LIMIT, self.try_to_add(entry, &mut traffic)).await {
            Ok(added) => added,
            Err(_) => Err(format!("{} took too long", self.tier.share)),
        };
        traffic.seconds_waited = begun.elapsed().as_secs_f64();
        (added, traffic)
    }

    async fn try_to_add(&self, entry: &Entry, traffic: &mut Traffic) -> Result<(), String> {
        let from = entry.clone();
        let packed = blocking(move || {
            let mut packed = Vec::new();
            archive::pack(&from, &mut packed)?;
            Ok(packed)
        });
        let packed = packed.await.map_err(|error| error.to_string())?;
        let bytes = packed.len() as u64;
        if bytes > LARGEST {
            return Err(format!("it has {bytes} bytes, more than {LARGEST}"));
        }
        self.export_proofs(entry).await?;
        let path = self.at(entry, ".tar.zst")?;
        let is_damaged = self.damaged().remove(path.as_ref());
        let created = match is_damaged {
            true => self.tier.objects.replace(&path, packed.into()).await.map(|()| Created::New),
            false => self.tier.objects.create(&path, packed.into()).await,
        };
        if created.map_err(|error| error.to_string())? == Created::New {
            *traffic += Traffic { objects_written: 1, bytes_written: bytes, ..Traffic::default() };
        }
        Ok(())
    }

    /// Writes down the branches that the entry was seen on.
    pub async fn export_proofs(&self, entry: &Entry) -> Result<(), String> {
        let Some(proofs) = entry.exported_proofs() else { return Ok(()) };
        let written = self.tier.objects.replace(&self.at(entry, ".json")?, proofs.into()).await;
        written.map_err(|error| error.to_string())
    }

    /// Notes with the local entry that its commit lies on the branch, if a trusted build has seen that. Otherwise the
    /// git server is asked.
    pub async fn import_proof(&self, entry: &Entry, proof: &BranchMembership) {
        let Ok(path) = self.at(entry, ".json") else { return };
        let read = tokio::time::timeout(PROOFS, self.tier.objects.read(&path, LARGEST_PROOFS)).await;
        if let Ok(Ok(Some(object))) = read {
            let (entry, proof) = (entry.clone(), proof.clone());
            let _ = blocking(move || entry.import_proof(&object, &proof)).await;
        }
    }
}
