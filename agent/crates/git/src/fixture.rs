//! Test fixtures: repositories in a temporary directory in place of servers, and a runner.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::new_without_default)]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fs_err as fs;
use tempfile::TempDir;
use url::Url;

use agent_process::{Interrupt, Redactor, Runner};
use agent_types::events::{self, EventKind};
use agent_types::source::{GitSource, Wanted};
use agent_types::stage::Stage;

use super::{Access, Git};

/// A temporary directory, a runner that logs there, and the events that it emits.
pub struct Bench {
    pub root: TempDir,
    pub runner: Runner,
    pub access: Access,
    events: Arc<Mutex<Vec<EventKind>>>,
}

impl Bench {
    pub fn new() -> Bench {
        let root = tempfile::Builder::new().prefix("git-").tempdir().unwrap();
        let (emitter, mut receiver) = events::channel();
        let events = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&events);
        tokio::spawn(async move {
            while let Some(event) = receiver.recv().await {
                heard.lock().unwrap().push(event.what);
            }
        });
        let runner = Runner {
            stage: Stage::Checkout,
            events: emitter,
            interrupt: Interrupt::new(None),
            redactor: Redactor::default(),
            logs: root.path().join("logs"),
            stall: Duration::from_secs(60),
            grace: Duration::from_secs(1),
            log_limit: agent_process::LOG_LIMIT,
            commands: Arc::default(),
        };
        Bench { root, runner, access: Access::default(), events }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub fn home(&self) -> PathBuf {
        self.path("work/repos")
    }

    pub fn git(&self, url: Option<&Url>, safe: &[PathBuf]) -> Git<'_> {
        let mut git = Git::new(&self.runner, &self.access, "x", url, safe).unwrap();
        git.retry_delays = [Duration::ZERO; 2];
        git
    }

    /// All events so far.
    pub async fn events(&self) -> Vec<EventKind> {
        // The listener is a task on the same thread; yielding lets it run.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        self.events.lock().unwrap().clone()
    }

    /// All notices so far.
    pub async fn notices(&self) -> Vec<String> {
        let notice = |what| match what {
            EventKind::Notice { message, .. } => Some(message),
            _ => None,
        };
        self.events().await.into_iter().filter_map(notice).collect()
    }

    /// A new repository `<root>/<name>` with one commit of these files on `main`.
    pub async fn upstream(&self, name: &str, files: &[(&str, &str)]) -> Upstream<'_> {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        let upstream = Upstream { bench: self, path };
        upstream.git(&["init", "-q", "-b", "main"]).await;
        upstream.git(&["config", "user.name", "T. Ester"]).await;
        upstream.git(&["config", "user.email", "t@example.invalid"]).await;
        upstream.commit(files).await;
        upstream
    }
}

/// A repository in place of a server.
pub struct Upstream<'a> {
    bench: &'a Bench,
    pub path: PathBuf,
}

impl Upstream<'_> {
    pub fn url(&self) -> Url {
        Url::from_file_path(&self.path).unwrap()
    }

    pub fn source(&self, wanted: Wanted) -> GitSource {
        GitSource { url: self.url(), wanted, locked: None }
    }

    pub async fn git(&self, args: &[&str]) -> String {
        let git = self.bench.git(None, &[]);
        git.local(&self.path, args).await.unwrap().trim().to_string()
    }

    /// Adds this number of empty commits.
    pub async fn commits(&self, count: usize) {
        let alias =
            format!("alias.many=!for n in $(seq {count}); do git commit -q --allow-empty -m $n; done");
        self.git(&["-c", &alias, "many"]).await;
    }

    /// Writes the files and commits everything; returns the commit id.
    pub async fn commit(&self, files: &[(&str, &str)]) -> String {
        for (name, text) in files {
            write(&self.path.join(name), text);
        }
        self.git(&["add", "-A"]).await;
        self.git(&["commit", "-q", "--allow-empty", "-m", "work"]).await;
        self.git(&["rev-parse", "HEAD"]).await
    }
}

pub fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}
