//! Adds an entry to another store: copies all its files in parallel, then renames it.

use std::fs::FileTimes;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use fs_err as fs;

use agent_fs::pool::{self, Ended, Output};
use agent_process::{Interrupt, Interrupted};
use agent_types::error::{Class, Error, Result};
use agent_types::traffic::Traffic;

use super::check::{self, Witness};
use super::record::Record;
use super::{Entry, LayerStore, StagingEntry};

/// The result of adding an entry.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Added {
    /// False, if another machine was faster.
    pub new: bool,
    /// The cost on that store.
    pub traffic: Traffic,
}

/// Copies an entry to a store that others read, which see it completely or not at all. The copy is verified
/// against `witness`. File times are preserved for BitBake's parse cache.
///
/// # Errors
/// If reading or writing fails, the copy is damaged, or the job is stopped. The store is unchanged then.
pub fn add(entry: &Entry, store: &LayerStore, witness: Witness, interrupt: &Interrupt) -> Result<Added> {
    let begun = std::time::Instant::now();
    let part = StagingEntry::begin(store, &entry.repo)?;
    let copy = Copy { from: entry.directory(), to: part.path().to_owned(), ..Copy::default() };
    copy.run(Job::Fill(PathBuf::new()), interrupt)?;
    copy.run(Job::Seal(PathBuf::new()), interrupt)?;

    let owner = fs::symlink_metadata(part.path())?.uid();
    let damaged = |damage| Error::machine("the copy of a layer checkout is damaged").because(&damage);
    let record = Record::read(part.path()).map_err(damaged)?;
    check::whole(part.path(), &record, owner, witness).map_err(damaged)?;
    let (_, new) = part.become_entry(&entry.commit)?;

    let traffic = Traffic {
        objects_written: u64::from(new),
        bytes_written: copy.bytes.into_inner(),
        operations: copy.operations.into_inner(),
        seconds_waited: begun.elapsed().as_secs_f64(),
        ..Traffic::default()
    };
    Ok(Added { new, traffic })
}

#[derive(Default)]
struct Copy {
    from: PathBuf,
    to: PathBuf,
    bytes: AtomicU64,
    operations: AtomicU64,
    failed: Mutex<Option<std::io::Error>>,
}

/// A unit of work, below the top directories.
enum Job {
    /// An existing directory to fill.
    Fill(PathBuf),
    File(PathBuf),
    /// A directory to make read-only, with everything below it.
    Seal(PathBuf),
}

impl Copy {
    fn run(&self, first: Job, interrupt: &Interrupt) -> Result<()> {
        let failed = || self.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let stop = || interrupt.state().is_some() || failed().is_some();
        let work = |job: Job, out: &mut Output<'_, Job, ()>| {
            if let Err(error) = self.do_one(job, out) {
                failed().get_or_insert(error);
            }
        };
        let ended = pool::run(pool::WIDTH, [first], stop, work, |()| {});
        if let Some(error) = failed().take() {
            return Err(error.into());
        }
        match (ended, interrupt.state()) {
            (Ended::Complete, _) => Ok(()),
            (Ended::Early, Some(Interrupted::OutOfTime)) => {
                Err(Error::new(Class::OutOfTime, "the job's time limit was reached"))
            }
            (Ended::Early, _) => Err(Error::new(Class::Cancelled, "the job was cancelled")),
        }
    }

    fn do_one(&self, job: Job, out: &mut Output<'_, Job, ()>) -> std::io::Result<()> {
        match job {
            Job::Fill(path) => self.fill(path, out),
            Job::File(path) => self.file(&path),
            Job::Seal(path) => self.make_read_only(path, out),
        }
    }

    fn fill(&self, path: PathBuf, out: &mut Output<'_, Job, ()>) -> std::io::Result<()> {
        for entry in fs::read_dir(self.from.join(&path))? {
            let entry = entry?;
            let (path, kind) = (path.join(entry.file_name()), entry.file_type()?);
            let to = self.to.join(&path);
            if kind.is_dir() {
                fs::create_dir(&to)?;
                self.did(1);
                out.add(Job::Fill(path));
            } else if kind.is_symlink() {
                fs_err::os::unix::fs::symlink(fs::read_link(entry.path())?, &to)?;
                self.did(1);
            } else {
                out.add(Job::File(path));
            }
        }
        Ok(())
    }

    fn file(&self, path: &Path) -> std::io::Result<()> {
        let from = self.from.join(path);
        let (mut source, found) = agent_fs::read::open(&from)?;
        let (mut target, to) = fs::File::create_new(self.to.join(path))?.into_parts();
        let named =
            |error: std::io::Error| std::io::Error::new(error.kind(), format!("`{}`: {error}", to.display()));
        let copied = std::io::copy(&mut source, &mut target).map_err(named)?;
        target.set_times(FileTimes::new().set_modified(found.modified()?)).map_err(named)?;
        target.set_permissions(std::fs::Permissions::from_mode(found.mode() & 0o555)).map_err(named)?;
        target.sync_all().map_err(named)?;
        self.bytes.fetch_add(copied, Ordering::Relaxed);
        // Create, write, times, mode, sync and close.
        self.did(6);
        Ok(())
    }

    /// A read-only directory does not prevent changes of modes below it.
    fn make_read_only(&self, path: PathBuf, out: &mut Output<'_, Job, ()>) -> std::io::Result<()> {
        let place = self.to.join(&path);
        for entry in fs::read_dir(&place)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                out.add(Job::Seal(path.join(entry.file_name())));
            }
        }
        fs::set_permissions(&place, std::fs::Permissions::from_mode(0o555))?;
        fs::File::open(&place)?.sync_all()?;
        self.did(3);
        Ok(())
    }

    fn did(&self, operations: u64) {
        self.operations.fetch_add(operations, Ordering::Relaxed);
    }
}
