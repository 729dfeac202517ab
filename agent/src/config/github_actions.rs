//! GitHub's variables, typed, and the event that started the run. Which variables exist:
//! <https://docs.github.com/en/actions/reference/workflows-and-actions/variables>
//!
//! They decide on a runner of GitHub and on one in CodeBuild (`WORKFLOW_JOB_QUEUED`), which sets CodeBuild's, too.
//! The event's file contains text that the author of a pull request wrote, so it is read as untrusted text.

use std::path::{Path, PathBuf};

use agent_fs::untrusted;
use serde::Deserialize;
use url::Url;

use super::values;
use super::variables::{Typed, Variables};

/// The variable that names the directory with the checkouts of the run.
pub const WORKSPACE: &str = "GITHUB_WORKSPACE";

/// The variable that names the file of the job summary.
pub const STEP_SUMMARY: &str = "GITHUB_STEP_SUMMARY";

/// Bytes of an event. GitHub delivers at most 25 MB.
const EVENT_LIMIT: u64 = 32 << 20;

/// The run of GitHub Actions that runs the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitHubActions {
    /// `push`, `pull_request` …
    pub event: Option<String>,
    /// The file with the event.
    pub event_path: Option<PathBuf>,
    /// The content of the file, after it was read.
    pub payload: EventPayload,
    /// `refs/heads/main`, `refs/pull/7/merge` …
    pub git_ref: Option<String>,
    /// Whether rules of the repository protect the branch.
    pub ref_is_protected: bool,
    /// The commit that the run is for.
    pub commit: Option<String>,
    /// The commit that git finds checked out in `source_dir`. `None`: unknown.
    pub checked_out: Option<String>,
    /// `owner/name`
    pub repository: Option<String>,
    /// `https://github.com`
    pub server: Option<Url>,
    /// The checkout under test: the workspace, or a work tree in it.
    pub source_dir: Option<PathBuf>,
    pub run_id: Option<u64>,
    pub run_attempt: Option<u64>,
    /// Whether GITHUB_BASE_REF or GITHUB_HEAD_REF is set, valid or not: only events of pull requests have them.
    pub has_base_or_head: bool,
    /// The target branch of a pull request.
    pub base_branch: Option<String>,
    /// Where the job summary goes.
    pub step_summary: Option<PathBuf>,
}

/// What the agent reads of an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventPayload {
    /// The event is about a pull request; its number, if there is one.
    pub pull_request: Option<Option<u64>>,
    /// The target branch of the pull request or merge group.
    pub base_branch: Option<String>,
    /// The reference of a push.
    pub git_ref: Option<String>,
    /// The branch's commit before the push; only zeros for a new branch.
    pub before: Option<String>,
    /// The repository that the event happened in.
    pub repository: Option<String>,
    /// The run after which this run was started (`workflow_run`).
    pub workflow_run: Option<WorkflowRun>,
}

/// A run of another workflow. GitHub itself names its commit; the branch is text of the author of a pull request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkflowRun {
    pub id: u64,
    pub attempt: u64,
    /// The newest commit of the branch, not a merge commit.
    pub head_commit: String,
    pub head_branch: Option<String>,
    /// The owner of the repository with the branch.
    pub head_owner: Option<String>,
    /// `pull_request`, `push` …
    pub event: String,
    pub url: Option<Url>,
}

