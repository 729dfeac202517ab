//! Keeps the user that runs layer code from the build's credentials: root closes CodeBuild's files, and the addresses
//! that give credentials, before any layer code starts.

mod files;
mod rules;

use std::path::PathBuf;

use super::credentials::{CODEBUILD, CredentialSources};
use super::{Prober, User, blocking};

pub use rules::JobRules;

/// What it needs to know.
pub struct CredentialIsolation<'a> {
    /// The user that runs layer code; not the agent's own.
    pub user: &'a User,
    pub sources: &'a CredentialSources,
    /// Directories that this user needs: never closed.
    pub keep: Vec<PathBuf>,
}

impl CredentialIsolation<'_> {
    /// Closes files and addresses. What could not be closed is logged. Only root can do this. The files stay closed; the
    /// returned rules are for this job alone.
    pub async fn set_up(&self, prober: &Prober) -> JobRules {
        let (uid, keep) = (self.user.uid, self.keep.clone());
        let open = blocking(move || files::close(CODEBUILD.as_ref(), uid, &keep)).await;
        for one in open {
            tracing::warn!("{one}");
        }
        let stay = self.sources.by_service || rules::in_container();
        rules::add(prober, self.user, &self.sources.addresses(), stay).await
    }
}
