//! Removes the units of a plan, one by one, after a last check of each.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::name_spill::SpilledNames;
use super::plan::{Candidate, Sum};
use super::trash::Trashes;
use crate::units::{SUFFIXES, Unit, shown};
use agent_fs::dir::{DirHandle, Kind, is_gone};
use agent_fs::pool::{self, Ended, Output};

/// Maximum number of failures that are reported by name.
const SHOWN: usize = 20;

/// The results for the units of a plan.
#[derive(Debug, Default)]
pub struct Applied {
    pub taken: Sum,
    /// Kept, because it was used after the plan was made.
    pub used: u64,
    /// Removed by another process.
    pub gone: u64,
    pub failed: u64,
    /// The first reasons of failures.
    pub failures: Vec<String>,
}

enum Fate {
    Taken(u64),
    Used,
    Gone,
    Failed(String),
}

pub struct Apply<'a> {
    pub share: &'a DirHandle,
    /// The directories of its units are relative to the share.
    pub spilled: &'a SpilledNames,
    pub trash: &'a Trashes<'a>,
    /// Without a grace period, files are deleted at once. Directories are still renamed first, so that no
    /// reader finds a part of one.
    pub delete: bool,
    pub width: usize,
    pub operations: &'a AtomicU64,
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

impl Apply<'_> {
    pub fn run(&self, units: impl IntoIterator<Item = Candidate, IntoIter: Send>) -> (Applied, Ended) {
        let mut applied = Applied::default();
        let work = |unit: Candidate, out: &mut Output<'_, Candidate, Fate>| {
            out.give(match self.spilled.get(unit.key) {
                Ok(unit) => self.take(&unit),
                Err(error) => Fate::Failed(error.to_string()),
            });
        };
        let ended = pool::run(
            self.width,
            units,
            || (self.stop)(),
            work,
            |fate| match fate {
                Fate::Taken(bytes) => applied.taken.add(bytes),
                Fate::Used => applied.used += 1,
                Fate::Gone => applied.gone += 1,
                Fate::Failed(why) => {
                    applied.failed += 1;
                    if applied.failures.len() < SHOWN {
                        applied.failures.push(why);
                    }
                }
            },
        );
        (applied, ended)
    }

    fn take(&self, unit: &Unit) -> Fate {
        match self.try_take(unit) {
            Ok(fate) => fate,
            Err(error) => Fate::Failed(format!("{}: {error}", shown(&unit.directory.join(&unit.name)))),
        }
    }

    fn try_take(&self, unit: &Unit) -> io::Result<Fate> {
        self.count(1);
        let directory = match self.share.open_dir(&unit.directory) {
            Ok(directory) => directory,
            Err(error) if is_gone(&error) => return Ok(Fate::Gone),
            Err(error) => return Err(error),
        };
        let mut there = Vec::new();
        for part in &unit.parts {
            let name = format!("{}{}", unit.name, SUFFIXES[usize::from(part.suffix)]);
            self.count(1);
            match directory.metadata(&name) {
                Ok(facts)
                    if (facts.kind(), facts.inode, facts.used()) != (part.kind, part.inode, part.used) =>
                {
                    return Ok(Fate::Used);
                }
                Ok(_) => there.push((name, part)),
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let mut bytes = None;
        for (name, part) in there {
            if self.take_part(&directory, &unit.directory, OsStr::new(&name), part.kind)? {
                bytes = Some(bytes.unwrap_or(0) + part.size);
            }
        }
        Ok(bytes.map_or(Fate::Gone, Fate::Taken))
    }

    fn take_part(&self, directory: &DirHandle, place: &Path, name: &OsStr, kind: Kind) -> io::Result<bool> {
        self.count(1);
        if self.delete && kind != Kind::Directory {
            return directory.remove_file(name);
        }
        // The tier of a pull request is in the directory `pr`.
        self.trash.of(place)?.take(directory, place, name)
    }

    fn count(&self, operations: u64) {
        self.operations.fetch_add(operations, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
