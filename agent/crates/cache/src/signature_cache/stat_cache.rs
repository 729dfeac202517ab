//! Digests of files that did not change since they were read: by path, device, inode, size and both
//! times. Only root can set a file's change time back, so a file that looks the same is the same.
//!
//! The cache belongs to the agent. Where layer code runs as another user, it cannot write it.

use std::collections::{HashMap, HashSet};
use std::fs::Metadata;
use std::io::{self, ErrorKind, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};

use super::digest::Digest;
use super::listing::Tree;
use super::protocol::{Decoder, Encoder};
use super::{NotCacheable, hermeticity};
use agent_fs::read;

/// A file that changed less than this long ago may change again without a new time stamp: clocks of
/// file systems tick slowly.
const SETTLED: Duration = Duration::from_secs(2);

/// Names the layout of the file.
const FORMAT: &[u8] = concat!("build-agent stat cache 2 of ", env!("CARGO_PKG_VERSION")).as_bytes();

/// No cache is larger: a million files.
const LONGEST: u64 = 512 << 20;

/// What the agent needs to know of a file's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    pub digest: Digest,
    /// A line that reaches outside of what the key covers, in words.
    pub reaches_out: Option<String>,
    /// Whether something in it may ask for the state of a git repository.
    pub asks_git: bool,
}

/// Device, inode, size, modification and change time; and how deep in its tree the file lies, which
/// decides what reaches out of the tree.
type Stamp = [i128; 6];

/// For many readers at once: it is locked for one entry at a time, and never while a file is read.
#[derive(Debug, Default)]
pub struct StatCache(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    entries: HashMap<PathBuf, (Stamp, Content)>,
    /// Those that were asked for. Only these are written again: paths of checkouts come and go.
    used: HashSet<PathBuf>,
    /// Trees that never change, for this run alone.
    immutable: HashMap<PathBuf, Tree>,
    /// Files that were really read.
    read: usize,
}

impl StatCache {
    /// Reads it back; a damaged one is as good as none.
    pub fn load(path: &Path) -> StatCache {
        let entries = read::whole(path, LONGEST).ok().and_then(|bytes| decode(&bytes).ok());
        StatCache(Mutex::new(Known { entries: entries.unwrap_or_default(), ..Known::default() }))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // A panic elsewhere leaves entries that are each whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A tree that never changes, if it was read in this run.
    pub fn immutable(&self, root: &Path) -> Option<Tree> {
        self.known().immutable.get(root).cloned()
    }

    pub fn add_immutable(&self, root: &Path, tree: &Tree) {
        self.known().immutable.insert(root.to_owned(), tree.clone());
    }

    /// Whether there is anything new to write.
    pub fn is_used(&self) -> bool {
        !self.known().used.is_empty()
    }

    /// The bytes that [`StatCache::load`] reads, with a digest of themselves at the end.
    pub fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::default();
        encoder.bytes(FORMAT).bytes(hermeticity::RULES.as_bytes());
        let known = self.known();
        for (path, (stamp, content)) in known.entries.iter().filter(|(path, _)| known.used.contains(*path)) {
            encoder.bytes(path.as_os_str().as_bytes());
            for number in stamp {
                encoder.bytes(&number.to_be_bytes());
            }
            encoder.bytes(content.digest.as_str().as_bytes());
            encoder.bytes(content.reaches_out.as_deref().unwrap_or_default().as_bytes());
            encoder.number(content.asks_git.into());
        }
        let mut bytes = encoder.finish().to_vec();
        bytes.extend(Sha256::digest(&bytes));
        bytes
    }

    /// What the regular file holds. `relative` is its path in its tree, `known` what the directory says
    /// of it; `None` when only the file itself can be believed.
    ///
    /// # Errors
    /// When it cannot be read, or changes while it is read.
    pub fn content(
        &self,
        path: &Path,
        relative: &Path,
        known: Option<&Metadata>,
    ) -> Result<Content, NotCacheable> {
        self.content_by(path, relative, known, || {})
    }

