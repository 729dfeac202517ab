//! Leases: what running builds use, or may still use, is not pruned.
//!
//! A job writes a file `leases/<release>.<host>-<pid>-<random>` into the tier that it may write, and
//! removes it at its end. A machine that was killed removes nothing, so a lease is dead by itself: after
//! the end that it names, and in any case [`LONGEST`] after it was written. What cannot be read counts
//! as alive until then. What strangers wrote is not read at all: that there is a lease, for which
//! release and since when is all that it can say.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::names;
use super::stamp::{self, nanoseconds};
use agent_fs::dir::{DirHandle, FileMeta, Kind};
use agent_fs::remove;
use agent_fs::walk::{Entry, Listing, Seen, Walk};
use agent_types::error::{Error, Result};
use agent_types::share::Share;

/// No lease lives longer, whatever it says: CodeBuild ends a build after 36 hours.
pub const LONGEST: Duration = Duration::from_secs(48 * 3600);

/// Bytes of a lease file; thousands of layers would fit.
const LARGEST: u64 = 256 * 1024;

const SCHEMA: &str = "build-agent/lease/v1";

/// What the file of a lease says. Times are seconds since 1970.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Paper {
    schema: String,
    release: String,
    start: u64,
    end: u64,
    /// Entries of the layer store, `<repo>/<commit>`.
    layers: BTreeSet<String>,
}

/// A lease that this process holds. Removed when it is dropped.
#[derive(Debug)]
pub struct Lease {
    path: PathBuf,
    share: PathBuf,
}

impl Lease {
    /// Takes a lease in a tier that this job may write, for a build of `release` that is over at `until`
    /// (its limit, grace time and some margin) and uses these entries of the layer store
    /// (`<repo>/<commit>`).
    ///
    /// # Errors
    /// Machine, when it cannot be written; internal, when a name is none.
    pub fn take(
        tier: &Share,
        release: &str,
        until: SystemTime,
        layers: impl IntoIterator<Item = String>,
    ) -> Result<Lease> {
        let seconds =
            |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let layers: BTreeSet<String> = layers.into_iter().collect();
        if !names::is_release(release) || !layers.iter().all(|entry| is_layer(entry)) {
            return Err(Error::internal(format!("no lease can be taken for `{release}` and {layers:?}")));
        }
        let now = SystemTime::now();
        let start = seconds(now);
        let paper =
            Paper { schema: SCHEMA.into(), release: release.into(), start, end: seconds(until), layers };
        let text = serde_json::to_vec(&paper)
            .map_err(|error| Error::internal("a lease cannot be written down").because(&error))?;
        let directory = tier.leases();
        fs::create_dir_all(&directory)?;
        let random = stamp::random();
        let begun = directory.join(names::part(&random));
        let path = directory.join(format!("{release}.{}-{}-{random}", host(), std::process::id()));
        let written = write_new(&begun, &text).and_then(|()| fs::rename(&begun, &path));
        if let Err(error) = written {
            // What is left of it is taken by a prune.
            let _ = remove::remove_file(&begun, tier.root());
            return Err(error.into());
        }
        Ok(Lease { path, share: tier.root().to_owned() })
    }

    /// Removes it, and says when that fails. Dropping does the same silently: it dies by itself.
    ///
    /// # Errors
    /// Machine, when the file cannot be removed.
    pub fn release(self) -> Result<()> {
        remove::remove_file(&self.path, &self.share)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let _ = remove::remove_file(&self.path, &self.share);
    }
}

fn write_new(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = fs::File::create_new(path)?;
    file.write_all(text)?;
    file.sync_all()
}

/// The machine's name as far as it fits into a file name.
fn host() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default();
    let name = name.to_string_lossy();
    let plain: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(40).collect();
    if plain.is_empty() { "host".into() } else { plain }
}

/// `<repo>/<commit>`.
fn is_layer(entry: &str) -> bool {
    let split = entry.split_once('/');
    split.is_some_and(|(repo, commit)| names::is_layer_name(repo) && names::is_layer_name(commit))
}

/// Who wrote the leases of a tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    /// Builds of trusted sources.
    Trusted,
    /// Anybody: the tier of a pull request.
    Stranger,
}

