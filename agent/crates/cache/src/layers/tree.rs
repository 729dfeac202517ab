//! The content of a work tree as git ids. Equal ids mean equal names, modes and bytes, so the tree's id,
//! which a commit names, proves all of it.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha1::{Digest, Sha1};

use agent_fs::pool::{self, Ended, Output};

use super::damage::Damage;
use agent_types::words::hexadecimal;

/// The content of a work tree, without `.git` at its top.
#[derive(Clone, Debug, Default)]
pub struct Content {
    /// By path below the top.
    nodes: BTreeMap<PathBuf, Node>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Directory,
    File { executable: bool, id: String },
    Link { id: String },
}

/// A directory or a file to read, below the top.
enum Job {
    Directory(PathBuf),
    File(PathBuf),
}

impl Content {
    /// Reads all of it. Everything must be read-only and have one owner: files 0444 or 0555, directories
    /// 0555.
    ///
    /// # Errors
    /// The first exception, or the first unreadable file.
    pub fn read(top: &Path, owner: u32) -> Result<Content, Damage> {
        let mut content = Content::default();
        let mut damage = None;
        let work = |job: Job, out: &mut Output<'_, Job, Result<(PathBuf, Node), Damage>>| match job {
            Job::Directory(path) => read_directory(top, path, owner, out),
            Job::File(path) => {
                let node = read_node(&top.join(&path), owner).map_err(|what| Damage::at(&path, what));
                out.give(node.map(|node| (path, node)));
            }
        };
        let ended = pool::run(
            pool::WIDTH,
            [Job::Directory(PathBuf::new())],
            || false,
            work,
            |found| match found {
                Ok((path, node)) => {
                    content.nodes.insert(path, node);
                }
                Err(found) => {
                    damage.get_or_insert(found);
                }
            },
        );
        match (damage, ended) {
            (Some(damage), _) => Err(damage),
            (None, Ended::Complete) => Ok(content),
            (None, Ended::Early) => Err(Damage::new("it was not read completely")),
        }
    }

    /// Regular files and the git ids of their bytes.
    pub fn files(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.nodes.iter().filter_map(|(path, node)| match node {
            Node::File { id, .. } => Some((path.as_path(), id.as_str())),
            _ => None,
        })
    }

    /// The git id of a regular file's bytes.
    pub fn file(&self, path: &Path) -> Option<&String> {
        match self.nodes.get(path) {
            Some(Node::File { id, .. }) => Some(id),
            _ => None,
        }
    }

    /// The id of git's tree object for the content, with other ids for the files of `altered`, and with the
    /// commits of `submodules` for these directories, which must be empty.
    ///
    /// # Errors
    /// If a directory is empty and not a submodule: git's trees have no empty directories.
    pub fn tree_id(
        &self,
        altered: &BTreeMap<PathBuf, String>,
        submodules: &BTreeMap<PathBuf, String>,
    ) -> Result<String, Damage> {
        // A path follows its directory, so in reverse order a directory is complete when it is reached.
        let mut trees: BTreeMap<PathBuf, Vec<Line>> = BTreeMap::new();
        for (path, node) in self.nodes.iter().rev() {
            let line = match node {
                Node::File { executable, id } => {
                    let id = altered.get(path).unwrap_or(id);
                    Some((if *executable { "100755" } else { "100644" }, id.clone()))
                }
                Node::Link { id } => Some(("120000", id.clone())),
                Node::Directory => match (trees.remove(path), submodules.get(path)) {
                    (Some(lines), None) => Some(("40000", tree_object(lines))),
                    (None, Some(commit)) => Some(("160000", commit.clone())),
                    (None, None) => return Err(Damage::at(path, "is an empty directory")),
                    (Some(_), Some(_)) => return Err(Damage::at(path, "is a submodule and not empty")),
                },
            };
            if let (Some((mode, id)), Some(parent), Some(name)) = (line, path.parent(), path.file_name()) {
                let line = Line { mode, name: name.as_bytes().to_vec(), id };
                trees.entry(parent.to_owned()).or_default().push(line);
            }
        }
        Ok(tree_object(trees.remove(Path::new("")).unwrap_or_default()))
    }
}

/// One line of a tree object.
struct Line {
    mode: &'static str,
    name: Vec<u8>,
    id: String,
}

