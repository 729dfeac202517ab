//! The local caches that the jobs of one user share: whether this job can use them, and its leases on them. The store of
//! layer checkouts is shared in any case.
//!
//! BitBake locks each download and renames each object of shared state into its place, so jobs can use the same
//! directories at the same time. A prune honours the leases.
//!
//! If the agent is root, layer code of all jobs runs as the build user. While this user runs untrusted code, it cannot
//! read the caches of trusted sources. So jobs of trusted and of untrusted sources do not use the caches at the same time.

use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;

use crate::config::Settings;
use agent_cache::Lease;
use agent_cache::areas::LOCKS;
use agent_fs::read::NO_FOLLOW;
use agent_process::User;
use agent_types::error::{Error, Result};
use agent_types::share::Share;

/// The time that the end of a job takes.
const MARGIN: Duration = Duration::from_secs(10 * 60);

/// A job that starts holds the other lock only for a moment, much less than these tries take.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(50);

/// The job's use of the shared caches. It ends on drop.
#[derive(Debug)]
pub struct CacheLease {
    _leases: Vec<Lease>,
    _lock: Option<File>,
}

/// Takes leases on the local caches that the job shares with others. If it cannot use them, it gets caches of its own and
/// a warning; then the lease is for the layer checkouts alone. Blocks for a second at most.
pub fn claim_caches(settings: &Settings) -> (Settings, Option<CacheLease>) {
    let mut settings = settings.clone();
    if settings.paths.shares_caches() {
        // Configure reports that there is no build user.
        let user = agent_process::build_user(settings.build_user.as_deref(), &settings.checkout);
        match claim(&settings, user.ok().flatten().as_ref()) {
            Ok(lease) => return (settings, Some(lease)),
            Err(error) => {
                let message =
                    format!("this job does not use the caches of your other jobs: {}", error.message);
                let hint =
                    error.hint.unwrap_or_else(|| "BUILD_AGENT_CACHE names another directory".to_owned());
                settings = settings.with_own_caches();
                settings.warnings.push((message, hint));
            }
        }
    }
    match claim_checkouts(&settings) {
        Ok(lease) => (settings, Some(CacheLease { _leases: vec![lease], _lock: None })),
        Err(error) => {
            let message = format!("a prune may delete this job's layer checkouts: {}", error.message);
            let hint = "do not run `build-agent cache prune` while this job runs".to_owned();
            settings.warnings.push((message, error.hint.unwrap_or(hint)));
            (settings, None)
        }
    }
}

/// A lease for the layer checkouts of a job with caches of its own.
fn claim_checkouts(settings: &Settings) -> Result<Lease> {
    let top = settings.cache.layers.parent().unwrap_or(&settings.cache.layers);
    take_lease(settings, &Share::new(top))
}

fn take_lease(settings: &Settings, share: &Share) -> Result<Lease> {
    let until = SystemTime::now() + settings.limits.job + settings.limits.grace + MARGIN;
    Lease::take(share, settings.release.name, until, [])
}

fn claim(settings: &Settings, user: Option<&User>) -> Result<CacheLease> {
    let (paths, cache) = (&settings.paths, &settings.cache);
    fs::create_dir_all(&paths.caches)?;
    let lock = user.map(|_| lock(&paths.caches, cache.trust.is_trusted())).transpose()?;
    let (top, own) = (Share::new(&paths.caches), paths.caches(&cache.trust));
    for directory in [&cache.downloads, &cache.sstate, &cache.hash_database] {
        verify_owner(directory, user)?;
    }
    // The first one is for the layer checkouts, which are in one place for all.
    let mut leases = vec![take_lease(settings, &top)?];
    if own != top {
        leases.push(take_lease(settings, &own)?);
    }
    Ok(CacheLease { _leases: leases, _lock: lock })
}

/// Verifies that the user that runs BitBake owns the directory, if it exists.
fn verify_owner(directory: &Path, user: Option<&User>) -> Result<()> {
    let Ok(metadata) = fs::metadata(directory) else { return Ok(()) };
    let uid = user.map_or_else(|| nix::unistd::geteuid().as_raw(), |user| user.uid);
    if metadata.is_dir() && metadata.uid() == uid {
        return Ok(());
    }
    let shown = directory.display();
    Err(match metadata.is_dir() {
        false => Error::machine(format!("`{shown}` is not a directory")).hint(format!("rm {shown}")),
        true => Error::machine(format!(
            "`{shown}` belongs to uid {}, and BitBake runs as uid {uid}",
            metadata.uid()
        ))
        .hint(format!("chown -R {uid} {shown}; or name another directory with BUILD_AGENT_CACHE")),
    })
}

/// Locks the caches for jobs of trusted or of untrusted sources.
///
/// # Errors
/// If a job of the other kind uses them.
fn lock(caches: &Path, is_trusted: bool) -> Result<File> {
    let [untrusted, trusted] = LOCKS.map(|name| caches.join(name));
    let (own, other) = if is_trusted { (trusted, untrusted) } else { (untrusted, trusted) };
    let in_use = || {
        let kind = if is_trusted { "an untrusted source" } else { "a trusted source" };
        Error::machine(format!("a job of {kind} uses {} now", caches.display()))
            .hint("run jobs of trusted and of untrusted sources one after another")
    };
    let held = try_lock(&own, File::try_lock_shared)?.ok_or_else(in_use)?;
    try_lock(&other, File::try_lock)?.ok_or_else(in_use)?;
    Ok(held)
}

/// `None` if others hold the lock.
fn try_lock(
    path: &Path,
    lock: impl Fn(&File) -> std::result::Result<(), TryLockError>,
) -> Result<Option<File>> {
    let mut options = fs::OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false).custom_flags(NO_FOLLOW);
    let (file, _) = options.open(path)?.into_parts();
    for _ in 0..TRIES {
        match lock(&file) {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
            Err(TryLockError::Error(error)) => {
                return Err(Error::machine(format!("cannot lock `{}`", path.display())).because(&error));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn jobs_of_trusted_and_of_untrusted_sources_do_not_use_the_caches_together() {
        let directory = tempfile::tempdir().unwrap();
        let first = lock(directory.path(), false).unwrap();
        let second = lock(directory.path(), false).unwrap();
        let error = lock(directory.path(), true).unwrap_err();
        assert!(error.message.contains("an untrusted source"), "{error}");
        drop(first);
        assert!(lock(directory.path(), true).is_err(), "one is still there");
        drop(second);
        let trusted = lock(directory.path(), true).unwrap();
        assert!(lock(directory.path(), false).unwrap_err().message.contains("a trusted source"));
        drop(trusted);
        lock(directory.path(), false).unwrap();
        // A lock that cannot be opened is not another job.
        let [_, other] = LOCKS.map(|name| directory.path().join(name));
        fs::remove_file(&other).unwrap();
        fs::create_dir(&other).unwrap();
        let error = lock(directory.path(), false).unwrap_err();
        assert!(error.message.contains("trusted.lock"), "{error}");
    }

    #[test]
    fn a_directory_of_another_user_is_refused_with_the_fix() {
        let directory = tempfile::tempdir().unwrap();
        let uid = directory.path().metadata().unwrap().uid();
        let user = |uid| User { name: "x".into(), uid, gid: 1, home: "/".into() };
        verify_owner(directory.path(), Some(&user(uid))).unwrap();
        verify_owner(&directory.path().join("none"), Some(&user(uid + 1))).unwrap();
        let error = verify_owner(directory.path(), Some(&user(uid + 1))).unwrap_err();
        assert!(error.hint.unwrap().starts_with(&format!("chown -R {}", uid + 1)));
    }
}