    /// `reading` is called while the file is read.
    fn content_by(
        &self,
        path: &Path,
        relative: &Path,
        known: Option<&Metadata>,
        reading: impl FnOnce(),
    ) -> Result<Content, NotCacheable> {
        if let Some(content) = self.known().look_up(path, known.map(|known| stamp_of(known, relative))) {
            return Ok(content);
        }
        let (mut file, before) = read::open(path)?;
        let stamp = stamp_of(&before, relative);
        if known.is_none()
            && let Some(content) = self.known().find(path, &stamp)
        {
            return Ok(content);
        }
        reading();
        let is_metadata = hermeticity::is_metadata(relative);
        let content = if is_metadata || hermeticity::is_python(relative) {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            let reaches_out = is_metadata.then(|| hermeticity::reaches_out(relative, &bytes)).flatten();
            Content { digest: Digest::of(&bytes), reaches_out, asks_git: hermeticity::asks_git(&bytes) }
        } else {
            Content { digest: digest_of(&mut file)?, reaches_out: None, asks_git: false }
        };
        self.known().read += 1;
        let after = stamp_of(&file.metadata()?, relative);
        if stamp != after || known.is_some_and(|known| stamp != stamp_of(known, relative)) {
            return Err(NotCacheable(format!("{} changed while it was read", path.display())));
        }
        if is_settled(&before, SystemTime::now()) {
            self.known().entries.insert(path.to_owned(), (stamp, content.clone()));
        }
        Ok(content)
    }
}

impl Known {
    /// Takes note that the file was asked for. What it holds, if the directory's word for it is enough.
    fn look_up(&mut self, path: &Path, stamp: Option<Stamp>) -> Option<Content> {
        self.used.insert(path.to_owned());
        self.find(path, &stamp?)
    }

    fn find(&self, path: &Path, stamp: &Stamp) -> Option<Content> {
        let (known, content) = self.entries.get(path)?;
        (known == stamp).then(|| content.clone())
    }
}

