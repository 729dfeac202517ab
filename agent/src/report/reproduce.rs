//! How a job is repeated elsewhere: as a plan, which a script can show and a program can carry out.
//!
//! The result may come from a stranger's pull request. So nothing of it becomes an option of git or of the container
//! engine, and of the options of the agent only those that choose what the job does.

use std::fmt::Write;
use std::path::{Component, Path, PathBuf};

use url::Url;

use agent_types::error::{Error, Result};
use agent_types::reproduction::Reproduction;
use agent_types::sanitize::{acts, clean, sanitize};

use super::console::shell_word;
use super::summary::Summary;

/// What stands in the place of a secret.
const REDACTED: &str = "[redacted]";

/// The name of the lock in the directory of the manifest.
const LOCK: &str = "build-agent.lock";

/// The name of a manifest that is not in the checkout.
const MANIFEST: &str = "build-agent.toml";

/// Options of the agent that choose what a job does, and whether a value follows.
const OPTIONS: [(&str, bool); 9] = [
    ("--set", true),
    ("--cell", true),
    ("--only", true),
    ("--skip", true),
    ("--release", true),
    ("--keep-going", false),
    ("--no-signature-cache", false),
    ("--no-prefetch", false),
    ("--write-signatures", false),
];

/// The stage that writes outside of the checkout and the work directory.
const PUBLISH: &str = "publish";

/// Keys of the manifest that are about the machines of the original job.
const ELSEWHERE: [&str; 4] = ["artifacts.", "cache.", "github.", "cost."];

/// The directory of the sources in the container.
const SOURCES: &str = "/src";

/// How a job is repeated.
#[derive(Clone, Debug, PartialEq)]
pub struct ReproducePlan {
    /// One line about the job.
    pub title: String,
    pub image: Option<String>,
    pub checkout: Option<Checkout>,
    /// The name of the checkout's directory: reports name the layer by it.
    pub name: String,
    /// Files to write, relative to the checkout.
    pub files: Vec<(PathBuf, String)>,
    /// The arguments of the agent.
    pub arguments: Vec<String>,
    /// What differs from the original job.
    pub notes: Vec<String>,
}

/// The source of the layer under test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkout {
    pub url: String,
    /// What is fetched besides the branches.
    pub fetch: Option<String>,
    pub commit: String,
}

impl ReproducePlan {
    /// # Errors
    /// Usage, if the result has no manifest or no commit, or values that could harm this machine.
    pub fn of(summary: &Summary) -> Result<ReproducePlan> {
        let none = Reproduction::default();
        let known = summary.reproduction.as_ref().unwrap_or(&none);
        let mut notes = Vec::new();
        let mut arguments = arguments(&summary.job.reproduce, &mut notes)?;
        let is_run = arguments.first().is_some_and(|command| command == "run");
        let files = files(known, &mut notes)?;
        if is_run {
            let manifest = files.first().map(|(path, _)| path.to_string_lossy().into_owned());
            let manifest = manifest.ok_or_else(|| {
                Error::usage("this result does not have the manifest of its job")
                    .hint("an older agent wrote it; check out the commit, and run the command that it names")
            })?;
            arguments.insert(1, manifest);
        }
        if known.lock.is_none() {
            arguments.extend(pins(summary, known));
        }
        if let Some(base) = known.base.as_deref().filter(|base| is_commit(base)) {
            arguments.extend(["--base".to_owned(), base.to_owned()]);
        }
        if known.accepts_manifest {
            arguments.push("--accept-manifest".into());
        }
        if is_run {
            arguments.extend(["--set".to_owned(), "cache.access=off".to_owned()]);
            arguments.extend(["--skip".to_owned(), PUBLISH.to_owned()]);
            notes.push("it neither uses the share nor publishes artifacts".into());
        }
        for repo in summary.repos.iter().filter(|repo| repo.url.is_none()) {
            let (name, path) = (clean(&repo.name), repo.path.display().to_string());
            notes.push(format!("repo {name} was a local directory, {}: put it there", sanitize(&path)));
        }
        if summary.job.dirty {
            notes.push("the original checkout had uncommitted changes, which are not in the result".into());
        }
        Ok(ReproducePlan {
            title: title(summary),
            image: image(known)?,
            checkout: checkout(summary, known, &mut notes)?,
            name: directory_name(&summary.job.layer),
            files,
            arguments,
            notes,
        })
    }

