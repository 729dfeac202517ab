//! The loopback endpoint of a job, as the processes of the job see it.

use std::net::TcpListener;
use std::process::Command;

use build_agent_tests::fake_s3::{FakeS3, Fault};
use build_agent_tests::{Ran, Sandbox};

const OBJECT: &str = "sstate/scarthgap/ab/12/sstate:zlib:x:1.3:r0:x:12:\
                      ab12000000000000000000000000000000000000000000000000000000000000_compile.tar.zst";

/// Asks from within the shell, by the address in BitBake's configuration; prints status and body of each path.
const CLIENT: &str = r#"
import http.client, os, re, sys
conf = open("conf/local.conf").read()
assert "http://127.0.0.1:${BUILD_AGENT_PORT}/shared/" in conf, conf
port = int(re.search(r'BUILD_AGENT_PORT = "([0-9]+)"', conf).group(1))
print("no_proxy", os.environ["no_proxy"], os.environ["NO_PROXY"])
for word in sys.argv[1:]:
    method, path = word.split(" ")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path)
    reply = connection.getresponse()
    print(port, word, reply.status, reply.read().decode())
for name in os.environ:
    assert not name.startswith("AWS_"), name
"#;

fn shell(sandbox: &Sandbox, s3: &FakeS3, port: u16, trust: &str, requests: &[&str]) -> Ran {
    let mut command: Command = sandbox.command(["shell"]);
    s3.configure(&mut command);
    command.env("http_proxy", "http://nowhere.invalid:1").env("no_proxy", "127.0.0.1,intern.example");
    command.env("CODEBUILD_WEBHOOK_TRIGGER", trust);
    command.arg(sandbox.manifest()).arg("--work-dir").arg(sandbox.work());
    command.args(["--set", "cache.share=s3://bucket/share", "--set", &format!("cache.endpoint_port={port}")]);
    command.args(["--", "python3", "-c", CLIENT]).args(requests);
    sandbox.start(command).wait()
}

/// A port with some free ones after it.
fn port() -> u16 {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if first < 65000 && (first..first + 3).all(free) {
            return first;
        }
    }
}

#[test]
fn processes_of_a_job_read_the_share_without_credentials() {
    let Some(sandbox) = Sandbox::new("processes_of_a_job_read_the_share_without_credentials") else { return };
    let (s3, port) = (FakeS3::new(), port());
    s3.put(&format!("share/{OBJECT}"), b"shared state");
    s3.put("share/downloads/a.tar.gz", b"archive");
    s3.put("share/leases/secret", b"secret");
    s3.put(&format!("share/pr/8/{OBJECT}"), b"other");
    let path = format!("/shared/{}", OBJECT.replace(':', "%3A"));
    let (head, get) = (format!("HEAD {path}"), format!("GET {path}"));
    let requests = [
        head.as_str(),
        &get,
        "GET /shared/downloads/a.tar.gz",
        "GET /shared/leases/secret",
        "GET /shared/downloads/../leases/secret",
        "GET /pull-request/downloads/a.tar.gz",
        "PUT /shared/downloads/a.tar.gz",
    ];
    let ran = shell(&sandbox, &s3, port, "", &requests);
    ran.assert_code(&[0]);
    ran.assert_says(&[
        "no_proxy intern.example,127.0.0.1 intern.example,127.0.0.1",
        &format!("{port} {head} 200 \n"),
        &format!("{port} {get} 200 shared state"),
        &format!("{port} GET /shared/downloads/a.tar.gz 200 archive"),
        &format!("{port} GET /shared/leases/secret 404"),
        &format!("{port} GET /shared/downloads/../leases/secret 404"),
        &format!("{port} GET /pull-request/downloads/a.tar.gz 404"),
        &format!("{port} PUT /shared/downloads/a.tar.gz 405"),
    ]);
    assert!(!ran.output().contains("secret\n") && !ran.output().contains("in use"), "{}", ran.output());

    // The port is used by somebody else.
    let _taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let ran = shell(&sandbox, &s3, port, "", &[&get]);
    ran.assert_code(&[0]);
    ran.assert_says(&[
        &format!("port {port} of 127.0.0.1 is in use"),
        &format!("{} {get} 200 shared state", port + 1),
    ]);
    drop(_taken);

    // A pull request also reads its own part, and no other's.
    s3.put(&format!("share/pr/7/{OBJECT}"), b"own");
    let own = format!("GET /pull-request/{}", OBJECT.replace(':', "%3A"));
    let ran = shell(&sandbox, &s3, port, "pr/7", &[&own, &get]);
    ran.assert_says(&[&format!("{port} {own} 200 own"), &format!("{port} {get} 200 shared state")]);
    sandbox.assert_nothing_runs();
}

#[test]
fn a_bucket_that_fails_is_a_miss_and_not_an_error() {
    let Some(sandbox) = Sandbox::new("a_bucket_that_fails_is_a_miss_and_not_an_error") else { return };
    let (s3, port) = (FakeS3::new(), port());
    s3.put("share/downloads/a.tar.gz", b"archive");
    s3.put(&format!("share/{OBJECT}"), b"shared state");
    s3.faults(|_, request| match request.key.contains("downloads") {
        true => Fault::Refused(403, "AccessDenied"),
        false => Fault::No,
    });
    let path = format!("HEAD /shared/{}", OBJECT.replace(':', "%3A"));
    let ran = shell(&sandbox, &s3, port, "", &["GET /shared/downloads/a.tar.gz", &path]);
    ran.assert_code(&[0]);
    ran.assert_says(&["GET /shared/downloads/a.tar.gz 404", &format!("{path} 200")]);
}
