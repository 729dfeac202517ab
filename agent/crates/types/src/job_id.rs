//! The id of a job.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// Tells one job from all others, on all machines: the agent makes a new one for each run. It is on every event of
/// the job. A build of CodeBuild may run several jobs, so its id would not do. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct JobId(Arc<str>);

impl JobId {
    /// A new id: the time in UTC and 64 random bits, e.g. `20260102T030405Z-0f5d7e0c91b2a3d4`. Sorts by time.
    pub fn new(now: SystemTime) -> JobId {
        let time = humantime::format_rfc3339_seconds(now).to_string().replace(['-', ':'], "");
        JobId(format!("{time}-{:016x}", random()).into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether nobody gave the job an id: files of older agents have none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// From the random keys that the standard library takes from the system for each process:
/// <https://doc.rust-lang.org/std/hash/struct.RandomState.html>.
fn random() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.finish()
}

/// No id.
impl Default for JobId {
    fn default() -> JobId {
        JobId("".into())
    }
}

impl From<String> for JobId {
    fn from(text: String) -> JobId {
        JobId(text.into())
    }
}

impl From<&str> for JobId {
    fn from(text: &str) -> JobId {
        JobId(text.into())
    }
}

impl From<JobId> for String {
    fn from(id: JobId) -> String {
        id.as_str().to_owned()
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;

    #[test]
    fn ids_differ_and_sort_by_time() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045);
        let ids: BTreeSet<JobId> = (0..1000).map(|_| JobId::new(now)).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id.as_str().starts_with("20260102T030405Z-") && id.as_str().len() == 33));
        let later = JobId::new(now + Duration::from_secs(1));
        assert!(ids.iter().all(|id| *id < later));
    }
}
