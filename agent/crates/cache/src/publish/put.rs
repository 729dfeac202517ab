//! One object from the local tree to the share.
//!
//! 1. Look whether its name is taken there: then it is done, and what is there stays.
//! 2. Write each of its files beside its place under a temporary name, and sync it.
//! 3. Give them their names, companions first and the lead last: a reader who finds the lead finds all.

use std::fs::File;
use std::io;
use std::path::Path;

use super::copy::{Failure, copy, look_alike};
use super::local::{Area, Object};
use super::target::{ClaimOutcome, Target};
use agent_fs::dir::{DirHandle, FileMeta, Kind};
use agent_fs::tree::Tree;

/// From where to where.
pub struct Upload<'a> {
    pub local: &'a Tree,
    pub target: &'a Target,
    /// The part of the tier, e.g. `sstate/scarthgap`.
    pub part: &'a Path,
}

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// It is new there.
    Published { bytes: u64 },
    /// An equal one was there.
    Present,
    /// Another one of its name was there, and stays.
    Differs,
    /// It has this many bytes and was left for later.
    Large(u64),
}

/// A file that is written and has no name yet.
struct Written {
    temporary: String,
    name: String,
    bytes: u64,
}

impl Upload<'_> {
    /// Publishes an object. New ones of `large` bytes and more are left for later.
    ///
    /// # Errors
    /// What stopped it; nothing of the object has its name then, or all that comes before its lead.
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

    /// Of shared state the sizes are compared: the hash in the name is that of what went in, and two
    /// builds of it often differ in some bytes and are worth the same. Two downloads of one name and
    /// size are looked into, because one of them may not be what it should.
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

    /// Names what is written; what is left in `written` has still its temporary name.
    fn name(&self, directory: &DirHandle, written: &mut Vec<Written>) -> io::Result<PutOutcome> {
        let bytes = written.iter().map(|file| file.bytes).sum();
        let Some((primary, sidecars)) = written.split_last() else { return Ok(PutOutcome::Present) };
        let mut taken = Vec::new();
        for file in sidecars {
            if self.target.name(directory, &file.temporary, &file.name, file.bytes)? == ClaimOutcome::Exists {
                taken.push(file.temporary.clone());
            }
        }
        // Somebody else was quicker.
        if self.target.name(directory, &primary.temporary, &primary.name, primary.bytes)?
            == ClaimOutcome::Exists
        {
            let there = self.target.look(directory, &primary.name)?;
            let same = there.is_some_and(|there| there.size == primary.bytes);
            return Ok(if same { PutOutcome::Present } else { PutOutcome::Differs });
        }
        // Companions without their lead are of a build that was cut short here or is publishing right
        // now. Whose lead it is says which are right: a signature fits one archive only.
        for file in sidecars.iter().filter(|file| taken.contains(&file.temporary)) {
            self.target.replace(directory, &file.temporary, &file.name, file.bytes)?;
        }
        written.retain(|file| !taken.contains(&file.temporary));
        Ok(PutOutcome::Published { bytes })
    }
}

/// Opens a local file that is one, and that whoever owns the tree may read.
fn open(here: &Tree, name: &str) -> Result<(File, FileMeta), Failure> {
    let name = Path::new(name);
    let opened = here.metadata(name).and_then(|seen| here.open_file(name, seen.identity()));
    opened.map_err(Failure::Source)
}

/// A stamp that is older than its file is of an earlier file of that name: BitBake would not rely on
/// it either (`verify_donestamp`).
fn check_stamp(here: &Tree, stamp: &str, file: &FileMeta) -> Result<(), Failure> {
    let (_, stamp) = open(here, stamp)?;
    match stamp.modified >= file.modified {
        true => Ok(()),
        false => Err(Failure::Source(io::Error::other("it is younger than its `.done` stamp"))),
    }
}
