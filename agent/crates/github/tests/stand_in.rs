//! The client against a stand-in of GitHub (tests/stand-ins/github/server.py) with faults: rate limits, errors after a
//! success, lost connections, slow answers, kills, and other jobs at the same time.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant, SystemTime};

use agent_github::checks::{
    self, Annotation, AnnotationLevel, CheckRun, Conclusion, NewCheckRun, Output, RunStatus,
};
use agent_github::code_scanning::{self, Analysis};
use agent_github::comments::{self, Section, Write, Written};
use agent_github::statuses::{self, State, Status};
use agent_github::{App, Client, Failure, Permission, Repository, pulls};
use serde_json::{Value, json};
use url::Url;

const COMMIT: &str = "1111111111111111111111111111111111111111";
const TOKEN: &str = "ghp_robot";

struct GitHub {
    child: Child,
    api: Url,
    directory: tempfile::TempDir,
}

impl GitHub {
    async fn start(more: Value) -> GitHub {
        let directory = tempfile::tempdir().unwrap();
        let mut config = json!({
            "repository": "example/meta-tested",
            "commits": { COMMIT: [] },
            "pulls": [{ "number": 7, "sha": COMMIT, "owner": "stranger", "branch": "fix/it", "files": [
                { "filename": "conf/layer.conf", "patch": "@@ -1,2 +1,3 @@\n a\n+b\n c", "status": "modified" },
            ] }],
            "tokens": {
                TOKEN: { "login": "robot", "permissions": ["statuses", "pull_requests", "security_events"] },
                "ghs_actions": { "login": "github-actions[bot]", "type": "Bot",
                    "permissions": ["statuses", "checks", "pull_requests"] },
                "ghp_nothing": { "login": "no-rights", "permissions": [] },
            },
        });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
        let server = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/stand-ins/github/server.py");
        let child = Command::new("python3").arg(server).arg(directory.path()).spawn().expect("python3");
        let port = directory.path().join("port");
        for _ in 0..600 {
            if port.exists() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let api = format!("http://127.0.0.1:{}", std::fs::read_to_string(port).unwrap());
        GitHub { child, api: Url::parse(&api).unwrap(), directory }
    }

    fn client(&self, token: &str) -> Client {
        Client::new(&self.api, token, (Instant::now() + Duration::from_secs(60)).into()).unwrap()
    }

    async fn faults(&self, faults: Value) {
        let url = self.api.join("/_faults").unwrap();
        reqwest::Client::new().post(url).body(faults.to_string()).send().await.unwrap();
    }

    async fn state(&self) -> Value {
        let answer = reqwest::get(self.api.join("/_state").unwrap()).await.unwrap();
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    }

    fn exchanges(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.directory.path().join("exchanges.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for GitHub {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn repository() -> Repository {
    "example/meta-tested".parse().unwrap()
}

fn status() -> Status {
    Status {
        state: State::Failure,
        context: "build-agent: meta-x scarthgap / check".into(),
        description: "test_readme failed".into(),
        target_url: Some("https://example.org/report".into()),
    }
}

/// What can happen to a request that creates something. In each case it exists once afterwards.
fn faults_of_a_request(method: &str, path: &str) -> Vec<Value> {
    let fault = |more: Value| {
        let mut fault = json!({ "method": method, "path": path });
        fault.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!([fault])
    };
    vec![
        json!([]),
        fault(json!({ "status": 502 })),
        fault(json!({ "status": 502, "effect": true })),
        fault(json!({ "status": 500, "effect": true, "body": "<html>" })),
        fault(json!({ "drop": true, "effect": true })),
        fault(json!({ "drop": true })),
        fault(json!({ "status": 429, "headers": { "Retry-After": "1" } })),
        fault(json!({ "status": 403, "headers": { "Retry-After": "1" } })),
        json!([
            { "method": method, "path": path, "status": 503 },
            { "method": method, "path": path, "status": 502, "effect": true },
            { "method": "GET", "status": 502 },
        ]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_is_posted_once_whatever_the_server_answers() {
    for faults in faults_of_a_request("POST", "/statuses/") {
        let github = GitHub::start(json!({})).await;
        github.faults(faults.clone()).await;
        let posted = statuses::post(&github.client(TOKEN), &repository(), COMMIT, &status()).await;
        assert_eq!(posted, Ok(()), "{faults}");
        let state = github.state().await;
        assert_eq!(state["statuses"].as_array().unwrap().len(), 1, "{faults}: {state}");
        assert_eq!(state["statuses"][0]["context"], status().context);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_say_why_and_no_request_outlives_the_deadline() {
    let github = GitHub::start(json!({})).await;
    let post = async |token: &str, commit: &str| {
        statuses::post(&github.client(token), &repository(), commit, &status()).await
    };
    assert!(matches!(post("ghp_nothing", COMMIT).await, Err(Failure::Forbidden(_))));
    assert!(matches!(post("ghp_wrong", COMMIT).await, Err(Failure::Unauthorized(_))));
    let unknown = post(TOKEN, &"f".repeat(40)).await;
    assert!(
        matches!(&unknown, Err(Failure::Refused { status: 422, message }) if message.contains("No commit")),
        "{unknown:?}"
    );
    let elsewhere = statuses::post(&github.client(TOKEN), &"a/b".parse().unwrap(), COMMIT, &status()).await;
    assert!(matches!(elsewhere, Err(Failure::NotFound(_))));

    let table = [
        json!([{ "status": 429, "headers": { "Retry-After": "600" } }]),
        json!([{ "status": 403, "headers": { "x-ratelimit-remaining": "0", "x-ratelimit-reset": "99999999999" } }]),
        json!([{ "status": 403, "body": { "message": "You have exceeded a secondary rate limit" } }]),
        json!([{ "delay": 20 }]),
        json!([{ "delay": 20, "status": 502, "effect": true }]),
        json!([{ "status": 503, "times": 100 }]),
        json!([{ "drop": true, "times": 100 }]),
        json!([{ "status": 301, "headers": { "Location": "https://example.org/" } }]),
    ];
    for faults in table {
        let github = GitHub::start(json!({})).await;
        github.faults(faults.clone()).await;
        let began = Instant::now();
        let client = github.client(TOKEN).until((began + Duration::from_secs(2)).into());
        let failure = statuses::post(&client, &repository(), COMMIT, &status()).await.unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(10), "{faults}: {:?}", began.elapsed());
        let is_limit = matches!(failure, Failure::RateLimited(_));
        assert_eq!(is_limit, faults[0]["status"] == 429 || faults[0]["status"] == 403, "{faults}: {failure}");
    }
}

fn run(job: &str) -> NewCheckRun<'_> {
    NewCheckRun {
        name: "build-agent: meta-x scarthgap",
        commit: COMMIT,
        job,
        link: Some("https://example.org/report"),
        status: RunStatus::InProgress,
        output: Output { title: "starts".into(), summary: "s".into() },
    }
}

fn annotations(number: usize) -> Vec<Annotation> {
    let one = |at: usize| Annotation {
        path: format!("file-{at}"),
        start_line: 1,
        end_line: 1,
        annotation_level: AnnotationLevel::Failure,
        title: "rule".into(),
        message: "m".into(),
    };
    (0..number).map(one).collect()
}

/// Claims the run of a job, ends it and annotates it.
async fn post_run(github: &GitHub, job: &str, number: usize) -> Result<CheckRun, Failure> {
    let (client, repository) = (github.client("ghs_actions"), repository());
    let run = checks::claim(&client, &repository, &run(job)).await?;
    let output = Output { title: "failed".into(), summary: "s".into() };
    let run = checks::complete(&client, &repository, run.id, Conclusion::Failure, None, &output).await?;
    checks::annotate(&client, &repository, &run, &output, &annotations(number)).await?;
    Ok(run)
}

fn paths(run: &Value) -> Vec<&str> {
    run["annotations"].as_array().unwrap().iter().map(|one| one["path"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_run_and_its_annotations_exist_once_whatever_the_server_answers() {
    let wanted: Vec<String> = (0..120).map(|at| format!("file-{at}")).collect();
    let table = faults_of_a_request("POST", "check-runs$")
        .into_iter()
        .chain(faults_of_a_request("PATCH", "check-runs/"));
    for mut faults in table {
        // The second request of the batches.
        if faults[0]["method"] == "PATCH" && faults[1].is_null() {
            faults[0]["after"] = json!(2);
        }
        let github = GitHub::start(json!({})).await;
        github.faults(faults.clone()).await;
        post_run(&github, "job-1", 120).await.unwrap_or_else(|failure| panic!("{faults}: {failure}"));
        let state = github.state().await;
        let runs = state["check_runs"].as_array().unwrap();
        assert_eq!(runs.len(), 1, "{faults}");
        assert_eq!(
            (&runs[0]["status"], &runs[0]["conclusion"]),
            (&json!("completed"), &json!("failure")),
            "{faults}"
        );
        assert_eq!(paths(&runs[0]), wanted, "{faults}");
        let sent = github.exchanges();
        let batches: Vec<_> = sent
            .iter()
            .filter_map(|it| Some(it["request"]["output"]["annotations"].as_array()?.len()))
            .collect();
        assert!(batches.iter().all(|size| *size <= checks::BATCH), "{batches:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_was_killed_while_it_posted_continues() {
    let github = GitHub::start(json!({})).await;
    // The verdict and the first batch are there, then the step is gone.
    github
        .faults(json!([{ "method": "PATCH", "path": "check-runs/", "after": 2, "times": 1, "status": 403 }]))
        .await;
    assert!(post_run(&github, "job-1", 120).await.is_err());
    let state = github.state().await;
    assert_eq!(state["check_runs"][0]["status"], "completed", "the verdict comes before the annotations");
    assert_eq!(paths(&state["check_runs"][0]).len(), 50);
    post_run(&github, "job-1", 120).await.unwrap();
    post_run(&github, "job-1", 120).await.unwrap();
    let state = github.state().await;
    assert_eq!(state["check_runs"].as_array().unwrap().len(), 1);
    let wanted: Vec<String> = (0..120).map(|at| format!("file-{at}")).collect();
    assert_eq!(paths(&state["check_runs"][0]), wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_a_killed_job_left_is_taken_over_or_ended() {
    let github = GitHub::start(json!({})).await;
    let (client, repository) = (github.client("ghs_actions"), repository());
    let first = checks::claim(&client, &repository, &run("job-1")).await.unwrap();
    let again = checks::claim(&client, &repository, &run("job-1")).await.unwrap();
    let second = checks::claim(&client, &repository, &run("job-2")).await.unwrap();
    assert_eq!((first.id, first.id), (again.id, second.id), "nothing was posted yet");
    assert!(second.is_of("job-2"));
    let failure = checks::still_of(&client, &repository, first.id, "job-1").await.unwrap_err();
    assert!(failure.to_string().contains("a newer job"), "{failure}");
    // It has annotations, which cannot be removed.
    checks::annotate(&client, &repository, &second, &Output::default(), &annotations(3)).await.unwrap();
    let third = checks::claim(&client, &repository, &run("job-3")).await.unwrap();
    assert_ne!(third.id, second.id);
    let state = github.state().await;
    assert_eq!(
        (&state["check_runs"][0]["status"], &state["check_runs"][0]["conclusion"]),
        (&json!("completed"), &json!("cancelled"))
    );
    // A run that has ended stays as it is: the next one is a repetition.
    post_run(&github, "job-3", 0).await.unwrap();
    let fourth = checks::claim(&client, &repository, &run("job-4")).await.unwrap();
    assert!(fourth.id != third.id && !fourth.is_completed);
}

fn section(name: &str, text: &str) -> Section {
    Section { name: name.into(), text: text.into() }
}

async fn comment(
    github: &GitHub,
    token: &str,
    name: &str,
    text: &str,
    when: Write,
) -> Result<Written, Failure> {
    comments::write(&github.client(token), &repository(), 7, &section(name, text), when).await
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_one_comment_whatever_the_server_answers() {
    for faults in faults_of_a_request("POST", "/comments") {
        let github = GitHub::start(json!({})).await;
        github.faults(faults.clone()).await;
        comment(&github, TOKEN, "a", "one", Write::Always)
            .await
            .unwrap_or_else(|failure| panic!("{faults}: {failure}"));
        comment(&github, TOKEN, "a", "two", Write::Always).await.unwrap();
        let state = github.state().await;
        assert_eq!(state["comments"].as_array().unwrap().len(), 1, "{faults}");
        let body = state["comments"][0]["body"].as_str().unwrap();
        assert!(body.contains("\ntwo\n") && !body.contains("one"), "{faults}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_write_at_the_same_time_share_one_comment() {
    let github = GitHub::start(json!({})).await;
    let names: Vec<String> = (0..6).map(|number| format!("job {number}")).collect();
    let tasks: Vec<_> = names
        .iter()
        .map(|name| {
            let (client, section) = (github.client(TOKEN), section(name, &format!("text of {name}")));
            tokio::spawn(
                async move { comments::write(&client, &repository(), 7, &section, Write::Always).await },
            )
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    // A job whose section was lost reports it; the next write heals the comment.
    let state = github.state().await;
    assert_eq!(state["comments"].as_array().unwrap().len(), 1, "{state}");
    let body = state["comments"][0]["body"].as_str().unwrap();
    for name in &names {
        assert_eq!(body.matches(&format!("text of {name}\n")).count(), 1, "{name} in {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn comments_of_others_are_left_alone() {
    let user = |login: &str, kind: &str| json!({ "login": login, "type": kind, "id": 5, "node_id": "U", "site_admin": false });
    let by = |id: u64, login: &str, kind: &str| {
        json!({ "id": id, "issue": 7, "body": "<!-- build-agent -->\nforged",
        "user": user(login, kind), "created_at": "2026-01-02T03:04:05Z", "updated_at": "2026-01-02T03:04:05Z" })
    };
    let many = (10..260).map(|id| {
        json!({ "id": id, "issue": 7, "body": "hello", "user": user("you", "User"),
        "created_at": "2026-01-02T03:04:05Z", "updated_at": "2026-01-02T03:04:05Z" })
    });
    let all: Vec<Value> =
        [by(1, "stranger", "User"), by(2, "other[bot]", "Bot")].into_iter().chain(many).collect();
    for token in [TOKEN, "ghs_actions"] {
        let github = GitHub::start(json!({ "comments": all })).await;
        assert_eq!(
            comment(&github, token, "a", "one", Write::IfPresent).await,
            Ok(Written::Nothing),
            "{token}"
        );
        assert_eq!(comment(&github, token, "a", "one", Write::Always).await, Ok(Written::Created), "{token}");
        assert_eq!(
            comment(&github, token, "a", "two", Write::IfPresent).await,
            Ok(Written::Updated),
            "{token}"
        );
        assert_eq!(
            comment(&github, token, "b", "two", Write::IfPresent).await,
            Ok(Written::Nothing),
            "{token}"
        );
        let state = github.state().await;
        let found = state["comments"].as_array().unwrap();
        assert_eq!(found.len(), all.len() + 1, "{token}");
        assert!(found[..2].iter().all(|it| it["body"].as_str().unwrap().ends_with("forged")), "{token}");
    }
}

fn key() -> (String, Vec<u8>) {
    use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use aws_lc_rs::signature::KeyPair as _;
    use base64::Engine;
    let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let der: Pkcs8V1Der = key.as_der().unwrap();
    let text = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"));
    (pem, key.public_key().as_ref().to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_an_app_has_one_permission_in_one_repository() {
    let app = json!({ "app": { "id": "12345", "permissions": { "checks": "write", "contents": "read" } } });
    let github = GitHub::start(app).await;
    let (pem, _) = key();
    let app = App::new("12345", &pem).unwrap();
    let client = github.client("none");
    let token = app.token(&client, &repository(), Permission::Checks).await.unwrap();
    let minted = &github.state().await["tokens"][0];
    assert_eq!(minted["permissions"], json!({ "checks": "write" }));
    assert_eq!(minted["repositories"], json!(["meta-tested"]));
    checks::claim(&client.with_token(&token).unwrap(), &repository(), &run("job-1")).await.unwrap();
    let failure = app.token(&client, &repository(), Permission::Statuses).await.unwrap_err();
    assert!(failure.to_string().contains("lacks the permission `Commit statuses: write`"), "{failure}");
    let failure = app.token(&client, &"a/b".parse().unwrap(), Permission::Checks).await.unwrap_err();
    assert!(failure.to_string().contains("is not installed in a/b"), "{failure}");
}

#[test]
fn a_statement_is_signed_by_the_apps_key() {
    use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let (pem, public) = key();
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    for pem in [pem.clone(), pem.trim().replace('\n', "\\n"), format!("\n{pem}\n\n")] {
        let statement = App::new("Iv1.abc", &pem).unwrap().statement(now).unwrap();
        let (signed, signature) = statement.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &public)
            .verify(signed.as_bytes(), &signature)
            .unwrap();
        let claims = URL_SAFE_NO_PAD.decode(signed.split_once('.').unwrap().1).unwrap();
        let claims: Value = serde_json::from_slice(&claims).unwrap();
        assert_eq!(claims, json!({ "iat": 1_799_999_940, "exp": 1_800_000_540, "iss": "Iv1.abc" }));
    }
    for bad in ["", "hunter22", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", &pem[..200]]
    {
        let failure = App::new("1", bad).unwrap_err().to_string();
        assert!(failure.contains(".pem file") && (bad.len() < 8 || !failure.contains(bad)), "{failure}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sarif_is_uploaded_once_and_bounded() {
    let sarif = json!({ "runs": [{ "automationDetails": { "id": "meta-x/" } }] }).to_string();
    let git_ref = "refs/pull/7/head";
    let analysis = Analysis { commit: COMMIT, git_ref, tool: "build-agent", category: "meta-x" };
    for faults in faults_of_a_request("POST", "/sarifs") {
        let github = GitHub::start(json!({})).await;
        github.faults(faults.clone()).await;
        code_scanning::upload(&github.client(TOKEN), &repository(), &analysis, &sarif).await.unwrap();
        let state = github.state().await;
        assert_eq!(state["sarifs"].as_array().unwrap().len(), 1, "{faults}");
        assert_eq!(state["sarifs"][0]["ref"], git_ref);
    }
    // Ten megabytes that gzip cannot make smaller.
    let mut random = 1_u64;
    let noise: String = (0..24 << 20)
        .map(|_| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b' ' + u8::try_from((random >> 40) % 94).unwrap())
        })
        .collect();
    let github = GitHub::start(json!({})).await;
    let failure =
        code_scanning::upload(&github.client(TOKEN), &repository(), &analysis, &noise).await.unwrap_err();
    assert!(failure.to_string().contains("GitHub accepts 10000000"), "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_request_is_found_by_its_newest_commit() {
    let github = GitHub::start(json!({})).await;
    let client = github.client(TOKEN);
    let found = async |owner: &str, branch: &str, commit: &str| {
        let found = pulls::with_head(&client, &repository(), owner, branch, commit).await.unwrap();
        found.into_iter().map(|pull| pull.number).collect::<Vec<_>>()
    };
    assert_eq!(found("stranger", "fix/it", COMMIT).await, [7]);
    assert!(found("stranger", "fix/it", &"2".repeat(40)).await.is_empty(), "it has a newer commit");
    assert!(found("example", "fix/it", COMMIT).await.is_empty());
    let diff = pulls::diff(&client, &repository(), 7).await.unwrap();
    assert!(diff.has("conf/layer.conf", 2) && !diff.has("conf/layer.conf", 9));
}