    /// The words after `docker` or `podman`. `top` has the checkout in `source/`.
    pub fn container(&self, image: &str, top: &str, volume: &str, with_terminal: bool) -> Vec<String> {
        let inside = format!("{SOURCES}/{}", self.name);
        let mut words = vec!["run".to_owned(), "--rm".into(), "--interactive".into()];
        words.extend(with_terminal.then(|| "--tty".to_owned()));
        words.extend([
            "--shm-size".into(),
            "1g".into(),
            "--security-opt".into(),
            "seccomp=unconfined".into(),
        ]);
        words.extend(["--mount".into(), format!("type=bind,source={top}/source,target={inside}")]);
        words.extend(["--mount".into(), format!("type=volume,source={volume},target=/work")]);
        words.extend(["--workdir".into(), inside, image.to_owned()]);
        words.extend(self.arguments.iter().cloned());
        words
    }

    /// A script for a shell, sanitized.
    pub fn script(&self) -> String {
        // Writing into a String cannot fail.
        let mut text = format!("#!/bin/sh\n# {}\n", sanitize(&self.title));
        let notes = self.notes.iter().map(|note| format!("# {}\n", sanitize(note)));
        text.extend(notes);
        text.push_str("set -eu\n");
        match &self.checkout {
            Some(Checkout { url, fetch, commit }) => {
                let _ = writeln!(text, "git clone {} source", shell_word(&plain(url)));
                if let Some(fetch) = fetch {
                    let _ = writeln!(text, "git -C source fetch origin {}", shell_word(fetch));
                }
                let _ = writeln!(text, "git -C source checkout --detach {}", shell_word(commit));
            }
            None => text.push_str("# The repository is not known: put the checkout into ./source\n"),
        }
        for (path, content) in &self.files {
            let path = Path::new("source").join(path).to_string_lossy().into_owned();
            if let Some(parent) = Path::new(&path).parent() {
                let _ = writeln!(text, "mkdir -p {}", shell_word(&parent.to_string_lossy()));
            }
            let _ = writeln!(text, "cat >{} {}", shell_word(&path), here_document(content));
        }
        let words: Vec<String> = match &self.image {
            Some(image) => {
                let words = self.container(image, "TOP", "build-agent-work", true);
                words.iter().map(|word| shell_word(&plain(word)).replace("=TOP/", "=\"$PWD\"/")).collect()
            }
            None => self.arguments.iter().map(|word| shell_word(&plain(word))).collect(),
        };
        match self.image {
            Some(_) => text.push_str("docker "),
            None => text.push_str(
                "# The image is not known: this uses the agent of this machine.\ncd source\nbuild-agent ",
            ),
        }
        text.push_str(&words.join(" "));
        text.push('\n');
        text
    }
}

/// `20260102T030405Z-…: meta-x on scarthgap, commit 3f2a1b4c5d6e, which failed`
fn title(summary: &Summary) -> String {
    let job = &summary.job;
    let commit = job.commit.as_deref().map(|commit| format!(", commit {commit}")).unwrap_or_default();
    format!(
        "Repeats the job {}: {} on {}{commit}; its outcome was {}",
        job.id.as_str(),
        job.name,
        job.release,
        summary.outcome.word()
    )
}

/// The arguments without the program, and without what belongs to the machine of the original job.
fn arguments(words: &[String], notes: &mut Vec<String>) -> Result<Vec<String>> {
    let mut words = words.iter().map(String::as_str);
    let command = words.nth(1).filter(|command| ["run", "check"].contains(command));
    let Some(command) = command else {
        return Err(Error::usage("this result does not say which command its job was"));
    };
    let mut kept = vec![command.to_owned()];
    let mut only: Option<Vec<String>> = None;
    while let Some(word) = words.next() {
        if !word.starts_with('-') {
            // The layers of a check. That of a run is the manifest, which has its own place.
            if command == "check" {
                kept.push(below(Path::new(word))?.to_string_lossy().into_owned());
            }
            continue;
        }
        let Some((_, has_value)) = OPTIONS.iter().find(|(option, _)| *option == word) else {
            if word == "--manifest-sha256" {
                words.next();
            } else {
                notes.push(format!("removed: {}", clean(word)));
            }
            continue;
        };
        let value = if *has_value { words.next() } else { None };
        if let Some(value) = value {
            if value.contains(REDACTED) {
                notes.push(format!("removed, because it has a secret: {word} {}", clean(value)));
                continue;
            }
            if word == "--set" && ELSEWHERE.iter().any(|key| value.trim_start().starts_with(key)) {
                notes.push(format!(
                    "removed, because it is about the original machine: {word} {}",
                    clean(value)
                ));
                continue;
            }
            if word == "--only" {
                let others = value.split(',').filter(|stage| stage.trim() != PUBLISH);
                only.get_or_insert_default().extend(others.map(str::to_owned));
                continue;
            }
        }
        kept.push(word.to_owned());
        kept.extend(value.map(str::to_owned));
    }
    match only {
        None => {}
        Some(stages) if stages.is_empty() => {
            return Err(Error::usage("this job only published artifacts, which is not repeated"));
        }
        Some(stages) => kept.extend(["--only".to_owned(), stages.join(",")]),
    }
    Ok(kept)
}

