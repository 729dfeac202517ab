//! Records which objects of a tier a build used: `usage/<release>/<UTC time>-<random>.zst`, one object per build.
//!
//! S3 keeps no access time. So an object was last used when it was written, or when the newest record that names
//! it was written, by the server's clock. A record has hashes in place of keys, because a build uses thousands of
//! objects. Two keys with the same hash only keep an object longer.
//!
//! A build writes one record to the tier that it may write, about objects of this tier. A prune reads only the
//! records of the shared tier: anyone may write those of a pull request.

use std::collections::{BTreeSet, HashMap};
use std::io::Read;
use std::time::SystemTime;

use futures_util::{StreamExt, stream};
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::BucketTier;
use crate::names;
use crate::stamp;
use crate::usage::Usage;
use agent_objects::{ListedObject, Objects};
use agent_types::bucket_share::BucketShare;
use agent_types::error::{Error, Result};

const SCHEMA: &str = "build-agent/bucket-usage/v1";

/// Suffix of a record's name.
const SUFFIX: &str = ".zst";

/// Maximum bytes of a record, compressed and as text. A million objects fit.
const LARGEST: (u64, u64) = (16 << 20, 32 << 20);

/// Level of compression; the hashes are random.
const LEVEL: i32 = 3;

/// What one build used from a tier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageRecord {
    pub usage: Usage,
    objects: BTreeSet<u64>,
}

/// The text of a record.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordFile {
    schema: String,
    usage: Usage,
    /// Hexadecimal hashes of keys.
    objects: Vec<String>,
}

impl UsageRecord {
    pub fn new(usage: Usage) -> UsageRecord {
        UsageRecord { usage, objects: BTreeSet::new() }
    }

    /// Adds an object by its key below the tier, such as `sstate/scarthgap/ab/12/NAME` or
    /// `signatures/answers/KEY.tar.zst`. Of an object of shared state, one of its files is enough.
    pub fn add(&mut self, key: &str) {
        self.objects.insert(hash(key));
    }

    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.usage == Usage::default()
    }

    /// Writes the record of a build that ended at `now`.
    ///
    /// # Errors
    /// Upstream, if the bucket refuses it; internal, if the release's name is invalid.
    pub async fn write(&self, tier: &BucketTier, release: &str, now: SystemTime) -> Result<()> {
        if !names::is_release(release) {
            return Err(Error::internal(format!("`{release}` is not the name of a release")));
        }
        let failed = |error: &(dyn std::error::Error + 'static)| {
            Error::upstream(format!("cannot write a usage record to {}", tier.share)).because(error)
        };
        let key = format!("{}/{}{SUFFIX}", tier.share.usage(release), stamp::stamp(now));
        let key = Path::parse(key).map_err(|error| failed(&error))?;
        let content = self.encode().map_err(|error| failed(&error))?;
        tier.objects.create(&key, content.into()).await.map_err(|error| failed(&error))?;
        Ok(())
    }

    fn encode(&self) -> std::io::Result<Vec<u8>> {
        let objects = self.objects.iter().map(|hash| format!("{hash:016x}")).collect();
        let file = RecordFile { schema: SCHEMA.into(), usage: self.usage, objects };
        zstd::stream::encode_all(&serde_json::to_vec(&file)?[..], LEVEL)
    }

    fn decode(content: &[u8]) -> Option<UsageRecord> {
        let mut text = Vec::new();
        let decoder = zstd::stream::read::Decoder::new(content).ok()?;
        decoder.take(LARGEST.1 + 1).read_to_end(&mut text).ok()?;
        if text.len() as u64 > LARGEST.1 {
            return None;
        }
        let file: RecordFile =
            serde_json::from_slice(&text).ok().filter(|f: &RecordFile| f.schema == SCHEMA)?;
        let objects = file.objects.iter().map(|hash| u64::from_str_radix(hash, 16).ok());
        Some(UsageRecord { usage: file.usage, objects: objects.collect::<Option<_>>()? })
    }
}

