//! The only file that reads the process's environment. All others use [`AgentEnvironment`].
//!
//! An empty variable counts as absent: CodeBuild and GitHub set variables to an empty string if they have no
//! value (forks, manual starts).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use agent_git::Sites;
use agent_github::{DEFAULT_API, is_api_url};
use agent_process::credentials::CredentialSources;
use agent_types::error::{Error, Result};
use agent_types::secrets;
use url::Url;

use super::codebuild::{CodeBuild, Trigger};
use super::credential_sources::credential_sources;
use super::git_sites;
use super::github_actions::{self, GitHubActions};
use super::secrets_file::{self, AwsKeys, VARIABLE as SECRETS_FILE};
use super::settings::{RecipeCredential, Secret};
use super::variable_secrets::{MIN_LENGTH, secrets_of};
use super::variables::Variables;

/// The variable that names the branches whose pushes are trusted.
pub const TRUSTED_BRANCHES: &str = "BUILD_AGENT_TRUSTED_BRANCHES";

/// The variable with the filter of the diagnostics.
pub const LOG_VARIABLE: &str = "BUILD_AGENT_LOG";

/// The variable that names the machine's compute type, for its price.
const COMPUTE_TYPE: &str = "BUILD_AGENT_COMPUTE_TYPE";

/// The variable with the price of a minute of this machine.
const USD_PER_MINUTE: &str = "BUILD_AGENT_USD_PER_MINUTE";

/// The variable that names the container image. docker/run sets it.
const IMAGE: &str = "BUILD_AGENT_IMAGE";

/// The variable with the address of GitHub's API. GitHub Actions sets it.
const GITHUB_API: &str = "GITHUB_API_URL";

/// The variable with a task token of Step Functions.
const TASK_TOKEN: &str = "BUILD_AGENT_TASK_TOKEN";

/// The variable that says who requests tests on devices.
const DEVICE_REQUESTS: &str = "BUILD_AGENT_DEVICE_REQUESTS";

/// The variable that names the directory of the caches that the jobs of one user share, or turns them off.
pub const CACHE: &str = "BUILD_AGENT_CACHE";

/// The variable that turns the metrics on and off.
const METRICS: &str = "BUILD_AGENT_METRICS";

/// The agent's input from its environment, captured once at the start.
#[derive(Clone, Default)]
pub struct AgentEnvironment {
    /// Whether the agent runs as root.
    pub root: bool,
    pub home: Option<PathBuf>,
    pub user: Option<String>,
    /// Where programs are looked for.
    pub path: Option<String>,
    pub xdg_cache_home: Option<PathBuf>,
    /// `BUILD_AGENT_WORK_DIR`: the default of `--work-dir`.
    pub work_dir: Option<PathBuf>,
    /// `BUILD_AGENT_CACHE`: where the jobs of this user share their caches.
    pub local_cache: Option<LocalCache>,
    /// `BUILD_AGENT_TRUSTED_BRANCHES`: a regular expression of the branches whose pushes are trusted.
    pub trusted_branches: Option<String>,
    /// `BUILD_AGENT_LOG`: which diagnostics are recorded.
    pub log: Option<String>,
    pub lang: Option<String>,
    pub lc_all: Option<String>,
    pub term: Option<String>,
    /// Whether `NO_COLOR` is set, to any value (<https://no-color.org>).
    pub no_color: bool,
    /// Whether a service runs the agent: CodeBuild, GitHub Actions, or another one that sets `CI`.
    pub ci: bool,
    /// Whether a job prints its metrics for CloudWatch. The default is yes if CodeBuild keeps the log.
    pub metrics: bool,
    /// `BUILD_AGENT_COMPUTE_TYPE`
    pub compute_type: Option<String>,
    /// `BUILD_AGENT_USD_PER_MINUTE`
    pub usd_per_minute: Option<f64>,
    /// The region of AWS.
    pub region: Option<String>,
    /// The container image: `BUILD_AGENT_IMAGE`, or as CodeBuild names it.
    pub image: Option<String>,
    /// The way to the user's ssh keys, for git.
    pub ssh_auth_sock: Option<PathBuf>,
    pub github_token: Option<Secret>,
    /// Mirrors, credentials and keys for git: [`git_sites`].
    pub git_sites: Sites,
    /// Credentials that layer code of trusted sources gets.
    pub recipe_credentials: Vec<RecipeCredential>,
    /// `BUILD_AGENT_TASK_TOKEN`: the execution of Step Functions that waits for a device.
    pub task_token: Option<Secret>,
    /// Whether another step requests tests on devices: `BUILD_AGENT_DEVICE_REQUESTS=publish`.
    pub publishes_device_files: bool,
    /// The job of AWS Batch that runs the agent, with the number of its attempt.
    pub batch_job: Option<String>,
    /// The address of GitHub's API, if it is not that of github.com.
    pub github_api: Option<Url>,
    /// AWS keys from the file of `BUILD_AGENT_SECRETS_FILE`. The AWS SDK itself reads keys in the environment.
    pub aws_keys: Option<AwsKeys>,
    /// The places of credentials that the variables name.
    pub credential_sources: CredentialSources,
    /// The way to servers, by the variables' names as they are set: proxies (`http_proxy`,
    /// `HTTPS_PROXY`, `no_proxy` …) and certificates.
    pub network: BTreeMap<String, String>,
    /// Present if CodeBuild runs the agent.
    pub codebuild: Option<CodeBuild>,
    /// Present if GitHub Actions runs the agent, also on a runner in CodeBuild.
    pub github_actions: Option<GitHubActions>,
    /// Messages about ignored variables with invalid values.
    pub notices: Vec<String>,
    /// The variables of the file of `BUILD_AGENT_SECRETS_FILE`, which is gone.
    file_secrets: BTreeMap<String, String>,
    secrets: Vec<Secret>,
}

