//! How git reaches its servers, and with which credentials.

use std::path::Path;

use crate::config::{AgentEnvironment, Request, Secret, Settings};
use agent_artifacts::aws;
use agent_git::Access;
use agent_process::{Redactor, User};
use agent_types::error::Result;

use super::current_dir::current_dir;
use super::print;

/// The credentials for git servers.
pub struct Servers {
    pub access: Access,
    /// The manifest's token, to be redacted like the settings' secrets.
    pub token: Option<Secret>,
    /// Reports that the manifest's token is not used.
    pub notice: Option<String>,
}

impl Servers {
    /// Redacts all secrets of the job.
    pub fn redactor(&self, settings: &Settings) -> Redactor {
        let all: Vec<Secret> = settings.secrets.iter().chain(&self.token).cloned().collect();
        Redactor::new(&all)
    }
}

/// How git reaches its servers. Only a trusted source gets the token that its manifest names: the manifest of an untrusted
/// source can name any secret, and the role of such a build may not read it.
pub async fn servers(settings: &Settings, environment: &AgentEnvironment) -> Result<Servers> {
    let named = settings.github.as_ref().and_then(|github| github.token_secret.as_ref());
    let named = named.filter(|_| environment.github_token.is_none());
    let (mut token, mut notice) = (None, None);
    match named {
        Some(name) if settings.cache.trust.is_trusted() => {
            let secret = Secret { origin: format!("secret {name}"), value: aws::secret(name, None).await? };
            print::hide(std::slice::from_ref(&secret));
            token = Some(secret);
        }
        Some(name) => {
            notice = Some(format!(
                "git clones without a token: `{name}` is only read for a trusted source (--trusted, or the variable \
                 GITHUB_TOKEN instead)"
            ));
        }
        None => {}
    }
    let mut access = access_with(settings.build_user.as_deref(), &settings.checkout, environment);
    access.github_token = access.github_token.or_else(|| token.clone());
    Ok(Servers { access, token, notice })
}

/// How git reaches its servers before the manifest is read.
pub fn access(request: &Request, environment: &AgentEnvironment) -> Access {
    let here = current_dir().unwrap_or_default();
    let checkout = environment.source_dir().map_or(here.as_path(), |(_, directory)| directory);
    access_with(request.build_user.as_deref(), checkout, environment)
}

fn access_with(build_user: Option<&str>, checkout: &Path, environment: &AgentEnvironment) -> Access {
    let mut variables: Vec<_> =
        environment.network.iter().map(|(name, value)| (name.into(), value.into())).collect();
    variables.extend(environment.ssh_auth_sock.iter().map(|path| ("SSH_AUTH_SOCK".into(), path.into())));
    let reader = environment.root.then(|| reader(build_user, checkout));
    let (github_token, sites) = (environment.github_token.clone(), environment.git_sites.clone());
    Access { variables, github_token, sites, reader }
}

/// The user with whose rights root reads files that an untrusted source names.
pub fn reader(build_user: Option<&str>, checkout: &Path) -> User {
    let nobody = || User { name: "nobody".into(), uid: 65534, gid: 65534, home: "/nonexistent".into() };
    // Without a build user no layer code runs; the stage configure reports that.
    agent_process::build_user(build_user, checkout).ok().flatten().unwrap_or_else(nobody)
}
