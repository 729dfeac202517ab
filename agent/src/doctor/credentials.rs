//! Checks whether layer code can reach the build's credentials, as each job does.

use std::path::PathBuf;

use agent_process::credentials::{CredentialSources, try_access};
use agent_process::{Fence, Prober, User};
use agent_types::credentials::{CredentialAccess, Reachable};

use super::finding::Finding;

/// Tries it as the build user, behind the fence that a job sets up. Without the fence, the answer would be that of
/// another machine than the job's. The build user needs the directories `keep`.
pub async fn gather(
    prober: &Prober,
    user: Option<&User>,
    sources: &CredentialSources,
    keep: Vec<PathBuf>,
) -> CredentialAccess {
    if let Some(user) = user {
        Fence { user, sources, keep }.set_up(prober).await;
    }
    try_access(prober, user, &sources.with_homes(user)).await
}

pub fn judge(access: CredentialAccess) -> Finding {
    const NAME: &str = "credentials";
    let message = access.message();
    match (access.reachable, access.hint) {
        (Reachable::No, _) => Finding::ok(NAME, format!("no: {message}")),
        (Reachable::Yes, hint) => Finding::warning(NAME, format!("yes: {message}"), hint.unwrap_or_default()),
        (Reachable::Unknown, hint) => Finding::warning(NAME, message, hint.unwrap_or_default()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::doctor::State;

    #[test]
    fn the_finding_says_yes_or_no() {
        for (reachable, state, words) in [
            (Reachable::Yes, State::Warning, "yes: layer code can reach"),
            (Reachable::No, State::Ok, "no: layer code cannot reach"),
            (Reachable::Unknown, State::Warning, "unknown whether"),
        ] {
            let access = CredentialAccess { reachable, reasons: vec!["x".into()], hint: Some("fix".into()) };
            let finding = judge(access);
            assert_eq!((finding.state, finding.name.as_str()), (state, "credentials"));
            assert!(finding.found.starts_with(words), "{}", finding.found);
            assert_eq!(finding.fix.is_some(), state != State::Ok);
        }
    }
}
