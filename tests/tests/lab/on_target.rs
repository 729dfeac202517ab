//! What runs on a device: exported tests as the build user, and AWS IoT Device Tester with credentials of its own.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use build_agent_tests::{BUILD_USER, Running, agent, leaks_of, repository};
use nix::unistd::geteuid;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::fixture::{Bench, Kind, eventually, stop};

const QUICK: &str = "poll = \"200ms\"\nlease = \"20s\"\nboot = \"30s\"";

/// A bench whose directories the build user may pass, and the line of lab.toml that names that user.
fn bench(test: &str) -> Option<(Bench, &'static str)> {
    let bench = Bench::new(test, Kind::Directory, &["pi-1"])?;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(bench.home.path(), mode).unwrap();
    Some((bench, if geteuid().is_root() { "build_user = \"builder\"\n" } else { "" }))
}

/// The lab's file with a line at its top and tables at its end.
fn lab(bench: &Bench, user: &str, tables: &str) -> PathBuf {
    let file = bench.lab("desk", QUICK, "");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replacen("version = 1\n", &format!("version = 1\n{user}"), 1) + tables)
        .unwrap();
    file
}

/// The bytes of an archive of exported tests: the stand-in for `oe-test`, with its plan.
fn export(place: &Path, plan: &Value) -> Vec<u8> {
    let root = place.join("export");
    for part in ["data", "lib/oeqa/runtime/cases"] {
        std::fs::create_dir_all(root.join(part)).unwrap();
    }
    std::fs::copy(repository().join("tests/stand-ins/oe-test"), root.join("oe-test")).unwrap();
    std::fs::write(root.join("plan.json"), plan.to_string()).unwrap();
    let data = json!({ "IMAGE_BASENAME": "core-image-minimal", "MACHINE": "stand-in" });
    std::fs::write(root.join("data/testdata.json"), data.to_string()).unwrap();
    std::fs::write(root.join("data/manifest"), "zlib-ptest core2-64 1.0\n").unwrap();
    for module in ["ping", "ssh", "build_agent_ptest"] {
        std::fs::write(root.join(format!("lib/oeqa/runtime/cases/{module}.py")), "").unwrap();
    }
    let archive = place.join("export.tar");
    let mut tar = Command::new("tar");
    tar.args(["--create", "--gzip", "--file"]).arg(&archive).arg("--directory").arg(&root).arg(".");
    assert!(tar.status().unwrap().success());
    std::fs::read(archive).unwrap()
}

/// Submits a request with exported tests.
fn submit(bench: &Bench, id: &str, tests: &[&str], suites: &[&str], archive: &[u8]) {
    let digest: String = Sha256::digest(archive).iter().map(|byte| format!("{byte:02x}")).collect();
    bench.store.put(&format!("files/{digest}"), archive);
    bench.submit(id, &[], |request| {
        request["tests"] = json!(tests);
        request["suites"] = json!(suites);
        request["commands"] = json!([]);
        let export =
            json!({ "role": "test-export", "name": "export.tar", "bytes": archive.len(), "sha256": digest });
        request["files"].as_array_mut().unwrap().push(export);
    });
}

fn log(bench: &Bench, id: &str, name: &str) -> String {
    let content = bench.store.get(&format!("requests/{id}/reports/1/logs/{name}.log"));
    String::from_utf8(content.unwrap_or_else(|| panic!("{id} has no {name}.log"))).unwrap()
}

/// What the stand-in printed.
fn seen(log: &str) -> Value {
    let line = log.lines().find_map(|line| line.strip_prefix("SEEN "));
    serde_json::from_str(line.unwrap_or_else(|| panic!("{log}"))).unwrap()
}

