//! Whether layer code can reach the build's credentials: tried by a child process that runs as the build user.
//!
//! [`look`] is the child's part, `judge` is pure. No value of a secret leaves the child.

mod endpoints;
mod facts;
mod files;
mod git_config;
mod judge;
mod variables;

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use agent_types::credentials::{CredentialAccess, Reachable};

use super::capabilities::may_administer_network;
use super::{Answer, PROBE_LIMIT, Prober, User, agent_user};

pub use facts::Facts;
pub use judge::Rights;

/// Where CodeBuild keeps its own files.
pub const CODEBUILD: &str = "/codebuild";

/// The hidden command that calls [`look`].
pub const COMMAND: &str = "probe-credentials";

/// The agent itself, whatever is at its path now.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// Where the agent's own environment says that credentials are. Has no secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CredentialSources {
    /// The names of the agent's variables with secrets.
    pub variables: Vec<String>,
    /// Files with secrets, and the variables that name them.
    pub files: Vec<(String, PathBuf)>,
    /// Servers that give credentials, besides those that AWS documents.
    pub endpoints: Vec<SocketAddr>,
    /// Home directories whose credentials count, besides those in `/home`.
    pub homes: Vec<PathBuf>,
    /// Work trees of git whose configuration counts.
    pub checkouts: Vec<PathBuf>,
    /// Whether a service runs the agent, on a machine for builds. The child does not need to know.
    pub by_service: bool,
}

impl CredentialSources {
    /// The addresses to close. Routing rules cannot close addresses of the machine itself.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let own = self.endpoints.iter().map(SocketAddr::ip).filter(|address| !address.is_loopback());
        let mut all: Vec<IpAddr> =
            endpoints::known().iter().map(|(address, _)| address.ip()).chain(own).collect();
        all.sort();
        all.dedup();
        all
    }

    /// The same sources, with the home directories of the agent's user and of this one.
    #[must_use]
    pub fn with_homes(&self, user: Option<&User>) -> CredentialSources {
        let mut sources = self.clone();
        sources
            .homes
            .extend(agent_user().ok().as_ref().into_iter().chain(user).map(|user| user.home.clone()));
        sources.homes.sort();
        sources.homes.dedup();
        sources
    }

    /// The same sources, with these work trees.
    #[must_use]
    pub fn with_checkouts(mut self, mut checkouts: Vec<PathBuf>) -> CredentialSources {
        checkouts.sort();
        checkouts.dedup();
        self.checkouts = checkouts;
        self
    }

    /// The arguments of [`COMMAND`], from which [`FromIterator`] makes the sources again.
    fn words(&self) -> Vec<String> {
        let variables = self.variables.iter().map(|name| format!("variable={name}"));
        let files = self.files.iter().map(|(name, path)| format!("file={name}={}", path.display()));
        let endpoints = self.endpoints.iter().map(|address| format!("endpoint={address}"));
        let homes = self.homes.iter().map(|home| format!("home={}", home.display()));
        let checkouts = self.checkouts.iter().map(|checkout| format!("checkout={}", checkout.display()));
        variables.chain(files).chain(endpoints).chain(homes).chain(checkouts).collect()
    }
}

/// The sources of the words that the agent passes to its child; others are ignored.
impl<'a> FromIterator<&'a str> for CredentialSources {
    fn from_iter<I: IntoIterator<Item = &'a str>>(words: I) -> CredentialSources {
        let mut sources = CredentialSources::default();
        for (kind, value) in words.into_iter().filter_map(|word| word.split_once('=')) {
            match kind {
                "variable" => sources.variables.push(value.into()),
                "file" => {
                    sources.files.extend(value.split_once('=').map(|(name, path)| (name.into(), path.into())))
                }
                "endpoint" => sources.endpoints.extend(value.parse::<SocketAddr>().ok()),
                "home" => sources.homes.push(value.into()),
                "checkout" => sources.checkouts.push(value.into()),
                _ => {}
            }
        }
        sources
    }
}

/// Looks with the rights of this process, whose environment is `own`. Takes a few seconds at most.
pub fn look(sources: &CredentialSources, own: &[(OsString, OsString)]) -> Facts {
    let mut sources = sources.clone();
    sources.homes.extend(files::below("/home".as_ref()));
    sources.homes.sort();
    sources.homes.dedup();
    look_below(Path::new(CODEBUILD), &sources, own)
}

