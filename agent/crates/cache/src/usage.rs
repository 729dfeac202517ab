//! Records the hit rate of each build in one small file, `usage/<release>/<UTC time>-<random>.json`. Builds
//! that may write the share write it.

use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::{names, stamp};
use agent_fs::dir::{DirHandle, Kind};
use agent_fs::walk::{Listing, Seen, Walk};
use agent_types::error::{Error, Result};
use agent_types::share::Share;

/// Number of records per release that a prune keeps.
pub const KEPT: usize = 200;

const LARGEST: u64 = 4096;

/// The numbers of objects in BitBake's line `Sstate summary:`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    pub wanted: u64,
    /// Found in the local `SSTATE_DIR`.
    pub local: u64,
    /// Found on the share.
    pub mirrors: u64,
    pub missed: u64,
}

impl Usage {
    /// Writes the record of a build that ended at `now`.
    ///
    /// # Errors
    /// Machine, if it cannot be written.
    pub fn write(&self, tier: &Share, release: &str, now: SystemTime) -> Result<()> {
        let directory = tier.usage().join(release);
        fs::create_dir_all(&directory)?;
        let text = serde_json::to_vec(self)
            .map_err(|error| Error::internal("cannot serialize a usage record").because(&error))?;
        let name = stamp::stamp(now);
        let begun = directory.join(names::part(&name));
        let mut file = fs::File::create_new(&begun)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(begun, directory.join(name + ".json"))?;
        Ok(())
    }

    /// The hit rate; `None`, if no objects were wanted.
    pub fn hit_rate(&self) -> Option<f64> {
        (self.wanted > 0).then(|| (self.local + self.mirrors) as f64 / self.wanted as f64)
    }
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Usage) {
        self.wanted = self.wanted.saturating_add(other.wanted);
        self.local = self.local.saturating_add(other.local);
        self.mirrors = self.mirrors.saturating_add(other.mirrors);
        self.missed = self.missed.saturating_add(other.missed);
    }
}

/// Lists the records of one release, newest first.
///
/// # Errors
/// If the directory cannot be read; a missing one is empty.
pub fn records(directory: &DirHandle, operations: &AtomicU64) -> io::Result<Vec<String>> {
    let walk = Walk { width: 1, facts: false, operations, stop: &|| false };
    let (mut found, mut failed) = (Vec::new(), None);
    let visit = |listing: Listing| {
        let files = listing.entries.into_iter().filter(|entry| entry.kind == Kind::File);
        files.filter_map(|entry| entry.name.into_string().ok()).filter(|name| is_record(name)).collect()
    };
    let each = |seen: Seen<Vec<String>>| match seen {
        Seen::Directory(names) => found = names,
        Seen::Trouble(trouble) => failed = Some(trouble.error),
    };
    let _ = walk.run(directory, |_| false, visit, each);
    if let Some(error) = failed {
        return Err(error);
    }
    found.sort_unstable_by(|one, other| other.cmp(one));
    Ok(found)
}

/// Whether it is the name of a record.
pub fn is_record(name: &str) -> bool {
    name.strip_suffix(".json").is_some_and(|stamp| stamp::time_of(stamp).is_some())
}

/// Reads the last records of a release, newest first. Skips unreadable ones.
pub fn last(tier: &DirHandle, release: &str, most: usize, operations: &AtomicU64) -> Vec<Usage> {
    let Ok(directory) = tier.open_dir(Path::new("usage").join(release)) else { return Vec::new() };
    let names = records(&directory, operations).unwrap_or_default();
    names.iter().take(most).filter_map(|name| read(&directory, name).ok()).collect()
}

fn read(directory: &DirHandle, name: &str) -> io::Result<Usage> {
    Ok(serde_json::from_slice(&directory.read(name, LARGEST)?)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn lists_newest_records_first() {
        let base = tempfile::tempdir().unwrap();
        let share = Share::new(base.path());
        let below = DirHandle::open(base.path()).unwrap();
        let last = |most| super::last(&below, "scarthgap", most, &AtomicU64::new(0));
        assert_eq!(last(5), []);
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        for number in 0..4 {
            let usage = Usage { wanted: 10, local: 1, mirrors: number, missed: 9 - number };
            usage.write(&share, "scarthgap", start + Duration::from_secs(number)).unwrap();
        }
        let directory = share.usage().join("scarthgap");
        fs::write(directory.join("29991122T173500Z-0123456789abcdef.json"), "{torn").unwrap();
        fs::write(directory.join("README"), "").unwrap();
        assert_eq!(last(4).iter().map(|usage| usage.mirrors).collect::<Vec<_>>(), [3, 2, 1]);
        assert_eq!(last(2).len(), 1);
        assert_eq!(last(4)[0].hit_rate(), Some(0.4));
        assert_eq!(Usage::default().hit_rate(), None);
    }
}