#[test]
fn exported_tests_run_as_the_build_user_and_never_see_the_key() {
    let Some((bench, user)) = bench("exported_tests_run_as_the_build_user_and_never_see_the_key") else {
        return;
    };
    let secrets = ["devices/key", "desk.toml", "state-desk/devices/pi-1/lease.json"];
    let secrets: Vec<String> =
        secrets.iter().map(|path| bench.home.path().join(path).display().to_string()).collect();
    let plan = json!({
        "tests": { "ping": { "PingTest.test_ping": "PASSED" }, "ssh": { "SSHTest.test_ssh": "SKIPPED" } },
        "ptests": { "zlib": { "one": "PASSED" } },
        "secrets": secrets,
    });
    let archive = export(bench.home.path(), &plan);
    submit(&bench, "request-exported", &["runtime", "ptest"], &["ping"], &archive);
    submit(&bench, "request-no-suite", &["runtime"], &["ping", "parselogs"], &archive);
    let mut serve = agent();
    let canary = "AKIDOFTHELAB0000CANARY";
    serve.args(["lab", "serve"]).arg(lab(&bench, user, ""));
    serve.env("AWS_ACCESS_KEY_ID", canary).env("AWS_SECRET_ACCESS_KEY", "lab-secret-canary-0123");
    let mut lab = Running::start(serve, bench.home.path());
    let verdict = bench.verdict(&mut lab, "request-exported");
    assert_eq!(verdict["outcome"], "passed", "{verdict}");
    bench.assert_consistent("request-exported");
    let runtime = seen(&log(&bench, "request-exported", "oe-test-runtime"));
    assert_eq!(runtime["modules"], json!(["ping", "ssh"]), "{runtime}");
    assert_eq!((&runtime["ssh"], &runtime["server"]), (&json!(0), &json!("127.0.0.1")), "{runtime}");
    let ptest = seen(&log(&bench, "request-exported", "oe-test-ptest"));
    assert_eq!(
        (&ptest["modules"], &ptest["ptests"]),
        (&json!(["build_agent_ptest"]), &json!(null)),
        "{ptest}"
    );
    for seen in [runtime, ptest] {
        let environment = seen["environment"].as_array().unwrap();
        assert!(!environment.iter().any(|name| name.as_str().unwrap().starts_with("AWS")), "{environment:?}");
        if geteuid().is_root() {
            assert_ne!(seen["uid"], 0, "{BUILD_USER} runs exported tests");
            let readable: Vec<&str> =
                seen["readable"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
            assert!(!readable.iter().any(|path| path.ends_with("key")), "{readable:?}");
        }
    }
    // A suite that was asked for and did not run.
    let verdict = bench.verdict(&mut lab, "request-no-suite");
    assert_eq!(verdict["outcome"], "failed", "{verdict}");
    assert!(verdict["reason"].as_str().unwrap().contains("parselogs"), "{verdict}");
    stop(lab).assert_code(&[0]);
    assert_eq!(leaks_of(&[canary.to_owned()], &bench.home.path().join("store")), Vec::<PathBuf>::new());
}

#[test]
fn results_of_exported_tests_that_prove_nothing_are_red() {
    let Some((bench, user)) = bench("results_of_exported_tests_that_prove_nothing_are_red") else { return };
    let passed = json!({ "ping": { "PingTest.test_ping": "PASSED" } });
    let cases: [(&str, &str, Value, &str); 6] = [
        ("request-nothing", "runtime", json!({}), "not a single test ran"),
        (
            "request-skipped",
            "runtime",
            json!({ "tests": { "ping": { "PingTest.test_ping": "SKIPPED" } } }),
            "every test was skipped",
        ),
        (
            "request-failed",
            "runtime",
            json!({ "tests": { "ping": { "PingTest.test_ping": "FAILED" } } }),
            "ping.PingTest.test_ping: AssertionError: it broke",
        ),
        ("request-linked", "runtime", json!({ "tests": passed, "link": "/etc/hostname" }), "cannot be read"),
        ("request-no-ptest", "ptest", json!({ "ptests": {} }), "zlib"),
        ("request-bad-ptest", "ptest", json!({ "ptests": { "zlib": { "one": "FAILED" } } }), "ptest.zlib"),
    ];
    for (id, test, plan, _) in &cases {
        submit(&bench, id, &[test], &[], &export(bench.home.path(), plan));
    }
    let mut lab = bench.serve(&lab(&bench, user, ""));
    for (id, _, _, why) in cases {
        let verdict = bench.verdict(&mut lab, id);
        assert_ne!(verdict["outcome"], "passed", "{id}: {verdict}");
        assert!(verdict["reason"].as_str().unwrap().contains(why), "{id}: {verdict}");
    }
    stop(lab).assert_code(&[0]);
}

/// The parts of an installation of the stand-in for Device Tester.
fn unpack_device_tester(root: &Path) {
    for part in ["bin", "configs", "results", "tests/GGV2Q_2.5.4"] {
        std::fs::create_dir_all(root.join(part)).unwrap();
    }
    let program = "bin/devicetester_linux_x86-64";
    std::fs::copy(repository().join("tests/stand-ins/idt").join(program), root.join(program)).unwrap();
    let plan = json!({ "groups": { "mqtt": ["pubsub:p"] }, "features": { "core": "supported" } });
    std::fs::write(root.join("stand-in.json"), plan.to_string()).unwrap();
}

fn submit_device_tester(bench: &Bench) {
    bench.submit("request-tester", &[], |request| {
        request["tests"] = json!(["idt:GGV2Q"]);
        request["commands"] = json!([]);
    });
}

/// The server from which Device Tester is downloaded.
struct Downloads(std::process::Child, u16);

impl Drop for Downloads {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Downloads {
    fn start(place: &Path, zip: &Path) -> Downloads {
        let port = place.join("port");
        let mut server = Command::new("python3");
        server.arg(repository().join("tests/stand-ins/idt/download.py"));
        server.args([&port, zip, &place.join("requests")]);
        let child = server.stdin(std::process::Stdio::null()).spawn().unwrap();
        let mut server = Downloads(child, 0);
        eventually("the port of the server", || port.exists());
        server.1 = std::fs::read_to_string(&port).unwrap().parse().unwrap();
        server
    }
}

#[test]
fn device_tester_is_downloaded_by_a_signed_request() {
    let Some((bench, user)) = bench("device_tester_is_downloaded_by_a_signed_request") else { return };
    let place = bench.home.path();
    unpack_device_tester(&place.join("packed/devicetester_greengrass_v2_linux"));
    let zip = place.join("idt.zip");
    let mut pack = Command::new("python3");
    pack.args(["-m", "zipfile", "-c"]).arg(&zip).arg("devicetester_greengrass_v2_linux");
    assert!(pack.current_dir(place.join("packed")).status().unwrap().success());
    let server = Downloads::start(place, &zip);
    let tables = "[testers.GGV2Q]\naccept_license = true\nregion = \"eu-central-1\"\n";
    submit_device_tester(&bench);
    let mut serve = agent();
    serve.args(["lab", "serve"]).arg(lab(&bench, user, tables));
    serve.env("AWS_ACCESS_KEY_ID", "AKIDOFTHELAB").env("AWS_SECRET_ACCESS_KEY", "lab-secret-canary-0123");
    serve.env("AWS_ENDPOINT_URL_IOT_DEVICE_TESTER", format!("http://127.0.0.1:{}", server.1));
    let mut lab = Running::start(serve, place);
    let verdict = bench.verdict(&mut lab, "request-tester");
    assert_eq!(verdict["outcome"], "passed", "{verdict}");
    let requests = std::fs::read_to_string(place.join("requests")).unwrap();
    let requests: Vec<&str> = requests.lines().collect();
    assert_eq!(requests.len(), 2, "{requests:?}");
    assert!(requests[0].contains("Credential=AKIDOFTHELAB/"), "{requests:?}");
    assert!(requests[0].contains("/eu-central-1/iot-device-tester/aws4_request"), "{requests:?}");
    assert_eq!(requests[1], "/idt.zip ", "the zip's own address is the secret; no key goes there");
    stop(lab).assert_code(&[0]);
}

#[test]
fn device_tester_has_the_credentials_of_its_profile_and_no_others() {
    let test = "device_tester_has_the_credentials_of_its_profile_and_no_others";
    let Some((bench, user)) = bench(test) else { return };
    let root = bench.home.path().join("idt");
    unpack_device_tester(&root);
    if geteuid().is_root() {
        let done = Command::new("chown").args(["-R", BUILD_USER]).arg(&root).status().unwrap();
        assert!(done.success());
    }
    let aws = bench.home.path().join("aws-config");
    std::fs::write(
        &aws,
        "[profile tester]\naws_access_key_id = AKIDOFTHETESTER\naws_secret_access_key = tester-secret-canary-0123\n",
    )
    .unwrap();
    let tables = format!(
        "[testers.GGV2Q]\ndirectory = \"{}\"\naccept_license = true\nprofile = \"tester\"\nregion = \"eu-central-1\"\n\
         groups = [\"mqtt\"]\n",
        root.display()
    );
    submit_device_tester(&bench);
    let mut serve = agent();
    serve.args(["lab", "serve"]).arg(lab(&bench, user, &tables));
    serve.env("AWS_CONFIG_FILE", &aws).env("AWS_ACCESS_KEY_ID", "AKIDOFTHELAB0000CANARY");
    serve.env("AWS_SECRET_ACCESS_KEY", "lab-secret-canary-0123");
    let mut lab = Running::start(serve, bench.home.path());
    let verdict = bench.verdict(&mut lab, "request-tester");
    assert_eq!(verdict["outcome"], "passed", "{verdict}");
    bench.assert_consistent("request-tester");
    let seen: Value = serde_json::from_slice(&std::fs::read(root.join("seen.json")).unwrap()).unwrap();
    assert_eq!(seen["key"], "AKIDOFTHETESTER", "{seen}");
    assert_eq!(seen["config.json"]["auth"], json!({ "method": "environment" }));
    let names: Vec<&str> = seen["environment"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let aws: Vec<&&str> = names.iter().filter(|name| name.starts_with("AWS")).collect();
    assert_eq!(aws, [&"AWS_ACCESS_KEY_ID", &"AWS_REGION", &"AWS_SECRET_ACCESS_KEY"]);
    stop(lab).assert_code(&[0]);
    for canary in ["tester-secret-canary-0123", "lab-secret-canary-0123"] {
        assert_eq!(leaks_of(&[canary.to_owned()], &bench.home.path().join("store")), Vec::<PathBuf>::new());
    }
}
