//! Trusted steps for devices: `lab request` for builds that publish, and `report post` for the results of labs.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use build_agent_tests::{GitHubServer, commit, git, github};
use serde_json::{Value, json};

use super::device::{Answer, lab, read, requester, requests, run, sha256};

/// A stand-in for Step Functions: keeps the operations and bodies that it gets.
struct StepFunctions {
    address: String,
    calls: Arc<Mutex<Vec<(String, Value)>>>,
}

impl StepFunctions {
    fn start() -> StepFunctions {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let calls: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let kept = calls.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut reader = BufReader::new(stream.unwrap());
                let (mut operation, mut length, mut line) = (String::new(), 0, String::new());
                while reader.read_line(&mut line).unwrap() > 2 {
                    let (name, value) = line.split_once(':').unwrap_or_default();
                    match name.to_ascii_lowercase().as_str() {
                        "x-amz-target" => operation = value.trim().to_owned(),
                        "content-length" => length = value.trim().parse().unwrap(),
                        _ => {}
                    }
                    line.clear();
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                kept.lock().unwrap().push((operation, serde_json::from_slice(&body).unwrap()));
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
                reader.get_mut().write_all(answer).unwrap();
            }
        });
        StepFunctions { address, calls }
    }

    fn last(&self) -> (String, Value) {
        self.calls.lock().unwrap().last().unwrap().clone()
    }
}

#[test]
fn a_trusted_step_requests_the_tests_of_an_untrusted_build() {
    let test = "a_trusted_step_requests_the_tests_of_an_untrusted_build";
    let Some(sandbox) = requester(test, "untrusted = \"yes\"") else { return };
    let published = sandbox.artifacts();
    commit(&sandbox.layer(), "Add the manifest");
    run(&sandbox, &["--base", "HEAD"]).assert_code(&[0]);
    let head = git(&sandbox.layer(), ["rev-parse", "HEAD"]);
    // The requests lie elsewhere: the build has no right to write there.
    let store = sandbox.path().join("store");
    let functions = StepFunctions::start();
    let request = |result: &Path, words: &[&str]| {
        let mut command = sandbox.command(["lab", "request"]);
        command.arg(result).args(["--commit", &head]);
        command.arg("--set").arg(format!("artifacts.destination={}", store.display())).args(words);
        command.envs([
            ("AWS_ENDPOINT_URL_SFN", functions.address.as_str()),
            ("AWS_REGION", "eu-west-1"),
            ("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE"),
            ("AWS_SECRET_ACCESS_KEY", "the-secret-of-the-test"),
            ("BUILD_AGENT_TASK_TOKEN", "the-token-of-the-execution"),
        ]);
        sandbox.start(command).wait()
    };
    let artifacts = ["--artifacts", published.to_str().unwrap()];
    let good = sandbox.out().join("result.json");

    let ran = request(&good, &artifacts);
    ran.assert_code(&[0]);
    ran.assert_says(&["requested ", " on pi"]);
    let submitted = |number: usize| {
        let all = std::fs::read_dir(store.join("devices/v1/requests"));
        let mut all: Vec<PathBuf> = all.into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
        all.sort();
        assert_eq!(all.len(), number);
        all.pop()
    };
    let made = read(&submitted(1).unwrap().join("request.json"));
    assert_eq!((&made["trust"], &made["pool"]), (&json!("untrusted"), &json!("pi")));
    assert_eq!(made["job"]["commit"], json!(head));
    assert_eq!(made["task_token"], "the-token-of-the-execution");
    let names: Vec<&str> =
        made["files"].as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["img-qemux86-64.bin", "testexport-img-qemux86-64.tar"]);
    for file in made["files"].as_array().unwrap() {
        let digest = file["sha256"].as_str().unwrap();
        let stored = std::fs::read(store.join("devices/v1/files").join(digest)).unwrap();
        assert_eq!(sha256(&stored), digest);
    }
    assert!(functions.calls.lock().unwrap().is_empty(), "the lab resumes the execution");

    // What is refused, and what the execution gets to know.
    let with = |name: &str, change: &dyn Fn(&mut Value)| {
        let mut result = sandbox.result();
        change(&mut result);
        let path = sandbox.path().join(format!("{name}.json"));
        std::fs::write(&path, result.to_string()).unwrap();
        path
    };
    let artifact = |result: &mut Value, key: &str, value: Value| {
        let all = result["artifacts"].as_array_mut().unwrap();
        let image = all
            .iter_mut()
            .find(|one| one["path"].as_str().unwrap().ends_with(".bin") && one["key"].is_string());
        image.unwrap()[key] = value;
    };
    let elsewhere = sandbox.path().join("elsewhere");
    let other = ["--artifacts", elsewhere.to_str().unwrap()];
    let status = ["--build-status", "FAILED"];
    let table: [(&str, PathBuf, Vec<&str>, i32, &str); 7] = [
        ("elsewhere", good.clone(), other.to_vec(), 2, "not where builds publish"),
        ("no result", sandbox.path().join("gone.json"), artifacts.to_vec(), 3, "gone.json"),
        (
            "another commit",
            with("commit", &|result| result["job"]["commit"] = json!("0".repeat(40))),
            artifacts.to_vec(),
            2,
            "not for the commit",
        ),
        (
            "another digest",
            with("digest", &|result| artifact(result, "sha256", json!("0".repeat(64)))),
            artifacts.to_vec(),
            4,
            "damaged",
        ),
        (
            "a key outside",
            with("key", &|result| artifact(result, "key", json!("/etc/passwd"))),
            artifacts.to_vec(),
            2,
            "not where builds publish",
        ),
        ("a failed build", good.clone(), [&artifacts[..], &status[..]].concat(), 0, "nothing is requested"),
        (
            "a result that did not pass",
            with("failed", &|result| result["exit"] = json!("failed")),
            artifacts.to_vec(),
            70,
            "contradicts itself",
        ),
    ];
    for (what, result, words, code, said) in table {
        let ran = request(&result, &words);
        assert_eq!(ran.code, Some(code), "{what}\n{}", ran.output());
        ran.assert_says(&[said]);
        submitted(1);
        let (operation, body) = functions.last();
        let wanted =
            if code == 0 { "AWSStepFunctions.SendTaskSuccess" } else { "AWSStepFunctions.SendTaskFailure" };
        assert_eq!(
            (operation.as_str(), &body["taskToken"]),
            (wanted, &json!("the-token-of-the-execution")),
            "{what}"
        );
        assert!(!ran.output().contains("the-token-of-the-execution"), "{}", ran.output());
    }
    // Only the manifest of the base opens devices.
    sandbox.change_manifest("untrusted = \"yes\"", "untrusted = \"no\"");
    let ran = request(&good, &artifacts);
    ran.assert_code(&[0]);
    ran.assert_says(&["nothing is requested: the source is not trusted"]);
    let (operation, body) = functions.last();
    assert_eq!(operation, "AWSStepFunctions.SendTaskSuccess");
    assert!(body["output"].as_str().unwrap().contains("\"requested\":false"), "{body}");
    submitted(1);
}

