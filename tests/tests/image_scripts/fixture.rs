//! A stand-in for the engine, and what it noted.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use build_agent_tests::{commit, copy_tree, git, repository};
use tempfile::TempDir;

/// A repository with the scripts, and an engine that records its calls.
pub struct ScriptFixture(pub TempDir);

impl ScriptFixture {
    pub fn new() -> ScriptFixture {
        let fixture = ScriptFixture(tempfile::tempdir().unwrap());
        copy_tree(&repository().join("docker"), &fixture.sources().join("docker"));
        for name in ["Cargo.toml", "Cargo.lock"] {
            std::fs::copy(repository().join(name), fixture.sources().join(name)).unwrap();
        }
        // There is no registry: `image_seed.rs` has one.
        let attach = "#!/bin/sh\necho \"attach $*\" >>\"$ENGINE_NOTES\"\nexit \"${ATTACH_STATUS:-0}\"\n";
        std::fs::write(fixture.sources().join("docker/attach"), attach).unwrap();
        git(&fixture.sources(), ["init", "--quiet", "--initial-branch", "main"]);
        commit(&fixture.sources(), "Begin");
        fixture
    }

    pub fn sources(&self) -> PathBuf {
        self.0.path().join("sources")
    }

    pub fn command(&self, script: &str) -> Command {
        let engine = repository().join("tests/stand-ins/engine");
        let path = std::env::var("PATH").unwrap();
        let mut command = Command::new(self.sources().join("docker").join(script));
        command
            .env_clear()
            .env("PATH", format!("{}:{path}", engine.display()))
            .env("TMPDIR", self.0.path())
            .env("ENGINE_NOTES", self.0.path().join("notes"))
            .stdin(std::process::Stdio::null());
        command
    }

    pub fn seed(&self) -> Command {
        let mut command = self.command("seed");
        command.env("IMAGE_REPOSITORY", "localhost:5000/build-agent");
        command
    }

    /// The calls of the engine, oldest first.
    pub fn notes(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.0.path().join("notes")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The calls that start with this text.
    pub fn calls(&self, start: &str) -> Vec<String> {
        self.notes().into_iter().filter(|note| note.starts_with(start)).collect()
    }
}

pub fn output_text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}

/// The index of the first call that contains this text.
#[track_caller]
pub fn position(notes: &[String], words: &str) -> usize {
    notes.iter().position(|note| note.contains(words)).unwrap_or_else(|| panic!("no {words:?} in {notes:#?}"))
}

pub fn current_commit(directory: &Path) -> String {
    git(directory, ["rev-parse", "HEAD"])
}