/// What `BUILD_AGENT_CACHE` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalCache {
    /// Each job has caches of its own.
    Off,
    Directory(PathBuf),
}

impl From<PathBuf> for LocalCache {
    fn from(path: PathBuf) -> LocalCache {
        if path == Path::new("off") { LocalCache::Off } else { LocalCache::Directory(path) }
    }
}

/// The environment as it is, for a process that hands it on to the program in whose place it stands.
pub fn whole() -> Vec<(std::ffi::OsString, std::ffi::OsString)> {
    std::env::vars_os().collect()
}

/// Proxy URLs may contain passwords, so nothing is printed.
impl std::fmt::Debug for AgentEnvironment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentEnvironment").finish_non_exhaustive()
    }
}

impl AgentEnvironment {
    /// Captures the environment of this process, and reads and deletes the file of `BUILD_AGENT_SECRETS_FILE`.
    ///
    /// # Errors
    /// Usage, if that file cannot be read, or contains anything but secrets.
    pub fn from_process() -> Result<AgentEnvironment> {
        let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        let variables = std::env::vars_os().map(|(name, value)| (lossy(name), value)).collect();
        let root = nix::unistd::geteuid().is_root();
        Ok(AgentEnvironment { root, ..AgentEnvironment::with_secrets_file(variables)? })
    }

    /// Adds the variables of the file that `BUILD_AGENT_SECRETS_FILE` names. All processes of the same user can read the
    /// agent's environment in `/proc`. Only the agent can read this file, because it deletes the file.
    fn with_secrets_file(mut variables: BTreeMap<String, OsString>) -> Result<AgentEnvironment> {
        let (mut aws_keys, mut file_secrets) = (None, BTreeMap::new());
        if let Some(file) = variables.get(SECRETS_FILE).filter(|file| !file.is_empty()) {
            let secrets = secrets_file::take(Path::new(file))?;
            aws_keys = secrets_file::aws_keys(&secrets)?;
            variables.extend(secrets.iter().map(|(name, value)| (name.clone(), value.into())));
            file_secrets = secrets;
        }
        let all = Variables::new(variables.clone());
        let (sites, recipe_credentials) = (git_sites::read(&all)?, git_sites::for_recipes(&all)?);
        let environment = AgentEnvironment {
            aws_keys,
            recipe_credentials,
            file_secrets,
            ..AgentEnvironment::from_map(variables)
        };
        Ok(environment.with_git_sites(sites))
    }

    fn with_git_sites(mut self, sites: Sites) -> AgentEnvironment {
        self.secrets.extend(self.recipe_credentials.iter().map(|credential| credential.password.clone()));
        self.secrets.extend(sites.credentials.iter().map(|credential| credential.password.clone()));
        let files = git_sites::credential_files(&sites);
        self.credential_sources.files.extend(files.map(|(name, path)| (name, path.to_owned())));
        AgentEnvironment { git_sites: sites, ..self }
    }

