//! The token of the manifest from Secrets Manager; `moto` is the stand-in (`moto_server`, from the PyPI package
//! `moto[server]`), on loopback.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use build_agent_tests::{Part, Ran, Sandbox, leaks_of, skip_without};

const TOKEN: &str = "token-that-nobody-may-see";

/// The stand-in for AWS; stopped when the value is dropped.
struct Moto {
    child: Child,
    endpoint: String,
}

impl Moto {
    /// `None`, with a SKIPPED line, if there is no `moto_server`.
    fn start(test: &str) -> Option<Moto> {
        let Some(program) = program("moto_server") else {
            skip_without(
                Part::Aws,
                test,
                "no `moto_server` on PATH or in $BUILD_AGENT_TEST_VENV/bin (pip install 'moto[server]')",
            );
            return None;
        };
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Command::new(program);
        server.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        let child = server.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "moto does not answer");
            std::thread::sleep(Duration::from_millis(100));
        }
        Some(Moto { child, endpoint: format!("http://127.0.0.1:{port}") })
    }

    /// Stores a secret with the Python SDK that moto itself installs.
    fn store(&self, name: &str, value: &str) {
        let script = "import boto3, sys\n\
            boto3.client('secretsmanager').create_secret(Name=sys.argv[1], SecretString=sys.argv[2])\n";
        let mut python = Command::new(program("python").or_else(|| program("python3")).unwrap());
        python.args(["-c", script, name, value]);
        python.envs(self.environment());
        assert!(python.status().unwrap().success());
    }

    fn environment(&self) -> [(&'static str, &str); 5] {
        [
            ("AWS_ENDPOINT_URL", &self.endpoint),
            ("AWS_REGION", "eu-central-1"),
            ("AWS_DEFAULT_REGION", "eu-central-1"),
            ("AWS_ACCESS_KEY_ID", "AKIATEST"),
            ("AWS_SECRET_ACCESS_KEY", "key-of-the-tests"),
        ]
    }

    /// A trusted job whose tool prints the token. The agent can get the token only from this server.
    fn run(&self, sandbox: &Sandbox, secret: &str) -> Ran {
        self.run_with(sandbox, secret, &self.environment())
    }

    fn run_with(&self, sandbox: &Sandbox, secret: &str, environment: &[(&str, &str)]) -> Ran {
        sandbox.write_manifest(&format!(
            "{}\n[github]\nrepository = \"example/meta-tested\"\ntoken_secret = \"{secret}\"\n",
            sandbox.manifest_text()
        ));
        sandbox.behaviour(&format!("yocto-check-layer say {TOKEN}"));
        let mut command = sandbox.run_command();
        command.envs(environment.iter().copied()).arg("--trusted");
        sandbox.start(command).wait()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In the tests' venv, else on PATH.
fn program(name: &str) -> Option<PathBuf> {
    let venv = std::env::var_os("BUILD_AGENT_TEST_VENV").map(|venv| PathBuf::from(venv).join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places: Vec<PathBuf> = venv.into_iter().chain(std::env::split_paths(&path)).collect();
    places.into_iter().map(|place| place.join(name)).find(|program| program.is_file())
}

#[test]
fn the_token_is_fetched_and_never_shown() {
    let test = "the_token_is_fetched_and_never_shown";
    let (Some(sandbox), Some(moto)) = (Sandbox::new(test), Moto::start(test)) else { return };
    moto.store("build-agent/plain", TOKEN);
    moto.store("build-agent/json", &format!("{{\"user\": \"x\", \"token\": \"{TOKEN}\"}}"));
    for secret in ["build-agent/plain", "build-agent/json#token"] {
        let ran = moto.run(&sandbox, secret);
        ran.assert_code(&[0]);
        assert!(sandbox.logs().contains("[redacted]"), "{secret}: the tool printed the token");
        let leaks = leaks_of(&[TOKEN.to_owned()], &sandbox.out());
        assert!(leaks.is_empty(), "{secret}: {leaks:?}");
        assert!(!ran.output().contains(TOKEN), "{secret}: {}", ran.output());
    }
}

/// In the environment, every process of the agent's user could read them.
#[test]
fn keys_of_aws_come_from_the_file_of_secrets() {
    const KEY: &str = "key-that-must-stay-secret";
    let test = "keys_of_aws_come_from_the_file_of_secrets";
    let (Some(sandbox), Some(moto)) = (Sandbox::new(test), Moto::start(test)) else { return };
    moto.store("build-agent/plain", TOKEN);
    let file = sandbox.path().join("secrets");
    let environment = [
        ("AWS_ENDPOINT_URL", moto.endpoint.as_str()),
        ("AWS_REGION", "eu-central-1"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("BUILD_AGENT_SECRETS_FILE", file.to_str().unwrap()),
    ];
    // There is no other source of keys.
    moto.run_with(&sandbox, "build-agent/plain", &environment[..3]).assert_code(&[4]);
    std::fs::write(&file, format!("AWS_ACCESS_KEY_ID=AKIATEST\0AWS_SECRET_ACCESS_KEY={KEY}\0")).unwrap();
    let ran = moto.run_with(&sandbox, "build-agent/plain", &environment);
    ran.assert_code(&[0]);
    assert!(!file.exists());
    assert!(sandbox.logs().contains("[redacted]"), "the tool printed the token");
    let leaks = leaks_of(&[TOKEN.to_owned(), KEY.to_owned()], &sandbox.out());
    assert!(leaks.is_empty(), "{leaks:?}");
    // A second command finds no file, and fails without its secrets.
    let ran = moto.run_with(&sandbox, "build-agent/plain", &environment);
    ran.assert_code(&[2]);
    ran.assert_says(&["BUILD_AGENT_SECRETS_FILE"]);
}

#[test]
fn a_missing_secret_ends_the_job_before_its_first_stage() {
    let test = "a_missing_secret_ends_the_job_before_its_first_stage";
    let (Some(sandbox), Some(moto)) = (Sandbox::new(test), Moto::start(test)) else { return };
    moto.store("build-agent/json", "{\"user\": \"x\"}");
    for (secret, word) in [
        ("build-agent/other", "build-agent/other"),
        ("build-agent/json#token", "no field `token`"),
        // The whole secret is not a token.
        ("build-agent/json", "use one of `build-agent/json#user`"),
    ] {
        let ran = moto.run(&sandbox, secret);
        ran.assert_code(&[2]);
        ran.assert_says(&[word]);
    }
}
