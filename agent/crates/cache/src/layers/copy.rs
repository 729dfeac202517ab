//! Adding an entry to another store: all its files, side by side, then the rename.

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
use super::{Entry, LayerStore, Part};

/// What came of adding an entry.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Added {
    /// False: another machine was faster.
    pub new: bool,
    /// What it cost there.
    pub traffic: Traffic,
}

/// Copies an entry to a store that others read, which sees it whole or not at all. The copy has to be
/// what `witness` says; BitBake's parse cache wants the times kept.
///
/// # Errors
/// When something cannot be read or written, or the copy is not whole; when the job is stopped. The
/// store is then as it was.
pub fn add(entry: &Entry, store: &LayerStore, witness: Witness, interrupt: &Interrupt) -> Result<Added> {
    let begun = std::time::Instant::now();
    let part = Part::begin(store, &entry.repo)?;
    let copy = Copy { from: entry.directory(), to: part.path().to_owned(), ..Copy::default() };
    copy.run(Job::Fill(PathBuf::new()), interrupt)?;
    copy.run(Job::Seal(PathBuf::new()), interrupt)?;

    let owner = fs::symlink_metadata(part.path())?.uid();
    let damaged = |damage| Error::machine("a copy did not arrive as it was sent").because(&damage);
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

/// A piece of work, below the tops.
enum Job {
    /// A directory that is there and to be filled.
    Fill(PathBuf),
    File(PathBuf),
    /// A directory with all that is below it, to be made read-only.
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
                Err(Error::new(Class::OutOfTime, "the job's time is over"))
            }
            (Ended::Early, _) => Err(Error::new(Class::Cancelled, "the job was cancelled")),
        }
    }

    fn do_one(&self, job: Job, out: &mut Output<'_, Job, ()>) -> std::io::Result<()> {
        match job {
            Job::Fill(path) => self.fill(path, out),
            Job::File(path) => self.file(&path),
            Job::Seal(path) => self.seal(path, out),
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

    /// Its own seal does not hinder the sealing of what is below.
    fn seal(&self, path: PathBuf, out: &mut Output<'_, Job, ()>) -> std::io::Result<()> {
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