    /// The environment of a child process that runs this program, and the text for its standard input: the secrets of the
    /// file, which this process has deleted.
    pub fn for_agent(&self) -> (Vec<(OsString, OsString)>, Vec<u8>) {
        let mut variables = whole();
        variables.retain(|(name, _)| name != SECRETS_FILE);
        if !self.file_secrets.is_empty() {
            variables.push((SECRETS_FILE.into(), "/dev/fd/0".into()));
        }
        let secrets = self.file_secrets.iter().map(|(name, value)| format!("{name}={value}\0"));
        (variables, secrets.collect::<String>().into_bytes())
    }

    /// Makes it from names and values, for a user that is not root.
    pub fn from_map<N: Into<String>, V: Into<OsString>>(
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> AgentEnvironment {
        let variables =
            Variables::new(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect());
        let mut notices = Vec::new();
        let is_set = |name| variables.text(name).is_some_and(|value| value != "false" && value != "0");
        let codebuild = CodeBuild::from_variables(&variables, &mut notices);
        let github_actions = GitHubActions::from_variables(&variables, &mut notices);
        let ci = codebuild.is_some() || github_actions.is_some() || is_set("CI");
        AgentEnvironment {
            root: false,
            home: variables.path("HOME"),
            user: variables.text("USER"),
            path: variables.text("PATH"),
            xdg_cache_home: variables.path("XDG_CACHE_HOME").filter(|path| path.is_absolute()),
            work_dir: variables.path("BUILD_AGENT_WORK_DIR"),
            local_cache: variables.path(CACHE).map(LocalCache::from),
            trusted_branches: variables.text(TRUSTED_BRANCHES),
            log: variables.text(LOG_VARIABLE),
            lang: variables.text("LANG"),
            lc_all: variables.text("LC_ALL"),
            term: variables.text("TERM"),
            no_color: variables.text("NO_COLOR").is_some(),
            ci,
            metrics: metrics(&variables, &mut notices).unwrap_or_else(|| {
                // The output of a CodeBuild machine that is GitHub's runner goes to GitHub.
                let started = codebuild.as_ref().is_some_and(|build| build.build_id.is_some());
                started && github_actions.is_none()
            }),
            compute_type: variables.text(COMPUTE_TYPE),
            usd_per_minute: usd_per_minute(&variables, &mut notices),
            region: variables.text("AWS_REGION").or_else(|| variables.text("AWS_DEFAULT_REGION")),
            image: variables.text(IMAGE).or_else(|| variables.text("CODEBUILD_BUILD_IMAGE")),
            ssh_auth_sock: variables.path("SSH_AUTH_SOCK"),
            github_token: variables
                .text("GITHUB_TOKEN")
                .map(|value| Secret { origin: "variable GITHUB_TOKEN".into(), value }),
            task_token: variables
                .text(TASK_TOKEN)
                .map(|value| Secret { origin: format!("variable {TASK_TOKEN}"), value }),
            git_sites: Sites::default(),
            recipe_credentials: Vec::new(),
            publishes_device_files: publishes_device_files(&variables, &mut notices),
            batch_job: batch_job(&variables),
            github_api: github_api(&variables, &mut notices),
            network: variables.network(),
            aws_keys: None,
            credential_sources: CredentialSources { by_service: ci, ..credential_sources(&variables) },
            codebuild,
            github_actions,
            secrets: secrets_of(&variables),
            notices,
            file_secrets: BTreeMap::new(),
        }
    }

    /// Adds the secrets in the words of the command line: a password in a URL appears in the output of the
    /// programs that get it.
    pub fn with_command_line<'a>(mut self, words: impl IntoIterator<Item = &'a str>) -> AgentEnvironment {
        for value in words.into_iter().flat_map(secrets::values_of_word) {
            if value.len() >= MIN_LENGTH && !self.secrets.iter().any(|known| known.value == value) {
                self.secrets.push(Secret { origin: "command line".into(), value });
            }
        }
        self
    }

    /// The directory of the source under test that the service has checked out, and the variable that names it. On
    /// GitHub's runner in CodeBuild, GitHub's variable decides.
    pub fn source_dir(&self) -> Option<(&'static str, &Path)> {
        match (&self.github_actions, &self.codebuild) {
            (Some(run), _) => Some((github_actions::WORKSPACE, run.source_dir.as_deref()?)),
            (None, build) => Some(("CODEBUILD_SRC_DIR", build.as_ref()?.src_dir.as_deref()?)),
        }
    }

