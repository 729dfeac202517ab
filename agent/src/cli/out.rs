//! The output directory of one job.

use std::path::PathBuf;

use crate::job::Exclusive;
use crate::report::{self, EventsFile};
use agent_types::error::Result;

/// The output directory: taken for one job, with what an earlier job said in it withdrawn.
pub struct Out {
    path: PathBuf,
    taken: Option<Exclusive>,
}

impl Out {
    /// Withdraws the verdict of an earlier job, before anything of this one is even looked at: a
    /// manifest that cannot be read must not leave yesterday's `passed` behind. Where there is
    /// none, nothing is made.
    ///
    /// # Errors
    /// When another job works there, or the verdict cannot be withdrawn.
    pub fn withdraw(path: PathBuf) -> Result<Out> {
        let mut out = Out { path, taken: None };
        let reports = ["result.json", EventsFile::NAME];
        if reports.iter().any(|name| fs_err::symlink_metadata(out.path.join(name)).is_ok()) {
            out.begin()?;
        }
        Ok(out)
    }

    /// Makes it ready for this job's reports.
    ///
    /// # Errors
    /// When another job works there, or it cannot be written.
    pub fn begin(&mut self) -> Result<EventsFile> {
        report::prepare_out(&self.path)?;
        if self.taken.is_none() {
            self.taken = Some(Exclusive::out(&self.path)?);
        }
        report::begin(&self.path)
    }
}
