//! The files of the change's base, for checks that compare with them.

use crate::config::{BaseOfChange, BaseTree, ChangeBase, Settings};
use agent_fs::remove::remove_tree;
use agent_git::{Access, BaseQuery, CommitFiles};
use agent_process::Runner;
use agent_types::error::{Class, Result};

use super::blocking;

/// Checks out the base below the work directory, where the build user can read it. `dirty`: the checkout under test
/// has uncommitted changes. The inner error says why there is no base.
///
/// # Errors
/// When the job is stopped, or the work directory cannot be written.
pub async fn check_out(
    settings: &Settings,
    dirty: bool,
    runner: &Runner,
    access: &Access,
) -> Result<std::result::Result<BaseTree, String>> {
    let (local, remote, commit) = match &settings.change_base {
        ChangeBase::Base(BaseOfChange { local, remote, commit, .. }) => {
            (local.clone(), remote.as_ref(), commit.as_deref())
        }
        ChangeBase::Unknown(why) => return Ok(Err(why.clone())),
        ChangeBase::Previous => (vec![if dirty { "HEAD" } else { "HEAD^1" }.to_owned()], None, None),
    };
    let (scratch, work) = (settings.paths.base_files(), settings.paths.work.clone());
    let empty = scratch.clone();
    blocking(&runner.interrupt, "the base was checked out", move || {
        remove_tree(&empty, &work)?;
        fs_err::create_dir_all(&empty)?;
        Ok(())
    })
    .await?;
    let remote = remote.map(|(url, branch)| (url, branch.as_str()));
    let query = BaseQuery { checkout: &settings.checkout, local: &local, remote };
    let access = access.for_source(settings.cache.trust.is_trusted());
    match agent_git::base_files(runner, &access, &query, commit, &scratch).await {
        Ok(CommitFiles { commit, root }) => Ok(Ok(BaseTree { commit, root })),
        Err(error) if matches!(error.class, Class::Cancelled | Class::OutOfTime) => Err(error),
        Err(error) => Ok(Err(error.message)),
    }
}