    /// Drops the service's source if the layers under test are not in it.
    pub fn retain_source_dir(&mut self, is_under_test: impl Fn(&Path) -> bool) {
        let by_github = self.github_actions.as_mut().map(|run| &mut run.source_dir);
        let by_codebuild = self.codebuild.as_mut().map(|build| &mut build.src_dir);
        for directory in by_github.into_iter().chain(by_codebuild) {
            *directory = directory.take().filter(|directory| is_under_test(directory));
        }
    }

    /// The commit of the source under test, as the service names it.
    pub fn source_commit(&self) -> Option<&str> {
        // The commit of a source that is not under test is not the commit of the layers.
        self.source_dir()?;
        match (&self.github_actions, &self.codebuild) {
            (Some(run), _) => run.commit.as_deref(),
            (None, build) => build.as_ref()?.resolved_commit.as_deref(),
        }
    }

    /// Records which commit git finds checked out in [`source_dir`](Self::source_dir).
    pub fn set_checked_out(&mut self, commit: Option<String>) {
        match (&mut self.github_actions, &mut self.codebuild) {
            (Some(run), _) => run.checked_out = commit,
            (None, Some(build)) => build.checked_out = commit,
            (None, None) => {}
        }
    }

    /// The address of GitHub's API.
    pub fn api(&self) -> Result<Url> {
        match &self.github_api {
            Some(api) => Ok(api.clone()),
            None => Url::parse(DEFAULT_API)
                .map_err(|error| Error::internal("the address of GitHub's API").because(&error)),
        }
    }

    /// The repository of the source under test on GitHub, as the service names it: `owner/name`.
    pub fn source_repository(&self) -> Option<String> {
        match (&self.github_actions, &self.codebuild) {
            (Some(run), _) => run.repository.clone(),
            (None, build) => {
                let url = build.as_ref()?.source_url.as_ref()?;
                let path = url.path().trim_matches('/');
                let path = path.strip_suffix(".git").unwrap_or(path);
                Some(path.to_owned()).filter(|_| url.host_str() == Some("github.com"))
            }
        }
    }

    /// The branch or tag that was pushed, as a full reference.
    pub fn pushed_ref(&self) -> Option<String> {
        match (&self.github_actions, &self.codebuild) {
            (Some(run), _) => run.git_ref.clone(),
            (None, build) => match build.as_ref()?.trigger.as_ref()? {
                Trigger::Branch(branch) => Some(format!("refs/heads/{branch}")),
                Trigger::Tag(tag) => Some(format!("refs/tags/{tag}")),
                Trigger::PullRequest(_) => None,
            },
        }
    }

    /// Every value that must never be shown.
    pub fn secrets(&self) -> &[Secret] {
        &self.secrets
    }
}

/// The price in the variable, if it is set and valid.
fn usd_per_minute(variables: &Variables, notices: &mut Vec<String>) -> Option<f64> {
    let text = variables.text(USD_PER_MINUTE)?;
    let price = text.parse().ok().filter(|price: &f64| price.is_finite() && *price >= 0.0);
    if price.is_none() {
        notices.push(format!(
            "the variable {USD_PER_MINUTE} is ignored: {text:?} is not a price in USD, such as 0.02"
        ));
    }
    price
}

/// The address in the variable, if it is safe for a token.
fn github_api(variables: &Variables, notices: &mut Vec<String>) -> Option<Url> {
    let text = variables.text(GITHUB_API)?;
    let url = Url::parse(&text).ok().filter(is_api_url);
    if url.is_none() {
        notices.push(format!("the variable {GITHUB_API} is ignored: it is not an https:// address"));
    }
    url
}

/// `ID-ATTEMPT`: <https://docs.aws.amazon.com/batch/latest/userguide/job_env_vars.html>.
fn batch_job(variables: &Variables) -> Option<String> {
    let attempt = variables.text("AWS_BATCH_JOB_ATTEMPT").unwrap_or_default();
    variables.text("AWS_BATCH_JOB_ID").map(|id| format!("{id}-{attempt}"))
}

/// Whether the variable says that another step requests the tests.
fn publishes_device_files(variables: &Variables, notices: &mut Vec<String>) -> bool {
    match variables.text(DEVICE_REQUESTS).as_deref() {
        None | Some("submit") => false,
        Some("publish") => true,
        Some(other) => {
            notices.push(format!(
                "the variable {DEVICE_REQUESTS} is ignored: {other:?} is neither `submit` nor `publish`"
            ));
            false
        }
    }
}

