//! BitBake's caches in a build directory, in which layer code writes as well: everything is opened as
//! the build user, step by step and through no link.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::Mode;
use nix::unistd::geteuid;

use agent_fs::access::Credentials;
use agent_fs::dir::{Access, DirHandle, Links, errno};
use agent_fs::read;
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

/// No file of BitBake's code is larger.
const LONGEST_CODE: u64 = 4 << 20;

/// A run of many configurations at once has two files for each.
pub const MOST_FILES: usize = 64;

/// BitBake's server writes its caches and is gone soon after the program that asked it.
const MAX_WAIT: Duration = Duration::from_secs(10);

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

/// What a whole cache consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kinds {
    /// Recipes only: BitBake up to langdale has the signature data with them.
    Recipes,
    /// Also signature data, in a file of its own.
    RecipesAndSignatures,
}

impl Kinds {
    /// Those of the BitBake in this directory.
    pub fn of(bitbake: &Path) -> Kinds {
        let code = read::whole(&bitbake.join("lib/bb/cache.py"), LONGEST_CODE).unwrap_or_default();
        let has = |words: &str| code.windows(words.len()).any(|window| window == words.as_bytes());
        // Of an unknown BitBake, nothing is stored that may not be whole.
        match has("class CoreRecipeInfo(") && !has("class SiggenRecipeInfo(") {
            true => Kinds::Recipes,
            false => Kinds::RecipesAndSignatures,
        }
    }

    /// Whether these are files of all kinds.
    fn are_in(self, caches: &[Cache]) -> bool {
        let core = caches.iter().any(|cache| is_core(cache.path.file_name().unwrap_or_default()));
        core && (self == Kinds::Recipes || caches.iter().any(|cache| is_signature_data(&cache.path)))
    }
}

