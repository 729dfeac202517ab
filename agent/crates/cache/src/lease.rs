//! Leases protect what running builds use from a prune.
//!
//! A job writes a file `leases/<release>.<host>-<pid>-<random>` to the tier that it may write, and removes it
//! at its end. A killed machine removes nothing, so a lease expires: at its end time, and at the latest
//! [`LONGEST`] after it was written. An unreadable lease counts as live until then. The content of leases in
//! untrusted tiers is not read; only their existence, release and time count.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::names;
use super::stamp::{self, nanoseconds};
use agent_fs::dir::{DirHandle, Kind};
use agent_fs::remove;
use agent_fs::walk::{Entry, Listing, Seen, Walk};
use agent_types::error::{Error, Result};
use agent_types::share::Share;

/// Maximum lifetime of a lease, whatever it says: CodeBuild ends a build after 36 hours.
pub const LONGEST: Duration = Duration::from_secs(48 * 3600);

/// Maximum size of a lease file; thousands of layers fit.
pub const LARGEST: u64 = 256 * 1024;

const SCHEMA: &str = "build-agent/lease/v1";

/// The content of a lease file. Times are seconds since 1970.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LeaseFile {
    schema: String,
    release: String,
    start: u64,
    end: u64,
    /// Entries of the layer store, as `<repo>/<commit>`.
    layers: BTreeSet<String>,
}

/// A lease of this process. It is removed on drop.
#[derive(Debug)]
pub struct Lease {
    path: PathBuf,
    share: PathBuf,
}

impl Lease {
    /// Creates a lease in a tier that this job may write, for a build of `release` that ends before `until`
    /// (its limit, grace time and some margin). It protects these entries of the layer store
    /// (`<repo>/<commit>`).
    ///
    /// # Errors
    /// Machine, if it cannot be written; internal, if a name is invalid.
    pub fn take(
        tier: &Share,
        release: &str,
        until: SystemTime,
        layers: impl IntoIterator<Item = String>,
    ) -> Result<Lease> {
        let text = content(release, until, layers)?;
        let directory = tier.leases();
        fs::create_dir_all(&directory)?;
        let begun = directory.join(names::part(&stamp::random()));
        let path = directory.join(name(release));
        let written = write_new(&begun, &text).and_then(|()| fs::rename(&begun, &path));
        if let Err(error) = written {
            // A prune removes the rest.
            let _ = remove::remove_file(&begun, tier.root());
            return Err(error.into());
        }
        Ok(Lease { path, share: tier.root().to_owned() })
    }

    /// Removes the lease and reports a failure. Drop ignores failures, because the lease expires.
    ///
    /// # Errors
    /// Machine, if the file cannot be removed.
    pub fn release(self) -> Result<()> {
        remove::remove_file(&self.path, &self.share)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let _ = remove::remove_file(&self.path, &self.share);
    }
}

/// The content of a lease that begins now. See [`Lease::take`].
pub(crate) fn content(
    release: &str,
    until: SystemTime,
    layers: impl IntoIterator<Item = String>,
) -> Result<Vec<u8>> {
    let seconds =
        |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let layers: BTreeSet<String> = layers.into_iter().collect();
    if !names::is_release(release) || !layers.iter().all(|entry| is_layer(entry)) {
        return Err(Error::internal(format!("invalid names for a lease: `{release}` and {layers:?}")));
    }
    let (start, end) = (seconds(SystemTime::now()), seconds(until));
    let file = LeaseFile { schema: SCHEMA.into(), release: release.into(), start, end, layers };
    serde_json::to_vec(&file).map_err(|error| Error::internal("cannot serialize a lease").because(&error))
}

/// A new name for a lease of this process.
pub(crate) fn name(release: &str) -> String {
    format!("{release}.{}-{}-{}", host(), std::process::id(), stamp::random())
}

fn write_new(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = fs::File::create_new(path)?;
    file.write_all(text)?;
    file.sync_all()
}

/// The machine's name, shortened to fit into a file name.
fn host() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default();
    let name = name.to_string_lossy();
    let plain: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(40).collect();
    if plain.is_empty() { "host".into() } else { plain }
}

/// Whether it has the form `<repo>/<commit>`.
fn is_layer(entry: &str) -> bool {
    let split = entry.split_once('/');
    split.is_some_and(|(repo, commit)| names::is_layer_name(repo) && names::is_layer_name(commit))
}