/// The first bytes of the key's SHA-256.
fn hash(key: &str) -> u64 {
    let digest: [u8; 32] = Sha256::digest(key).into();
    digest.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

/// When objects were used, by the records of a tier.
#[derive(Debug, Default)]
pub struct LastUses {
    /// In nanoseconds since 1970.
    by_hash: HashMap<u64, i64>,
    /// Keys of the records that were read.
    read: BTreeSet<String>,
}

impl LastUses {
    /// The time of the newest record that names this key below the tier; `None`, if no record does.
    pub fn of(&self, key: &str) -> Option<i64> {
        self.by_hash.get(&hash(key)).copied()
    }

    fn add(&mut self, record: &UsageRecord, written: i64) {
        for hash in &record.objects {
            let newest = self.by_hash.entry(*hash).or_insert(written);
            *newest = written.max(*newest);
        }
    }

    /// Reads those of these records that were not read before; true, if there were any. Unreadable ones name
    /// nothing.
    ///
    /// # Errors
    /// If the bucket fails: then it is unknown what was used.
    pub async fn read(
        &mut self,
        objects: &Objects,
        records: &[ListedObject],
        width: usize,
    ) -> object_store::Result<bool> {
        let new: Vec<_> = records.iter().filter(|record| !self.read.contains(&record.key)).collect();
        let read = new.iter().map(|record| async { (*record, read(objects, record).await) });
        let mut read = stream::iter(read).buffer_unordered(width);
        while let Some((listed, record)) = read.next().await {
            if let Some(record) = record? {
                self.add(&record, stamp::nanoseconds(listed.modified));
            }
            self.read.insert(listed.key.clone());
        }
        drop(read);
        Ok(!new.is_empty())
    }
}

/// Lists the records of a release, oldest first. Other objects are ignored.
///
/// # Errors
/// If the bucket fails.
pub async fn records(
    objects: &Objects,
    share: &BucketShare,
    release: &str,
) -> object_store::Result<Vec<ListedObject>> {
    let prefix = format!("{}/", share.usage(release));
    let mut found = objects.below(&prefix, usize::MAX).await?;
    found.retain(|object| object.key.strip_prefix(&prefix).is_some_and(is_record));
    Ok(found)
}

/// Whether it is the name of a record.
pub fn is_record(name: &str) -> bool {
    name.strip_suffix(SUFFIX).is_some_and(|stamp| stamp::time_of(stamp).is_some())
}

/// Reads the summaries of the last records of a release, newest first.
///
/// # Errors
/// If the bucket fails.
pub async fn last(
    objects: &Objects,
    share: &BucketShare,
    release: &str,
    most: usize,
) -> object_store::Result<Vec<Usage>> {
    let records = records(objects, share, release).await?;
    let mut usages = Vec::new();
    for listed in records.iter().rev().take(most) {
        usages.extend(read(objects, listed).await?.map(|record| record.usage));
    }
    Ok(usages)
}

/// `None`, if it is gone, or no record.
async fn read(objects: &Objects, listed: &ListedObject) -> object_store::Result<Option<UsageRecord>> {
    if listed.size > LARGEST.0 {
        return Ok(None);
    }
    let Ok(key) = Path::parse(&listed.key) else { return Ok(None) };
    // One that is replaced by a larger one meanwhile is unreadable.
    match objects.read(&key, LARGEST.0).await {
        Ok(content) => Ok(content.as_deref().and_then(UsageRecord::decode)),
        Err(object_store::Error::NotSupported { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use object_store::memory::InMemory;

    use super::*;
    use agent_objects::retry::Retries;
    use agent_types::s3_address::S3Address;
    use agent_types::tiers::TierKind;

    fn tier() -> BucketTier {
        BucketTier {
            kind: TierKind::Shared,
            share: BucketShare::new(S3Address::parse("s3://b/p").unwrap()),
            objects: Objects::new(Arc::new(InMemory::new()), Retries::within(Duration::ZERO)),
        }
    }

    fn record(wanted: u64, keys: &[&str]) -> UsageRecord {
        let mut record = UsageRecord::new(Usage { wanted, ..Usage::default() });
        keys.iter().for_each(|key| record.add(key));
        record
    }

    #[tokio::test]
    async fn newest_record_says_when_an_object_was_used() {
        let tier = tier();
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        for (number, keys) in [&["a", "b"][..], &["b", "c"]].iter().enumerate() {
            let at = start + Duration::from_secs(number as u64);
            record(number as u64, keys).write(&tier, "scarthgap", at).await.unwrap();
        }
        let path = |name: &str| Path::from(format!("p/usage/scarthgap/{name}"));
        for name in ["20990101T000000Z-0123456789abcdef.zst", "README"] {
            tier.objects.create(&path(name), "no record".into()).await.unwrap();
        }
        let mut records = records(&tier.objects, &tier.share, "scarthgap").await.unwrap();
        assert_eq!(records.len(), 3);
        // The server's time counts, whatever the names say.
        records[0].modified = SystemTime::UNIX_EPOCH + Duration::from_secs(50);
        records[1].modified = SystemTime::UNIX_EPOCH + Duration::from_secs(70);
        let mut uses = LastUses::default();
        assert!(uses.read(&tier.objects, &records, 4).await.unwrap());
        let seconds = |key| uses.of(key).map(|nanos| nanos / 1_000_000_000);
        assert_eq!(
            [seconds("a"), seconds("b"), seconds("c"), seconds("d")],
            [Some(50), Some(70), Some(70), None]
        );
        assert!(!uses.read(&tier.objects, &records, 4).await.unwrap());
        let usages = last(&tier.objects, &tier.share, "scarthgap", 2).await.unwrap();
        assert_eq!(
            usages.iter().map(|usage| usage.wanted).collect::<Vec<_>>(),
            [1],
            "the newest has no summary"
        );
    }

    #[test]
    fn record_round_trips_and_hostile_text_is_none() {
        let written = record(7, &["sstate/scarthgap/ab/12/x.tar.zst", "downloads/y"]);
        let encoded = written.encode().unwrap();
        assert_eq!(UsageRecord::decode(&encoded), Some(written));
        let pack = |text: &[u8]| zstd::stream::encode_all(text, 1).unwrap();
        let good = r#"{"schema":"build-agent/bucket-usage/v1","usage":{"wanted":0,"local":0,"mirrors":0,"missed":0},"objects":["00ff"]}"#;
        assert!(UsageRecord::decode(&pack(good.as_bytes())).is_some());
        let bomb = vec![b' '; LARGEST.1 as usize + 1];
        for text in [
            &b""[..],
            b"{}",
            good.replace("00ff", "xyz").as_bytes(),
            good.replace("v1", "v2").as_bytes(),
            &bomb,
        ] {
            assert_eq!(UsageRecord::decode(&pack(text)), None);
        }
        assert_eq!(UsageRecord::decode(b"not compressed"), None);
        assert_eq!(UsageRecord::decode(&encoded[..encoded.len() - 3]), None);
    }

    #[tokio::test]
    async fn refuses_an_invalid_release() {
        assert!(record(1, &[]).write(&tier(), "../x", SystemTime::now()).await.is_err());
    }
}