fn look_below(codebuild: &Path, sources: &CredentialSources, own: &[(OsString, OsString)]) -> Facts {
    let wanted = variables::Wanted::new(&sources.variables);
    let mut clues: Vec<_> = variables::of_own_environment(&wanted, own).into_iter().collect();
    clues.extend(variables::of_processes(&wanted));
    clues.extend(files::in_directory(codebuild, &wanted));
    clues.extend(files::in_homes(&sources.homes));
    clues.extend(git_config::in_checkouts(&sources.checkouts));
    clues.extend(files::named(&sources.files));
    let endpoints = endpoints::try_all(&sources.endpoints);
    let sockets = files::engine_sockets().into_iter().chain(endpoints::engine()).collect();
    Facts { endpoints, clues, sockets }
}

/// Looks as the user that runs layer code (`None`: as the agent itself), and judges.
pub async fn try_access(
    prober: &Prober,
    user: Option<&User>,
    sources: &CredentialSources,
) -> CredentialAccess {
    let words = sources.words();
    let argv: Vec<&str> =
        [OWN_PROGRAM, COMMAND].into_iter().chain(words.iter().map(String::as_str)).collect();
    let answer = prober.ask("credentials", &argv, user, &prober.environment, PROBE_LIMIT).await;
    let rights = Rights { other_user: user.is_some(), network: may_administer_network() };
    let facts = match &answer {
        Answer::Said { ok: true, lines } => lines.iter().find_map(|line| serde_json::from_str(line).ok()),
        _ => None,
    };
    match facts {
        Some(facts) => judge::judge(&facts, rights),
        None => CredentialAccess {
            reachable: Reachable::Unknown,
            reasons: vec![format!("the test as the build user failed: {}", answer.complaint())],
            hint: Some(
                "let the build user execute the agent's program, and see the log probe-credentials".into(),
            ),
        },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sources() -> CredentialSources {
        CredentialSources {
            variables: vec!["DB_PASSWORD".into()],
            files: vec![("AWS_WEB_IDENTITY_TOKEN_FILE".into(), "/var/run/a=b/token".into())],
            endpoints: vec!["127.0.0.1:1338".parse().unwrap(), "[fd00::1]:80".parse().unwrap()],
            homes: vec!["/root".into()],
            checkouts: vec!["/src/meta-x".into()],
            by_service: false,
        }
    }

    #[test]
    fn sources_reach_the_child() {
        let words = sources().words();
        assert_eq!(words.iter().map(String::as_str).collect::<CredentialSources>(), sources());
        let odd = ["", "x", "endpoint=x", "file=x", "other=1"];
        assert_eq!(odd.into_iter().collect::<CredentialSources>(), CredentialSources::default());
    }

    #[test]
    fn every_address_is_closed_that_a_rule_can_close() {
        let all: Vec<String> = sources().addresses().iter().map(ToString::to_string).collect();
        let known = ["169.254.169.254", "169.254.170.2", "169.254.170.23"];
        assert_eq!(all, [&known[..], &["fd00::1", "fd00:ec2::23", "fd00:ec2::254"]].concat());
    }

    /// The whole of what the child does, on this machine.
    #[test]
    fn the_child_finds_what_codebuild_leaves() {
        let codebuild = tempfile::tempdir().unwrap();
        let tmp = codebuild.path().join("output/tmp");
        std::fs::create_dir_all(&tmp).unwrap();
        let state = tmp.join("env.sh");
        std::fs::write(&state, "export AWS_CONTAINER_CREDENTIALS_RELATIVE_URI='/v2/credentials/canary'\n")
            .unwrap();
        let facts = look_below(codebuild.path(), &CredentialSources::default(), &[]);
        let clue = facts.clues.iter().find(|clue| clue.place == state.display().to_string()).unwrap();
        assert_eq!(clue.holds, ["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"]);
        assert_eq!(facts.endpoints.len(), endpoints::known().len());
        let text = serde_json::to_string(&facts).unwrap();
        assert!(!text.contains("canary"), "{text}");
        assert_eq!(serde_json::from_str::<Facts>(&text).unwrap(), facts);
    }
}
