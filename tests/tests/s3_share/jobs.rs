//! Jobs that publish to a bucket: after a success and a stop, only if they may, and through faults. A bucket never
//! changes a verdict.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use build_agent_tests::fake_s3::{FakeS3, Fault, S3Request};
use build_agent_tests::{Ran, Sandbox, SeaweedFs};
use nix::sys::signal::Signal;

/// A job that builds `hello` with a share in a bucket.
struct Job {
    sandbox: Sandbox,
    s3: FakeS3,
}

const ADDRESS: &str = "s3://bucket/yocto/cache";

impl Job {
    fn new(test: &str) -> Option<Job> {
        let sandbox = sandbox(test, ADDRESS)?;
        Some(Job { sandbox, s3: FakeS3::new() })
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = self.sandbox.run_command();
        command.args(["--only", "build,publish"]).args(more);
        self.s3.configure(&mut command);
        command
    }

    /// Runs the job; it must pass.
    #[track_caller]
    fn passes(&self, more: &[&str]) -> Ran {
        let ran = self.sandbox.start(self.command(more)).wait();
        ran.assert_code(&[0]);
        assert_eq!(self.sandbox.result()["outcome"], "passed");
        ran
    }

    fn cache(&self, tier: usize) -> serde_json::Value {
        self.sandbox.result()["cache"][tier].clone()
    }

    fn count(&self, name: &str) -> u64 {
        self.cache(0)["published"][name].as_u64().unwrap_or_default()
    }
}

pub fn sandbox(test: &str, share: &str) -> Option<Sandbox> {
    let sandbox = Sandbox::new(test)?;
    let text = sandbox.manifest_text();
    sandbox
        .write_manifest(&format!("{text}\n[build]\ntargets = [\"hello\"]\n[cache]\nshare = \"{share}\"\n"));
    Some(sandbox)
}

/// The tasks of the shared state below the prefix, and the downloads.
fn published(objects: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
    let names = objects.keys().filter(|key| key.contains("/sstate/") || key.contains("/downloads/"));
    let name = |key: &String| key.rsplit(['/', '_']).next().unwrap().to_owned();
    let mut names: Vec<_> = names.map(name).collect();
    names.sort();
    names
}

const FETCHED: [&str; 3] = ["fetch.tar.zst", "fetch.tar.zst.siginfo", "hello-1.0.tar.gz"];
const BUILT: [&str; 4] =
    ["compile.tar.zst", "compile.tar.zst.siginfo", "deploy.tar.zst", "deploy.tar.zst.siginfo"];

fn all() -> Vec<String> {
    [&BUILT[..], &FETCHED].concat().into_iter().map(str::to_owned).collect()
}

/// Fails if an archive of shared state is there without its companion.
#[track_caller]
fn assert_companions(objects: &BTreeMap<String, Vec<u8>>) {
    let archives = objects.keys().filter(|key| key.contains("/sstate/") && key.ends_with(".tar.zst"));
    for archive in archives {
        assert!(objects.contains_key(&format!("{archive}.siginfo")), "{archive} without its companion");
    }
}

