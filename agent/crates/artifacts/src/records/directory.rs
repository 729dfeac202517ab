//! Records in a directory, which several machines may share.
//!
//! A file is written under a temporary name and renamed, or linked if it must not replace another one: also on NFS, a
//! hard link fails if the name exists. Symbolic links below the directory are never followed.

use fs_err::os::unix::fs::OpenOptionsExt;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use nix::errno::Errno;
use nix::sys::stat::{Mode, fchmod};
use sha2::{Digest, Sha256};

use super::{FileDigest, Record, damaged};
use crate::store::Source;
use agent_fs::dir::{Access, DirHandle, FileMeta, Kind, Links, errno};
use agent_objects::Created;
use agent_types::error::{Error, Result};
use agent_types::words::hexadecimal;

const DIRECTORY: Mode = Mode::from_bits_truncate(0o755);
const FILE: Mode = Mode::from_bits_truncate(0o644);

const PIECE: usize = 1 << 20;

/// How deep a list goes.
const DEEPEST: usize = 12;

#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
}

impl Directory {
    pub fn new(root: PathBuf) -> Directory {
        Directory { root }
    }

    pub fn shown(&self, path: &str) -> String {
        self.root.join(path).display().to_string()
    }

    pub async fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        self.run("read", path, move |root, path| match parent(root, path) {
            Ok((parent, name)) => absent_is_none(parent.read(name, limit)),
            Err(error) => absent_is_none(Err(error)),
        })
        .await
    }

    pub async fn write(&self, path: &str, content: Vec<u8>) -> Result<()> {
        self.run("write", path, move |root, path| Temporary::of(root, path, &mut &content[..])?.replace())
            .await
    }

    pub async fn create(&self, path: &str, content: Vec<u8>) -> Result<Created> {
        let limit = content.len() as u64;
        self.run("write", path, move |root, path| {
            if Temporary::of(root, path, &mut &content[..])?.create()? {
                return Ok(Created::New);
            }
            let (parent, name) = parent(root, path)?;
            match parent.read(name, limit) {
                Ok(there) if there == content => Ok(Created::Equal),
                Ok(_) => Ok(Created::Different),
                Err(error) if error.kind() == ErrorKind::FileTooLarge => Ok(Created::Different),
                Err(error) => Err(error),
            }
        })
        .await
    }

    pub async fn list(&self, below: &str, most: usize) -> Result<Vec<Record>> {
        self.run("list", below, move |root, below| {
            let mut found = Vec::new();
            let opened = DirHandle::open_with(root, Links::Follow, Access::PathOnly)
                .and_then(|root| root.open_dir(below));
            if let Some(directory) = absent_is_none(opened)? {
                list_into(&directory, below, most, DEEPEST, &mut found)?;
            }
            Ok(found)
        })
        .await
    }

    pub async fn remove(&self, path: &str) -> Result<()> {
        self.run("remove", path, |root, path| match parent(root, path) {
            Ok((parent, name)) => parent.remove_file(name).map(|_| ()),
            Err(error) => absent_is_none(Err(error)).map(|_: Option<()>| ()),
        })
        .await
    }

    pub async fn upload(&self, path: &str, from: OpenFile, digest: &FileDigest) -> Result<()> {
        let (name, digest) = (from.name.display().to_string(), digest.clone());
        let same = self
            .run("write", path, move |root, path| {
                let there =
                    parent(root, path).and_then(|(parent, name)| parent.metadata(name).map(|meta| meta.size));
                if absent_is_none(there)? == Some(digest.bytes) {
                    return Ok(true);
                }
                let mut source = Hashed::new(from.rewound()?);
                let made = Temporary::of(root, path, &mut source)?;
                match source.done() == digest {
                    true => made.replace().map(|()| true),
                    false => Ok(false),
                }
            })
            .await?;
        if same { Ok(()) } else { Err(Error::machine(format!("`{name}` changed while it was uploaded"))) }
    }

    pub async fn download(&self, path: &str, digest: &FileDigest, part: &Path) -> Result<()> {
        let (digest, part, shown) = (digest.clone(), part.to_owned(), self.shown(path));
        let same = self
            .run("read", path, move |root, path| {
                let (parent, name) = parent(root, path)?;
                let (file, meta) = parent.open_file(name)?;
                if meta.size != digest.bytes {
                    return Ok(false);
                }
                let mut source = Hashed::new(file.take(digest.bytes));
                let mut to = part_file(&part)?;
                io::copy(&mut source, &mut to)?;
                Ok(source.done() == digest)
            })
            .await?;
        if same { Ok(()) } else { Err(damaged(&shown)) }
    }

    async fn run<T: Send + 'static>(
        &self,
        what: &'static str,
        path: &str,
        work: impl FnOnce(&Path, &str) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (root, path, shown) = (self.root.clone(), path.to_owned(), self.shown(path));
        blocking(move || {
            work(&root, &path)
                .map_err(|error| Error::machine(format!("cannot {what} {shown}")).because(&error))
        })
        .await
    }
}

/// Runs work on files outside of the runtime's threads.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let broken = |error| Error::internal("access to a store broke").because(&error);
    tokio::task::spawn_blocking(work).await.map_err(broken)?
}

fn absent_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn parent<'a>(root: &Path, path: &'a str) -> io::Result<(DirHandle, &'a str)> {
    let (parents, name) = split(path);
    let root = DirHandle::open_with(root, Links::Follow, Access::PathOnly)?;
    Ok((root.open_dir_with(parents, Access::PathOnly)?, name))
}