/// Who wrote the leases of a tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    /// Builds of trusted sources.
    Trusted,
    /// Anyone: the tier of a pull request.
    Stranger,
}

/// A live lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveLease {
    pub author: Author,
    /// `None` for every release: its name contains no release.
    pub release: Option<String>,
    /// Start of its build, in nanoseconds since 1970.
    pub since: i64,
    /// Entries of the layer store that its build uses; `None`, if unreadable: any entry.
    pub layers: Option<BTreeSet<String>>,
}

impl LiveLease {
    pub fn concerns(&self, release: &str) -> bool {
        self.release.as_deref().is_none_or(|own| own == release)
    }
}

/// The leases of a tier.
#[derive(Debug, Default)]
pub struct Leases {
    pub live: Vec<LiveLease>,
    /// File names of expired leases and of unfinished ones, which a prune removes.
    pub dead: Vec<OsString>,
    /// Unreadable leases, for people.
    pub unreadable: Vec<String>,
}

/// Reads the leases in a tier. A missing directory has no leases.
///
/// # Errors
/// If the directory cannot be read: then it is unknown what is in use.
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
        let file = match author {
            Author::Trusted if !names::is_part(&name) => Some(directory.read(&name, LARGEST)),
            _ => None,
        };
        leases.add(&name, facts.used(), author, file, now);
    }
    Ok(leases)
}

impl Leases {
    /// Adds a lease that was written at this time, in nanoseconds since 1970. `content`: `None`, if nobody reads it.
    pub fn add(
        &mut self,
        name: &OsStr,
        written: i64,
        author: Author,
        content: Option<io::Result<Vec<u8>>>,
        now: SystemTime,
    ) {
        let age = nanoseconds(now).saturating_sub(written);
        let old = age > i64::try_from(LONGEST.as_nanos()).unwrap_or(i64::MAX);
        if names::is_part(name) {
            // A lease that is being written protects nothing yet.
            self.dead.extend(old.then(|| name.to_owned()));
            return;
        }
        let file = content.map(|content| parse(name, &content?)).transpose();
        if file.is_err() && !old {
            self.unreadable.push(shown(name));
        }
        let file = file.ok().flatten();
        let ended = file.as_ref().is_some_and(|file| stamp::time(nanos(file.end)) <= now);
        if old || ended {
            self.dead.push(name.to_owned());
            return;
        }
        self.live.push(LiveLease {
            author,
            release: release_of(name),
            // A start too long ago would protect nothing.
            since: file.as_ref().map_or(written, |file| nanos(file.start).min(written)).max(oldest(now)),
            layers: file.map(|file| file.layers),
        });
    }
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

fn parse(name: &OsStr, content: &[u8]) -> io::Result<LeaseFile> {
    let file: LeaseFile = serde_json::from_slice(content)?;
    let fits = file.schema == SCHEMA
        && release_of(name).as_ref() == Some(&file.release)
        && file.layers.iter().all(|entry| is_layer(entry));
    if fits { Ok(file) } else { Err(io::Error::other("not a lease")) }
}

fn shown(name: &OsStr) -> String {
    super::units::shown(Path::new(name))
}

impl fmt::Display for LiveLease {
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
    fn lease_is_live_until_released_or_expired() {
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
        // Expired by its own end time, which is not read in untrusted tiers.
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
    fn unreadable_leases_are_live_for_two_days() {
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
        // `no release` protects every release.
        assert_eq!(found.live.iter().filter(|lease| lease.concerns("dunfell")).count(), 1);
        // The start of a build is never before the oldest possible one.
        assert!(found.live.iter().all(|lease| lease.since >= oldest(now)));
        let later = standing(&share, Author::Trusted, now + LONGEST + HOUR);
        assert_eq!((later.live.len(), later.dead.len()), (0, table.len()));
    }

    #[test]
    fn rejects_leases_with_invalid_names() {
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
    fn unreadable_lease_directory_is_an_error() {
        let base = tempfile::tempdir().unwrap();
        symlink("/", base.path().join("leases")).unwrap();
        let below = DirHandle::open(base.path()).unwrap();
        assert!(read(&below, Author::Trusted, SystemTime::now(), &AtomicU64::new(0)).is_err());
    }
}
