//! BitBake's caches in a build directory, in which layer code writes as well: everything is opened as
//! the build user, step by step and through no link.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, RenameFlags, openat, readlinkat, renameat2};
use nix::sys::stat::{Mode, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, geteuid, setfsgid, setfsuid};

use agent_fs::remove;
use agent_process::User;

use super::super::{CacheResult, NotCacheable};

/// The newest configuration that was parsed (`prepare_cache` in bb/cache.py); nobody reads it.
const LINK: &str = "bb_cache.dat";

/// What BitBake found out about pieces of code, by their hash. In PERSISTENT_DIR or BB_CACHEDIR.
const CODE: &str = "cache/bb_codeparser.dat";

/// `TMPDIR/cache` itself, and up to honister a directory for TCMODE, machine and SDKMACHINE in it.
const DEEPEST: usize = 3;

/// No directory of BitBake's caches holds more.
const MOST_NAMES: usize = 10_000;

/// One machine has three of them.
const MOST_DIRECTORIES: usize = 100;

/// No file of a cache is larger; meta-aws with all that it stands on makes 100 megabytes.
pub const LARGEST: u64 = 1 << 30;

/// A run of many configurations at once has two files for each.
pub const MOST_FILES: usize = 64;

/// BitBake's server writes its caches and is gone soon after the program that asked it.
const PATIENCE: Duration = Duration::from_secs(10);

/// The server removes its lock when it ends; one that lies for so long was left by a killed one.
const LEFT_BEHIND: Duration = Duration::from_secs(3);

/// A file of a cache.
#[derive(Debug)]
pub struct Cache {
    /// In the build directory.
    pub path: PathBuf,
    pub file: File,
    pub metadata: Metadata,
}

/// The caches of the configuration that was parsed last; empty when they are not whole.
///
/// # Errors
/// When BitBake is still at it, or something lies there that it did not make.
pub fn find(build: &Path, user: &User) -> CacheResult<Vec<Cache>> {
    as_user(user, || {
        let top = open_directory(build)?;
        wait_for_end(&top)?;
        let Some((directory, path, hash)) = newest(&top)? else { return Ok(Vec::new()) };
        let mut caches = Vec::new();
        for name in names(&directory)?.iter().filter(|name| hash_of(name) == Some(&hash)) {
            caches.push(open_cache(&directory, path.join(name), user)?);
        }
        // One kind alone is of no use: BitBake would parse everything all the same.
        if caches.len() < 2 || caches.len() > MOST_FILES {
            return Ok(Vec::new());
        }
        let code = Path::new(CODE);
        if let Ok(directory) = directory_at(&top, "cache".as_ref())
            && names(&directory)?.iter().any(|name| Some(name.as_os_str()) == code.file_name())
        {
            caches.push(open_cache(&directory, code.to_owned(), user)?);
        }
        Ok(caches)
    })
}

/// Whether the path is one of [`find`].
pub fn is_cache(path: &Path) -> bool {
    let plain = path.components().all(|step| matches!(step, Component::Normal(_)));
    let tmp = |step: Component| step.as_os_str().as_bytes().starts_with(b"tmp");
    let in_tmp = path.components().next().is_some_and(tmp)
        && path.file_name().is_some_and(|name| hash_of(name).is_some());
    plain && path.components().count() <= DEEPEST + 3 && (in_tmp || path == Path::new(CODE))
}

/// The hash of the configuration that ends the name of a cache, e.g. `bb_cache.dat.0123…`.
fn hash_of(name: &OsStr) -> Option<&str> {
    let name = name.to_str().filter(|name| name.starts_with("bb_cache") && name.contains(".dat."))?;
    let (_, hash) = name.rsplit_once('.')?;
    let hexadecimal = hash.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    (hexadecimal && matches!(hash.len(), 32 | 64)).then_some(hash)
}

/// The directory of the caches that were used last, its path, and their hash.
fn newest(top: &OwnedFd) -> CacheResult<Option<(OwnedFd, PathBuf, String)>> {
    let mut newest: Option<((i64, i64), OwnedFd, PathBuf, String)> = None;
    let (mut open, mut seen) = (Vec::new(), 0);
    for name in names(top)?.into_iter().filter(|name| name.as_bytes().starts_with(b"tmp")) {
        let Ok(tmp) = directory_at(top, &name) else { continue };
        let Ok(cache) = directory_at(&tmp, "cache".as_ref()) else { continue };
        open.push((cache, Path::new(&name).join("cache"), 0));
    }
    while let Some((directory, path, depth)) = open.pop() {
        for name in names(&directory)? {
            if depth < DEEPEST
                && let Ok(below) = directory_at(&directory, &name)
            {
                seen += 1;
                if seen > MOST_DIRECTORIES {
                    return Err(NotCacheable("BitBake's caches hold too many directories".into()));
                }
                open.push((below, path.join(&name), depth + 1));
            }
        }
        let Ok(stat) = fstatat(&directory, LINK, AtFlags::AT_SYMLINK_NOFOLLOW) else { continue };
        let Ok(target) = readlinkat(&directory, LINK) else { continue };
        let time = (stat.st_mtime, stat.st_mtime_nsec);
        if let Some(hash) = hash_of(&target)
            && newest.as_ref().is_none_or(|(known, ..)| *known < time)
        {
            newest = Some((time, directory, path, hash.to_owned()));
        }
    }
    Ok(newest.map(|(_, directory, path, hash)| (directory, path, hash)))
}

