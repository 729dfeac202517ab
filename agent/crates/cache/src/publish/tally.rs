//! Adds up the results of a publication. They can be read at any moment, so that a hanging share does not
//! hide what was done before.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;

use super::copy::Failure;
use super::local::Skipped;
use super::put::PutOutcome;
use crate::first_names;
use agent_types::events::CacheCounts;
use agent_types::tiers::TierKind;
use agent_types::traffic::Traffic;

/// Number of consecutive failures of the share after which publishing stops.
const MAX_CONSECUTIVE_FAILURES: u32 = 16;

/// Maximum number of names in a message; the rest are counted.
const SHOWN: usize = 5;

/// The results of a publication.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Published {
    /// Whether all objects were processed. If not, the share hung, and the counts are those of the last
    /// moment.
    pub complete: bool,
    pub counts: CacheCounts,
    pub traffic: BTreeMap<TierKind, Traffic>,
    /// Some of the downloads for which the share has different bytes under the same name.
    pub alarming: Vec<String>,
    /// The number of such downloads.
    pub alarms: u64,
    /// The first failure of the share.
    pub trouble: Option<Trouble>,
    /// Some of the local files that have an object's name but could not be published, and why.
    pub refused: Vec<String>,
    /// The number of such files.
    pub refusals: u64,
}

/// Why the share did not accept everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub kind: TroubleKind,
    /// For people: the object or tier, and the system's message.
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TroubleKind {
    Full,
    ReadOnly,
    Refused,
    /// The bucket allows this role no writes.
    Denied,
    Other,
}

impl TroubleKind {
    fn of(error: &io::Error) -> TroubleKind {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOSPC | Errno::EDQUOT) => TroubleKind::Full,
            Some(Errno::EROFS) => TroubleKind::ReadOnly,
            Some(Errno::EACCES | Errno::EPERM) => TroubleKind::Refused,
            None if error.kind() == io::ErrorKind::PermissionDenied => TroubleKind::Denied,
            _ => TroubleKind::Other,
        }
    }

    /// Whether every other object would fail, too.
    const fn ends_all(self) -> bool {
        matches!(self, TroubleKind::Full | TroubleKind::ReadOnly | TroubleKind::Denied)
    }

    /// The fix.
    pub const fn hint(self) -> &'static str {
        match self {
            TroubleKind::Full => {
                "free space with `build-agent cache prune`, or raise the quota; published objects stay"
            }
            TroubleKind::ReadOnly => {
                "mount the share writable for trusted builds, or set access = \"read-only\""
            }
            TroubleKind::Refused => {
                "make the user of the builds' access point the owner of the directories; see docs/trust.md"
            }
            TroubleKind::Denied => {
                "allow the role of the build to write there: s3:PutObject and s3:GetObject"
            }
            TroubleKind::Other => "the next build publishes the missing objects",
        }
    }
}

/// The results while they grow.
#[derive(Debug, Default)]
pub struct Tally {
    sum: Mutex<Published>,
    ended: AtomicBool,
    consecutive_failures: AtomicU32,
}

impl Tally {
    /// All results so far.
    pub fn so_far(&self) -> Published {
        self.with(|sum| sum.clone())
    }

    /// Whether publishing to the share has stopped.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Adds the result of one object. `alarming`: different content under its name should be reported.
    pub(crate) fn add(&self, name: &str, alarming: bool, put: Result<PutOutcome, Failure>) {
        match put {
            Ok(put) => {
                self.consecutive_failures.store(0, Ordering::Relaxed);
                self.with(|sum| sum.add(name, alarming, put));
            }
            Err(Failure::Stopped) => self.leave(),
            Err(Failure::Source(error)) => {
                self.with(|sum| sum.counts.failed += 1);
                self.refuse(format!("{name}: {error}"));
            }
            Err(Failure::Share(error)) => {
                self.with(|sum| sum.counts.failed += 1);
                self.trouble(name, &error);
            }
        }
    }

    /// Counts an object that was not tried.
    pub(crate) fn leave(&self) {
        self.with(|sum| sum.counts.left += 1);
    }

    /// Counts an object that was used from a tier.
    pub(crate) fn read(&self, tier: TierKind, bytes: u64) {
        self.with(|sum| {
            let traffic = sum.traffic.entry(tier).or_default();
            traffic.objects_read += 1;
            traffic.bytes_read += bytes;
        });
    }

    /// Counts a failure of the share.
    pub(crate) fn trouble(&self, name: &str, error: &io::Error) {
        let kind = TroubleKind::of(error);
        let consecutive_failures = self.consecutive_failures.fetch_add(1, Ordering::Relaxed) + 1;
        if kind.ends_all() || consecutive_failures >= MAX_CONSECUTIVE_FAILURES {
            self.ended.store(true, Ordering::Relaxed);
        }
        self.with(|sum| {
            sum.trouble.get_or_insert_with(|| Trouble { kind, reason: format!("{name}: {error}") });
        });
    }

    /// Records that the share accepts nothing.
    pub(crate) fn end(&self, name: &str, error: &io::Error) {
        self.trouble(name, error);
        self.ended.store(true, Ordering::Relaxed);
    }

    /// Counts a local file that was rejected.
    pub(crate) fn refuse(&self, why: String) {
        self.with(|sum| {
            sum.refusals += 1;
            first_names::insert(&mut sum.refused, why, SHOWN);
        });
    }

    /// Records what was skipped in the local directories.
    pub(crate) fn skip(&self, skipped: Skipped) {
        for path in skipped.no_files {
            self.refuse(format!("{}: neither a file nor a link", path.display()));
        }
        for (path, why) in skipped.unreadable {
            self.refuse(format!("{}: {why}", path.display()));
        }
    }

    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Published) -> T) -> T {
        work(&mut self.sum.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Published {
    fn add(&mut self, name: &str, alarming: bool, put: PutOutcome) {
        match put {
            PutOutcome::Published { bytes } => {
                self.counts.published += 1;
                self.counts.bytes += bytes;
            }
            PutOutcome::Present => self.counts.present += 1,
            PutOutcome::Differs => {
                self.counts.differing += 1;
                if alarming {
                    self.alarms += 1;
                    first_names::insert(&mut self.alarming, name.to_owned(), SHOWN);
                }
            }
            PutOutcome::Large(_) => {}
        }
    }
}
