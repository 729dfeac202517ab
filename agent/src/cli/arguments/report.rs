//! The arguments of `build-agent report` and `build-agent report post`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::config::{CommentWhen, GitHubReport};

/// What `report` can write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// result.json; results.json for several jobs
    Json,
    /// junit.xml
    Junit,
    /// report.html: one page for people, with a matrix for several jobs
    Html,
    /// results.sarif: the findings, for code scanning and editors
    Sarif,
    /// The final summary, on standard output
    Text,
    /// A short report for a pull request, on standard output
    Markdown,
}

impl ReportFormat {
    /// Those of a job.
    pub const DEFAULT: [ReportFormat; 4] =
        [ReportFormat::Json, ReportFormat::Junit, ReportFormat::Html, ReportFormat::Text];

    /// Whether it is a file.
    pub fn is_file(self) -> bool {
        !matches!(self, ReportFormat::Text | ReportFormat::Markdown)
    }
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Report {
    #[command(subcommand)]
    pub command: Option<ReportCommand>,
    /// events.jsonl, result.json or the directory with them; several of one change are merged: the worst verdict counts
    #[arg(required_unless_present = "cells", value_name = "SOURCE")]
    pub sources: Vec<PathBuf>,
    /// The job, where the source holds the merged events of several
    #[arg(long, value_name = "ID")]
    pub job: Option<String>,
    /// The cells of a matrix as `build-agent plan --cells` prints them: a cell without a result fails, and a result of
    /// another job is an error
    #[arg(long, value_name = "JSON", conflicts_with = "job")]
    pub cells: Option<String>,
    /// What to write [default: json,junit,html,text]
    #[arg(long, value_enum, value_delimiter = ',')]
    pub format: Vec<ReportFormat>,
    /// Directory for the reports [default: the directory of the source]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum ReportCommand {
    /// Post the result of an untrusted build to GitHub, from a trusted step
    Post(Post),
}

/// How far the job is that is posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PostState {
    Queued,
    InProgress,
    Completed,
}

#[derive(Debug, Args)]
pub struct Post {
    /// result.json of the build: a path or s3://BUCKET/KEY. If it is missing or not valid, that is posted
    pub result: Option<String>,
    /// Name of the results on GitHub; jobs with different names do not replace each other's results
    #[arg(long)]
    pub name: String,
    /// Repository on GitHub [default: that of the workflow, if `workflow_run` started it]
    #[arg(long, value_name = "OWNER/NAME")]
    pub repository: Option<String>,
    /// Commit that the build service has built [default: that of the run that `workflow_run` is about]
    #[arg(long, value_name = "SHA")]
    pub commit: Option<String>,
    /// Pull request of the commit [default: the one that the run was for]
    #[arg(long, value_name = "NUMBER")]
    pub pull_request: Option<u64>,
    /// Branch of the commit for code scanning, as refs/heads/NAME, if it is not of a pull request
    #[arg(long, value_name = "REF", value_parser = full_ref)]
    pub git_ref: Option<String>,
    /// What is posted: status, check, comment, sarif
    #[arg(long, value_name = "REPORTS", value_delimiter = ',', default_value = "status,check,comment")]
    pub post: Vec<GitHubReport>,
    /// When a pull request without a comment gets one: on-failure or always
    #[arg(long, value_name = "WHEN", default_value = "on-failure")]
    pub comment: CommentWhen,
    /// How far the job is; only a completed one has a RESULT
    #[arg(long, value_enum, default_value_t = PostState::Completed)]
    pub state: PostState,
    /// How CodeBuild ended the build; a result that passed is refused if this is not SUCCEEDED
    #[arg(long, value_name = "STATUS")]
    pub build_status: Option<String>,
    /// Id of the build; a second post for the same build updates the first [default: the id of the run or the job]
    #[arg(long, value_name = "ID", value_parser = run_id)]
    pub run: Option<String>,
    /// Address of the report for people [default: the page of the run]
    #[arg(long, value_name = "URL")]
    pub link: Option<String>,
    /// Id of a device request: its result is posted, with the name of the results and the pool of the device
    #[arg(long, value_name = "ID", requires = "store", conflicts_with_all = ["result", "run", "build_status"])]
    pub device_request: Option<String>,
    /// Where the device request is: a directory or s3://BUCKET/PREFIX
    #[arg(long, value_name = "DIR|S3", requires = "device_request")]
    pub store: Option<String>,
    /// Only validate the RESULT, and write it to result.json in this directory without its addresses; post nothing
    #[arg(long, value_name = "DIR")]
    pub save: Option<PathBuf>,
    /// Client id or number of a GitHub App
    #[arg(long, value_name = "ID", requires = "app_key_secret")]
    pub app_id: Option<String>,
    /// Name or ARN of the App's private key in Secrets Manager
    #[arg(long, value_name = "SECRET", requires = "app_id")]
    pub app_key_secret: Option<String>,
    /// Name or ARN of a token in Secrets Manager, without an App and without the variable GITHUB_TOKEN
    #[arg(long, value_name = "SECRET")]
    pub token_secret: Option<String>,
}

/// Parses an id that becomes a part of what GitHub stores.
fn run_id(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._:/-".contains(c);
    match !text.is_empty() && text.len() <= 200 && text.chars().all(good) {
        true => Ok(text.to_owned()),
        false => Err("use at most 200 letters, digits and `._:/-`".into()),
    }
}

/// Parses `refs/heads/NAME` and `refs/tags/NAME`.
fn full_ref(text: &str) -> Result<String, String> {
    let is_ref =
        ["refs/heads/", "refs/tags/"].iter().any(|kind| text.len() > kind.len() && text.starts_with(kind));
    match is_ref && !text.contains(|c: char| c.is_control() || c.is_whitespace()) {
        true => Ok(text.to_owned()),
        false => Err("write refs/heads/NAME or refs/tags/NAME".into()),
    }
}
