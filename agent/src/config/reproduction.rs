//! What the result of a job keeps, so that the job can be repeated elsewhere.

use std::path::Path;

use agent_fs::untrusted;
use agent_types::reproduction::Reproduction;
use agent_types::tiers::Trust;

use super::change::ChangeBase;
use super::environment::AgentEnvironment;
use super::github_actions::GitHubActions;
use super::lock::without_credentials;
use super::paths::ProjectRoot;
use super::request::Request;
use super::rules::Rules;

/// Of the job of this request. `manifest` is its text, `lock` the path of its lock. The recorder removes secrets.
pub fn reproduction(
    request: &Request,
    environment: &AgentEnvironment,
    project_root: &ProjectRoot,
    trust: &Trust,
    manifest: &[u8],
    lock: Option<&Path>,
) -> Reproduction {
    let is_built_in = request.layers.as_ref().is_some_and(|only| only.built_in.is_some());
    let by_github = environment.github_actions.as_ref().and_then(GitHubActions::repository_url);
    let by_codebuild = || environment.codebuild.as_ref()?.source_url.clone();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let lock = lock.filter(|_| !is_built_in).map(|lock| project_root.rules_file(lock));
    Reproduction {
        image: environment.image.clone(),
        source: by_github.or_else(by_codebuild).as_ref().map(without_credentials),
        pull_request: match trust {
            Trust::Untrusted { pull_request, .. } => *pull_request,
            Trust::Trusted { .. } => None,
        },
        base: base(request, project_root),
        accepts_manifest: request.accept_manifest,
        manifest_path: manifest_path(project_root),
        manifest: (!is_built_in).then(|| text(manifest.to_vec())),
        lock: match &request.pins {
            Some(pins) => Some(text(pins.text.clone())),
            None => lock.and_then(|lock| untrusted::read_named(&lock, untrusted::PAGE).ok()).map(text),
        },
    }
}

/// The commit with which the change was compared.
fn base(request: &Request, project_root: &ProjectRoot) -> Option<String> {
    match (&project_root.rules, &request.change_base) {
        (Rules::OfBase(files), _) => files.trees.first().map(|tree| tree.commit.clone()),
        (_, ChangeBase::Base(base)) => base.commit.clone(),
        _ => None,
    }
}

/// The manifest's path in the checkout.
fn manifest_path(project_root: &ProjectRoot) -> Option<std::path::PathBuf> {
    let name = project_root.manifest.as_ref()?.file_name()?;
    project_root.base.join(name).strip_prefix(&project_root.checkout).ok().map(Path::to_owned)
}
