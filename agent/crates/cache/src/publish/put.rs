//! Publishes one object.
//!
//! 1. Check whether its name exists on the share: then nothing is to do, and the existing object stays.
//! 2. Write each of its files under a temporary name in the same directory, and sync it.
//! 3. Rename the files, the primary file last: a reader who finds it finds the whole object.

use std::fs::File;
use std::io;
use std::path::Path;

use super::copy::{Failure, copy, look_alike};
use super::local::{Area, Object};
use super::target::{ClaimOutcome, Target};
use agent_fs::dir::{DirHandle, FileMeta, Kind};
use agent_fs::tree::Tree;

/// Source and target of an upload.
pub struct Upload<'a> {
    pub local: &'a Tree,
    pub target: &'a Target,
    /// The area in the tier, e.g. `sstate/scarthgap`.
    pub part: &'a Path,
}

/// The result for an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// It was published.
    Published { bytes: u64 },
    /// An equal object existed.
    Present,
    /// A different object with its name existed, and stays.
    Differs,
    /// It has this many bytes and was deferred.
    Large(u64),
}

/// A written file that still has its temporary name.
struct Written {
    temporary: String,
    name: String,
    bytes: u64,
}

impl Upload<'_> {
    /// Publishes an object. New objects of at least `large` bytes are deferred.
    ///
    /// # Errors
    /// What stopped it. Then none of the object's files has its name, or all but the primary file do.
    pub fn put(&self, object: &Object, large: u64, stop: &dyn Fn() -> bool) -> Result<PutOutcome, Failure> {
        let here = self.local.below(&object.from).map_err(Failure::Source)?;
        let (primary, facts) = open(&here, &object.primary)?;
        if let Some(stamp) = &object.stamp {
            check_stamp(&here, stamp, &facts)?;
        }
        let place = self.part.join(&object.to);
        let (directory, made) = self.target.make_directory(&place).map_err(Failure::Share)?;
        if !made && let Some(there) = self.target.look(&directory, &object.primary).map_err(Failure::Share)? {
            return self.compare(object, &primary, &facts, &directory, &there);
        }
        if facts.size >= large {
            return Ok(PutOutcome::Large(facts.size));
        }
        let mut written = Vec::new();
        let put = self
            .write(object, &here, (&primary, &facts), &directory, &mut written, stop)
            .and_then(|()| self.name(&directory, &mut written).map_err(Failure::Share));
        for left in &written {
            self.target.discard(&directory, &left.temporary);
        }
        put
    }

    /// Compares with the existing object. For shared state only the sizes are compared: the hash in the name
    /// covers the input, and two builds of it often differ in some bytes but are equivalent. For downloads of
    /// the same name and size the content is compared, because one of them may be wrong.
    fn compare(
        &self,
        object: &Object,
        ours: &File,
        facts: &FileMeta,
        directory: &DirHandle,
        there: &FileMeta,
    ) -> Result<PutOutcome, Failure> {
        let bytes = facts.size;
        if there.kind() != Kind::File || there.size != bytes {
            return Ok(PutOutcome::Differs);
        }
        if object.area == Area::Sstate {
            return Ok(PutOutcome::Present);
        }
        let theirs = self.target.read(directory, &object.primary).map_err(Failure::Share)?;
        self.target.count(3);
        Ok(if look_alike(ours, &theirs, bytes)? { PutOutcome::Present } else { PutOutcome::Differs })
    }

    fn write(
        &self,
        object: &Object,
        here: &Tree,
        primary: (&File, &FileMeta),
        directory: &DirHandle,
        written: &mut Vec<Written>,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), Failure> {
        for name in &object.sidecars {
            let (file, facts) = open(here, name)?;
            self.write_one(name, (&file, &facts), directory, written, stop)?;
        }
        self.write_one(&object.primary, primary, directory, written, stop)
    }

    fn write_one(
        &self,
        name: &str,
        (from, facts): (&File, &FileMeta),
        directory: &DirHandle,
        written: &mut Vec<Written>,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), Failure> {
        let (temporary, to) = self.target.create(directory).map_err(Failure::Share)?;
        written.push(Written { temporary, name: name.to_owned(), bytes: facts.size });
        let writes = copy(from, facts, &to, stop)?;
        self.target.count(writes);
        self.target.finish(to).map_err(Failure::Share)
    }

    /// Renames the written files; on an error, files in `written` still have their temporary names.
    fn name(&self, directory: &DirHandle, written: &mut Vec<Written>) -> io::Result<PutOutcome> {
        let bytes = written.iter().map(|file| file.bytes).sum();
        let Some((primary, sidecars)) = written.split_last() else { return Ok(PutOutcome::Present) };
        let mut taken = Vec::new();
        for file in sidecars {
            if self.target.name(directory, &file.temporary, &file.name, file.bytes)? == ClaimOutcome::Exists {
                taken.push(file.temporary.clone());
            }
        }
        // Another publisher was faster.
        if self.target.name(directory, &primary.temporary, &primary.name, primary.bytes)?
            == ClaimOutcome::Exists
        {
            let there = self.target.look(directory, &primary.name)?;
            let same = there.is_some_and(|there| there.size == primary.bytes);
            return Ok(if same { PutOutcome::Present } else { PutOutcome::Differs });
        }
        // Sidecar files without a primary file come from an interrupted publisher, or from one that runs now.
        // The publisher of the primary file decides which are right: a signature fits one archive only.
        for file in sidecars.iter().filter(|file| taken.contains(&file.temporary)) {
            self.target.replace(directory, &file.temporary, &file.name, file.bytes)?;
        }
        written.retain(|file| !taken.contains(&file.temporary));
        Ok(PutOutcome::Published { bytes })
    }
}

/// Opens a local regular file that the owner of the tree may read.
pub(crate) fn open(here: &Tree, name: &str) -> Result<(File, FileMeta), Failure> {
    let name = Path::new(name);
    let opened = here.metadata(name).and_then(|seen| here.open_file(name, seen.identity()));
    opened.map_err(Failure::Source)
}

/// Rejects a file that is newer than its stamp: the stamp belongs to an earlier file of that name. BitBake
/// does not accept it either (`verify_donestamp`).
pub(crate) fn check_stamp(here: &Tree, stamp: &str, file: &FileMeta) -> Result<(), Failure> {
    let (_, stamp) = open(here, stamp)?;
    match stamp.modified >= file.modified {
        true => Ok(()),
        false => Err(Failure::Source(io::Error::other("it is newer than its `.done` stamp"))),
    }
}