#[test]
fn the_result_of_a_device_is_one_check_that_is_pending_before() {
    let test = "the_result_of_a_device_is_one_check_that_is_pending_before";
    let Some(sandbox) = requester(test, "tests = [\"commands\"]\ncommands = [\"true\"]") else { return };
    let manifest = std::fs::read_to_string(sandbox.manifest()).unwrap();
    let github = "\n[github]\nrepository = \"example/meta-tested\"\nreport = [\"status\", \"check\"]\n";
    sandbox.write_manifest(&(manifest + github));
    commit(&sandbox.layer(), "Add the manifest");
    let head = git(&sandbox.layer(), ["rev-parse", "HEAD"]);
    let server = GitHubServer::start(&json!({ "commits": { &head: [] }, "pulls": [] }));
    let mut command = sandbox.run_command();
    command.envs(github::variables("push", &sandbox.layer(), &head));
    command.envs([
        ("BUILD_AGENT_TRUSTED_BRANCHES", "main"),
        ("GITHUB_TOKEN", "ghs_actions"),
        ("GITHUB_API_URL", &server.url()),
    ]);
    sandbox.start(command).wait().assert_code(&[0]);
    let name = "build-agent: meta-tested scarthgap / pi";
    let of_device = || {
        let state = server.state();
        let newest = |list: &str, key: &str| {
            let all: Vec<Value> = state[list].as_array().unwrap().clone();
            all.into_iter().filter(|one| one[key] == name).collect::<Vec<Value>>()
        };
        (newest("statuses", "context"), newest("check_runs", "name"))
    };
    let (statuses, runs) = of_device();
    assert_eq!(statuses.iter().map(|one| &one["state"]).collect::<Vec<_>>(), ["pending"]);
    assert_eq!((runs.len(), &runs[0]["status"]), (1, &json!("queued")));

    let request = requests(&sandbox).pop().unwrap();
    let id = request.file_name().unwrap().to_str().unwrap().to_owned();
    let store = sandbox.artifacts();
    let post = |commit: &str| {
        let mut command = sandbox.command(["report", "post", "--device-request", &id, "--commit", commit]);
        command.arg("--store").arg(&store).args(["--post", "status,check"]);
        command.args(["--name", "meta-tested scarthgap", "--repository", "example/meta-tested"]);
        command.envs([("GITHUB_TOKEN", "ghs_actions"), ("GITHUB_API_URL", &server.url())]);
        sandbox.start(command).wait()
    };
    post(&head).assert_code(&[2]);
    post(&"0".repeat(40)).assert_says(&["is for the commit"]);
    // Any complete result of this version will do.
    let answer = Answer { result: sandbox.result(), verdict: json!({"exit": "passed", "outcome": "passed"}) };
    lab(&sandbox, 0, Some(&answer));
    post(&head).assert_code(&[0]);
    let (statuses, runs) = of_device();
    assert_eq!(statuses.last().unwrap()["state"], "success", "{statuses:?}");
    assert_eq!((runs.len(), &runs[0]["conclusion"]), (1, &json!("success")), "{runs:?}");
    assert!(runs[0]["output"]["title"].as_str().unwrap().contains("PASSED"), "{runs:?}");

    // A result that is not the one of the verdict is never shown.
    std::fs::write(request.join("reports/1/result.json"), "{}").unwrap();
    post(&head).assert_code(&[0]);
    let (statuses, runs) = of_device();
    assert_ne!(statuses.last().unwrap()["state"], "success", "{statuses:?}");
    assert_eq!((runs.len(), &runs[0]["conclusion"]), (1, &json!("failure")), "{runs:?}");
    let text = runs[0]["output"].to_string();
    assert!(text.contains("not the one of the verdict"), "{text}");
}
