//! Machines with an empty disk: all that they have is the share in a bucket.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use build_agent_tests::fake_s3::{FakeS3, Fault, S3Request};
use build_agent_tests::{Sandbox, cannot_run_parallel, cases, commit, copy_tree, skip};
use serde_json::Value;

/// A job that checks a layer; its BitBake notes its calls.
struct Check {
    sandbox: Sandbox,
    s3: FakeS3,
}

/// Who runs a job.
#[derive(Clone, Copy, Debug)]
enum Source {
    Trusted,
    PullRequest(u64),
}

use Source::{PullRequest, Trusted};

impl Check {
    fn new(test: &str) -> Option<Check> {
        if let Some(reason) = cannot_run_parallel(2) {
            skip(test, &reason);
            return None;
        }
        let sandbox = Sandbox::new(test)?;
        let recipe = sandbox.upstream().join("meta/recipes-core/zlib/zlib_1.0.bb");
        std::fs::create_dir_all(recipe.parent().unwrap()).unwrap();
        std::fs::write(recipe, "SUMMARY = \"zlib\"\n").unwrap();
        sandbox.change_manifest("[check]", "[check]\nmax_parallel_bitbakes = 2");
        sandbox.change_manifest("[artifacts]", "[cache]\nshare = \"s3://bucket/share\"\n[artifacts]");
        commit(&sandbox.layer(), "Use a share");
        let check = Check { sandbox, s3: FakeS3::new() };
        std::fs::create_dir(check.note("")).unwrap();
        std::fs::set_permissions(check.note(""), PermissionsExt::from_mode(0o777)).unwrap();
        check
            .sandbox
            .behaviour(&format!("yocto-check-layer ask\nbitbake notes {}", check.note("").display()));
        Some(check)
    }

    /// The notes of the BitBake stand-in, and its instructions.
    fn note(&self, name: &str) -> PathBuf {
        self.sandbox.path().join("notes").join(name)
    }

    /// How often BitBake computed signatures so far.
    fn calls(&self) -> usize {
        std::fs::read_to_string(self.note("calls")).unwrap_or_default().lines().count()
    }

    fn command(&self, source: Source) -> Command {
        let mut command = self.sandbox.run_command();
        self.s3.configure(&mut command);
        match source {
            Trusted => {
                command.arg("--trusted");
            }
            PullRequest(number) => {
                command.env("CODEBUILD_BUILD_ID", "p:1").env("CODEBUILD_SRC_DIR", self.sandbox.layer());
                command.env("CODEBUILD_WEBHOOK_EVENT", "PULL_REQUEST_UPDATED");
                command.env("CODEBUILD_WEBHOOK_TRIGGER", format!("pr/{number}"));
            }
        }
        command
    }

    #[track_caller]
    fn run(&self, source: Source) -> Value {
        self.sandbox.start(self.command(source)).wait().assert_code(&[0]);
        self.sandbox.result()
    }

    /// A machine with an empty disk, on which the layer was cloned.
    fn fresh_machine(&self) {
        remove(&self.sandbox.work());
        let (layer, before) = (self.sandbox.layer(), self.sandbox.path().join("before"));
        std::fs::rename(&layer, &before).unwrap();
        copy_tree(&before, &layer);
        remove(&before);
    }

    /// The keys of answers and parse caches of a tier.
    fn signatures(&self, tier: &str) -> Vec<String> {
        let prefix = format!("share/{tier}signatures/");
        let keys = self.s3.objects(&prefix).into_keys().map(|key| key[prefix.len()..].to_owned());
        keys.filter(|key| !key.starts_with("latest/")).collect()
    }

    fn checkouts(&self) -> Vec<String> {
        self.s3.objects("share/layers/").into_keys().filter(|key| key.ends_with(".tar.zst")).collect()
    }

    /// How the only repository came.
    fn origin(&self) -> String {
        let events = std::fs::read_to_string(self.sandbox.out().join("events.jsonl")).unwrap();
        let words = events.lines().filter_map(|line| line.split_once("\"how\":\"")).map(|(_, rest)| rest);
        words.map(|rest| rest.split('"').next().unwrap().to_owned()).next().unwrap()
    }
}

/// Removes a directory with what is read-only in it.
fn remove(directory: &Path) {
    if !directory.exists() {
        return;
    }
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
            remove(&path);
        } else {
            std::fs::remove_file(&path).unwrap();
        }
    }
    std::fs::remove_dir(directory).unwrap();
}

fn outcomes(result: &Value) -> Vec<String> {
    let units = result["units"].as_array().unwrap();
    let queries = units.iter().filter_map(|unit| unit["memo"].as_array()).flatten();
    queries.map(|query| query["outcome"].as_str().unwrap().to_owned()).collect()
}

const COLD: [&str; 5] = ["miss", "ahead", "ahead", "ahead", "ahead"];
const CHANGED: [&str; 5] = ["hit", "ahead", "ahead", "ahead", "ahead"];