fn digest_of(from: &mut impl Read) -> io::Result<Digest> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(Digest::from(hash.finalize().as_slice())),
            Ok(count) => hash.update(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn stamp_of(metadata: &Metadata, relative: &Path) -> Stamp {
    let time = |seconds: i64, nanoseconds: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    [
        metadata.dev().into(),
        metadata.ino().into(),
        metadata.size().into(),
        time(metadata.mtime(), metadata.mtime_nsec()),
        time(metadata.ctime(), metadata.ctime_nsec()),
        relative.components().count() as i128,
    ]
}

/// Whether the last change is long enough ago; a time in the future never is.
fn is_settled(metadata: &Metadata, now: SystemTime) -> bool {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let limit = i128::try_from(now.saturating_sub(SETTLED).as_nanos()).unwrap_or(0);
    let [.., modified, changed, _] = stamp_of(metadata, Path::new(""));
    modified < limit && changed < limit
}

fn decode(bytes: &[u8]) -> io::Result<HashMap<PathBuf, (Stamp, Content)>> {
    let damaged = || io::Error::from(ErrorKind::InvalidData);
    let end = bytes.len().checked_sub(32).ok_or_else(damaged)?;
    let (bytes, digest) = bytes.split_at(end);
    if Sha256::digest(bytes).as_slice() != digest {
        return Err(damaged());
    }
    let mut decoder = Decoder(bytes);
    if decoder.bytes()? != FORMAT || decoder.bytes()? != hermeticity::RULES.as_bytes() {
        return Err(damaged());
    }
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| damaged());
    let mut entries = HashMap::new();
    while !decoder.is_empty() {
        let path = PathBuf::from(std::ffi::OsString::from_vec(decoder.bytes()?.to_vec()));
        let mut stamp = [0; 6];
        for number in &mut stamp {
            *number = i128::from_be_bytes(decoder.bytes()?.try_into().map_err(|_| damaged())?);
        }
        let digest = Digest::parse(&text(decoder.bytes()?)?).ok_or_else(damaged)?;
        let reaches_out = Some(text(decoder.bytes()?)?).filter(|words| !words.is_empty());
        let asks_git = decoder.number()? != 0;
        entries.insert(path, (stamp, Content { digest, reaches_out, asks_git }));
    }
    Ok(entries)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::fs;

    use super::*;

    fn content(cache: &StatCache, path: &Path) -> Digest {
        let metadata = path.symlink_metadata().unwrap();
        let told = cache.content(path, Path::new("x"), Some(&metadata)).unwrap();
        let read = cache.known().read;
        let itself = cache.content(path, Path::new("x"), None).unwrap();
        assert_eq!(told, itself);
        cache.known().read = read;
        told.digest
    }

    fn set_old(path: &Path) {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(100)).unwrap();
    }

    #[test]
    fn a_young_file_is_read_again_each_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "one").unwrap();
        // Its change time stays young.
        set_old(&path);
        let cache = StatCache::default();
        let first = content(&cache, &path);
        assert_eq!(content(&cache, &path), first);
        let known = cache.known();
        assert_eq!((known.read, known.entries.len()), (2, 0));
    }

    #[test]
    fn a_known_file_is_read_again_when_any_of_its_numbers_changes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "one").unwrap();
        let stamp = stamp_of(&path.metadata().unwrap(), Path::new("x"));
        for number in 0..7 {
            let mut other = stamp;
            if let Some(number) = other.get_mut(number) {
                *number += 1;
            }
            let wrong = Content { digest: Digest::of(b"wrong"), reaches_out: None, asks_git: false };
            let entries = HashMap::from([(path.clone(), (other, wrong.clone()))]);
            let cache = StatCache(Mutex::new(Known { entries, ..Known::default() }));
            let wanted = if number < 6 { Digest::of(b"one") } else { wrong.digest };
            assert_eq!(content(&cache, &path), wanted, "number {number}");
        }
    }

    #[test]
    fn it_comes_back_from_its_file_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cache");
        let content =
            Content { digest: Digest::of(b"x"), reaches_out: Some("line 3: é".into()), asks_git: true };
        let entries = HashMap::from([(PathBuf::from("/a\nb"), ([1, -2, 3, i128::MAX, 5, 6], content))]);
        let used = HashSet::from([PathBuf::from("/a\nb")]);
        let other = entries.clone();
        let cache = StatCache(Mutex::new(Known { entries, used, ..Known::default() }));
        let bytes = cache.encode();
        cache.known().entries.insert("/not/used".into(), other[Path::new("/a\nb")].clone());
        assert_eq!(cache.encode(), bytes, "what nobody asks for is forgotten");
        fs::write(&path, &bytes).unwrap();
        let load = |path: &Path| StatCache::load(path).0.into_inner().unwrap().entries;
        assert_eq!(load(&path), other);
        for place in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[place] ^= 1;
            fs::write(&path, &damaged).unwrap();
            assert!(load(&path).is_empty(), "byte {place}");
        }
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(load(&path).is_empty());
        assert!(load(&directory.path().join("none")).is_empty());
    }

    /// One query reads a large tree on a slow file server; another one must not wait for that.
    #[test]
    fn a_file_that_is_being_read_holds_nobody_up() {
        let directory = tempfile::tempdir().unwrap();
        let [slow, other] = ["slow", "other"].map(|name| directory.path().join(name));
        fs::write(&slow, "slow").unwrap();
        fs::write(&other, "other").unwrap();
        let cache = StatCache::default();
        let (sender, received) = std::sync::mpsc::channel();
        let meanwhile = std::thread::scope(|scope| {
            let mut meanwhile = None;
            let ask_another = || {
                scope.spawn(|| {
                    let content = cache.content(&other, Path::new("x"), None);
                    let _ = sender.send(content.unwrap().digest);
                });
                meanwhile = received.recv_timeout(Duration::from_secs(60)).ok();
            };
            let content = cache.content_by(&slow, Path::new("x"), None, ask_another).unwrap();
            assert_eq!(content.digest, Digest::of(b"slow"));
            meanwhile
        });
        assert_eq!(meanwhile, Some(Digest::of(b"other")));
    }

    #[test]
    fn only_regular_files_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let metadata = path.symlink_metadata().unwrap();
        assert!(StatCache::default().content(&path, Path::new("pipe"), Some(&metadata)).is_err());
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        let metadata = link.symlink_metadata().unwrap();
        assert!(StatCache::default().content(&link, Path::new("link"), Some(&metadata)).is_err());
    }
}