/// A lease that lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub author: Author,
    /// `None` for every release: its name says none.
    pub release: Option<String>,
    /// When its build began, nanoseconds since 1970.
    pub since: i64,
    /// Entries of the layer store that its build uses; `None` when that cannot be read: any.
    pub layers: Option<BTreeSet<String>>,
}

impl Standing {
    pub fn concerns(&self, release: &str) -> bool {
        self.release.as_deref().is_none_or(|own| own == release)
    }
}

/// The leases of a tier.
#[derive(Debug, Default)]
pub struct Leases {
    pub live: Vec<Standing>,
    /// File names of those that are dead, and of what was begun and left, for a prune to remove.
    pub dead: Vec<(std::ffi::OsString, FileMeta)>,
    /// What cannot be read, for people.
    pub unreadable: Vec<String>,
}

/// Reads the leases in a tier. No directory means no leases.
///
/// # Errors
/// When the directory cannot be read: then nobody knows what is in use.
pub fn read(tier: &DirHandle, author: Author, now: SystemTime, operations: &AtomicU64) -> io::Result<Leases> {
    let directory = match tier.open_dir("leases") {
        Ok(directory) => directory,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Leases::default()),
        Err(error) => return Err(error),
    };
    let walk = Walk { width: 1, facts: true, operations, stop: &|| false };
    let mut entries = Vec::new();
    let mut failed = None;
    let each = |seen| match seen {
        Seen::Directory(listed) => entries = listed,
        Seen::Trouble(trouble) => failed = Some(trouble.error),
    };
    let _ = walk.run(&directory, |_| false, |listing: Listing| listing.entries, each);
    if let Some(error) = failed {
        return Err(error);
    }
    let mut leases = Leases::default();
    for Entry { name, kind, facts } in entries {
        let Some(facts) = facts.filter(|_| kind == Kind::File) else {
            leases.unreadable.push(shown(&name));
            continue;
        };
        let written = facts.used();
        let old =
            nanoseconds(now).saturating_sub(written) > i64::try_from(LONGEST.as_nanos()).unwrap_or(i64::MAX);
        if names::is_part(&name) {
            // A lease that is being written holds nothing yet.
            leases.dead.extend(old.then_some((name, facts)));
            continue;
        }
        let paper = match author {
            Author::Trusted => paper(&directory, &name),
            Author::Stranger => Ok(None),
        };
        if paper.is_err() && !old {
            leases.unreadable.push(shown(&name));
        }
        let paper = paper.ok().flatten();
        let ended = paper.as_ref().is_some_and(|paper| stamp::time(nanos(paper.end)) <= now);
        if old || ended {
            leases.dead.push((name, facts));
            continue;
        }
        leases.live.push(Standing {
            author,
            release: release_of(&name),
            // A start that is long ago would hold for nothing what was young then.
            since: paper.as_ref().map_or(written, |paper| nanos(paper.start).min(written)).max(oldest(now)),
            layers: paper.map(|paper| paper.layers),
        });
    }
    Ok(leases)
}

fn nanos(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000_000)
}

fn oldest(now: SystemTime) -> i64 {
    nanoseconds(now.checked_sub(LONGEST).unwrap_or(SystemTime::UNIX_EPOCH))
}

fn release_of(name: &OsStr) -> Option<String> {
    let (release, _) = name.to_str()?.split_once('.')?;
    names::is_release(release).then(|| release.to_owned())
}

/// What a lease says.
fn paper(directory: &DirHandle, name: &OsStr) -> io::Result<Option<Paper>> {
    let paper: Paper = serde_json::from_slice(&directory.read(name, LARGEST)?)?;
    let fits = paper.schema == SCHEMA
        && release_of(name).as_ref() == Some(&paper.release)
        && paper.layers.iter().all(|entry| is_layer(entry));
    if fits { Ok(Some(paper)) } else { Err(io::Error::other("is no lease")) }
}

