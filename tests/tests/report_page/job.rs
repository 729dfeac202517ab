//! Jobs for the pages of the tests, as the events that a job writes.

use std::path::{Path, PathBuf};

use build_agent_tests::agent;
use serde_json::{Value, json};

/// The events of a job whose texts are these.
pub struct Job {
    text: String,
    lines: Vec<Value>,
}

impl Job {
    fn new(text: &str) -> Job {
        Job { text: text.to_owned(), lines: Vec::new() }
    }

    /// The text, with a name in front so that all texts are different.
    fn text(&self, name: &str) -> String {
        if self.text.is_empty() { name.to_owned() } else { format!("{name} {}", self.text) }
    }

    fn add(&mut self, seconds: f64, mut event: Value) {
        let milliseconds = (seconds * 1000.0) as u64;
        let (minutes, rest) = (milliseconds / 60_000, milliseconds % 60_000);
        event["time"] = format!("2026-01-02T03:{minutes:02}:{:02}.{:03}Z", rest / 1000, rest % 1000).into();
        event["clock"] = seconds.into();
        event["job_id"] = "20260102T030405Z-0f5d7e0c91b2a3d4".into();
        event["seq"] = (self.lines.len() + 1).into();
        self.lines.push(event);
    }

    /// The same job on another release.
    pub fn on(mut self, release: &str) -> Job {
        let id = format!("20260102T030405Z-{release}");
        self.lines[0]["job"]["release"] = release.into();
        self.lines[0]["job"]["id"] = id.as_str().into();
        self.lines.iter_mut().for_each(|line| line["job_id"] = id.as_str().into());
        self
    }

    fn events(&self, directory: &Path) -> PathBuf {
        let events = directory.join("events.jsonl");
        let lines: String = self.lines.iter().map(|event| format!("{event}\n")).collect();
        std::fs::write(&events, lines).unwrap();
        events
    }

    /// Writes the page into the directory.
    pub fn page(&self, directory: &Path) -> PathBuf {
        report(&[self.events(directory)], directory)
    }
}

fn report(events: &[PathBuf], out: &Path) -> PathBuf {
    let mut command = agent();
    command.arg("report").args(events).args(["--format", "html", "--out"]).arg(out);
    let ran = command.output().unwrap();
    assert!(matches!(ran.status.code(), Some(0 | 1)), "{ran:?}");
    out.join("report.html")
}

/// Writes the page of several jobs into the directory `merged`; each job has a directory next to it.
pub fn page_of_several(jobs: &[Job], directory: &Path) -> PathBuf {
    let events = jobs.iter().enumerate().map(|(number, job)| {
        let own = directory.join(format!("job {number}"));
        std::fs::create_dir(&own).unwrap();
        job.events(&own)
    });
    let events: Vec<PathBuf> = events.collect();
    report(&events, &directory.join("merged"))
}

