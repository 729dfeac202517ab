//! Where results belong. A result never decides it: the trusted side knows it.

use agent_github::Repository;

use crate::config::CommentWhen;

/// The place of a job's results on GitHub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub repository: Repository,
    pub commit: String,
    /// The branch, tag or pull request, for code scanning: `refs/heads/NAME`, `refs/pull/NUMBER/head`.
    pub git_ref: Option<String>,
    /// The pull request that may get a comment: one whose newest commit this is.
    pub pull_request: Option<u64>,
    /// Why there is no comment, if a pull request exists.
    pub no_comment: Option<String>,
    /// The name of the results. Jobs with different names do not replace each other's results.
    pub name: String,
    /// The job's id, or that of the run: a step that posts again updates what it posted.
    pub job: String,
    /// The report, for people.
    pub link: Option<String>,
    pub comment: CommentWhen,
}

impl Place {
    /// The place of the result of a device run, with a name of its own: neither result replaces the other. `request`: its
    /// id.
    pub fn of_device(&self, pool: &str, request: &str) -> Place {
        Place { name: format!("{} / {pool}", self.name), job: request.to_owned(), ..self.clone() }
    }
}
