//! The parts of GitHub's runner that matter to the agent: the variables and events of a run, and the commands in a step's
//! output.

use std::path::{Path, PathBuf};

use crate::{Ran, repository};

/// The recorded event of this name: `push`, `pull_request`, `fork`.
pub fn event_path(event: &str) -> PathBuf {
    repository().join("tests/stand-ins/github").join(format!("{event}.json"))
}

/// The variables of a run for this event, with this commit checked out in the workspace.
pub fn variables(event: &str, workspace: &Path, commit: &str) -> Vec<(&'static str, String)> {
    let is_push = event == "push";
    let mut variables = vec![
        ("GITHUB_ACTIONS", "true".to_owned()),
        ("CI", "true".to_owned()),
        ("GITHUB_EVENT_NAME", if is_push { "push" } else { "pull_request" }.to_owned()),
        ("GITHUB_EVENT_PATH", event_path(event).display().to_string()),
        ("GITHUB_REF", if is_push { "refs/heads/main" } else { "refs/pull/7/merge" }.to_owned()),
        ("GITHUB_REF_PROTECTED", is_push.to_string()),
        ("GITHUB_SHA", commit.to_owned()),
        ("GITHUB_REPOSITORY", "example/meta-tested".to_owned()),
        ("GITHUB_WORKSPACE", workspace.display().to_string()),
        ("GITHUB_RUN_ID", "4711".to_owned()),
        ("GITHUB_RUN_ATTEMPT", "1".to_owned()),
    ];
    if !is_push {
        variables.push(("GITHUB_BASE_REF", "main".to_owned()));
        variables.push(("GITHUB_HEAD_REF", "'; touch /tmp/hostile; '".to_owned()));
    }
    variables
}

/// The commands in the output of a step that the runner executes.
pub fn executed(ran: &Ran) -> Vec<String> {
    // The runner reads both streams in the order in which they are written; no order may make a difference.
    executed_in(&format!("{}{}", ran.stdout, ran.stderr))
}

/// As the runner reads a line (`ActionCommand.cs`, `ActionCommandManager.cs`): the newer form at the start of a line,
/// after white space, and the older one anywhere.
pub fn executed_in(output: &str) -> Vec<String> {
    let mut executed = Vec::new();
    let mut word: Option<String> = None;
    for line in output.lines() {
        let Some((name, data)) = newer(line).or_else(|| older(line)) else { continue };
        match &word {
            Some(stopped) if name == *stopped => word = None,
            Some(_) => {}
            None if name == "stop-commands" => word = Some(data),
            None => executed.push(line.trim_start().to_owned()),
        }
    }
    executed
}

fn newer(line: &str) -> Option<(String, String)> {
    let (head, data) = line.trim_start().strip_prefix("::")?.split_once("::")?;
    Some((head.split(' ').next().unwrap_or_default().to_owned(), data.to_owned()))
}

fn older(line: &str) -> Option<(String, String)> {
    let (head, data) = line.split_once("##[")?.1.split_once(']')?;
    Some((head.split(' ').next().unwrap_or_default().to_owned(), data.to_owned()))
}