/// Git sorts a directory as if its name ended with a slash (`base_name_compare` in git's `read-cache.c`).
fn tree_object(mut lines: Vec<Line>) -> String {
    let key = |line: &Line| [&line.name[..], if line.mode == "40000" { b"/" } else { b"" }].concat();
    lines.sort_by_cached_key(key);
    let mut object = Vec::new();
    for line in lines {
        object.extend_from_slice(line.mode.as_bytes());
        object.push(b' ');
        object.extend_from_slice(&line.name);
        object.push(0);
        let digits = line.id.as_bytes().chunks(2).filter_map(|pair| std::str::from_utf8(pair).ok());
        object.extend(digits.filter_map(|pair| u8::from_str_radix(pair, 16).ok()));
    }
    object_id("tree", &object)
}

/// The git id of an object: the SHA-1 of its type, length and bytes.
pub fn object_id(kind: &str, bytes: &[u8]) -> String {
    let mut digest = Sha1::new();
    digest.update(format!("{kind} {}\0", bytes.len()));
    digest.update(bytes);
    hexadecimal(&digest.finalize())
}

type Found<'a, 'b> = &'a mut Output<'b, Job, Result<(PathBuf, Node), Damage>>;

fn read_directory(top: &Path, path: PathBuf, owner: u32, out: Found<'_, '_>) {
    let list = || -> Result<Vec<Job>, String> {
        let place = top.join(&path);
        let found = std::fs::symlink_metadata(&place).map_err(|error| error.to_string())?;
        check_read_only(&found, owner)?;
        let mut jobs = Vec::new();
        for entry in std::fs::read_dir(&place).map_err(|error| error.to_string())? {
            let entry = entry.map_err(|error| error.to_string())?;
            let name = path.join(entry.file_name());
            let kind = entry.file_type().map_err(|error| error.to_string())?;
            // Below the top, `.git` is an ordinary name, which no commit has.
            if name != Path::new(".git") {
                jobs.push(if kind.is_dir() { Job::Directory(name) } else { Job::File(name) });
            }
        }
        Ok(jobs)
    };
    match list() {
        Ok(jobs) => {
            jobs.into_iter().for_each(|job| out.add(job));
            if !path.as_os_str().is_empty() {
                out.give(Ok((path, Node::Directory)));
            }
        }
        Err(what) => out.give(Err(Damage::at(&path, what))),
    }
}

fn read_node(path: &Path, owner: u32) -> Result<Node, String> {
    let found = std::fs::symlink_metadata(path).map_err(|error| error.to_string())?;
    if found.is_symlink() {
        let target = std::fs::read_link(path).map_err(|error| error.to_string())?;
        return Ok(Node::Link { id: object_id("blob", target.as_os_str().as_bytes()) });
    }
    if !found.is_file() {
        return Err("is not a file, a directory or a link".into());
    }
    check_read_only(&found, owner)?;
    let (file, _) = agent_fs::read::open(path).map_err(|error| error.to_string())?;
    let mut digest = Sha1::new();
    digest.update(format!("blob {}\0", found.len()));
    let read = digest_all(file, &mut digest).map_err(|error| error.to_string())?;
    if read != found.len() {
        return Err("changed while being read".into());
    }
    let executable = found.mode() & 0o100 != 0;
    Ok(Node::File { executable, id: hexadecimal(&digest.finalize()) })
}

fn digest_all(mut source: impl Read, digest: &mut Sha1) -> std::io::Result<u64> {
    let mut buffer = vec![0; 64 * 1024];
    let mut total = 0;
    loop {
        let length = match source.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        digest.update(&buffer[..length]);
        total += length as u64;
    }
}

/// Whether a file or a directory has the owner and mode that the agent sets.
pub(super) fn check_read_only(found: &std::fs::Metadata, owner: u32) -> Result<(), String> {
    let mode = found.mode() & 0o7777;
    let right = if found.is_dir() { mode == 0o555 } else { mode == 0o444 || mode == 0o555 };
    if !right {
        Err(format!("has the mode {mode:04o}"))
    } else if found.uid() != owner {
        Err(format!("belongs to uid {} instead of {owner}", found.uid()))
    } else {
        Ok(())
    }
}