impl GitHubActions {
    pub(super) fn from_variables(variables: &Variables, notices: &mut Vec<String>) -> Option<GitHubActions> {
        // Some of the variables are enough: an unknown value is never trusted.
        let own = ["GITHUB_EVENT_NAME", "GITHUB_EVENT_PATH", "GITHUB_RUN_ID"];
        let is_on = variables.text("GITHUB_ACTIONS").is_some_and(|text| text != "false" && text != "0");
        if !is_on && own.iter().all(|name| variables.text(name).is_none()) {
            return None;
        }
        let mut typed = Typed { variables, notices, service: "GitHub" };
        let number = |text: &str| text.parse().ok();
        let branch = |text: &str| values::git_ref(text).ok().map(|()| text.to_owned());
        Some(GitHubActions {
            event: typed.read("GITHUB_EVENT_NAME", |text| {
                text.chars().all(|c| c.is_ascii_lowercase() || c == '_').then(|| text.to_owned())
            }),
            event_path: variables.path("GITHUB_EVENT_PATH"),
            payload: EventPayload::default(),
            git_ref: typed.read("GITHUB_REF", full_ref),
            ref_is_protected: variables.text("GITHUB_REF_PROTECTED").as_deref() == Some("true"),
            commit: typed.read("GITHUB_SHA", |text| values::commit(text).ok()),
            checked_out: None,
            repository: typed.read("GITHUB_REPOSITORY", repository),
            server: typed.read("GITHUB_SERVER_URL", |text| Url::parse(text).ok()),
            source_dir: variables.path(WORKSPACE),
            run_id: typed.read("GITHUB_RUN_ID", number),
            run_attempt: typed.read("GITHUB_RUN_ATTEMPT", number),
            has_base_or_head: ["GITHUB_BASE_REF", "GITHUB_HEAD_REF"]
                .iter()
                .any(|name| variables.text(name).is_some()),
            base_branch: typed.read("GITHUB_BASE_REF", branch),
            step_summary: variables.path(STEP_SUMMARY),
        })
    }

    /// Reads the event, and finds the work tree under test: `actions/checkout` puts it at the top of the workspace,
    /// or with `path:` below it. `tree` is the work tree of the current directory. Returns a notice if the event cannot
    /// be read.
    pub fn read_event(&mut self, tree: &Path) -> Option<String> {
        if let Some(workspace) = &self.source_dir
            && !workspace.join(".git").exists()
            && fs_err::canonicalize(workspace).is_ok_and(|workspace| tree.starts_with(workspace))
            && tree.join(".git").exists()
        {
            self.source_dir = Some(tree.to_owned());
        }
        let path = self.event_path.as_ref()?;
        let read = untrusted::read(path, EVENT_LIMIT).map_err(|error| error.to_string());
        match read.and_then(|bytes| EventPayload::parse(&bytes).map_err(|error| error.to_string())) {
            Ok(payload) => {
                self.payload = payload;
                None
            }
            Err(why) => Some(format!("the event of this run (GITHUB_EVENT_PATH) cannot be read: {why}")),
        }
    }

    /// Whether a person or a schedule started the run. All other events are webhooks.
    pub fn is_started_by_hand(&self) -> bool {
        matches!(self.event.as_deref(), Some("workflow_dispatch" | "schedule"))
    }

    /// Whether users with write access caused the event. A merge group has the changes of pull requests. All other events
    /// (comments, runs after other runs), and unknown ones, may check out anything.
    pub fn is_of_repository(&self) -> bool {
        const OWN: [&str; 5] = ["push", "release", "create", "repository_dispatch", "deployment"];
        self.is_started_by_hand() || self.event.as_deref().is_some_and(|event| OWN.contains(&event))
    }

    /// Whether another commit than the run's is checked out, such as that of a pull request in a run that a comment or a
    /// dispatch has started. In a run that a person starts, every commit is allowed.
    pub fn has_other_commit(&self) -> bool {
        let differs = match (&self.commit, &self.checked_out) {
            (Some(commit), Some(checked_out)) => commit != checked_out,
            _ => false,
        };
        differs && !self.is_started_by_hand()
    }

    /// The target branch of the pull request, if the variable and the event agree.
    pub fn base_branch(&self) -> Option<&str> {
        let by_event = self.payload.base_branch.as_deref();
        match (self.base_branch.as_deref(), by_event) {
            (Some(one), Some(other)) if one != other => None,
            (one, other) => one.or(other),
        }
    }

