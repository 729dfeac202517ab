//! Reads the leases of a share in a bucket. See [`crate::lease`].

use std::ffi::OsStr;
use std::io;
use std::time::SystemTime;

use futures_util::{StreamExt, stream};
use object_store::path::Path;

use super::super::layout::{directory, failed, tier};
use super::super::walk::MOST;
use crate::lease::{Author, LARGEST, Leases, LiveLease};
use crate::stamp::nanoseconds;
use agent_objects::{ListedObject, Objects};
use agent_types::bucket_share::BucketShare;
use agent_types::error::Result;

/// Live leases, each with the pull request whose tier contains it, and the keys of expired ones.
#[derive(Debug, Default)]
pub struct AllLeases {
    pub live: Vec<(Option<u64>, LiveLease)>,
    pub dead: Vec<Path>,
    /// For people.
    pub unreadable: Vec<String>,
}

/// Reads the leases of the share and of these pull requests.
///
/// # Errors
/// If the bucket fails: then it is unknown what is in use.
pub async fn read(
    objects: &Objects,
    share: &BucketShare,
    pull_requests: &[u64],
    (now, width): (SystemTime, usize),
) -> Result<AllLeases> {
    let tiers = std::iter::once(None).chain(pull_requests.iter().copied().map(Some));
    let read = tiers
        .map(|number| async move { (number, of_tier(objects, &tier(share, number), number, now).await) });
    let mut read = stream::iter(read).buffered(width.max(1));
    let mut all = AllLeases::default();
    while let Some((number, leases)) = read.next().await {
        let (leases, prefix) = leases?;
        let key = |name: &std::ffi::OsString| Path::parse(format!("{prefix}{}", name.to_str()?)).ok();
        all.dead.extend(leases.dead.iter().filter_map(key));
        all.live.extend(leases.live.into_iter().map(|lease| (number, lease)));
        if number.is_none() {
            all.unreadable = leases.unreadable;
        }
    }
    Ok(all)
}

async fn of_tier(
    objects: &Objects,
    share: &BucketShare,
    number: Option<u64>,
    now: SystemTime,
) -> Result<(Leases, String)> {
    let prefix = directory(&share.leases());
    let cannot = |action| {
        let message = format!("cannot read the leases of {share}");
        move |error: object_store::Error| failed(message, &error, action)
    };
    let mut leases = Leases::default();
    let listed = objects.below(&prefix, MOST).await.map_err(cannot("s3:ListBucket"))?;
    for object in listed {
        let Some(name) = object.key.strip_prefix(&prefix).filter(|name| !name.is_empty()) else { continue };
        let written = nanoseconds(object.modified);
        if number.is_some() {
            leases.add(OsStr::new(name), written, Author::Stranger, None, now);
        } else if let Some(content) = content(objects, &object).await.map_err(cannot("s3:GetObject"))? {
            leases.add(OsStr::new(name), written, Author::Trusted, Some(content), now);
        }
    }
    Ok((leases, prefix))
}

/// `None`, if it was released since it was listed; an error inside, if it is no lease.
async fn content(
    objects: &Objects,
    object: &ListedObject,
) -> object_store::Result<Option<io::Result<Vec<u8>>>> {
    let Ok(key) = agent_objects::key::exact(&object.key) else {
        return Ok(Some(Err(io::Error::other("not a lease"))));
    };
    match objects.read(&key, LARGEST).await {
        Ok(content) => Ok(content.map(|content| Ok(content.to_vec()))),
        Err(object_store::Error::NotSupported { .. }) => Ok(Some(Err(io::Error::other("too large")))),
        Err(error) => Err(error),
    }
}
