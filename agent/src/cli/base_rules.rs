//! Gets the rules of a change before they are read: the rules of a pull request come from its base.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use url::Url;

use crate::config::{self, AgentEnvironment, BaseFiles, BaseTree, ChangeBase, Request, Rules, RulesSource};
use agent_git::BaseQuery;
use agent_process::Redactor;
use agent_types::error::{Class, Error, Result};

use super::current_dir::current_dir;
use super::definition::with_definition;
use super::head::unrecorded_runner;
use super::origin::origin;
use super::servers::access;

/// Time limit of git, for a few fetches of commits and of one commit's files.
const LIMIT: Duration = Duration::from_secs(300);

/// A request with the source of its rules. Dropping it deletes the files of the base.
pub struct RuledRequest {
    pub request: Request,
    _files: Option<TempDir>,
}

/// Finds out where the request's rules come from, and gets them. `layers` are those of the command line.
///
/// # Errors
/// Usage, if the options are not allowed for this build; cancelled; upstream, if the base cannot be read: a change's own
/// rules must not apply because a server does not answer. If the base is not known, the job publishes no artifacts, and
/// reports that.
pub async fn with_rules(
    request: Request,
    layers: &[PathBuf],
    environment: &AgentEnvironment,
) -> Result<RuledRequest> {
    let here = current_dir()?;
    let change = config::change_dir(&request, layers, environment, &here);
    let change = fs_err::canonicalize(&change).map_or(change, |real| config::work_tree(&real));
    let needs_url = environment.codebuild.as_ref().is_some_and(|build| build.source_url.is_none());
    let own_url = if needs_url { own_url(&change, environment).await } else { None };
    let change_base = config::change_base(&request, environment, || own_url.clone())?;
    let request = Request { change_base, ..request };
    match config::rules_source(&request, environment, || own_url)? {
        RulesSource::Checkout(notice) => {
            let notices = request.notices.iter().cloned().chain(notice).collect();
            ruled(Request { notices, ..request }, None, environment).await
        }
        RulesSource::NoBase => {
            let why = config::NO_BASE.to_owned();
            let rules = Rules::NoBase { why, hint: config::NO_BASE_HINT.to_owned() };
            ruled(Request { rules, ..request }, None, environment).await
        }
        RulesSource::Base(base) => {
            let scratch = tempfile::Builder::new()
                .prefix("build-agent-base-")
                .tempdir()
                .map_err(|error| Error::machine("cannot create a temporary directory").because(&error))?;
            let root = fs_err::canonicalize(scratch.path())?;
            let remote = base.remote.as_ref().map(|(url, branch)| (url, branch.as_str()));
            let query = BaseQuery { checkout: &change, local: &base.local, remote };
            let access = access(&request, environment);
            let (runner, _logs) = unrecorded_runner(Redactor::new(environment.secrets()), LIMIT)?;
            match agent_git::base_of(&runner, &access, &query, &root).await {
                Ok(trees) => {
                    let tree =
                        |files: agent_git::CommitFiles| BaseTree { commit: files.commit, root: files.root };
                    let mut trees: Vec<BaseTree> = trees.into_iter().map(tree).collect();
                    let began = trees.first().cloned();
                    trees.reverse();
                    let mut request = request;
                    if let ChangeBase::Base(base) = &mut request.change_base {
                        base.commit = began.as_ref().map(|tree| tree.commit.clone());
                    }
                    let files = BaseFiles { checkout: change, name: base.name, trees, began };
                    let rules = Rules::OfBase(files);
                    ruled(Request { rules, ..request }, Some(scratch), environment).await
                }
                Err(error) => Err(unreadable(&base.name, error, &request)),
            }
        }
    }
}

/// The request, with the manifest that its definition means there.
async fn ruled(
    request: Request,
    files: Option<TempDir>,
    environment: &AgentEnvironment,
) -> Result<RuledRequest> {
    let request = with_definition(request, environment).await?;
    Ok(RuledRequest { request, _files: files })
}

/// The error for a base that cannot be read.
fn unreadable(name: &str, error: Error, request: &Request) -> Error {
    if request.base.is_some() || error.class == Class::Cancelled {
        return error;
    }
    let message =
        format!("cannot read the base branch `{name}`, whose rules apply to this change: {}", error.message);
    Error { class: Class::Upstream, message, ..error }.hint(
        "clone with the full history (CodeBuild: git clone depth 0; actions/checkout: fetch-depth: 0), or let git reach the \
         repository",
    )
}

/// The repository that the checkout was cloned from.
async fn own_url(change: &Path, environment: &AgentEnvironment) -> Option<Url> {
    Url::parse(&origin(change, environment).await?).ok()
}