#[test]
fn a_trusted_build_publishes_to_a_bucket_and_sends_nothing_the_second_time() {
    let test = "a_trusted_build_publishes_to_a_bucket_and_sends_nothing_the_second_time";
    let Some(job) = Job::new(test) else { return };
    let ran = job.passes(&["--trusted"]);
    ran.assert_says(&["4 objects", ADDRESS, "cache publish", "requests", "USD"]);
    let objects = job.s3.objects("yocto/cache/");
    assert_eq!(published(&objects), all());
    assert_companions(&objects);
    let below =
        |part: &str| objects.keys().filter(|key| key.starts_with(&format!("yocto/cache/{part}"))).count();
    assert_eq!((below("index/scarthgap/"), below("leases/")), (2, 0), "{:?}", objects.keys());
    assert_eq!(below("usage/scarthgap/"), 1);
    let tier = job.cache(0);
    assert_eq!((&tier["path"], &tier["state"]), (&ADDRESS.into(), &"read-write".into()), "{tier:#}");
    assert_eq!((job.count("published"), job.count("failed")), (4, 0));
    let number = |name: &str| tier["traffic"][name].as_f64().unwrap_or_default();
    let requests = job.s3.requests();
    // The four of the build, and the checkout of each layer that was cloned.
    let is_checkout = |key: &&String| key.starts_with("yocto/cache/layers/") && key.ends_with(".tar.zst");
    let layers = objects.keys().filter(is_checkout).count();
    assert!(layers > 0, "{:?}", objects.keys());
    assert_eq!(number("objects_written"), (4 + layers) as f64, "{:?}", objects.keys());
    // The lease is released after the report of the requests.
    assert!(number("operations") >= 10.0 && number("operations") <= requests.len() as f64 + 5.0, "{tier:#}");
    assert!(number("usd") > 0.000_05 && number("usd") < 0.01 && number("seconds_waited") > 0.0, "{tier:#}");

    job.s3.faults(|_, _| Fault::No);
    job.passes(&["--trusted"]);
    assert_eq!((job.count("published"), job.count("present")), (0, 4), "{:#}", job.cache(0));
    let sent = job.s3.requests();
    let sent: Vec<_> = sent
        .iter()
        .filter(|(method, key)| method == "PUT" && !key.contains("/leases/") && !key.contains("/results/"))
        .collect();
    assert!(sent.iter().all(|(_, key)| key.contains("/usage/")), "{sent:?}");
    // Another machine has other local files of the same name.
    job.s3.put(objects.keys().find(|key| key.ends_with("hello-1.0.tar.gz")).unwrap(), b"other");
    let ran = job.passes(&["--trusted"]);
    ran.assert_says(&["1 download of other content", "hello-1.0.tar.gz"]);
    assert_eq!((job.count("differing"), job.count("present")), (1, 3));
}

#[test]
fn an_untrusted_build_writes_nothing_but_its_own_tier() {
    let Some(job) = Job::new("an_untrusted_build_writes_nothing_but_its_own_tier") else { return };
    job.passes(&[]);
    assert_eq!(job.cache(0)["state"], "read-only");
    assert_eq!(job.s3.objects("").len(), 0);
    assert!(job.s3.requests().iter().all(|(method, _)| method == "GET" || method == "HEAD"));

    let mut command = job.command(&[]);
    command.env("CODEBUILD_BUILD_ID", "p:1").env("CODEBUILD_SRC_DIR", job.sandbox.layer());
    command.env("CODEBUILD_WEBHOOK_EVENT", "PULL_REQUEST_UPDATED").env("CODEBUILD_WEBHOOK_TRIGGER", "pr/12");
    job.sandbox.start(command).wait().assert_code(&[0]);
    let states = [job.cache(0)["state"].clone(), job.cache(1)["state"].clone()];
    assert_eq!(states, ["read-write", "read-only"]);
    let objects = job.s3.objects("");
    assert_eq!(published(&objects), all());
    assert!(objects.keys().all(|key| key.starts_with("yocto/cache/pr/12/")), "{:?}", objects.keys());
}

/// A build goes on without what the bucket refuses, and says how to fix it.
#[test]
fn a_bucket_that_refuses_changes_no_verdict() {
    let Some(job) = Job::new("a_bucket_that_refuses_changes_no_verdict") else { return };
    let is_list = |request: &S3Request| request.method == "GET" && request.key.is_empty();
    let refused = Fault::Refused(403, "AccessDenied");
    type Matches = Box<dyn Fn(&S3Request) -> bool + Send>;
    let table: [(Matches, Fault, &str, &[&str]); 6] = [
        (Box::new(is_list), refused.clone(), "unusable", &["AccessDenied", "s3:ListBucket on s3://bucket"]),
        (
            Box::new(move |request| request.method == "GET" && !is_list(request)),
            refused.clone(),
            "unusable",
            &["AccessDenied", "s3:GetObject on s3://bucket/yocto/cache/*"],
        ),
        (
            Box::new(|request| request.method == "PUT"),
            refused.clone(),
            "read-only",
            &["AccessDenied", "s3:PutObject on s3://bucket/yocto/cache/*"],
        ),
        (
            Box::new(|request| request.method == "PUT"),
            Fault::Unconditional,
            "read-only",
            &["If-None-Match", "conditional writes"],
        ),
        (
            Box::new(|request| request.method == "POST" && request.query.contains_key("delete")),
            refused,
            "read-write",
            &["cannot remove its own lease", "s3:DeleteObject on s3://bucket/yocto/cache/leases/*"],
        ),
        (
            Box::new(|_| true),
            Fault::Refused(404, "NoSuchBucket"),
            "unusable",
            &["NoSuchBucket", "create the bucket"],
        ),
    ];
    for (matches, fault, state, says) in table {
        job.s3.clear();
        job.s3.faults(move |_, request| if matches(request) { fault.clone() } else { Fault::No });
        let ran = job.passes(&["--trusted"]);
        ran.assert_says(&[&["the shared cache", ADDRESS, state], says].concat());
        assert_eq!(job.cache(0)["state"], state, "{:#}", job.cache(0));
        let published = published(&job.s3.objects(""));
        assert_eq!(published, if state == "read-write" { all() } else { Vec::new() });
    }
}

