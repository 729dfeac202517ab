//! Several machines with one share in a bucket, which each reads through its endpoint.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use build_agent_tests::fake_s3::{FakeS3, Fault};
use build_agent_tests::{Ran, Running, SeaweedFs, agent, is_left_to_the_long_run, json};
use serde_json::Value;

use crate::POKY;
use crate::fixture::{Fixture, NARROW_BUILD, TIMEOUT, sstate};

/// A server with a bucket for the share.
pub trait Server {
    /// The address of the share.
    const SHARE: &'static str;

    /// Gives a command of the agent the server's address and keys.
    fn configure(&self, command: &mut Command);
}

impl Server for FakeS3 {
    const SHARE: &'static str = "s3://bucket/share";

    fn configure(&self, command: &mut Command) {
        FakeS3::configure(self, command);
    }
}

impl Server for SeaweedFs {
    const SHARE: &'static str = "s3://share/cache";

    fn configure(&self, command: &mut Command) {
        SeaweedFs::configure(self, command);
    }
}

/// A build machine with its own work directory and output directory.
pub struct Machine<'a, S> {
    layer: PathBuf,
    directory: PathBuf,
    conf: String,
    s3: &'a S,
}

impl<S: Server> Machine<'_, S> {
    pub fn new<'a>(layer: &Path, directory: PathBuf, conf: &str, s3: &'a S) -> Machine<'a, S> {
        std::fs::create_dir(&directory).unwrap();
        Machine { layer: layer.to_owned(), directory, conf: conf.to_owned(), s3 }
    }

    pub fn build(&self, words: &[&str]) -> Ran {
        self.start(self.command(words)).wait_for(TIMEOUT)
    }

    pub fn build_without_share(&self, words: &[&str]) -> Ran {
        self.start(self.only("build", words)).wait_for(TIMEOUT)
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = self.only("build,publish", words);
        self.s3.configure(&mut command);
        // The server of the test may have its own.
        command.env("HOME", std::env::var_os("HOME").unwrap_or_default());
        command.args(["--set", &format!("cache.share={}", S::SHARE)]);
        command
    }

    fn only(&self, stages: &str, words: &[&str]) -> Command {
        let mut command = agent();
        command.current_dir(&self.layer).args(["run", "--only", stages]);
        command.args(["--set", &format!("config.local_conf={}", self.conf)]);
        command.arg("--work-dir").arg(self.directory.join("work")).arg("--out").arg(self.out()).args(words);
        command
    }

    pub fn start(&self, command: Command) -> Running {
        Running::start(command, &self.directory)
    }

    /// Whether BitBake is running or has run.
    pub fn builds(&self) -> bool {
        std::fs::read_to_string(self.out().join("events.jsonl")).is_ok_and(|text| text.contains("build-qemu"))
    }

    pub fn out(&self) -> PathBuf {
        self.directory.join("out")
    }

    pub fn result(&self) -> Value {
        json(&self.out().join("result.json"))
    }

    /// The sums of BitBake's questions for shared state.
    pub fn sstate(&self) -> Value {
        sstate(self.result())
    }

    /// What BitBake printed.
    pub fn log(&self) -> String {
        let result = self.result();
        let units = result["units"].as_array().unwrap();
        let build = units.iter().find(|unit| unit["stage"] == "build").expect("a build");
        std::fs::read_to_string(self.out().join(build["log"].as_str().unwrap())).unwrap()
    }

    /// The tasks that BitBake ran, e.g. `fetched-1.0-r0 do_fetch`.
    pub fn tasks(&self) -> BTreeSet<String> {
        let log = self.log();
        let started = log.lines().filter_map(|line| line.strip_suffix(": Started")?.split_once(": task "));
        let recipe = |begin: &str| begin.rsplit(' ').next().unwrap_or_default().to_owned();
        started.map(|(begin, task)| format!("{} {task}", recipe(begin))).collect()
    }

    /// Files of this name in the work directory.
    pub fn files(&self, is_wanted: impl Fn(&str) -> bool) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let mut open = vec![self.directory.join("work")];
        while let Some(directory) = open.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
                let name = name.to_string_lossy().into_owned();
                if path.is_dir() && !path.is_symlink() {
                    open.push(path);
                } else if is_wanted(&name) {
                    names.insert(name);
                }
            }
        }
        names
    }

    /// The names of all objects of shared state in the work directory, which contain the hashes of the tasks.
    pub fn objects(&self) -> BTreeSet<String> {
        self.files(|name| name.starts_with("sstate:") && name.ends_with(".siginfo"))
    }

    /// Fails unless everything came from the bucket, and no task ran in its place.
    #[track_caller]
    pub fn assert_all_from_the_mirror(&self) {
        let summary = self.sstate();
        assert!(summary["wanted"].as_u64() > Some(0), "{summary}");
        assert_eq!(summary["mirrors"], summary["wanted"], "{summary}");
        let (restored, ran): (BTreeSet<_>, BTreeSet<_>) =
            self.tasks().into_iter().partition(|task| task.ends_with("_setscene"));
        assert!(!restored.is_empty(), "{}", self.log());
        assert_eq!(ran, BTreeSet::new(), "{}", self.log());
    }
}

