//! The fence between layer code and the build's credentials: root closes CodeBuild's files and the addresses that
//! give credentials to the build user, before any layer code starts.
//!
//! The fence stays after the job. A process that outlives the job, or another job on the machine, runs as the same
//! user, and a build machine ends with its build. `ip rule del priority 100` removes a rule.

mod files;
mod rules;

use std::path::PathBuf;

use super::credentials::{CODEBUILD, CredentialSources};
use super::{Prober, User, blocking};

/// What the fence needs to know.
pub struct Fence<'a> {
    /// The user that runs layer code; not the agent's own.
    pub user: &'a User,
    pub sources: &'a CredentialSources,
    /// Directories that this user needs: never closed.
    pub keep: Vec<PathBuf>,
}

impl Fence<'_> {
    /// Sets up the fence; a second time changes nothing. Returns what could not be closed. Only root can do this.
    pub async fn set_up(&self, prober: &Prober) -> Vec<String> {
        let (uid, keep) = (self.user.uid, self.keep.clone());
        let files = blocking(move || files::close(CODEBUILD.as_ref(), uid, &keep)).await;
        let rules = rules::add(prober, self.user, &self.sources.addresses()).await;
        let open = [files, rules].concat();
        for one in &open {
            tracing::warn!("{one}");
        }
        open
    }
}