#[test]
fn a_bucket_that_cannot_be_reached_changes_no_verdict() {
    let Some(job) = Job::new("a_bucket_that_cannot_be_reached_changes_no_verdict") else { return };
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let none = |command: &mut Command| {
        command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
        command.env("AWS_EC2_METADATA_DISABLED", "true");
    };
    let down = |command: &mut Command| {
        command.env("AWS_ENDPOINT_URL_S3", format!("http://{closed}"));
    };
    let nonsense = |command: &mut Command| {
        command.env("AWS_ENDPOINT_URL_S3", "no URL");
    };
    type Change<'a> = &'a dyn Fn(&mut Command);
    let table: [(Change, &str); 3] =
        [(&none, "set credentials"), (&down, "check the network"), (&nonsense, "AWS_ENDPOINT_URL_S3")];
    for (change, fix) in table {
        let mut command = job.command(&["--trusted"]);
        change(&mut command);
        let ran = job.sandbox.start(command).wait();
        ran.assert_code(&[0]);
        ran.assert_says(&["the shared cache", "unusable", fix]);
        assert_eq!(job.cache(0)["state"], "unusable", "{:#}", job.cache(0));
        assert_eq!(job.sandbox.result()["outcome"], "passed");
    }
}

#[test]
fn a_bucket_that_does_not_answer_costs_a_limited_time() {
    let Some(job) = Job::new("a_bucket_that_does_not_answer_costs_a_limited_time") else { return };
    job.s3.faults(|_, _| Fault::Late(Duration::from_secs(3600)));
    let begun = Instant::now();
    let ran = job.passes(&["--trusted"]);
    assert!(begun.elapsed() < Duration::from_secs(120), "{:?}", begun.elapsed());
    ran.assert_says(&["unusable", "did not answer within 10 s", "gateway endpoint"]);
    assert_eq!(job.s3.objects("").len(), 0);
}

/// Half of all requests fail, each in one of the ways in which S3 fails.
#[test]
fn faults_lose_nothing_and_change_no_verdict() {
    let Some(job) = Job::new("faults_lose_nothing_and_change_no_verdict") else { return };
    let mut state = 7_u64;
    job.s3.faults(move |_, request| {
        // Knuth's generator: the same faults each time.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        match (state >> 33) % 10 {
            0 => Fault::Before,
            1 => Fault::After,
            2 => Fault::Refused(503, "SlowDown"),
            3 => Fault::Refused(500, "InternalError"),
            4 if !request.is_write() => Fault::Truncated,
            _ => Fault::No,
        }
    });
    job.passes(&["--trusted"]);
    let objects = job.s3.objects("");
    assert_eq!(published(&objects), all(), "{:#}", job.cache(0));
    assert_eq!(job.count("failed") + job.count("left"), 0, "{:#}", job.cache(0));
    let differing = objects.values().filter(|content| content.is_empty()).count();
    assert_eq!(differing, 0);
}