/// Until BitBake's server has written everything: one cache of this run and one of an earlier run would
/// not fit together.
fn wait_for_end(top: &OwnedFd) -> CacheResult<()> {
    let since = Instant::now();
    loop {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        match openat(top, "bitbake.lock", flags, Mode::empty()) {
            Err(Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(errno.into()),
            Ok(file) if since.elapsed() > LEFT_BEHIND => {
                if Flock::lock(File::from(file), FlockArg::LockSharedNonblock).is_ok() {
                    return Ok(());
                }
            }
            Ok(_) => {}
        }
        if since.elapsed() > PATIENCE {
            return Err(NotCacheable("BitBake's server still runs".into()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn open_cache(directory: &OwnedFd, path: PathBuf, user: &User) -> CacheResult<Cache> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let name = path.file_name().unwrap_or_default();
    let file = File::from(openat(directory, name, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    let is_own = metadata.is_file() && metadata.uid() == user.uid && metadata.nlink() == 1;
    if !is_own || metadata.size() > LARGEST {
        return Err(NotCacheable(format!("{} is no cache that BitBake made", path.display())));
    }
    Ok(Cache { path, file, metadata })
}

/// A file that is being made where a cache belongs.
#[derive(Debug)]
pub struct Place {
    directory: OwnedFd,
    /// Its name until it is whole.
    name: OsString,
    wanted: OsString,
    pub file: File,
}

/// Makes room for caches; `None` when there are some of the same configuration.
///
/// # Errors
/// When something stands in the way.
pub fn make_room(build: &Path, paths: &[&Path], user: &User) -> CacheResult<Option<Vec<Place>>> {
    as_user(user, || {
        let top = open_directory(build)?;
        let mut directories = Vec::new();
        for path in paths {
            let mut directory = top.try_clone()?;
            for step in path.parent().unwrap_or(Path::new("")).components() {
                match mkdirat(&directory, step.as_os_str(), Mode::from_bits_truncate(0o755)) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(errno) => return Err(errno.into()),
                }
                directory = directory_at(&directory, step.as_os_str())?;
            }
            let name = path.file_name().unwrap_or_default();
            let is_there = fstatat(&directory, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok();
            if !is_there {
                directories.push((directory, name));
            } else if *path != Path::new(CODE) {
                return Ok(None);
            }
        }
        let mut places = Vec::new();
        for (number, (directory, wanted)) in directories.into_iter().enumerate() {
            let name = OsString::from(format!(".restored-{}-{number}", std::process::id()));
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
            // A killed agent of the same number left one.
            remove::file_at(&directory, &name)?;
            let file = openat(&directory, name.as_os_str(), flags, Mode::from_bits_truncate(0o644))?;
            places.push(Place { directory, name, wanted: wanted.to_owned(), file: File::from(file) });
        }
        Ok(Some(places))
    })
}

/// Puts whole files to their places.
///
/// # Errors
/// When something lies there by now. BitBake uses only what is complete.
pub fn put(places: Vec<Place>, user: &User) -> CacheResult<()> {
    as_user(user, || {
        places.iter().try_for_each(|place| {
            let (from, to) = (place.name.as_os_str(), place.wanted.as_os_str());
            let flags = RenameFlags::RENAME_NOREPLACE;
            Ok(renameat2(&place.directory, from, &place.directory, to, flags)?)
        })
    })
}

/// Removes what is not whole.
pub fn give_up(places: &[Place], user: &User) {
    let removed = as_user(user, || {
        places.iter().try_for_each(|place| Ok(remove::file_at(&place.directory, &place.name).map(drop)?))
    });
    // BitBake does not know the names.
    let _ = removed;
}

impl Place {
    /// Its name in the directory, once it is whole.
    pub fn is_for(&self, path: &Path) -> bool {
        path.file_name() == Some(&self.wanted)
    }
}

fn open_directory(path: &Path) -> CacheResult<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::open(path, flags, Mode::empty())?)
}

fn directory_at(parent: impl AsFd, name: &OsStr) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

fn names(directory: &OwnedFd) -> CacheResult<Vec<OsString>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut directory = Dir::openat(directory, ".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in directory.iter() {
        let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
        if names.len() > MOST_NAMES {
            return Err(NotCacheable("BitBake's caches hold too many files".into()));
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Touches files with the rights of the build user alone: whatever it puts in the way, it gets at nothing
/// that it could not reach itself. The rights are those of a thread, which ends with the act.
fn as_user<T: Send>(user: &User, act: impl FnOnce() -> CacheResult<T> + Send) -> CacheResult<T> {
    if !geteuid().is_root() || user.uid == 0 {
        return act();
    }
    let changed = || {
        setfsgid(Gid::from_raw(user.gid));
        setfsuid(Uid::from_raw(user.uid));
        // It tells the one before, also when nothing changed (setfsuid(2)).
        if setfsuid(Uid::from_raw(u32::MAX)).as_raw() != user.uid {
            return Err(NotCacheable(format!("cannot act as {}", user.name)));
        }
        act()
    };
    std::thread::scope(|scope| scope.spawn(changed).join())
        .unwrap_or_else(|_| Err(NotCacheable("the parse caches could not be looked at".into())))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "build_tests.rs"]
mod tests;
