//! What a publication has done so far, added up by its workers and readable at any moment: a share
//! that hangs must not keep what was done before from being told.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;

use super::copy::Failure;
use super::put::PutOutcome;
use agent_types::events::CacheCounts;
use agent_types::tiers::TierKind;
use agent_types::traffic::Traffic;

/// Failures of the share one after another before it is given up.
const IN_A_ROW: u32 = 16;

/// Names that are kept for a message; the rest are counted.
const SHOWN: usize = 5;

/// What a publication has done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Published {
    /// All that lay there was gone through. Without it the share hung, and the counts are those of the
    /// last moment.
    pub complete: bool,
    pub counts: CacheCounts,
    pub traffic: BTreeMap<TierKind, Traffic>,
    /// Downloads of which the share has other bytes under the same name: some of them.
    pub alarming: Vec<String>,
    /// How many such downloads there are.
    pub alarms: u64,
    /// What the share said first when something failed.
    pub trouble: Option<Trouble>,
    /// Local files of an object's name that could not be taken, and why: some of them.
    pub refused: Vec<String>,
    /// How many such files there are.
    pub refusals: u64,
}

/// Why a share did not take all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub kind: TroubleKind,
    /// For people: the object or tier, and the words of the system.
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TroubleKind {
    Full,
    ReadOnly,
    Refused,
    Other,
}

impl TroubleKind {
    fn of(error: &io::Error) -> TroubleKind {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOSPC | Errno::EDQUOT) => TroubleKind::Full,
            Some(Errno::EROFS) => TroubleKind::ReadOnly,
            Some(Errno::EACCES | Errno::EPERM) => TroubleKind::Refused,
            _ => TroubleKind::Other,
        }
    }

    /// Whether every further object would end like this one.
    const fn ends_all(self) -> bool {
        matches!(self, TroubleKind::Full | TroubleKind::ReadOnly)
    }

    /// What to do about it.
    pub const fn hint(self) -> &'static str {
        match self {
            TroubleKind::Full => {
                "make room with `build-agent cache prune`, or raise the quota; what was published is kept"
            }
            TroubleKind::ReadOnly => {
                "mount the share so that trusted builds may write, or set access = \"read-only\""
            }
            TroubleKind::Refused => {
                "let the directories belong to the user of the builds' access point; see docs/trust.md"
            }
            TroubleKind::Other => "the next build publishes what is missing",
        }
    }
}

/// The sum while it grows.
#[derive(Debug, Default)]
pub struct Tally {
    sum: Mutex<Published>,
    ended: AtomicBool,
    consecutive_failures: AtomicU32,
}

impl Tally {
    /// All so far.
    pub fn so_far(&self) -> Published {
        self.with(|sum| sum.clone())
    }

    /// Whether the share takes nothing more.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// One object is through. `alarming`: another content under its name is a reason to look.
    pub(super) fn add(&self, name: &str, alarming: bool, put: Result<PutOutcome, Failure>) {
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

    /// An object was not tried.
    pub(super) fn leave(&self) {
        self.with(|sum| sum.counts.left += 1);
    }

    /// An object was used from a tier.
    pub(super) fn read(&self, tier: TierKind, bytes: u64) {
        self.with(|sum| {
            let traffic = sum.traffic.entry(tier).or_default();
            traffic.objects_read += 1;
            traffic.bytes_read += bytes;
        });
    }

    /// The share failed.
    pub(super) fn trouble(&self, name: &str, error: &io::Error) {
        let kind = TroubleKind::of(error);
        let consecutive_failures = self.consecutive_failures.fetch_add(1, Ordering::Relaxed) + 1;
        if kind.ends_all() || consecutive_failures >= IN_A_ROW {
            self.ended.store(true, Ordering::Relaxed);
        }
        self.with(|sum| {
            sum.trouble.get_or_insert_with(|| Trouble { kind, reason: format!("{name}: {error}") });
        });
    }

    /// The share takes nothing at all.
    pub(super) fn end(&self, name: &str, error: &io::Error) {
        self.trouble(name, error);
        self.ended.store(true, Ordering::Relaxed);
    }

    /// A local file was not taken.
    pub(super) fn refuse(&self, why: String) {
        self.with(|sum| {
            sum.refusals += 1;
            if sum.refused.len() < SHOWN {
                sum.refused.push(why);
            }
        });
    }

    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Published) -> T) -> T {
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
                    if self.alarming.len() < SHOWN {
                        self.alarming.push(name.to_owned());
                    }
                }
            }
            PutOutcome::Large(_) => {}
        }
    }
}