pub fn fixture(test: &str) -> Option<Fixture> {
    Fixture::new(test, "meta-deploy", &[POKY])
}

/// BitBake sorts a task's files by their paths: all work directories come before the layer.
pub fn machine<'a, S: Server>(fixture: &Fixture, name: &str, s3: &'a S) -> Machine<'a, S> {
    let directory = fixture.directory.path().join(format!("machine-{name}"));
    Machine::new(&fixture.layer(), directory, NARROW_BUILD, s3)
}

#[test]
fn a_machine_with_empty_caches_builds_everything_from_a_bucket() {
    let test = "a_machine_with_empty_caches_builds_everything_from_a_bucket";
    if is_left_to_the_long_run(test) {
        return;
    }
    let Some(fixture) = fixture(test) else { return };
    let s3 = FakeS3::new();
    let first = machine(&fixture, "first", &s3);
    first.build(&["--trusted"]).assert_code(&[0]);
    let summary = first.sstate();
    assert_eq!(summary["missed"], summary["wanted"], "{summary}");
    let shared = s3.objects("share/sstate/scarthgap/");
    assert!(shared.keys().any(|key| key.ends_with("_deploy.tar.zst")), "{:?}", shared.keys());
    assert!(!s3.objects("share/index/scarthgap/").is_empty());

    // This job is not trusted, so it only reads.
    let second = machine(&fixture, "second", &s3);
    second.build(&[]).assert_code(&[0]);
    second.assert_all_from_the_mirror();
    assert_eq!(s3.objects("share/sstate/scarthgap/"), shared, "an untrusted build wrote to the share");
    let cache = &second.result()["cache"][0];
    assert!(cache["traffic"]["objects_read"].as_u64() > Some(0), "{cache}");

    // The questions cost nothing: no object of shared state was asked for with HEAD.
    let asked = s3.requests();
    let is_head = |(method, key): &&(String, String)| method == "HEAD" && key.contains("/sstate/");
    assert_eq!(asked.iter().find(is_head), None);
}

/// Each of these builds is green.
#[test]
fn a_bucket_that_fails_costs_only_time() {
    let test = "a_bucket_that_fails_costs_only_time";
    let Some(fixture) = Fixture::long(test, "meta-deploy", &[POKY]) else { return };
    let s3 = FakeS3::new();
    machine(&fixture, "first", &s3).build(&["--trusted"]).assert_code(&[0]);
    let of_sstate = |key: &str| key.contains("/sstate/");
    type Judge = fn(u64, bool) -> Fault;
    let judges: [(&str, Judge); 5] = [
        ("truncated", |_, is_sstate| if is_sstate { Fault::Truncated } else { Fault::No }),
        ("refused", |_, is_sstate| if is_sstate { Fault::Refused(503, "SlowDown") } else { Fault::No }),
        ("reset", |_, is_sstate| if is_sstate { Fault::Before } else { Fault::No }),
        ("sometimes", |number, _| if number % 5 == 4 { Fault::Before } else { Fault::No }),
        ("down", |_, _| Fault::Refused(500, "InternalError")),
    ];
    for (name, judge) in judges {
        s3.faults(move |number, request| judge(number, of_sstate(&request.key)));
        let reading = machine(&fixture, name, &s3);
        reading.build(&[]).assert_code(&[0]);
        let log = reading.log();
        assert!(log.contains("all succeeded"), "{name}: {log}");
    }
    s3.faults(|_, _| Fault::No);

    // The index has what was pruned: BitBake asks in vain, and builds.
    let keys: Vec<String> = s3.objects("share/sstate/").into_keys().collect();
    let index = s3.objects("share/index/");
    s3.clear();
    index.iter().for_each(|(key, content)| s3.put(key, content));
    let pruned = machine(&fixture, "pruned", &s3);
    pruned.build(&[]).assert_code(&[0]);
    let summary = pruned.sstate();
    assert_eq!(summary["mirrors"], summary["wanted"], "the index said so: {summary}");

    // Objects with other content than BitBake wrote.
    for key in &keys {
        s3.put(key, b"no archive");
    }
    machine(&fixture, "damaged", &s3).build(&[]).assert_code(&[0]);
}
