//! A layer whose cells are a batch, and a stand-in of CodeBuild that runs each cell as a process of the real agent.

use std::path::PathBuf;
use std::process::Command;

use build_agent_tests::{
    CodeBuild, PROJECT, Ran, Running, Sandbox, commit, git, json, skip, survivors, unmet_by_codebuild,
};
use serde_json::Value;

pub const CELLS: [&str; 2] = ["board_a", "board_b"];

/// A layer with two cells that are quick, and CodeBuild.
pub struct Batches {
    pub codebuild: CodeBuild,
    pub sandbox: Sandbox,
}

impl Batches {
    pub fn new(test: &str, more: &Value) -> Option<Batches> {
        if let Some(reason) = unmet_by_codebuild() {
            skip(test, &reason);
            return None;
        }
        let sandbox = Sandbox::new(test)?;
        let text = sandbox.manifest_text().replace("yocto_check_layer = true", "yocto_check_layer = false");
        sandbox.write_manifest(&(text + "\n[matrix]\nmachine = [\"board-a\", \"board-b\"]\n"));
        commit(&sandbox.layer(), "Add the manifest");
        let codebuild = CodeBuild::start(&sandbox, more);
        Some(Batches { codebuild, sandbox })
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = self.sandbox.command(words);
        command.arg("--out").arg(self.sandbox.out());
        self.codebuild.configure(&mut command);
        command
    }

    pub fn start(&self) -> Running {
        let words = ["batch", "--project", PROJECT, "--interval", "100ms"];
        self.sandbox.start(self.command(&words))
    }

    /// Starts a batch of this version of the source, with reports in a directory of its own.
    pub fn start_version(&self, version: &str, out: &str, more: &[&str]) -> Running {
        let words = ["batch", "--project", PROJECT, "--interval", "100ms", "--source-version", version];
        let mut command = self.sandbox.command([&words[..], &["--accept-manifest"], more].concat());
        command.arg("--out").arg(self.sandbox.path().join(out));
        self.codebuild.configure(&mut command);
        self.sandbox.start(command)
    }

    /// Commits to the layer, and makes it the head of these pull requests.
    pub fn push(&self, message: &str, pull_requests: &[u64]) {
        commit(&self.sandbox.layer(), message);
        for number in pull_requests {
            git(&self.sandbox.layer(), ["update-ref", &format!("refs/pull/{number}/head"), "HEAD"]);
        }
    }

    pub fn started_cells(&self) -> usize {
        self.stored("started").len()
    }

    pub fn run(&self) -> Ran {
        self.start().wait()
    }

    /// The exit status of a batch, with all logs if it is not one of these.
    #[track_caller]
    pub fn assert_code(&self, ran: &Ran, codes: &[i32]) {
        let fits = ran.code.is_some_and(|code| codes.contains(&code));
        assert!(fits, "{:?} and not {codes:?}\n{}\n{}", ran.code, ran.output(), self.codebuild.logs());
    }

    /// The id of the batch, and what CodeBuild calls it.
    pub fn ids(ran: &Ran) -> (String, String) {
        let line = ran.stdout.lines().find(|line| line.starts_with("batch ")).expect("the line of the batch");
        let words: Vec<&str> = line.split([' ', ':']).collect();
        let codebuild = line.rsplit(' ').next().unwrap();
        (words[1].to_owned(), codebuild.to_owned())
    }

    pub fn merge(&self, id: &str) -> Ran {
        self.sandbox.start(self.command(&["merge", "--batch", id])).wait()
    }

    pub fn outcomes(&self) -> Vec<(String, String)> {
        let jobs = json(&self.sandbox.out().join("results.json"))["jobs"].clone();
        let text = |job: &Value, key: &str| job[key].as_str().unwrap_or_default().to_owned();
        let job = |job: &Value| (text(&job["job"], "cell"), text(job, "outcome"));
        jobs.as_array().unwrap().iter().map(job).collect()
    }

    /// Fails if a process of a build is left.
    #[track_caller]
    pub fn assert_no_build_runs(&self) {
        let left = survivors(&self.sandbox.path().join("codebuild/builds"));
        assert!(left.is_empty(), "{left:?}");
    }

    pub fn stored(&self, name: &str) -> Vec<PathBuf> {
        fn walk(directory: &std::path::Path, name: &str, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.file_name().is_some_and(|last| last == name) {
                    found.push(path);
                } else if path.is_dir() {
                    walk(&path, name, found);
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.sandbox.artifacts(), name, &mut found);
        found
    }
}

pub fn outcomes(all: [&str; 2]) -> Vec<(String, String)> {
    CELLS.iter().zip(all).map(|(cell, outcome)| ((*cell).to_owned(), outcome.to_owned())).collect()
}
