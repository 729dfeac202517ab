//! `build-agent diff A B` and `lock --diff`: the commits between two locks or two results, by repository.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::config::lock::Lock;
use crate::config::{self, AgentEnvironment, Request};
use crate::report::{CELL_PINS, merged};
use agent_fs::untrusted;
use agent_git::{Access, Git, History};
use agent_process::Redactor;
use agent_types::error::{Class, Error, Result};
use agent_types::outcome::ExitStatus;
use agent_types::sanitize::sanitize_line;

use super::arguments;
use super::head::unrecorded_runner;
use super::print;
use super::report::read_summary;
use super::servers::access;

/// Time limit of git, for all repositories together.
const LIMIT: Duration = Duration::from_secs(600);

/// The name of the layer under test in the list of repositories.
const UNDER_TEST: &str = "layer under test";

/// The commits of all repositories, by their names.
pub type Commits = BTreeMap<String, At>;

/// A repository and its commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    /// `None`, if it is not known.
    pub url: Option<String>,
    pub commit: String,
}

pub async fn command(args: arguments::Diff, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let (old, new) = (read(&args.old)?, read(&args.new)?);
    show(&old, &new, args.json, &access(&Request::default(), environment), environment).await?;
    Ok(ExitStatus::Passed)
}

/// Reads a lock, a result, or the directory of one.
fn read(path: &Path) -> Result<Commits> {
    let file = match path.is_dir() {
        // The commits of all cells of a matrix.
        true if path.join(merged::NAME).exists() => path.join(CELL_PINS),
        true => path.join("result.json"),
        false => path.to_owned(),
    };
    let bytes = untrusted::read(&file, untrusted::PAGE);
    // A result may be larger, and is JSON.
    if let Ok(bytes) = &bytes
        && bytes.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{')
    {
        return Ok(of_lock(&config::lock::parse(&file.display().to_string(), bytes)?));
    }
    if !file.exists() {
        return Err(Error::usage(format!("`{}` does not exist", file.display()))
            .hint("name two files build-agent.lock, or two results: result.json or its directory"));
    }
    let (summary, _) = read_summary(&file, None)?;
    let mut commits = Commits::new();
    let source = summary.reproduction.as_ref().and_then(|known| known.source.clone());
    if let Some(commit) = summary.job.commit.clone() {
        commits.insert(UNDER_TEST.into(), At { url: source, commit });
    }
    for repo in &summary.repos {
        if let Some(commit) = repo.commit.clone() {
            commits.insert(repo.name.clone(), At { url: repo.url.clone(), commit });
        }
    }
    Ok(commits)
}

/// The commits of a lock.
pub fn of_lock(lock: &Lock) -> Commits {
    let at = |(name, locked): (&str, &config::lock::Locked)| {
        // One of several pins has its branch, tag or commit in its name.
        let wanted = locked.branch.as_ref().or(locked.tag.as_ref()).unwrap_or(&locked.commit);
        let wanted = Some(wanted).filter(|_| lock.pins(name).len() > 1);
        let name = wanted.map_or(name.to_owned(), |wanted| format!("{name} ({wanted})"));
        (name, At { url: Some(locked.url.clone()), commit: locked.commit.clone() })
    };
    lock.iter().map(at).collect()
}

/// Prints what lies between the two, with git's log where a server has it.
pub async fn show(
    old: &Commits,
    new: &Commits,
    as_json: bool,
    access: &Access,
    environment: &AgentEnvironment,
) -> Result<()> {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let mut all = Vec::new();
    for name in names {
        let (before, after) = (old.get(name), new.get(name));
        let history = match (before, after) {
            (Some(before), Some(after)) if before.commit != after.commit => {
                Some(log(name, before, after, access, environment).await?)
            }
            _ => None,
        };
        match as_json {
            true => all.push(as_value(name, before, after, history)),
            false => print::text(&as_text(name, before, after, history))?,
        }
    }
    if as_json {
        print::json(json!({ "schema": "build-agent/diff/v1", "repos": all }))?;
    } else if old == new {
        print::line(format_args!("no difference"))?;
    }
    Ok(())
}

/// Git's log, or why there is none: the commits are known without it.
async fn log(
    name: &str,
    before: &At,
    after: &At,
    access: &Access,
    environment: &AgentEnvironment,
) -> Result<std::result::Result<History, String>> {
    let Some(text) = &after.url else { return Ok(Err("its repository is not known".into())) };
    if before.url.as_ref() != Some(text) {
        return Ok(Err(format!("it is another repository: {text}")));
    }
    let url = match config::parse_git_address(text) {
        Ok(url) => url,
        Err(mistake) => return Ok(Err(format!("its address {}", mistake.message))),
    };
    let (runner, _logs) = unrecorded_runner(Redactor::new(environment.secrets()), LIMIT)?;
    let scratch = tempfile::Builder::new()
        .prefix("build-agent-diff-")
        .tempdir()
        .map_err(|error| Error::machine("cannot create a temporary directory").because(&error))?;
    let git = Git::new(&runner, access, name, Some(&url), &[scratch.path().to_path_buf()])?;
    match agent_git::history(&git, scratch.path(), &url, &before.commit, &after.commit).await {
        Ok(history) => Ok(Ok(history)),
        Err(error) if matches!(error.class, Class::Cancelled | Class::Machine) => Err(error),
        Err(error) => Ok(Err(error.message)),
    }
}

type Log = Option<std::result::Result<History, String>>;

fn as_text(name: &str, before: Option<&At>, after: Option<&At>, history: Log) -> String {
    let full = |at: &At| sanitize_line(&at.commit).into_owned();
    let short = |at: &At| full(at).chars().take(12).collect::<String>();
    let name = sanitize_line(name);
    let mut text = match (before, after) {
        (Some(before), Some(after)) if before == after => return String::new(),
        (Some(before), Some(after)) => format!("{name}  {} -> {}\n", short(before), short(after)),
        (None, Some(after)) => format!("{name}  new: {}\n", full(after)),
        (Some(before), None) => format!("{name}  removed: {}\n", full(before)),
        (None, None) => return String::new(),
    };
    match history {
        Some(Ok(history)) => {
            for (sign, lines) in [('+', &history.added), ('-', &history.removed)] {
                text.extend(lines.iter().map(|line| format!("  {sign} {}\n", sanitize_line(line))));
            }
            if history.is_cut {
                text += "  … and more\n";
            }
        }
        Some(Err(why)) => text += &format!("  no log: {}\n", sanitize_line(&why)),
        None => {}
    }
    text
}

fn as_value(name: &str, before: Option<&At>, after: Option<&At>, history: Log) -> Value {
    let mut value = json!({
        "name": name,
        "url": after.or(before).and_then(|at| at.url.as_ref()),
        "old": before.map(|at| &at.commit),
        "new": after.map(|at| &at.commit),
    });
    match history {
        Some(Ok(history)) => {
            value["added"] = json!(history.added);
            value["removed"] = json!(history.removed);
            value["is_cut"] = json!(history.is_cut);
        }
        Some(Err(why)) => value["no_log"] = json!(why),
        None => {}
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_result_or_a_server_says_is_only_text() {
        let hostile = "\u{1b}[31mx\r\u{202e}::error::y";
        let at = |commit: &str| At { url: None, commit: commit.to_owned() };
        let history =
            || History { added: vec![hostile.into()], removed: vec![hostile.into()], is_cut: false };
        let (old, new) = (at(hostile), at(&"é".repeat(5000)));
        for text in [
            as_text(hostile, Some(&old), Some(&new), Some(Ok(history()))),
            as_text(hostile, Some(&new), Some(&old), Some(Err(hostile.to_owned()))),
            as_text(hostile, None, Some(&old), None),
            as_text(hostile, Some(&new), None, None),
        ] {
            assert!(!text.contains(|c: char| c.is_control() && c != '\n' || c == '\u{202e}'), "{text:?}");
            assert!(text.len() < 5000, "{} bytes", text.len());
        }
    }
}