/// The stop comes while the share, which is slow, is being written: the rest of the work gets the grace.
#[test]
fn a_stop_during_publish_leaves_it_the_grace() {
    let Some(job) = Job::new("a_stop_during_publish_leaves_it_the_grace") else { return };
    job.sandbox.change_manifest("grace = \"2s\"", "grace = \"60s\"");
    job.s3.faults(|_, request| match request.key.contains("/sstate/") {
        true => Fault::Late(Duration::from_millis(1500)),
        false => Fault::No,
    });
    let mut running = job.sandbox.start(job.command(&["--trusted"]));
    let s3 = job.s3.clone();
    let is_publishing =
        || s3.requests().iter().any(|(method, key)| method == "PUT" && key.contains("/sstate/"));
    running.wait_until("the beginning of publishing", is_publishing);
    running.signal(Signal::SIGTERM);
    running.wait().assert_says(&["SIGTERM: stopping, up to 60 s"]);
    let objects = job.s3.objects("");
    assert_eq!(published(&objects), all());
    assert!(!objects.keys().any(|key| key.contains("/leases/")), "{:?}", objects.keys());
    job.sandbox.assert_nothing_runs();
}

/// SIGKILL at the beginning of each request of a job that writes or deletes.
#[test]
fn a_killed_job_leaves_whole_objects_and_the_next_one_completes_them() {
    let Some(job) = Job::new("a_killed_job_leaves_whole_objects_and_the_next_one_completes_them") else {
        return;
    };
    job.passes(&["--trusted"]);
    let whole = job.s3.objects("yocto/cache/");
    let same = |objects: &BTreeMap<String, Vec<u8>>| {
        let data = objects.iter().filter(|(key, _)| key.contains("/sstate/") || key.contains("/downloads/"));
        data.filter(|(key, content)| whole.get(*key) != Some(content)).count()
    };
    for moment in 0..7 {
        job.s3.clear();
        let (sender, reached) = std::sync::mpsc::channel();
        let mut writes = 0;
        job.s3.faults(move |_, request| {
            if request.method == "PUT"
                && (request.key.contains("/sstate/") || request.key.contains("/downloads/"))
            {
                writes += 1;
                if writes > moment {
                    let _ = sender.send(());
                    return Fault::Late(Duration::from_secs(3600));
                }
            }
            Fault::No
        });
        let mut running = job.sandbox.start(job.command(&["--trusted"]));
        let is_reached = || reached.try_recv().is_ok();
        running.wait_until("the moment of the kill", is_reached);
        running.signal(Signal::SIGKILL);
        running.wait();
        let left = job.s3.objects("");
        assert_companions(&left);
        assert_eq!(same(&left), 0, "moment {moment}");
        job.s3.faults(|_, _| Fault::No);
        job.passes(&["--trusted"]);
        let objects = job.s3.objects("");
        assert_eq!((published(&objects), same(&objects)), (all(), 0), "moment {moment}");
    }
}

#[test]
fn a_job_publishes_to_a_real_server() {
    let test = "s3_share::a_job_publishes_to_a_real_server";
    let Some(server) = SeaweedFs::start(test) else { return };
    let Some(sandbox) = sandbox(test, "s3://share/cache") else { return };
    // The first write makes the bucket.
    let tree = tempfile::tempdir().unwrap();
    std::fs::write(tree.path().join("a"), "a").unwrap();
    assert!(
        server.agent().arg("publish").arg(tree.path()).arg("s3://share/first").status().unwrap().success()
    );
    let run = || {
        let mut command = sandbox.run_command();
        command.args(["--only", "build,publish", "--trusted"]);
        server.configure(&mut command);
        let ran = sandbox.start(command).wait();
        ran.assert_code(&[0]);
        sandbox.result()["cache"][0].clone()
    };
    let first = run();
    assert_eq!(first["state"], "read-write", "{first:#}");
    assert_eq!(
        (&first["published"]["published"], &first["published"]["failed"]),
        (&4.into(), &0.into()),
        "{first:#}"
    );
    let second = run();
    assert_eq!((&second["published"]["published"], &second["published"]["present"]), (&0.into(), &4.into()));
    let local = sandbox.work().join("trusted/downloads/hello-1.0.tar.gz");
    let there = server.get("share", "cache/downloads/hello-1.0.tar.gz");
    assert!(there.is_some() && there == std::fs::read(local).ok());
}