fn shown(name: &OsStr) -> String {
    super::units::shown(Path::new(name))
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = humantime::format_rfc3339_seconds(stamp::time(self.since));
        write!(f, "{} since {since}", self.release.as_deref().unwrap_or("any release"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn standing(share: &Share, author: Author, now: SystemTime) -> Leases {
        let operations = AtomicU64::new(0);
        read(&DirHandle::open(share.root()).unwrap(), author, now, &operations).unwrap()
    }

    #[test]
    fn a_lease_stands_until_it_is_released_or_over() {
        let base = tempfile::tempdir().unwrap();
        let share = Share::new(base.path());
        let now = SystemTime::now();
        assert!(standing(&share, Author::Trusted, now).live.is_empty());
        let lease = Lease::take(&share, "scarthgap", now + HOUR, ["poky-0a/0123".to_owned()]).unwrap();
        let found = standing(&share, Author::Trusted, now);
        assert_eq!((found.live.len(), found.dead.len(), found.unreadable.len()), (1, 0, 0));
        let live = &found.live[0];
        assert!(live.concerns("scarthgap") && !live.concerns("kirkstone"));
        assert_eq!(live.layers.as_ref().unwrap().iter().collect::<Vec<_>>(), ["poky-0a/0123"]);
        assert!((nanoseconds(now) - live.since).abs() < 5_000_000_000, "{live:?}");
        // Over, as it says itself; a stranger's word on that is not asked.
        assert_eq!(standing(&share, Author::Trusted, now + 2 * HOUR).dead.len(), 1);
        let strange = standing(&share, Author::Stranger, now + 2 * HOUR);
        assert_eq!((strange.live.len(), strange.live[0].layers.is_none()), (1, true));
        assert_eq!(standing(&share, Author::Stranger, now + LONGEST + HOUR).live.len(), 0);
        lease.release().unwrap();
        assert!(standing(&share, Author::Trusted, now).live.is_empty());
        drop(Lease::take(&share, "scarthgap", now, []).unwrap());
        assert_eq!(fs::read_dir(share.leases()).unwrap().count(), 0);
    }

    #[test]
    fn what_cannot_be_read_counts_as_alive_for_two_days() {
        let base = tempfile::tempdir().unwrap();
        let share = Share::new(base.path());
        fs::create_dir_all(share.leases()).unwrap();
        let good = r#"{"schema":"build-agent/lease/v1","release":"scarthgap","start":0,"end":9999999999,"layers":[]}"#;
        let table = [
            ("scarthgap.good", good.to_owned(), true),
            ("scarthgap.empty", String::new(), false),
            ("scarthgap.torn", good[..40].into(), false),
            ("kirkstone.of-another", good.into(), false),
            ("scarthgap.more", good.replace("\"layers\"", "\"x\":1,\"layers\""), false),
            ("scarthgap.layers", good.replace("[]", "[\"../../etc/x\"]"), false),
            ("scarthgap.huge", format!("{good}{}", " ".repeat(300_000)), false),
            ("no release", good.into(), false),
        ];
        for (name, text, _) in &table {
            fs::write(share.leases().join(name), text).unwrap();
        }
        symlink("/etc/passwd", share.leases().join("scarthgap.link")).unwrap();
        let now = SystemTime::now();
        let found = standing(&share, Author::Trusted, now);
        assert_eq!(found.live.len(), table.len());
        assert_eq!(found.live.iter().filter(|lease| lease.layers.is_some()).count(), 1);
        assert_eq!(found.unreadable.len(), table.len());
        // `no release` holds all of them.
        assert_eq!(found.live.iter().filter(|lease| lease.concerns("dunfell")).count(), 1);
        // None says that it has begun before it could have.
        assert!(found.live.iter().all(|lease| lease.since >= oldest(now)));
        let later = standing(&share, Author::Trusted, now + LONGEST + HOUR);
        assert_eq!((later.live.len(), later.dead.len()), (0, table.len()));
    }

    #[test]
    fn leases_of_what_has_no_name_are_refused() {
        let base = tempfile::tempdir().unwrap();
        let share = Share::new(base.path());
        for (release, layer) in
            [("../x", "a/b"), ("", "a/b"), ("a.b", "a/b"), ("a", "a"), ("a", "../b"), ("a", "a/b/c")]
        {
            assert!(
                Lease::take(&share, release, SystemTime::now(), [layer.to_owned()]).is_err(),
                "{release} {layer}"
            );
        }
        assert!(!share.leases().exists());
    }

    #[test]
    fn leases_that_cannot_be_listed_are_an_error() {
        let base = tempfile::tempdir().unwrap();
        symlink("/", base.path().join("leases")).unwrap();
        let below = DirHandle::open(base.path()).unwrap();
        assert!(read(&below, Author::Trusted, SystemTime::now(), &AtomicU64::new(0)).is_err());
    }
}
