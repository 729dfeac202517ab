//! The files of the base of the change under test.

use std::path::Path;

use crate::config::{BaseOfChange, ChangeBase, Settings};
use agent_git::{Access, BaseQuery, CommitFiles};
use agent_process::Runner;
use agent_types::error::{Class, Error, Result};

/// What is checked out for a comparison.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The top of the work tree with the change.
    pub top: &'a Path,
    /// Whether it has uncommitted changes.
    pub dirty: bool,
    /// An empty directory that gets the files.
    pub scratch: &'a Path,
}

/// Checks out the commit in which the change began.
///
/// # Errors
/// When the base is not known, or git cannot get its files.
pub async fn check_out(
    settings: &Settings,
    wanted: Wanted<'_>,
    runner: &Runner,
    access: &Access,
) -> Result<CommitFiles> {
    let base = base_of_change(settings, wanted.dirty)?;
    let remote = base.remote.as_ref().map(|(url, branch)| (url, branch.as_str()));
    let query = BaseQuery { checkout: wanted.top, local: &base.local, remote };
    let access = access.for_source(settings.cache.trust.is_trusted());
    agent_git::base_files(runner, &access, &query, base.commit.as_deref(), wanted.scratch).await
}

/// What the change is compared with. `dirty`: it has uncommitted changes.
///
/// # Errors
/// When the base is not known.
pub fn base_of_change(settings: &Settings, dirty: bool) -> Result<BaseOfChange> {
    match &settings.change_base {
        ChangeBase::Base(base) => Ok(base.clone()),
        ChangeBase::Unknown(why) => Err(Error::usage(why.clone()).hint("name the target branch with --base")),
        ChangeBase::Previous => {
            let name = if dirty { "HEAD" } else { "HEAD^" }.to_owned();
            Ok(BaseOfChange { local: vec![name.clone()], name, remote: None, commit: None })
        }
    }
}

/// Whether the error ends the job, so that it cannot continue without the base.
pub fn must_stop(error: &Error) -> bool {
    matches!(error.class, Class::Cancelled | Class::OutOfTime)
}