#[test]
fn a_fresh_machine_with_a_share_neither_clones_nor_runs_bitbake() {
    let test = "a_fresh_machine_with_a_share_neither_clones_nor_runs_bitbake";
    let Some(check) = Check::new(test) else { return };
    let first = check.run(Trusted);
    assert_eq!((outcomes(&first), check.origin()), (COLD.map(str::to_owned).to_vec(), "cloned".into()));
    let calls = check.calls();
    let answers = check.signatures("");
    // Two of the five queries are the same.
    assert_eq!(answers.iter().filter(|key| key.starts_with("answers/")).count(), 4, "{answers:?}");
    assert_eq!(check.checkouts().len(), 1);
    // BitBake would fail now.
    std::fs::write(check.note("refuse"), "").unwrap();
    for source in [Trusted, PullRequest(7)] {
        check.fresh_machine();
        check.s3.faults(|_, _| Fault::No);
        let result = check.run(source);
        assert_eq!(
            (outcomes(&result), check.origin()),
            (vec!["hit".to_owned(); 5], "stored".into()),
            "{source:?}"
        );
        assert_eq!((check.calls(), cases(&result)), (calls, cases(&first)), "{source:?}");
        assert_eq!(check.signatures(""), answers, "{source:?}");
        assert_eq!(check.signatures("pr/7/"), Vec::<String>::new(), "{source:?}");
        // One request for each answer, and for a pull request's own tier.
        let requests = check.s3.requests();
        let got =
            requests.iter().filter(|(method, key)| method == "GET" && key.contains("/answers/")).count();
        assert_eq!(got, if matches!(source, Trusted) { 4 } else { 8 }, "{requests:?}");
    }
}

/// What one pull request adds, its later builds find on a fresh machine, and nobody else.
#[test]
fn a_pull_request_finds_what_it_added_and_nobody_else_does() {
    let Some(check) = Check::new("a_pull_request_finds_what_it_added_and_nobody_else_does") else { return };
    check.run(Trusted);
    let shared = (check.signatures(""), check.checkouts());
    check.fresh_machine();
    std::fs::write(check.sandbox.layer().join("recipes-tested/new.inc"), "A = \"1\"\n")
        .or_else(|_| std::fs::write(check.sandbox.layer().join("conf/new.inc"), "A = \"1\"\n"))
        .unwrap();
    commit(&check.sandbox.layer(), "Change the layer");
    for (source, expected) in [
        (PullRequest(7), CHANGED),
        (PullRequest(7), ["hit"; 5]),
        (PullRequest(8), CHANGED),
        (Trusted, CHANGED),
        (PullRequest(9), ["hit"; 5]),
    ] {
        check.fresh_machine();
        assert_eq!(outcomes(&check.run(source)), expected, "{source:?}");
        if matches!(source, PullRequest(_)) {
            assert_eq!(check.origin(), "stored");
        }
        let own = check.signatures("pr/7/");
        assert!(own.len() == 3 && own.iter().all(|key| !key.starts_with("parses/")), "{own:?}");
        if !matches!(source, Trusted | PullRequest(9)) {
            assert_eq!((check.signatures(""), check.checkouts()), shared, "{source:?}");
        }
    }
}

/// Whatever lies in the tier, and however the bucket fails: the verdict is that of BitBake, and it comes.
#[test]
fn a_damaged_tier_and_a_failing_bucket_cost_time_and_no_verdict() {
    let Some(check) = Check::new("a_damaged_tier_and_a_failing_bucket_cost_time_and_no_verdict") else {
        return;
    };
    let first = check.run(Trusted);
    let whole = check.s3.objects("share/");
    let is_cached = |key: &str| -> bool { key.contains("/signatures/") || key.contains("/layers/") };
    let with = |change: &dyn Fn(&[u8]) -> Vec<u8>| {
        for (key, content) in whole.iter().filter(|(key, _)| is_cached(key)) {
            check.s3.put(key, &change(content));
        }
    };
    type Content<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;
    let damages: [(&str, Content); 3] = [
        ("truncated", &|content| content[..content.len() / 2].to_vec()),
        ("empty", &|_| Vec::new()),
        ("other bytes", &|content| content.iter().rev().copied().collect()),
    ];
    for (name, change) in damages {
        with(change);
        check.fresh_machine();
        let ran = check.sandbox.start(check.command(PullRequest(7))).wait();
        ran.assert_code(&[0]);
        ran.assert_says(&["the checkout of poky in the share is not used"]);
        let result = check.sandbox.result();
        assert_eq!((outcomes(&result)[0].as_str(), cases(&result)), ("miss", cases(&first)), "{name}");
        assert!(format!("{result}").contains("is damaged and not used"), "{name}");
        for key in check.s3.objects("share/pr/").into_keys() {
            check.s3.put(&key, b"");
        }
    }
    with(&|content| content.to_vec());
    let gets = move |request: &S3Request| request.method == "GET" && is_cached(&format!("/{}", request.key));
    let faults: [(&str, Fault); 2] =
        [("refused", Fault::Refused(403, "AccessDenied")), ("broken", Fault::Truncated)];
    for (name, fault) in faults {
        check.s3.faults(move |_, request| if gets(request) { fault.clone() } else { Fault::No });
        check.fresh_machine();
        let result = check.run(Trusted);
        assert_eq!((outcomes(&result)[0].as_str(), cases(&result)), ("miss", cases(&first)), "{name}");
    }
}
