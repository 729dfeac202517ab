//! Jobs of the stand-in for a LAVA server (`tests/stand-ins/lava`).

use std::process::{Child, Stdio};
use std::time::Instant;

use agent_types::error::Class;
use serde_json::{Value, json};

use super::*;
use crate::fixtures::attempt::TestAttempt;
use crate::request::{DeviceTest, FileRole, RequestFile};

const STAND_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../tests/stand-ins/lava/server.py");

const TEMPLATE: &str = "job_name: {{ request }}-{{attempt}}\ndevice_type: rpi\n\
    image: {{ url *.wic.gz }}\nsha: {{ sha256 *.wic.gz }}\nmetadata: {commit: {{ commit }}}\n";

/// A server that is ended with the test.
struct Server {
    child: Child,
    directory: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts it, and makes the attempt's device one of its own.
    fn start(attempt: &mut TestAttempt, plan: &Value) -> Server {
        let directory = attempt.path("lava");
        fs_err::create_dir(&directory).unwrap();
        fs_err::write(directory.join("plan.json"), plan.to_string()).unwrap();
        let port = directory.join("port");
        let child = std::process::Command::new("python3")
            .args([STAND_IN.as_ref(), port.as_os_str(), directory.as_os_str()])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let server = Server { child, directory: directory.clone() };
        let until = Instant::now() + Duration::from_secs(60);
        while !port.exists() {
            assert!(Instant::now() < until, "the server does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        let port = fs_err::read_to_string(port).unwrap();
        fs_err::write(directory.join("token"), "secret\n").unwrap();
        fs_err::write(directory.join("job.yaml"), TEMPLATE).unwrap();
        attempt.device.control = Control::Lava(Lava {
            url: format!("http://127.0.0.1:{port}"),
            token_file: directory.join("token"),
            job: directory.join("job.yaml"),
            files: "https://store.example/devices/v1/files".into(),
        });
        attempt.request.files = vec![RequestFile {
            role: FileRole::Image,
            name: "img.wic.gz".into(),
            bytes: 1,
            sha256: "ab".repeat(32),
        }];
        server
    }

    fn requests(&self) -> Vec<String> {
        let text = fs_err::read_to_string(self.directory.join("requests")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn has(&self, request: &str) -> bool {
        self.requests().iter().any(|known| known == request)
    }

    /// How many jobs it has.
    fn jobs(&self) -> usize {
        (1..).take_while(|id| self.directory.join(format!("job-{id}.yaml")).exists()).count()
    }
}

const GOOD: &str = "<testsuites><testsuite name='lava'><testcase name='login-action'/></testsuite>\
    <testsuite name='0_runtime'><testcase name='ssh'/></testsuite></testsuites>";

async fn ended(attempt: &TestAttempt) -> Result<AttemptEnd> {
    let work = attempt.path("work/a");
    LavaProvider.run(attempt.attempt(&work)).await
}

/// The units and their outcomes.
async fn units(attempt: TestAttempt) -> Vec<(String, Outcome)> {
    let finished = attempt.events().await.into_iter().filter_map(|event| match event.what {
        EventKind::UnitFinished { unit, outcome, .. } => Some((unit.name, outcome)),
        _ => None,
    });
    finished.collect()
}

#[tokio::test]
async fn a_job_is_submitted_watched_and_judged() {
    let mut attempt = TestAttempt::new();
    let plan = json!({ "states": ["Submitted", "Running", "Running", "Finished"], "junit": GOOD });
    let server = Server::start(&mut attempt, &plan);
    attempt.request.tests = vec![DeviceTest::Runtime];
    assert_eq!(ended(&attempt).await, Ok(AttemptEnd::Tested(Outcome::Passed)));
    let yaml = fs_err::read_to_string(server.directory.join("job-1.yaml")).unwrap();
    let digest = "ab".repeat(32);
    assert_eq!(
        yaml,
        format!(
            "job_name: {}-1\ndevice_type: rpi\nimage: https://store.example/devices/v1/files/{digest}\nsha: {digest}\n\
             metadata: {{commit: 1234abcd}}\n",
            attempt.request.id
        )
    );
    assert!(!server.has("POST /api/v0.2/jobs/1/cancel/"), "{:?}", server.requests());
    assert!(attempt.path("out/logs/lava-1.log").exists());
    let names: Vec<(String, Outcome)> = units(attempt).await;
    assert_eq!(
        names,
        [
            ("lava core-image-minimal on board-1".into(), Outcome::Passed),
            ("runtime core-image-minimal on board-1".into(), Outcome::Passed)
        ]
    );
}

#[tokio::test]
async fn faults_of_the_server_are_retried_and_no_job_is_submitted_twice() {
    for (faults, jobs) in [
        (json!(["503", "drop", "lost"]), 1),
        (json!(["lost", "503", "503"]), 1),
        (json!(["drop", "hang", "503", "503", "drop"]), 1),
    ] {
        let mut attempt = TestAttempt::new();
        let plan = json!({ "states": ["Running", "Finished"], "junit": GOOD, "faults": faults });
        let server = Server::start(&mut attempt, &plan);
        assert_eq!(ended(&attempt).await, Ok(AttemptEnd::Tested(Outcome::Passed)), "{faults}");
        assert_eq!(server.jobs(), jobs, "{faults}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_speak_lava_is_an_upstream_error() {
    for faults in [json!(["html"]), json!(["redirect"]), json!([null, "html"])] {
        let mut attempt = TestAttempt::new();
        let _server = Server::start(&mut attempt, &json!({ "junit": GOOD, "faults": faults }));
        let error = ended(&attempt).await.unwrap_err();
        assert_eq!(error.class, Class::Upstream, "{faults}: {error}");
        assert!(!error.to_string().contains("secret"), "{error}");
        let all = units(attempt).await;
        assert!(all.iter().all(|(_, outcome)| matches!(outcome, Outcome::NotRun(_))), "{all:?}");
    }
    // Nobody listens there.
    let mut attempt = TestAttempt::new();
    let server = Server::start(&mut attempt, &json!({}));
    let Control::Lava(lava) = &attempt.device.control else { panic!("not LAVA") };
    let client = Client::open(lava, Some(Duration::from_millis(700))).unwrap();
    drop(server);
    let error = client.job(1, &attempt.runner.interrupt).await.unwrap_err();
    assert_eq!(error.class, Class::Upstream, "{error}");
    let error = client.submit("job_name: x", "x", &attempt.runner.interrupt).await.unwrap_err();
    assert_eq!(error.class, Class::Upstream, "{error}");
}

#[tokio::test]
async fn an_incomplete_job_is_the_lab_s_or_the_image_s_fault() {
    for (kind, is_fault) in [("Infrastructure", true), ("Test", false)] {
        let mut attempt = TestAttempt::new();
        let plan = json!({ "health": "Incomplete", "comment": "it does not boot", "error_type": kind, "junit": GOOD });
        let _server = Server::start(&mut attempt, &plan);
        match ended(&attempt).await.unwrap() {
            AttemptEnd::DeviceFault(why) => assert!(is_fault && why.contains("it does not boot"), "{why}"),
            AttemptEnd::Tested(Outcome::Failed(why)) => {
                assert!(!is_fault && why.contains("it does not boot"), "{why}");
                let all = units(attempt).await;
                assert!(all.iter().any(|(_, outcome)| matches!(outcome, Outcome::Failed(_))), "{all:?}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn an_attempt_that_has_to_stop_cancels_its_job() {
    for (by_fence, cancel_is_get) in [(false, false), (true, false), (false, true)] {
        let mut attempt = TestAttempt::new();
        let plan = json!({ "states": ["Running"], "junit": GOOD, "cancel_is_get": cancel_is_get });
        let server = Server::start(&mut attempt, &plan);
        let (fence, interrupt) = (attempt.fence.clone(), attempt.runner.interrupt.clone());
        let stop = async {
            let until = Instant::now() + Duration::from_secs(60);
            while !server.has("GET /api/v0.2/jobs/1/") && Instant::now() < until {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            if by_fence { fence.lose() } else { interrupt.signal() }
        };
        let (end, ()) = tokio::join!(ended(&attempt), stop);
        assert!(matches!(end, Ok(AttemptEnd::Tested(Outcome::Cancelled(_)))), "{end:?}");
        assert!(server.has("POST /api/v0.2/jobs/1/cancel/"), "{:?}", server.requests());
        assert_eq!(server.has("GET /api/v0.2/jobs/1/cancel/"), cancel_is_get);
        assert!(!attempt.path("state/devices/board-1/lava-job").exists());
    }
}

#[tokio::test]
async fn the_job_of_a_killed_lab_is_cancelled() {
    let mut attempt = TestAttempt::new();
    let server = Server::start(&mut attempt, &json!({ "junit": GOOD }));
    // What a lab that was killed left.
    RunningJob::of(&attempt.lab.state, "board-1").record(1).unwrap();
    let Control::Lava(lava) = &attempt.device.control else { panic!("not LAVA") };
    let client = Client::open(lava, None).unwrap();
    client.submit("job_name: older", "older", &attempt.runner.interrupt).await.unwrap();
    assert_eq!(ended(&attempt).await, Ok(AttemptEnd::Tested(Outcome::Passed)));
    assert!(server.has("POST /api/v0.2/jobs/1/cancel/"));
    assert!(!server.has("POST /api/v0.2/jobs/2/cancel/"));
}

#[tokio::test]
async fn a_template_that_cannot_be_used_names_its_file() {
    let mut attempt = TestAttempt::new();
    let server = Server::start(&mut attempt, &json!({ "junit": GOOD }));
    for (template, why) in [
        ("device_type: x", "no `job_name`"),
        ("job_name: x", "must contain"),
        ("job_name: {{ request }}", "must contain"),
        ("job_name: {{ request }} {{ attempt }}\nx: {{ password }}", "is unknown"),
        ("job_name: {{ request }} {{ attempt }}\nx: {{ url *.ext4 }}", "no file like `*.ext4`"),
        ("job_name: {{ request }} {{ attempt", "no end"),
    ] {
        fs_err::write(server.directory.join("job.yaml"), template).unwrap();
        let error = ended(&attempt).await.unwrap_err();
        assert_eq!(error.class, Class::Usage);
        assert!(error.message.contains(why) && error.message.contains("job.yaml"), "{template}: {error}");
    }
    attempt.request.image = "a: b".into();
    fs_err::write(server.directory.join("job.yaml"), "job_name: {{ request }} {{ attempt }} {{ image }}")
        .unwrap();
    assert!(ended(&attempt).await.unwrap_err().message.contains("not a plain word"));
    attempt.request.image = "image".into();
    fs_err::write(server.directory.join("job.yaml"), format!("{TEMPLATE}x: INVALID")).unwrap();
    let error = ended(&attempt).await.unwrap_err();
    assert!(error.message.contains("job definition is not valid"), "{error}");
    fs_err::write(server.directory.join("token"), "wrong").unwrap();
    let error = ended(&attempt).await.unwrap_err();
    assert!(error.hint.unwrap().contains("token"), "{:?}", error.message);
    assert_eq!(server.jobs(), 0);
}
