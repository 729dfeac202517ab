//! Gets the files of the base of the change.

use std::path::Path;

use agent_git::{BaseQuery, CommitFiles, base_files};
use agent_types::error::{Error, Result};

use super::Search;
use crate::config::{BaseOfChange, ChangeBase};

/// Checks out the base of the work tree at `top` into `scratch`.
///
/// # Errors
/// When nobody names it, or it cannot be had.
pub async fn files(search: &Search<'_>, top: &Path, scratch: &Path) -> Result<CommitFiles> {
    let base = match &search.settings.change_base {
        ChangeBase::Base(base) => base.clone(),
        ChangeBase::Unknown(why) => {
            return Err(Error::usage(why.clone()).hint("name the target branch with --base"));
        }
        ChangeBase::Previous => {
            let name = search.base_name();
            BaseOfChange { local: vec![name.clone()], name, remote: None, commit: None }
        }
    };
    let remote = base.remote.as_ref().map(|(url, branch)| (url, branch.as_str()));
    let query = BaseQuery { checkout: top, local: &base.local, remote };
    let access = search.access.for_source(search.settings.cache.trust.is_trusted());
    let commit = base.commit.as_deref();
    base_files(search.runner, &access, &query, commit, scratch).await
}