fn list_into(
    directory: &DirHandle,
    path: &str,
    most: usize,
    depth: usize,
    found: &mut Vec<Record>,
) -> io::Result<()> {
    let mut names = Vec::new();
    for entry in directory.entries()? {
        let name = entry?.name;
        // Temporary files begin with a dot. What is not UTF-8 was not written by a store.
        names.extend(name.to_str().filter(|name| !name.starts_with('.')).map(str::to_owned));
    }
    names.sort();
    for name in names {
        if found.len() >= most {
            return Ok(());
        }
        let Some(meta) = absent_is_none(directory.metadata(&name))? else { continue };
        let path = format!("{path}/{name}");
        match meta.kind() {
            Kind::File => {
                found.push(Record { path, bytes: meta.size, modified: meta.modified_at() });
            }
            Kind::Directory if depth > 0 => {
                if let Some(below) = absent_is_none(directory.open_dir(&name))? {
                    list_into(&below, &path, most, depth - 1, found)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// A file under a temporary name. It is removed if it is dropped before it gets its own name.
struct Temporary<'a> {
    directory: DirHandle,
    temporary: String,
    name: &'a str,
    renamed: bool,
}

impl<'a> Temporary<'a> {
    fn of(root: &Path, path: &'a str, content: &mut dyn Read) -> io::Result<Temporary<'a>> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let (parents, name) = split(path);
        fs_err::create_dir_all(root)?;
        let directory = DirHandle::open(root)?.create_dirs(parents, DIRECTORY)?;
        // Jobs of several machines may write the same file.
        let machine = nix::unistd::gethostname().unwrap_or_default();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let machine = machine.to_string_lossy().replace('/', "_");
        let temporary = format!(".{machine:.40}-{}-{count}.part", std::process::id());
        // Of a job that was killed, and that had this process id.
        let _ = directory.remove_file(&temporary);
        let mut file = directory.create_file(&temporary, FILE)?;
        let made = Temporary { directory, temporary, name, renamed: false };
        fchmod(&file, FILE)?;
        io::copy(content, &mut file)?;
        file.sync_all()?;
        Ok(made)
    }

    fn replace(mut self) -> io::Result<()> {
        self.directory.rename(&self.temporary, &self.directory, self.name)?;
        self.renamed = true;
        Ok(())
    }

    /// False, if the name exists.
    fn create(self) -> io::Result<bool> {
        match self.directory.hard_link(&self.temporary, &self.directory, self.name) {
            Ok(()) => Ok(true),
            Err(error) if errno(&error) == Errno::EEXIST => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.renamed {
            // A file that cannot be removed has a unique name and does no harm.
            let _ = self.directory.remove_file(&self.temporary);
        }
    }
}

/// Computes size and digest of what is read.
struct Hashed<R> {
    from: R,
    hasher: Sha256,
    bytes: u64,
}

impl<R: Read> Hashed<R> {
    fn new(from: R) -> Hashed<R> {
        Hashed { from, hasher: Sha256::new(), bytes: 0 }
    }

    fn done(self) -> FileDigest {
        FileDigest { bytes: self.bytes, sha256: hexadecimal(&self.hasher.finalize()) }
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}

/// A file that is stored. It stays open, so that its name cannot lead to another one meanwhile.
#[derive(Clone, Debug)]
pub struct OpenFile {
    pub file: Arc<File>,
    /// For messages.
    pub name: PathBuf,
}

impl OpenFile {
    pub async fn digest(&self) -> Result<FileDigest> {
        let open = self.clone();
        blocking(move || Ok(hashed(open.rewound()?)?)).await
    }

    pub async fn source(self) -> Result<Source> {
        blocking(move || {
            let meta = FileMeta::of_open(&self.file)?;
            let file = self.rewound()?;
            Ok(Source::new(&self.name, file, meta))
        })
        .await
    }

    fn rewound(&self) -> io::Result<File> {
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file)
    }
}

/// Size and digest of what can be read.
fn hashed(from: impl Read) -> io::Result<FileDigest> {
    let mut source = Hashed::new(from);
    let mut buffer = vec![0; PIECE];
    while source.read(&mut buffer)? > 0 {}
    Ok(source.done())
}

fn part_file(path: &Path) -> io::Result<File> {
    let mut options = fs_err::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true);
    Ok(options.custom_flags(agent_fs::read::NO_FOLLOW).open(path)?.into())
}

/// A local file that is downloaded piece by piece.
pub struct PartFile {
    file: File,
    bytes: u64,
}

impl PartFile {
    pub async fn create(path: &Path) -> Result<PartFile> {
        let path = path.to_owned();
        blocking(move || Ok(PartFile { file: part_file(&path)?, bytes: 0 })).await
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub async fn append(&mut self, piece: Bytes) -> Result<()> {
        let mut file = self.file.try_clone()?;
        self.bytes += piece.len() as u64;
        blocking(move || Ok(file.write_all(&piece)?)).await
    }

    /// The digest of the whole file.
    pub async fn finish(self) -> Result<String> {
        let mut file = self.file;
        blocking(move || {
            file.seek(SeekFrom::Start(0))?;
            Ok(hashed(file)?.sha256)
        })
        .await
    }
}
