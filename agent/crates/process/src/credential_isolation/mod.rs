//! Denies the user that runs layer code access to the build's credentials: before any layer code starts, root closes
//! CodeBuild's files and the addresses of the servers that provide credentials.

mod files;
mod rules;

use std::path::PathBuf;

use super::credentials::{CODEBUILD, CredentialSources};
use super::{Prober, User, blocking};

pub use rules::JobRules;

/// The user to isolate, and what the isolation covers.
pub struct CredentialIsolation<'a> {
    /// The user that runs layer code; not the agent's own.
    pub user: &'a User,
    pub sources: &'a CredentialSources,
    /// Directories that this user needs: never closed.
    pub needed: Vec<PathBuf>,
}

impl CredentialIsolation<'_> {
    /// Closes files and addresses, and logs what it could not close. Needs root. The files stay closed; the returned rules
    /// are for this job alone.
    pub async fn set_up(&self, prober: &Prober) -> JobRules {
        let (uid, needed) = (self.user.uid, self.needed.clone());
        let open = blocking(move || files::close(CODEBUILD.as_ref(), uid, &needed)).await;
        for one in open {
            tracing::warn!("{one}");
        }
        let stay = self.sources.by_service || rules::in_container();
        rules::add(prober, self.user, &self.sources.addresses(), stay).await
    }
}