/// The caches of the configuration that was parsed last; empty when they are not of all these kinds.
///
/// # Errors
/// When BitBake is still at it, or something lies there that it did not make.
pub fn find(build: &Path, user: &User, kinds: Kinds) -> CacheResult<Vec<Cache>> {
    as_user(user, || {
        let top = open_directory(build)?;
        wait_for_end(&top)?;
        let Some((directory, path, hash)) = newest(&top)? else { return Ok(Vec::new()) };
        let mut caches = Vec::new();
        for name in names(&directory)?.iter().filter(|name| hash_of(name) == Some(&hash)) {
            caches.push(open_cache(&directory, path.join(name), user)?);
        }
        // BitBake would parse everything all the same.
        if !kinds.are_in(&caches) || caches.len() > MOST_FILES {
            return Ok(Vec::new());
        }
        let code = Path::new(CODE);
        if let Ok(directory) = top.open_dir("cache")
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

/// Whether the file holds the signature data of recipes: `bb_cache_SiggenRecipeInfo.dat.0123…`.
pub fn is_signature_data(path: &Path) -> bool {
    let name = path.file_name().map_or(&[][..], OsStrExt::as_bytes);
    name.starts_with(b"bb_cache_SiggenRecipeInfo.dat")
}

fn is_core(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"bb_cache.dat.")
}

/// Removes the caches of the configuration that was parsed last.
///
/// # Errors
/// When BitBake is still at it, or they cannot be removed.
pub fn remove_newest(build: &Path, user: &User) -> CacheResult<()> {
    as_user(user, || {
        let top = open_directory(build)?;
        wait_for_end(&top)?;
        let Some((directory, _, hash)) = newest(&top)? else { return Ok(()) };
        for name in names(&directory)?.iter().filter(|name| hash_of(name) == Some(&hash)) {
            directory.remove_file(name)?;
        }
        Ok(())
    })
}

/// The hash of the configuration that ends the name of a cache, e.g. `bb_cache.dat.0123…`.
fn hash_of(name: &OsStr) -> Option<&str> {
    let name = name.to_str().filter(|name| name.starts_with("bb_cache") && name.contains(".dat."))?;
    let (_, hash) = name.rsplit_once('.')?;
    let hexadecimal = hash.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    (hexadecimal && matches!(hash.len(), 32 | 64)).then_some(hash)
}

/// The directory of the caches that were used last, its path, and their hash.
fn newest(top: &DirHandle) -> CacheResult<Option<(DirHandle, PathBuf, String)>> {
    let mut newest: Option<(i64, DirHandle, PathBuf, String)> = None;
    let (mut open, mut seen) = (Vec::new(), 0);
    for name in names(top)?.into_iter().filter(|name| name.as_bytes().starts_with(b"tmp")) {
        let path = Path::new(&name).join("cache");
        let Ok(cache) = top.open_dir(&path) else { continue };
        open.push((cache, path, 0));
    }
    while let Some((directory, path, depth)) = open.pop() {
        for name in names(&directory)? {
            if depth < DEEPEST
                && let Ok(below) = directory.open_dir(&name)
            {
                seen += 1;
                if seen > MOST_DIRECTORIES {
                    return Err(NotCacheable("BitBake's caches hold too many directories".into()));
                }
                open.push((below, path.join(&name), depth + 1));
            }
        }
        let Ok(time) = directory.metadata(LINK).map(|link| link.modified) else { continue };
        let Ok(target) = directory.read_link(LINK) else { continue };
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
fn wait_for_end(top: &DirHandle) -> CacheResult<()> {
    let since = Instant::now();
    loop {
        match top.open_file("bitbake.lock") {
            Err(error) if errno(&error) == Errno::ENOENT => return Ok(()),
            Err(error) => return Err(error.into()),
            Ok((file, _)) if since.elapsed() > LEFT_BEHIND => {
                if Flock::lock(file, FlockArg::LockSharedNonblock).is_ok() {
                    return Ok(());
                }
            }
            Ok(_) => {}
        }
        if since.elapsed() > MAX_WAIT {
            return Err(NotCacheable("BitBake's server still runs".into()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn open_cache(directory: &DirHandle, path: PathBuf, user: &User) -> CacheResult<Cache> {
    let name = path.file_name().unwrap_or_default();
    let odd = || NotCacheable(format!("{} is no cache that BitBake made", path.display()));
    let file = match directory.open_file(name) {
        Err(error) if error.kind() == ErrorKind::InvalidInput => return Err(odd()),
        opened => opened?.0,
    };
    let metadata = file.metadata()?;
    let is_own = metadata.uid() == user.uid && metadata.nlink() == 1;
    if !is_own || metadata.size() > LARGEST {
        return Err(odd());
    }
    Ok(Cache { path, file, metadata })
}

/// A file that is being made where a cache belongs.
#[derive(Debug)]
pub struct Place {
    directory: DirHandle,
    /// Its name until it is whole.
    name: OsString,
    wanted: OsString,
    pub file: File,
    /// The path of the unfinished file.
    path: PathBuf,
}

/// Prepares the directory for caches; `None` when there are some of the same configuration.
///
/// # Errors
/// When something stands in the way.
pub fn make_room(build: &Path, paths: &[&Path], user: &User) -> CacheResult<Option<Vec<Place>>> {
    as_user(user, || {
        let top = open_directory(build)?;
        let mut directories = Vec::new();
        for path in paths {
            let above = path.parent().unwrap_or(Path::new(""));
            let directory = top.create_dirs(above, Mode::from_bits_truncate(0o755))?;
            let name = path.file_name().unwrap_or_default();
            if directory.metadata(name).is_err() {
                directories.push((directory, build.join(above), name));
            } else if *path != Path::new(CODE) {
                return Ok(None);
            }
        }
        let mut places = Vec::new();
        for (number, (directory, above, wanted)) in directories.into_iter().enumerate() {
            let name = OsString::from(format!(".restored-{}-{number}", std::process::id()));
            // A killed agent of the same number left one.
            directory.remove_file(&name)?;
            let file = directory.create_file(&name, Mode::from_bits_truncate(0o644))?;
            let path = above.join(&name);
            places.push(Place { directory, name, wanted: wanted.to_owned(), file, path });
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
            Ok(place.directory.rename_new(&place.name, &place.directory, &place.wanted)?)
        })
    })
}

/// Removes what is not whole.
pub fn give_up(places: &[Place], user: &User) {
    let removed = as_user(user, || {
        places.iter().try_for_each(|place| Ok(place.directory.remove_file(&place.name).map(drop)?))
    });
    // BitBake does not know the names.
    let _ = removed;
}

impl Place {
    /// Its name in the directory, once it is whole.
    pub fn is_for(&self, path: &Path) -> bool {
        path.file_name() == Some(&self.wanted)
    }

    /// Whether it is for the cache in which BitBake writes down stat data of files (`CoreRecipeInfo` in bb/cache.py);
    /// the other caches have none.
    pub fn is_core(&self) -> bool {
        is_core(&self.wanted)
    }

    /// Removes the unfinished file, for a program of the build user that makes it by itself. Its path.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn vacate(&self, user: &User) -> CacheResult<&Path> {
        as_user(user, || Ok(self.directory.remove_file(&self.name).map(drop)?))?;
        Ok(&self.path)
    }
}

fn open_directory(path: &Path) -> CacheResult<DirHandle> {
    Ok(DirHandle::open_with(path, Links::Refuse, Access::Read)?)
}

fn names(directory: &DirHandle) -> CacheResult<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in directory.entries()? {
        names.push(entry?.name);
        if names.len() > MOST_NAMES {
            return Err(NotCacheable("BitBake's caches hold too many files".into()));
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Touches files with the rights of the build user alone.
fn as_user<T: Send>(user: &User, act: impl FnOnce() -> CacheResult<T> + Send) -> CacheResult<T> {
    if !geteuid().is_root() || user.uid == 0 {
        return act();
    }
    Credentials::of(user.uid, user.gid).act(act)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "build_tests.rs"]
mod tests;
