//! Results by commit in a share that is a bucket.

use std::process::Command;
use std::time::{Duration, Instant};

use build_agent_tests::fake_s3::{FakeS3, Fault};
use build_agent_tests::{Sandbox, commit, git};
use serde_json::Value;

use crate::jobs::sandbox;

const PREFIX: &str = "yocto/cache/";

/// A job that builds `hello`, of a clean checkout.
struct Job {
    sandbox: Sandbox,
    s3: FakeS3,
}

impl Job {
    fn new(test: &str) -> Option<Job> {
        let sandbox = sandbox(test, "s3://bucket/yocto/cache")?;
        commit(&sandbox.layer(), "Add the manifest");
        Some(Job { sandbox, s3: FakeS3::new() })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.sandbox.run_command();
        command.args(["--only", "build"]).args(words);
        self.s3.configure(&mut command);
        command
    }

    #[track_caller]
    fn run(&self, command: Command, code: i32) -> Value {
        self.sandbox.start(command).wait().assert_code(&[code]);
        self.sandbox.result()
    }

    fn head(&self) -> String {
        git(&self.sandbox.layer(), ["rev-parse", "HEAD"])
    }

    /// The names of the stored files below the prefix.
    fn stored(&self) -> Vec<String> {
        let keys = self.s3.objects(PREFIX).into_keys();
        let below = keys.map(|key| key[PREFIX.len()..].to_owned());
        below.filter(|key| key.contains("results/")).collect()
    }
}

#[test]
fn results_are_stored_in_the_tier_that_the_job_writes_and_the_index_is_last() {
    let test = "results_are_stored_in_the_tier_that_the_job_writes_and_the_index_is_last";
    let Some(job) = Job::new(test) else { return };
    let first = job.head();
    let result = job.run(job.command(&["--trusted"]), 0);
    let address = result["report"]["address"].as_str().unwrap();
    let below = format!("results/v1/meta-tested/scarthgap/qemux86-64/{first}");
    assert!(address.starts_with(&format!("s3://bucket/{PREFIX}{below}/")), "{address}");
    let stored = job.stored();
    assert!(stored.iter().all(|key| key.starts_with(&below)), "{stored:?}");
    assert!(stored.contains(&format!("{below}/latest.json")), "{stored:?}");
    let requests = job.s3.requests();
    let writes = requests.iter().filter(|(method, key)| method == "PUT" && key.contains("/results/"));
    let writes: Vec<&str> = writes.map(|(_, key)| key.rsplit('/').next().unwrap()).collect();
    assert_eq!(writes.last(), Some(&"latest.json"), "{writes:?}");

    // A pull request is compared with it, and writes its own part.
    std::fs::write(job.sandbox.layer().join("NEW"), "x").unwrap();
    commit(&job.sandbox.layer(), "Change");
    job.sandbox.behaviour("bitbake fail do_compile");
    let mut command = job.command(&["--base", &first]);
    command.env("CODEBUILD_BUILD_ID", "p:1").env("CODEBUILD_SRC_DIR", job.sandbox.layer());
    command.env("CODEBUILD_WEBHOOK_EVENT", "PULL_REQUEST_UPDATED").env("CODEBUILD_WEBHOOK_TRIGGER", "pr/12");
    let result = job.run(command, 1);
    assert_eq!(result["base"]["commit"], first.as_str(), "{:#}", result["notices"]);
    let new: Vec<String> = job.stored().into_iter().filter(|key| !stored.contains(key)).collect();
    assert!(!new.is_empty() && new.iter().all(|key| key.starts_with("pr/12/results/v1/")), "{new:?}");
    let text = job.sandbox.call([
        "report",
        "--format",
        "markdown",
        job.sandbox.out().join("result.json").to_str().unwrap(),
    ]);
    text.assert_says(&["**New in this change**", "do_compile"]);

    // An untrusted source without a pull request writes nothing.
    let before = job.stored();
    job.run(job.command(&[]), 1);
    assert_eq!(job.stored(), before);
}

/// The bucket changes no verdict and takes no more than its time.
#[test]
fn a_bucket_that_fails_or_hangs_changes_no_verdict() {
    let test = "a_bucket_that_fails_or_hangs_changes_no_verdict";
    let Some(job) = Job::new(test) else { return };
    job.run(job.command(&["--trusted"]), 0);
    std::fs::write(job.sandbox.layer().join("NEW"), "x").unwrap();
    commit(&job.sandbox.layer(), "Change");
    for fault in [
        Fault::Refused(403, "AccessDenied"),
        Fault::Refused(500, "InternalError"),
        Fault::Truncated,
        Fault::Late(Duration::from_secs(3600)),
    ] {
        println!("{fault:?}");
        let of_results = fault.clone();
        job.s3.faults(move |_, request| match request.key.contains("/results/") {
            true => of_results.clone(),
            false => Fault::No,
        });
        let begun = Instant::now();
        let result = job.run(job.command(&["--trusted"]), 0);
        assert_eq!(result["outcome"], "passed", "{fault:?}");
        assert!(result["base"].is_null(), "{fault:?}");
        // 30 s for the lookup and 60 s for the store, in addition to the job itself.
        assert!(begun.elapsed() < Duration::from_secs(150), "{fault:?}: {:?}", begun.elapsed());
        if !matches!(fault, Fault::Truncated) {
            let units = result["units"].as_array().unwrap().iter();
            let mut stored = units.filter(|unit| unit["name"] == "stored report");
            assert_ne!(stored.next().unwrap()["outcome"], "passed", "{fault:?}");
        }
    }
}