    /// The address of the repository for git.
    pub fn repository_url(&self) -> Option<Url> {
        let (server, repository) = (self.server.as_ref()?, self.repository.as_ref()?);
        Url::parse(&format!("{}/{repository}", server.as_str().trim_end_matches('/'))).ok()
    }

    /// The page of this run.
    pub fn url(&self) -> Option<Url> {
        let page = self.repository_url().filter(|url| matches!(url.scheme(), "https" | "http"))?;
        let attempt = self.run_attempt.map(|attempt| format!("/attempts/{attempt}")).unwrap_or_default();
        Url::parse(&format!("{page}/actions/runs/{}{attempt}", self.run_id?)).ok()
    }
}

impl EventPayload {
    /// Parses the file of an event, as GitHub documents it:
    /// <https://docs.github.com/en/webhooks/webhook-events-and-payloads>.
    ///
    /// # Errors
    /// If it is not an event.
    pub fn parse(bytes: &[u8]) -> serde_json::Result<EventPayload> {
        let event: Event = serde_json::from_slice(bytes)?;
        let by_issue = event.issue.as_ref().filter(|issue| issue.pull_request.is_some());
        let pull_request = match (&event.pull_request, by_issue) {
            (None, None) => None,
            (Some(pull), _) => Some(pull.number.or(event.number)),
            (None, Some(issue)) => Some(issue.number),
        };
        let named = |text: String| values::git_ref(&text).ok().map(|()| text);
        let base = event.pull_request.and_then(|pull| pull.base).and_then(|base| base.git_ref);
        let of_group = event.merge_group.and_then(|group| group.base_ref);
        let of_group = of_group.and_then(|text| text.strip_prefix("refs/heads/").map(str::to_owned));
        Ok(EventPayload {
            pull_request,
            base_branch: base.or(of_group).and_then(named),
            git_ref: event.git_ref.as_deref().and_then(full_ref),
            before: event.before.and_then(|commit| values::commit(&commit).ok()),
            repository: event.repository.and_then(|found| found.full_name),
            workflow_run: event.workflow_run.and_then(WorkflowRun::of),
        })
    }
}

impl WorkflowRun {
    fn of(raw: RawWorkflowRun) -> Option<WorkflowRun> {
        Some(WorkflowRun {
            id: raw.id?,
            attempt: raw.run_attempt.unwrap_or(1),
            head_commit: values::commit(&raw.head_sha?).ok()?,
            head_branch: raw.head_branch,
            head_owner: raw.head_repository.and_then(|found| Some(found.owner?.login)),
            event: raw.event.unwrap_or_default(),
            url: raw.html_url.and_then(|text| Url::parse(&text).ok()).filter(|url| url.scheme() == "https"),
        })
    }
}

/// The fields of an event that the agent reads. All others are skipped.
#[derive(Deserialize)]
struct Event {
    number: Option<u64>,
    pull_request: Option<PullRequest>,
    issue: Option<Issue>,
    merge_group: Option<MergeGroup>,
    #[serde(rename = "ref")]
    git_ref: Option<String>,
    before: Option<String>,
    repository: Option<Repository>,
    workflow_run: Option<RawWorkflowRun>,
}

#[derive(Deserialize)]
struct RawWorkflowRun {
    id: Option<u64>,
    run_attempt: Option<u64>,
    head_sha: Option<String>,
    head_branch: Option<String>,
    head_repository: Option<Repository>,
    event: Option<String>,
    html_url: Option<String>,
}

#[derive(Deserialize)]
struct Owner {
    login: String,
}

#[derive(Deserialize)]
struct PullRequest {
    number: Option<u64>,
    base: Option<Base>,
}

#[derive(Deserialize)]
struct Base {
    #[serde(rename = "ref")]
    git_ref: Option<String>,
}

#[derive(Deserialize)]
struct MergeGroup {
    /// `refs/heads/main`
    base_ref: Option<String>,
}