/// The value of the variable, if it is set and valid.
fn metrics(variables: &Variables, notices: &mut Vec<String>) -> Option<bool> {
    match variables.text(METRICS)?.as_str() {
        "emf" => Some(true),
        "off" => Some(false),
        other => {
            notices.push(format!("the variable {METRICS} is ignored: {other:?} is neither `emf` nor `off`"));
            None
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn empty_variable_is_absent() {
        let environment = AgentEnvironment::from_map([
            ("GITHUB_TOKEN", ""),
            ("NO_COLOR", ""),
            ("CI", ""),
            ("HOME", ""),
            ("CODEBUILD_BUILD_ID", ""),
            ("BUILD_AGENT_WORK_DIR", ""),
        ]);
        assert!(environment.github_token.is_none() && environment.home.is_none());
        assert!(!environment.no_color && !environment.ci);
        assert!(environment.codebuild.is_none() && environment.work_dir.is_none());
        assert!(environment.secrets().is_empty());
    }

    #[test]
    fn metrics_are_for_the_log_of_codebuild_or_by_request() {
        let build = ("CODEBUILD_BUILD_ID", "check-meta-x:1");
        let runner = ("GITHUB_ACTIONS", "true");
        let table: [(&[(&str, &str)], bool); 8] = [
            (&[], false),
            (&[("CI", "true")], false),
            (&[build], true),
            (&[build, runner], false),
            (&[build, runner, ("BUILD_AGENT_METRICS", "emf")], true),
            (&[build, ("BUILD_AGENT_METRICS", "off")], false),
            (&[("BUILD_AGENT_METRICS", "emf")], true),
            (&[("CODEBUILD_SRC_DIR", "/src")], false),
        ];
        for (variables, wanted) in table {
            let environment = AgentEnvironment::from_map(variables.iter().copied());
            assert_eq!((environment.metrics, environment.notices.len()), (wanted, 0), "{variables:?}");
        }
        let environment = AgentEnvironment::from_map([build, ("BUILD_AGENT_METRICS", "xml")]);
        assert_eq!((environment.metrics, environment.notices.len()), (true, 1));
    }

    #[test]
    fn finds_secrets_of_the_command_line() {
        let words = ["run", "--set", "repos.poky.url=https://me:hunter22@host/x", "--set=a=https://u:p@h/x"];
        let environment = AgentEnvironment::default().with_command_line(words);
        let values: Vec<_> = environment.secrets().iter().map(|secret| secret.value.as_str()).collect();
        assert_eq!(values, ["hunter22"]);
    }

    #[test]
    fn proxies_and_certificates_keep_their_names() {
        let environment = AgentEnvironment::from_map([
            ("HTTPS_PROXY", "http://p:1"),
            ("no_proxy", "x"),
            ("PROXY", "y"),
            ("SSL_CERT_FILE", "/c"),
        ]);
        let names: Vec<_> = environment.network.keys().map(String::as_str).collect();
        assert_eq!(names, ["HTTPS_PROXY", "SSL_CERT_FILE", "no_proxy"]);
    }

    #[test]
    fn secrets_of_the_file_count_like_variables_and_the_file_is_deleted() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("secrets");
        fs_err::write(
            &file,
            "GITHUB_TOKEN=hunter22\0AWS_ACCESS_KEY_ID=AKIA\0AWS_SECRET_ACCESS_KEY=hunter33\0",
        )
        .unwrap();
        let variables: BTreeMap<String, OsString> =
            [(SECRETS_FILE.to_owned(), file.clone().into()), ("GITHUB_TOKEN".into(), "old".into())].into();
        let environment = AgentEnvironment::with_secrets_file(variables.clone()).unwrap();
        assert_eq!(environment.github_token.as_ref().unwrap().value, "hunter22");
        assert_eq!(environment.aws_keys.as_ref().unwrap().secret_access_key, "hunter33");
        let hidden: Vec<_> = environment.secrets().iter().map(|secret| secret.value.as_str()).collect();
        assert!(hidden.contains(&"hunter22") && hidden.contains(&"hunter33"), "{hidden:?}");
        assert!(!file.exists());
        let error = AgentEnvironment::with_secrets_file(variables).err().unwrap();
        assert!(error.message.contains(SECRETS_FILE), "{error}");
        let none = [(SECRETS_FILE.to_owned(), OsString::new())].into();
        assert!(AgentEnvironment::with_secrets_file(none).unwrap().aws_keys.is_none());
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let environment = AgentEnvironment::from_map([
            ("GITHUB_TOKEN", "hunter22"),
            ("https_proxy", "http://u:hunter22@p:1"),
        ]);
        assert!(!format!("{environment:?}").contains("hunter22"));
    }
}
