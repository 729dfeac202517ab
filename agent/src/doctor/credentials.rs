//! Checks whether layer code can reach the build's credentials, as each job does.

use std::path::PathBuf;

use agent_process::credentials::{CredentialSources, try_access};
use agent_process::{CredentialIsolation, JobRules, Prober, User};
use agent_types::credentials::{CredentialAccess, Reachable};

use super::finding::Finding;
use crate::config;

/// Tries it as the build user, after closing the credentials as each job does. Otherwise the answer would not be that of
/// a job. The build user needs the directories `keep`.
pub async fn gather(
    prober: &Prober,
    user: Option<&User>,
    sources: &CredentialSources,
    keep: Vec<PathBuf>,
) -> CredentialAccess {
    let checkouts = keep.iter().map(|path| config::work_tree(path)).collect();
    let rules = match user {
        Some(user) => CredentialIsolation { user, sources, keep }.set_up(prober).await,
        None => JobRules::default(),
    };
    let access = try_access(prober, user, &sources.with_homes(user).with_checkouts(checkouts)).await;
    rules.remove(prober).await;
    access
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