#[derive(Deserialize)]
struct Issue {
    number: Option<u64>,
    /// Present if the issue is a pull request.
    pull_request: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Repository {
    full_name: Option<String>,
    owner: Option<Owner>,
}

/// `refs/heads/NAME`, `refs/tags/NAME`, `refs/pull/NUMBER/merge`.
fn full_ref(text: &str) -> Option<String> {
    let name = ["refs/heads/", "refs/tags/", "refs/pull/"].iter().find_map(|kind| text.strip_prefix(kind))?;
    values::git_ref(name).ok().map(|()| text.to_owned())
}

/// `owner/name`
fn repository(text: &str) -> Option<String> {
    let good = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    let (owner, name) = text.split_once('/')?;
    (good(owner) && good(name)).then(|| text.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::AgentEnvironment;
    use super::*;

    #[test]
    fn parses_the_variables_of_a_run() {
        let environment = AgentEnvironment::from_map([
            ("GITHUB_ACTIONS", "true"),
            ("GITHUB_EVENT_NAME", "push"),
            ("GITHUB_REF", "refs/heads/release/1"),
            ("GITHUB_REF_PROTECTED", "true"),
            ("GITHUB_SHA", "0123456789abcdef0123456789abcdef01234567"),
            ("GITHUB_REPOSITORY", "owner/meta-x"),
            ("GITHUB_SERVER_URL", "https://github.com"),
            ("GITHUB_WORKSPACE", "/home/runner/work/meta-x/meta-x"),
            ("GITHUB_RUN_ID", "17"),
            ("GITHUB_RUN_ATTEMPT", "2"),
        ]);
        assert!(environment.notices.is_empty() && environment.ci, "{:?}", environment.notices);
        let run = environment.github_actions.as_ref().unwrap();
        assert_eq!(run.git_ref.as_deref(), Some("refs/heads/release/1"));
        assert!(run.ref_is_protected && !run.has_base_or_head && !run.is_started_by_hand());
        let url = run.url().unwrap();
        assert_eq!(url.as_str(), "https://github.com/owner/meta-x/actions/runs/17/attempts/2");
        let source = environment.source_dir().unwrap();
        assert_eq!(source, (WORKSPACE, Path::new("/home/runner/work/meta-x/meta-x")));
        assert_eq!(environment.source_commit(), Some("0123456789abcdef0123456789abcdef01234567"));
    }

    #[test]
    fn ignores_and_reports_unexpected_values() {
        let environment = AgentEnvironment::from_map([
            ("GITHUB_ACTIONS", "true"),
            ("GITHUB_EVENT_NAME", "push\n::error::"),
            ("GITHUB_REF", "refs/heads/$(rm -rf ~)"),
            ("GITHUB_REF_PROTECTED", "TRUE"),
            ("GITHUB_SHA", "main"),
            ("GITHUB_REPOSITORY", "../x"),
            ("GITHUB_RUN_ID", "-1"),
        ]);
        let run = environment.github_actions.unwrap();
        assert_eq!(run, GitHubActions::default());
        assert_eq!(environment.notices.len(), 5, "{:?}", environment.notices);
        assert!(environment.notices.iter().all(|notice| !notice.contains('\n')));
    }

    #[test]
    fn a_part_of_the_variables_is_a_run_of_github() {
        for (name, value, is_run) in [
            ("GITHUB_ACTIONS", "true", true),
            ("GITHUB_ACTIONS", "false", false),
            ("GITHUB_EVENT_NAME", "push", true),
            ("GITHUB_EVENT_PATH", "/e", true),
            ("GITHUB_RUN_ID", "1", true),
            ("GITHUB_TOKEN", "hunter22", false),
            ("GITHUB_REPOSITORY", "a/b", false),
        ] {
            let environment = AgentEnvironment::from_map([(name, value)]);
            assert_eq!(environment.github_actions.is_some(), is_run, "{name}={value}");
        }
    }

    #[test]
    fn reads_events_as_untrusted_text() {
        let read = |text: &str| EventPayload::parse(text.as_bytes());
        let pull = |text: &str| read(text).unwrap().pull_request;
        assert_eq!(pull(r#"{"number":7,"pull_request":{"base":{"ref":"main"}}}"#), Some(Some(7)));
        assert_eq!(pull(r#"{"pull_request":{"number":8}}"#), Some(Some(8)));
        assert_eq!(pull(r#"{"pull_request":{}}"#), Some(None));
        assert_eq!(pull(r#"{"issue":{"number":9,"pull_request":{"url":"x"}}}"#), Some(Some(9)));
        assert_eq!(pull(r#"{"issue":{"number":9}}"#), None, "an issue is not a pull request");
        assert_eq!(pull(r#"{"ref":"refs/heads/main","unknown":[{}]}"#), None);
        let group = read(r#"{"merge_group":{"base_ref":"refs/heads/release/1","head_ref":"x"}}"#).unwrap();
        assert_eq!((group.pull_request, group.base_branch.as_deref()), (None, Some("release/1")));
        let run = r#"{"workflow_run":{"id":5,"run_attempt":2,"head_sha":"0123456789abcdef0123456789abcdef01234567",
            "head_branch":"a b","head_repository":{"owner":{"login":"stranger"}},"event":"pull_request",
            "html_url":"https://github.com/o/r/actions/runs/5","pull_requests":[]}}"#;
        let wanted = WorkflowRun {
            id: 5,
            attempt: 2,
            head_commit: "0123456789abcdef0123456789abcdef01234567".into(),
            head_branch: Some("a b".into()),
            head_owner: Some("stranger".into()),
            event: "pull_request".into(),
            url: Url::parse("https://github.com/o/r/actions/runs/5").ok(),
        };
        assert_eq!(read(run).unwrap().workflow_run, Some(wanted));
        assert_eq!(read(r#"{"workflow_run":{"id":5,"head_sha":"main"}}"#).unwrap().workflow_run, None);
        let hostile = read(r#"{"pull_request":{"number":1,"base":{"ref":"a b"}}}"#).unwrap();
        assert_eq!(hostile.base_branch, None);
        for bad in ["", "[", "7", r#"{"number":-1}"#, r#"{"pull_request":7}"#] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_event_file_is_bounded_and_never_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("event.json");
        let mut run = GitHubActions { event_path: Some(path.clone()), ..GitHubActions::default() };
        assert!(run.read_event(directory.path()).unwrap().contains("cannot be read"));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(run.read_event(directory.path()).is_some());
        fs_err::remove_file(&path).unwrap();
        fs_err::File::create(&path).unwrap().set_len(EVENT_LIMIT + 1).unwrap();
        assert!(run.read_event(directory.path()).unwrap().contains("larger than"));
        fs_err::write(&path, r#"{"pull_request":{"number":7}}"#).unwrap();
        assert_eq!(run.read_event(directory.path()), None);
        assert_eq!(run.payload.pull_request, Some(Some(7)));
    }

    #[test]
    fn the_work_tree_below_the_workspace_is_under_test() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().canonicalize().unwrap();
        fs_err::create_dir_all(top.join("layer/.git")).unwrap();
        fs_err::create_dir_all(top.join("layer/sub")).unwrap();
        let looked = |workspace: &Path, cwd: &Path| {
            let mut run =
                GitHubActions { source_dir: Some(workspace.to_owned()), ..GitHubActions::default() };
            run.read_event(&super::super::work_tree(cwd));
            run.source_dir.unwrap()
        };
        assert_eq!(looked(&top, &top.join("layer/sub")), top.join("layer"));
        assert_eq!(looked(&top, &top), top, "no work tree is there");
        assert_eq!(looked(&top.join("layer"), &top), top.join("layer"));
        let elsewhere = tempfile::tempdir().unwrap();
        fs_err::create_dir(elsewhere.path().join(".git")).unwrap();
        assert_eq!(looked(&top, elsewhere.path()), top, "only below the workspace");
    }
}
