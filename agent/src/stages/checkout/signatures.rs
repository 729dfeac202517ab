//! Repositories with signers: the commit or the tag must be signed by one of them, before anything of it is used.

use std::path::Path;

use fs_err as fs;

use crate::config::{KeySource, Repo, RepoSource, SIGNER_KEY_LIMIT, Settings};
use agent_fs::untrusted;
use agent_git::{Access, Git, PublicKey, SignedObject};
use agent_process::Runner;
use agent_types::error::{Error, Result};
use agent_types::source::{GitSource, Wanted};

use super::ReadyRepo;

/// Verifies all repositories that have signers.
///
/// # Errors
/// Usage, if a repository is not signed by one of its signers; upstream, if a tag cannot be fetched.
pub async fn verify(
    settings: &Settings,
    repos: &[ReadyRepo],
    runner: &Runner,
    access: &Access,
) -> Result<()> {
    for wanted in settings.repos.iter().filter(|repo| !repo.signers.is_empty()) {
        let RepoSource::Git(source) = &wanted.source else {
            let message =
                format!("`repos.{}`: signatures of a local directory are not verified", wanted.name);
            return Err(Error::usage(message).hint("remove `signers`, or the secondary source of CodeBuild"));
        };
        let ready = repos.iter().find(|ready| ready.name == wanted.name).ok_or_else(|| {
            Error::internal(format!("`repos.{}` has signers, and was not obtained", wanted.name))
        })?;
        let signer = Signature { wanted, source, ready, runner, access }.verify(repos).await?;
        let commit = ready.commit.as_deref().unwrap_or_default();
        let message = format!("repo {}: {} is signed with {signer}", wanted.name, what(source, commit));
        runner.events.info(message).await;
    }
    Ok(())
}

/// The tag, if one is wanted, else the commit.
fn what(source: &GitSource, commit: &str) -> String {
    match source.wanted.tag() {
        Some(tag) => format!("tag {tag}"),
        None => format!("commit {}", commit.get(..12).unwrap_or(commit)),
    }
}

struct Signature<'a> {
    wanted: &'a Repo,
    source: &'a GitSource,
    ready: &'a ReadyRepo,
    runner: &'a Runner,
    access: &'a Access,
}

impl Signature<'_> {
    /// The name of the key.
    async fn verify(&self, repos: &[ReadyRepo]) -> Result<String> {
        let keys = self.keys(repos)?;
        let name = &self.wanted.name;
        // Readable for the agent's user only.
        let scratch = tempfile::Builder::new()
            .prefix("build-agent-signature-")
            .tempdir()
            .map_err(|error| Error::machine("cannot create a temporary directory").because(&error))?;
        let (home, clone) = (scratch.path().join("keys"), scratch.path().join(name));
        fs::create_dir(&home)?;
        let commit = self.ready.commit.as_deref().unwrap_or_default();
        let safe = [clone.clone(), self.ready.path.clone()];
        let git = Git::new(self.runner, self.access, name, Some(&self.source.url), &safe)?;
        let found = match self.source.wanted.tag() {
            Some(tag) => {
                self.fetch_tag(&git, &clone, tag, commit).await?;
                let tag = format!("refs/tags/{tag}");
                agent_git::signer(&git, &clone, SignedObject::Tag(&tag), &keys, &home).await?
            }
            None => {
                let object = SignedObject::Commit(commit);
                agent_git::signer(&git, &self.ready.path, object, &keys, &home).await?
            }
        };
        if let Some(key) = found {
            return Ok(key.name.clone());
        }
        let what = what(self.source, commit);
        let names: Vec<&str> = keys.iter().map(|key| key.name.as_str()).collect();
        let message = format!(
            "`repos.{name}`: {what} of `{}` is not signed with {}",
            agent_git::display_url(&self.source.url),
            names.join(" or ")
        );
        let hint = match self.source.wanted.tag() {
            Some(_) => "only a signed tag counts here; a signed commit is named by `commit` or `branch`",
            None => "the signature must be that of this commit itself; a signed tag is named by `tag`",
        };
        Err(Error::usage(message).hint(hint))
    }

    /// The object of the tag, which a checkout of its commit does not have.
    async fn fetch_tag(&self, git: &Git<'_>, clone: &Path, tag: &str, commit: &str) -> Result<()> {
        let name = &self.wanted.name;
        let source = GitSource { wanted: Wanted::Tag(tag.to_owned()), locked: None, ..self.source.clone() };
        let found = agent_git::verify(git, clone, name, &source).await?;
        if found == commit {
            return Ok(());
        }
        let message = format!("`repos.{name}`: tag {tag} is commit {found} now, and the job uses {commit}");
        Err(Error::usage(message).hint(format!("run `build-agent lock --update {name}`")))
    }

    fn keys(&self, repos: &[ReadyRepo]) -> Result<Vec<PublicKey>> {
        let key = |signer: &crate::config::Signer| {
            let error = |why: String| {
                Error::usage(format!("`repos.{}.signers`: `{}` {why}", self.wanted.name, signer.name))
            };
            let bytes = match &signer.source {
                KeySource::Checkout { bytes, .. } => bytes.clone(),
                KeySource::Repo { repo, path } => {
                    let holder = repos.iter().find(|ready| ready.name == *repo);
                    let holder = holder.ok_or_else(|| error(format!("is of {repo}, which is not there")))?;
                    let [top, real] = [holder.path.clone(), holder.path.join(path)].map(fs::canonicalize);
                    let (top, real) = (top?, real.map_err(|problem| error(problem.to_string()))?);
                    if !real.starts_with(&top) {
                        return Err(error("is a link that leads out of the repository".into()));
                    }
                    untrusted::read_named(&real, SIGNER_KEY_LIMIT)?
                }
            };
            PublicKey::parse(signer.name.clone(), &bytes, signer.fingerprint.clone()).map_err(error)
        };
        self.wanted.signers.iter().map(key).collect()
    }
}
