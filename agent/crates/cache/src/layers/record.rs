//! The description of an entry.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, percent_encode};
use serde::{Deserialize, Serialize};

use agent_fs::untrusted;
use agent_types::error::{Error, Result};

use super::damage::Damage;
use super::tree::{Content, object_id};

/// The file of an entry that contains the record.
pub const FILE: &str = "entry.json";

const SCHEMA: &str = "build-agent/layer/v1";

/// Some commit messages are long, and some repositories have many submodules.
const LIMIT: u64 = 16 << 20;

/// Bytes of paths that are written as `%XX`, because names may not be text.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');

/// The description of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    schema: String,
    /// The URL of the repository, without credentials.
    pub url: String,
    pub commit: String,
    /// The directory of the work tree, in the entry.
    pub name: String,
    /// The commit object in base64: it names the tree, and its digest is the commit's id. Absent, if its
    /// exact bytes are unknown (a message that is not UTF-8).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    object: Option<String>,
    /// The id of the commit's tree.
    tree: String,
    /// Submodules, which are empty directories here, and their commits.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    submodules: BTreeMap<String, String>,
    /// Files that git writes differently from the commit, because of the repository's attributes (line
    /// endings, filters).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    altered: BTreeMap<String, Altered>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Altered {
    /// The id in the commit.
    committed: String,
    /// The id that the file's bytes would have.
    written: String,
}

/// A line of `git ls-tree -r`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// E.g. `100644`.
    pub mode: String,
    pub id: String,
    /// Decoded lossily.
    pub path: String,
}

/// The mode of a submodule in a tree.
const SUBMODULE: &str = "160000";

impl Record {
    /// `object` is the output of `git cat-file commit`, `tree` the id of its tree.
    pub fn new(url: String, commit: String, name: String, object: &str, tree: String) -> Record {
        // The output was read by lines, so it is unknown whether the last line had a newline.
        let exact = [object, object.trim_end_matches('\n')].into_iter().find(|text| {
            object_id("commit", text.as_bytes()) == commit && tree_of(text.as_bytes()) == Some(&tree)
        });
        Record {
            schema: SCHEMA.into(),
            url,
            commit,
            name,
            object: exact.map(|text| STANDARD.encode(text)),
            tree,
            submodules: BTreeMap::new(),
            altered: BTreeMap::new(),
        }
    }

    /// Whether the content is the commit's, without differences from attributes.
    pub fn is_plainly(&self, content: &Content) -> bool {
        content.tree_id(&BTreeMap::new(), &BTreeMap::new()).is_ok_and(|tree| tree == self.tree)
    }

    /// Records in which files the content differs from the commit's tree; `listed` is the whole tree. Returns
    /// the files whose bytes differ.
    pub fn explain(&mut self, content: &Content, listed: &[Listed]) -> Vec<PathBuf> {
        let submodules = listed.iter().filter(|line| line.mode == SUBMODULE);
        self.submodules = submodules.map(|line| (escaped(Path::new(&line.path)), line.id.clone())).collect();
        let ids: BTreeMap<&str, &str> =
            listed.iter().map(|line| (line.path.as_str(), line.id.as_str())).collect();
        let altered = content.files().filter_map(|(path, written)| {
            let committed = ids.get(path.to_string_lossy().as_ref())?;
            let altered = Altered { committed: (*committed).to_owned(), written: written.to_owned() };
            (*committed != written).then(|| (escaped(path), altered))
        });
        self.altered = altered.collect();
        self.altered.keys().map(|path| unescaped(path)).collect()
    }

    /// Whether the commit's id alone proves all of the content, without trust in the record.
    pub fn is_proven_by_commit(&self) -> std::result::Result<(), Damage> {
        let object = self.object.as_ref().and_then(|object| STANDARD.decode(object).ok());
        let Some(object) = object else {
            return Err(Damage::new("its record has no commit object, so its content cannot be verified"));
        };
        if object_id("commit", &object) != self.commit || tree_of(&object) != Some(&self.tree) {
            return Err(Damage::new("the commit object in its record has another id"));
        }
        match self.altered.keys().next() {
            Some(path) => Err(Damage::new(format!(
                "only its record describes `{}`, and it is not trusted",
                path.escape_debug()
            ))),
            None => Ok(()),
        }
    }

    /// Compares the content with the record.
    pub fn agrees(&self, content: &Content) -> std::result::Result<(), Damage> {
        let submodules =
            self.submodules.iter().map(|(path, commit)| (unescaped(path), commit.clone())).collect();
        let mut altered = BTreeMap::new();
        for (path, ids) in &self.altered {
            let path = unescaped(path);
            if content.file(&path) != Some(&ids.written) {
                return Err(Damage::at(&path, "is changed or missing"));
            }
            altered.insert(path, ids.committed.clone());
        }
        if content.tree_id(&altered, &submodules)? == self.tree {
            Ok(())
        } else {
            Err(Damage::new(format!("its files are not those of commit {}", self.commit)))
        }
    }

    /// # Errors
    /// If there is none, or this version does not understand it.
    pub fn read(entry: &Path) -> std::result::Result<Record, Damage> {
        let path = entry.join(FILE);
        let bytes = untrusted::read(&path, LIMIT).map_err(|error| Damage::new(error.to_string()))?;
        let record: Record = serde_json::from_slice(&bytes)
            .map_err(|error| Damage::new(format!("`{}` is not a record: {error}", path.display())))?;
        match record.schema.as_str() {
            SCHEMA => Ok(record),
            other => Err(Damage::new(format!("`{}` is of the kind {other:?}", path.display()))),
        }
    }

    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, entry: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::internal("cannot write the record of a checkout").because(&error))?;
        Ok(fs_err::write(entry.join(FILE), text)?)
    }
}

/// The id of the tree in the first line of a commit object.
fn tree_of(object: &[u8]) -> Option<&str> {
    let line = object.split(|byte| *byte == b'\n').next()?;
    std::str::from_utf8(line).ok()?.strip_prefix("tree ")
}

fn escaped(path: &Path) -> String {
    percent_encode(path.as_os_str().as_bytes(), ESCAPED).to_string()
}

fn unescaped(text: &str) -> PathBuf {
    let bytes: Vec<u8> = percent_decode_str(text).collect();
    OsStr::from_bytes(&bytes).into()
}