/// A job that has something in every part of the page.
pub fn failing(text: &str) -> Job {
    let mut job = Job::new(text);
    let named = |job: &Job, name: &str| job.text(name);
    let check = json!({"stage": "check", "name": named(&job, "yocto-check-layer meta-x")});
    let build = json!({"stage": "build", "name": named(&job, "core-image-minimal")});
    let stages = ["checkout", "configure", "check", "build", "test", "publish", "report"];
    let plan: Vec<Value> = stages.map(|stage| json!({"stage": stage})).to_vec();
    let identity = json!({
        "id": "20260102T030405Z-0f5d7e0c91b2a3d4",
        "name": named(&job, "meta-x"), "release": named(&job, "scarthgap"), "commit": named(&job, "3f2a1b4c"),
        "build": named(&job, "17"), "layer": named(&job, "/src/meta-x"), "manifest": named(&job, "build-agent.toml"),
        "reproduce": ["build-agent", "run", named(&job, "x.toml")], "url": named(&job, "https://build.example.org/"),
    });
    job.add(0.0, json!({"event": "job-started", "schema": "build-agent/events/v1", "agent": named(&job, "0.1.0"), "job": identity, "plan": plan}));
    job.add(0.0, json!({"event": "stage-started", "stage": "checkout"}));
    job.add(1.0, json!({"event": "repo", "name": named(&job, "poky"), "url": named(&job, "https://git.example.org/poky"), "commit": named(&job, "aaaa"), "wanted": named(&job, "scarthgap"), "path": named(&job, "/w/poky"), "how": "cloned"}));
    job.add(2.0, json!({"event": "stage-finished", "stage": "checkout", "outcome": "passed"}));
    job.add(2.0, json!({"event": "stage-started", "stage": "configure"}));
    job.add(3.0, json!({"event": "stage-finished", "stage": "configure", "outcome": "passed"}));
    job.add(3.0, json!({"event": "stage-started", "stage": "check"}));
    job.add(3.0, json!({"event": "unit-started", "unit": check}));
    for number in 0..150 {
        let outcome = if number == 7 {
            json!({"outcome": "failed", "reason": named(&job, "AssertionError")})
        } else {
            json!({"outcome": "passed"})
        };
        let mut case = json!({"event": "case", "unit": check, "class": named(&job, "common.CommonCheckLayer"), "name": named(&job, &format!("test_{number}")), "message": format!("{}\n{}", named(&job, "Traceback"), named(&job, "error: x"))});
        case.as_object_mut().unwrap().extend(outcome.as_object().unwrap().clone());
        job.add(4.0, case);
    }
    for (level, line) in [("error", 7), ("warning", 3), ("info", 1)] {
        job.add(5.0, json!({"event": "finding", "unit": check, "level": level, "rule": named(&job, "license-missing"), "message": named(&job, "LICENSE is missing"), "file": named(&job, "recipes-x/x_1.0.bb"), "line": line, "hint": named(&job, "add it")}));
    }
    job.add(5.0, json!({"event": "notice", "level": "warning", "message": named(&job, "a notice"), "hint": named(&job, "a hint")}));
    job.add(5.0, json!({"event": "credential-access", "reachable": "yes", "reasons": [named(&job, "a variable")], "hint": named(&job, "unset it")}));
    job.add(5.0, json!({"event": "affected", "base": named(&job, "0123456789ab"), "evidence": {"by": "files", "why": named(&job, "the base does not parse")}, "tasks": 3,
        "recipes": [{"name": named(&job, "zlib"), "file": named(&job, "zlib.bb"), "layer": named(&job, "x"), "change": "changed", "tasks": [named(&job, "do_compile")]}],
        "elsewhere": [{"name": named(&job, "curl"), "layer": named(&job, "core"), "change": "added", "tasks": [named(&job, "do_fetch")], "machines": [named(&job, "qemux86")]}],
        "roots": [{"recipe": named(&job, "zlib"), "task": named(&job, "do_fetch"), "cause": named(&job, "a file changed"), "tasks": 3}],
        "removed": [named(&job, "old")], "renamed": [[named(&job, "a"), named(&job, "b")]],
        "newly_skipped": [{"name": named(&job, "s"), "reason": named(&job, "why"), "machine": named(&job, "m")}], "no_longer_skipped": [named(&job, "n")], "not_buildable": [], "targets": [named(&job, "t")]}));
    job.add(6.0, json!({"event": "unit-finished", "unit": check, "outcome": "failed", "reason": named(&job, "1 of 150 tests failed"), "log": named(&job, "logs/check.log"), "excerpt": [named(&job, "error: e")]}));
    job.add(6.0, json!({"event": "stage-finished", "stage": "check", "outcome": "failed", "reason": named(&job, "a check failed")}));
    job.add(6.0, json!({"event": "stage-started", "stage": "build"}));
    job.add(6.0, json!({"event": "unit-started", "unit": build}));
    job.add(7.0, json!({"event": "sstate", "unit": build, "wanted": 100, "local": 20, "mirrors": 30, "missed": 50, "current": 10}));
    let names = [
        "do_fetch",
        "do_configure",
        "do_compile",
        "do_install",
        "do_package",
        "do_package_setscene",
        "do_rootfs",
        "do_x",
    ];
    for number in 0..200_u32 {
        let task = named(&job, names[number as usize % names.len()]);
        let recipe = named(&job, &format!("recipe{}-1.0-r0", number / 8));
        let start = 8.0 + f64::from(number / 8) * 10.0 + f64::from(number % 8);
        job.add(start, json!({"event": "task-started", "unit": build, "recipe": recipe, "task": task}));
        job.add(start + 2.5, json!({"event": "task-finished", "unit": build, "recipe": recipe, "task": task, "outcome": "passed"}));
        job.add(start + 2.5, json!({"event": "task-usage", "unit": build, "tasks": [{"recipe": recipe, "task": task, "cpu_seconds": 2.0, "peak_memory": 104_857_600, "bytes_read": 1, "bytes_written": 1}]}));
        if number % 10 == 0 {
            job.add(start + 2.5, json!({"event": "machine-sample", "memory_used": 10_u64 << 30, "memory_limit": 72_u64 << 30, "cpu_percent": number % 100, "load": 1.0, "disk_free": 1_u64 << 35, "largest": [{"name": named(&job, "cc1plus"), "processes": 9, "memory": 1_u64 << 30}]}));
        }
    }
    job.add(280.0, json!({"event": "task-failed", "unit": build, "recipe": named(&job, "zlib"), "task": named(&job, "do_compile"), "log": named(&job, "logs/zlib.log"), "excerpt": [named(&job, "zlib.c:3: error: x"), named(&job, "make: Error 1")]}));
    job.add(281.0, json!({"event": "unit-finished", "unit": build, "outcome": "failed", "reason": named(&job, "1 task failed")}));
    job.add(281.0, json!({"event": "stage-finished", "stage": "build", "outcome": "failed", "reason": named(&job, "a build failed")}));
    job.add(281.0, json!({"event": "stage-finished", "stage": "test", "outcome": "skipped", "reason": named(&job, "nothing to test")}));
    job.add(281.0, json!({"event": "stage-started", "stage": "publish"}));
    job.add(282.0, json!({"event": "artifact", "path": named(&job, "zlib.ipk"), "key": named(&job, "k"), "bytes": 2048, "sha256": named(&job, "00ff")}));
    job.add(
        282.0,
        json!({"event": "artifact", "path": named(&job, "link"), "bytes": 0, "link": named(&job, "target")}),
    );
    job.add(282.0, json!({"event": "cache-tier", "tier": "shared", "path": named(&job, "s3://bucket/x"), "state": "read-only", "reason": named(&job, "a pull request")}));
    job.add(282.0, json!({"event": "published", "destination": named(&job, "s3://bucket"), "index": named(&job, "s3://bucket/index.json"), "objects": 1, "bytes": 2048, "links": 1}));
    job.add(283.0, json!({"event": "stage-finished", "stage": "publish", "outcome": "passed"}));
    job.add(283.0, json!({"event": "base-result", "merge_base": named(&job, "0123"), "commit": named(&job, "4567"), "distance": 2, "address": named(&job, "https://results.example.org/"), "tests": [], "findings": [], "artifacts": [{"path": named(&job, "gone.ipk"), "bytes": 3}]}));
    let reason = format!("check: {}", named(&job, "a check failed"));
    job.add(284.0, json!({"event": "job-finished", "exit": "failed", "outcome": "failed", "reason": reason}));
    job
}

/// A job of one check that passed.
pub fn passing() -> Job {
    let mut job = Job::new("");
    let check = json!({"stage": "check", "name": "yocto-check-layer meta-x"});
    let plan = json!([{"stage": "check"}, {"stage": "build", "skip": "nothing asks for build"}]);
    let identity = json!({"id": "20260102T030405Z-0f5d7e0c91b2a3d4", "name": "meta-x", "release": "scarthgap", "build": "1", "layer": "/x", "manifest": "m"});
    job.add(0.0, json!({"event": "job-started", "schema": "build-agent/events/v1", "agent": "0.1.0", "job": identity, "plan": plan}));
    job.add(0.0, json!({"event": "stage-started", "stage": "check"}));
    job.add(1.0, json!({"event": "case", "unit": check, "class": "common", "name": "test_readme", "outcome": "passed"}));
    job.add(2.0, json!({"event": "unit-finished", "unit": check, "outcome": "passed"}));
    job.add(2.0, json!({"event": "stage-finished", "stage": "check", "outcome": "passed"}));
    job.add(3.0, json!({"event": "job-finished", "exit": "passed", "outcome": "passed"}));
    job
}
