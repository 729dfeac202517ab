//! Manifests from `https://` and `s3://` addresses, from a server on loopback with its own certificate authority.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use build_agent_tests::{Ran, Sandbox, repository, skip};
use sha2::{Digest, Sha256};

struct Web {
    child: Child,
    port: String,
    /// The certificate of the authority.
    authority: PathBuf,
}

impl Web {
    /// A server of the sandbox's manifest. `None`, with a SKIPPED line, if no certificate can be made.
    fn start(sandbox: &Sandbox, tls: bool) -> Option<Web> {
        let at = |name: &str| sandbox.path().join(name);
        std::fs::copy(sandbox.manifest(), at("served.toml")).unwrap();
        let mut words = vec![repository().join("tests/stand-ins/web.py"), at("port"), at("served.toml")];
        if tls && !certificate(sandbox.path()) {
            skip("remote", "openssl makes no certificate");
            return None;
        }
        if tls {
            words.extend([at("server.pem"), at("server.key")]);
        }
        let _ = std::fs::remove_file(at("port"));
        let child = Command::new("python3").args(words).stdin(Stdio::null()).spawn().unwrap();
        let mut web = Web { child, port: String::new(), authority: at("authority.pem") };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !at("port").exists() {
            assert!(Instant::now() < deadline && web.child.try_wait().unwrap().is_none(), "no server");
            std::thread::sleep(Duration::from_millis(20));
        }
        web.port = std::fs::read_to_string(at("port")).unwrap();
        Some(web)
    }

    /// Runs `build-agent plan ADDRESS ARGUMENTS…` in the layer under test.
    fn plan(&self, sandbox: &Sandbox, address: &str, words: &[&str]) -> Ran {
        let mut command = sandbox.command(["plan", &address.replace("PORT", &self.port)]);
        command.args(words);
        if self.authority.exists() {
            command.env("SSL_CERT_FILE", &self.authority);
        }
        command.env("AWS_ENDPOINT_URL_S3", format!("http://127.0.0.1:{}", self.port));
        command.env("AWS_REGION", "us-east-1");
        command.env("AWS_ACCESS_KEY_ID", "AKIATEST").env("AWS_SECRET_ACCESS_KEY", "secret");
        sandbox.start(command).wait()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes an authority and a certificate for `localhost`.
fn certificate(directory: &Path) -> bool {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    let lines = [
        format!("req -x509 {key} -keyout authority.key -out authority.pem -days 2 -subj /CN=authority"),
        format!("req {key} -keyout server.key -out server.csr -subj /CN=localhost"),
        "x509 -req -in server.csr -CA authority.pem -CAkey authority.key -CAcreateserial -days 2 -extfile names -out server.pem"
            .to_owned(),
    ];
    std::fs::write(directory.join("names"), "subjectAltName=DNS:localhost\n").unwrap();
    lines.iter().all(|line| {
        let mut openssl = Command::new("openssl");
        openssl.current_dir(directory).args(line.split(' ')).stdout(Stdio::null()).stderr(Stdio::null());
        openssl.status().is_ok_and(|status| status.success())
    })
}

fn digest(path: &Path) -> String {
    Sha256::digest(std::fs::read(path).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn manifests_by_https() {
    let Some(sandbox) = Sandbox::new("manifests_by_https") else { return };
    let Some(web) = Web::start(&sandbox, true) else { return };
    let sha = digest(&sandbox.manifest());
    let other = "0".repeat(64);
    // Address, flags, exit status, expected text.
    let table: [(&str, &[&str], i32, &[&str]); 15] = [
        ("m.toml", &["--manifest-sha256", &sha], 0, &["meta-tested on scarthgap"]),
        ("m.toml", &["--manifest-sha256", &sha.to_uppercase()], 0, &[]),
        ("m.toml", &[], 0, &["was not verified; pin it with --manifest-sha256", &sha]),
        ("m.toml", &["--manifest-sha256", &other], 2, &["does not match --manifest-sha256", &other, &sha]),
        ("m.toml", &["--manifest-sha256", "abc"], 2, &["64 hexadecimal digits"]),
        ("moved", &["--manifest-sha256", &sha], 0, &[]),
        ("downgraded", &[], 4, &["not https://"]),
        ("round", &[], 4, &["too many redirects"]),
        ("large", &[], 2, &["is larger than"]),
        ("broken", &[], 2, &["/broken:7:1: [repos.poky] brunch: unknown key", "`branch`"]),
        ("404", &[], 2, &["404"]),
        ("403?X-Amz-Signature=hunter2", &[], 2, &["/403 answered 403"]),
        ("500", &[], 4, &["500"]),
        ("m.toml", &["--set", "repos.poky.brunch=x"], 2, &["--set repos.poky.brunch=x"]),
        ("broken?X-Amz-Signature=hunter2", &[], 2, &["/broken:7:1"]),
    ];
    for (path, words, code, output_text) in table {
        for user in ["", "somebody:hunter2@"] {
            let ran = web.plan(&sandbox, &format!("https://{user}localhost:PORT/{path}"), words);
            assert_eq!(ran.code, Some(code), "{path} {words:?}\n{}", ran.output());
            ran.assert_says(output_text);
            assert!(!ran.output().contains("hunter2"), "{}", ran.output());
        }
    }
    // A server with an unknown certificate authority, and a server that does not exist.
    let ran = sandbox.call(["plan", &format!("https://localhost:{}/m.toml", web.port)]);
    ran.assert_code(&[4]);
    ran.assert_says(&["certificate"]);
    sandbox.call(["plan", "https://localhost:1/m.toml"]).assert_code(&[4]);
    assert!(!sandbox.layer().join("build-agent-out").exists());
}

#[test]
fn manifests_by_other_addresses() {
    let Some(sandbox) = Sandbox::new("manifests_by_other_addresses") else { return };
    let Some(web) = Web::start(&sandbox, false) else { return };
    let table = [
        // Nobody can intercept traffic on loopback.
        ("http://127.0.0.1:PORT/m.toml", 0, "meta-tested on scarthgap"),
        ("http://example.org/m.toml", 2, "is not https://"),
        ("ftp://example.org/m.toml", 2, "is not https://"),
        ("file:///m.toml", 2, "is not https://"),
        ("s3://bucket/m.toml", 0, "meta-tested on scarthgap"),
        ("s3://bucket/missing.toml", 2, "s3://bucket/missing.toml"),
        ("s3://bucket", 2, "is not the URL of an object"),
    ];
    for (address, code, output_text) in table {
        let ran = web.plan(&sandbox, address, &[]);
        assert_eq!(ran.code, Some(code), "{address}\n{}", ran.output());
        ran.assert_says(&[output_text]);
    }
}

/// The job runs on the local checkout, and its reports say how to repeat it, without secrets.
#[test]
fn a_job_with_a_remote_manifest() {
    let Some(sandbox) = Sandbox::new("a_job_with_a_remote_manifest") else { return };
    let Some(web) = Web::start(&sandbox, false) else { return };
    let sha = digest(&sandbox.manifest());
    std::fs::remove_file(sandbox.manifest()).unwrap();
    let address = format!("http://somebody:hunter2@127.0.0.1:{}/m.toml?signature=hunter2", web.port);
    let mut command = sandbox.command(["run", &address, "--work-dir"]);
    command.arg(sandbox.work()).arg("--out").arg(sandbox.out());
    let ran = sandbox.start(command).wait();
    ran.assert_code(&[0]);
    let result = sandbox.result().to_string();
    assert!(result.contains(&sha) && !result.contains("hunter2"), "{result}");
    assert!(!ran.output().contains("hunter2"), "{}", ran.output());
}