/// The manifest and its lock, the manifest first.
fn files(known: &Reproduction, notes: &mut Vec<String>) -> Result<Vec<(PathBuf, String)>> {
    let Some(manifest) = &known.manifest else { return Ok(Vec::new()) };
    if manifest.contains(REDACTED) {
        notes.push(format!("the manifest had secrets: put them in where it has {REDACTED}"));
    }
    let path = known.manifest_path.as_deref().unwrap_or(Path::new(MANIFEST));
    let path = below(path)?;
    let lock = known.lock.iter().map(|lock| (path.with_file_name(LOCK), lock.clone()));
    Ok(std::iter::once((path.clone(), manifest.clone())).chain(lock).collect())
}

/// Sets each repository to the commit that the job used, where the manifest leaves a choice.
fn pins(summary: &Summary, known: &Reproduction) -> Vec<String> {
    let manifest = known.manifest.as_deref().and_then(|text| text.parse::<toml::Table>().ok());
    // A tag and a commit have to agree, and a tag may have moved.
    let is_fixed = |name: &str| -> bool {
        let repo = || manifest.as_ref()?.get("repos")?.get(name);
        repo().is_some_and(|repo| repo.get("tag").is_some() || repo.get("commit").is_some())
    };
    let repos = summary.repos.iter().filter(|repo| repo.url.is_some() && !is_fixed(&repo.name));
    let pin = |name: &str, commit: &str| {
        ["--set".to_owned(), format!("repos.{}.commit={commit}", toml::Value::String(name.into()))]
    };
    let pins = repos.filter_map(|repo| {
        let commit = repo.commit.as_deref().filter(|commit| is_commit(commit))?;
        Some(pin(&repo.name, commit))
    });
    pins.flatten().collect()
}

fn checkout(summary: &Summary, known: &Reproduction, notes: &mut Vec<String>) -> Result<Option<Checkout>> {
    let Some(commit) = summary.job.commit.as_deref().filter(|commit| is_commit(commit)) else {
        notes.push("the commit of the layer is not known".into());
        return Ok(None);
    };
    let Some(url) = &known.source else { return Ok(None) };
    let is_usual = |url: &Url| ["https", "http", "ssh", "git", "file"].contains(&url.scheme());
    if !Url::parse(url).is_ok_and(|url| is_usual(&url)) {
        return Err(Error::usage(format!("`{}` is not the URL of a git repository", clean(url)))
            .hint("this result was changed, or build-agent did not write it"));
    }
    let fetch = known.pull_request.map(|number| format!("refs/pull/{number}/head"));
    Ok(Some(Checkout { url: url.clone(), fetch, commit: commit.to_owned() }))
}

fn image(known: &Reproduction) -> Result<Option<String>> {
    let Some(image) = &known.image else { return Ok(None) };
    let is_usual = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    if image.starts_with(|c: char| c.is_ascii_alphanumeric()) && image.chars().all(is_usual) {
        return Ok(Some(image.clone()));
    }
    Err(Error::usage(format!("`{}` is not the name of a container image", clean(image)))
        .hint("this result was changed, or build-agent did not write it"))
}

fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A path below the checkout.
fn below(path: &Path) -> Result<PathBuf> {
    let is_plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    let text = path.to_string_lossy();
    if path.components().all(is_plain) && !text.starts_with('-') && !text.contains(char::is_control) {
        return Ok(path.to_owned());
    }
    Err(Error::usage(format!("`{}` does not lie in the checkout", clean(&text)))
        .hint("run the command of the result by hand"))
}

/// The name of the layer's directory, if a container engine can mount it there.
fn directory_name(layer: &Path) -> String {
    let name = layer.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let is_usual = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let usual = !name.is_empty() && !name.starts_with(['-', '.']) && name.chars().all(is_usual);
    if usual { name } else { "layer".into() }
}

/// The text as a shell reads it from the lines that follow, to the byte except for what a terminal would interpret.
fn here_document(text: &str) -> String {
    let text = plain(text);
    let mut end = "END_OF_FILE".to_owned();
    while text.lines().any(|line| line == end) {
        end.push('_');
    }
    let lines: String = text.lines().map(|line| format!("{line}\n")).collect();
    format!("<<'{end}'\n{lines}{end}")
}

/// Without what a terminal would interpret.
fn plain(text: &str) -> String {
    text.chars().filter(|c| ['\t', '\n'].contains(c) || !acts(*c)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "reproduce_tests.rs"]
mod tests;
