//! Reads definitions of other tools: fetches the repositories whose files they include, and finds the release.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::{
    self, AgentEnvironment, Fetched, Reading, ReleaseFrom, RepoSource, Request, Translated, Wanted,
};
use crate::stages::checkout;
use agent_process::Redactor;
use agent_types::error::{Error, Result};
use agent_types::source::GitSource;

use super::current_dir::current_dir;
use super::head::unrecorded_runner;
use super::layer_store::layer_store;
use super::limited_reading::limit_reading;
use super::origin;
use super::print;
use super::servers::access;

/// Time limit of git, for a few clones.
const LIMIT: Duration = Duration::from_secs(1800);

/// The most rounds of fetching and reading again.
const ROUNDS: usize = 32;

/// The request with the manifest that its definition means; a request of a manifest is not changed.
///
/// # Errors
/// Usage, with all problems of the definition; upstream, if a repository that it includes cannot be fetched.
pub async fn with_definition(request: Request, environment: &AgentEnvironment) -> Result<Request> {
    if request.definition.is_some() || !config::is_definition(&request) {
        return Ok(request);
    }
    let mut resolver = Resolver::new(&request, environment)?;
    if request.first_file().is_some_and(|file| file.ends_with(".xml")) {
        resolver.fetched = Fetched::with_origin(origin_of(&request, environment).await?);
    }
    let translated = resolver.resolve().await?;
    let notices = request.notices.iter().chain(&translated.notices).cloned().collect();
    Ok(Request { notices, definition: Some(translated), ..request })
}

/// The address of the repository that holds the definition: others may be relative to it.
async fn origin_of(request: &Request, environment: &AgentEnvironment) -> Result<Option<String>> {
    let file = current_dir()?.join(request.first_file().unwrap_or_default());
    let directory = file.parent().map(std::path::Path::to_owned).unwrap_or_default();
    Ok(origin::origin(&config::work_tree(&directory), environment).await)
}

struct Resolver<'a> {
    request: &'a Request,
    environment: &'a AgentEnvironment,
    variables: BTreeMap<String, String>,
    fetched: Fetched,
}

impl<'a> Resolver<'a> {
    fn new(request: &'a Request, environment: &'a AgentEnvironment) -> Result<Resolver<'a>> {
        limit_reading(request, environment)?;
        let is_own = !environment.ci || config::is_trusted(request, environment);
        // A stranger's definition must not read this machine's environment.
        let counts = |name: &str| is_own || name.starts_with("KAS_");
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let variables = config::whole_environment().into_iter().filter_map(text);
        let variables = variables.filter(|(name, _)| counts(name)).collect();
        Ok(Resolver { request, environment, variables, fetched: Fetched::default() })
    }

    async fn resolve(mut self) -> Result<Translated> {
        let here = current_dir()?;
        let mut last = Vec::new();
        for _ in 0..ROUNDS {
            match config::read_definition(
                self.request,
                self.environment,
                &self.variables,
                &here,
                &self.fetched,
            )? {
                Reading::Needs(wanted) => {
                    let keys: Vec<String> = wanted.iter().map(|(key, _)| key.clone()).collect();
                    if keys == last {
                        let message =
                            format!("files of {} are included, but cannot be found", keys.join(", "));
                        return Err(Error::usage(message));
                    }
                    self.fetch(wanted).await?;
                    last = keys;
                }
                Reading::Asks(questions) => self.ask(questions).await?,
                Reading::Done(translated, _) if translated.has_release() => return Ok(*translated),
                Reading::Done(translated, places) => {
                    let release = self.release(places).await?;
                    return Ok(translated.with_release(release));
                }
            }
        }
        Err(Error::usage(format!(
            "the definition includes files of more and more repositories: {ROUNDS} rounds"
        )))
    }

    async fn fetch(&mut self, wanted: Vec<(String, RepoSource)>) -> Result<()> {
        for (key, source) in wanted {
            let (path, commit) = match &source {
                RepoSource::Path(path) => (path.clone(), None),
                RepoSource::Git(git) => {
                    let (path, commit) = self.checkout(&key, git).await?;
                    (path, Some(commit))
                }
            };
            self.fetched.add(key, source, path, commit);
        }
        Ok(())
    }

    /// A checkout in the layer store, where the job finds it again.
    async fn checkout(&self, name: &str, source: &GitSource) -> Result<(std::path::PathBuf, String)> {
        let store = layer_store(self.request, self.environment)?;
        let (runner, _logs) = unrecorded_runner(self.redactor(name, source), LIMIT)?;
        let trusted = config::is_trusted(self.request, self.environment);
        let access = access(self.request, self.environment).for_source(trusted);
        print::diagnostic(format_args!("reading {name}, which the definition names"));
        checkout::one(store, &runner, &access, name, source).await
    }

    /// Hides also the secrets in the address.
    fn redactor(&self, name: &str, source: &GitSource) -> Redactor {
        let secrets = config::url_secrets(source.url.as_str(), &format!("repos.{name} url"));
        print::hide(&secrets);
        Redactor::new(&[self.environment.secrets(), &secrets].concat())
    }

    /// Asks servers whether old references are tags.
    async fn ask(&mut self, questions: Vec<(String, GitSource, String)>) -> Result<()> {
        let trusted = config::is_trusted(self.request, self.environment);
        let access = access(self.request, self.environment).for_source(trusted);
        let here = current_dir()?;
        for (key, source, text) in questions {
            let (runner, _logs) = unrecorded_runner(self.redactor(&key, &source), LIMIT)?;
            let git = agent_git::Git::new(&runner, &access, &key, Some(&source.url), &[])?;
            let branch =
                agent_git::resolve(&git, &key, &source.url, &Wanted::Branch(text.clone()), &here).await;
            let is_tag = match branch {
                Ok(_) => false,
                Err(error) if error.class == agent_types::error::Class::Usage => true,
                Err(error) => return Err(error),
            };
            self.fetched.answer(key, text, is_tag);
        }
        Ok(())
    }

    /// The release of OE-Core: by the name of its branch or tag, or by its layer.
    async fn release(&self, places: Vec<ReleaseFrom>) -> Result<&'static str> {
        if let Some(named) = places.iter().find_map(|place| place.named) {
            return Ok(named);
        }
        for place in &places {
            let path = match &place.source {
                RepoSource::Path(path) => path.clone(),
                RepoSource::Git(source) => self.checkout(&place.name, source).await?.0,
            };
            if let Some(release) = config::release_in(&path) {
                return Ok(release);
            }
        }
        let looked: Vec<&str> = places.iter().map(|place| place.name.as_str()).collect();
        let message = match looked.is_empty() {
            true => "no repository of the definition looks like OE-Core or poky, so its release is not known"
                .to_owned(),
            false => format!("no known release is in {}", looked.join(", ")),
        };
        Err(Error::usage(message).hint("name it: --release scarthgap"))
    }
}
