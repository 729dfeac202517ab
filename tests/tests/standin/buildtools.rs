//! Buildtools: a stand-in for an installer, on a server of the test.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use build_agent_tests::{Running, Sandbox};
use nix::sys::signal::Signal;

/// Makes what an installer of OE-Core makes: programs, and a script with their environment.
const INSTALLER: &str = r#"#!/bin/sh
# usage: installer -d DIRECTORY -y
mkdir -p "$2/sysroots/bin"
env >"$2/environment-of-the-installer"
id -u >"$2/user"
printf '#!/bin/sh\necho tool\n' >"$2/sysroots/bin/tool"
chmod 4777 "$2/sysroots/bin/tool"
touch "$2/started"
cat >"$2/environment-setup-x86_64-standin-linux" <<END
export PATH="$2/sysroots/bin:\$PATH"
export OPENSSL_CONF="$2/openssl.cnf"
export LD_PRELOAD="$2/evil.so"
export BB_ENV_PASSTHROUGH_ADDITIONS="\${BB_ENV_PASSTHROUGH_ADDITIONS:-} OPENSSL_CONF"
false
END
"#;

/// Answers each request with the same bytes until the test ends.
struct Server {
    address: String,
    requests: Arc<AtomicUsize>,
}

impl Server {
    fn new(status: &'static str, body: &str) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/tools/installer.sh", listener.local_addr().unwrap());
        let requests = Arc::new(AtomicUsize::new(0));
        let (counter, body) = (Arc::clone(&requests), body.to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                counter.fetch_add(1, Ordering::SeqCst);
                let _ = stream.read(&mut [0; 4096]);
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
            }
        });
        Server { address, requests }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

fn sha256(sandbox: &Sandbox, text: &str) -> String {
    let file = sandbox.path().join("of-checksum");
    std::fs::write(&file, text).unwrap();
    let output = Command::new("sha256sum").arg(&file).output().unwrap();
    String::from_utf8_lossy(&output.stdout).split_whitespace().next().unwrap().to_owned()
}

/// A manifest with these buildtools.
fn with_buildtools(sandbox: &Sandbox, url: &str, sha256: &str) {
    let text = sandbox.manifest_text();
    sandbox.write_manifest(&format!("{text}\n[buildtools]\nurl = \"{url}\"\nsha256 = \"{sha256}\"\n"));
}

fn store(sandbox: &Sandbox) -> PathBuf {
    sandbox.work().join("buildtools")
}

#[test]
fn buildtools_are_installed_once_and_reach_bitbake() {
    let Some(sandbox) = Sandbox::new("buildtools_are_installed_once_and_reach_bitbake") else { return };
    sandbox.behaviour("bitbake-layers environment");
    let server = Server::new("200 OK", INSTALLER);
    let sha256 = sha256(&sandbox, INSTALLER);
    with_buildtools(&sandbox, &server.address, &sha256);
    for _ in 0..2 {
        let mut command = sandbox.run_command();
        command.env("GITHUB_TOKEN", "hunter22hunter22");
        let ran = sandbox.start(command).wait();
        ran.assert_code(&[0]);
        ran.assert_says(&["the buildtools set variables that do not reach BitBake: LD_PRELOAD"]);
        assert_eq!(server.requests(), 1, "the second job downloads nothing");
    }
    let tools = store(&sandbox).join(&sha256);
    let logs = sandbox.logs();
    let path = logs.lines().find_map(|line| line.strip_prefix("environment PATH=")).unwrap();
    let at = |text: &str| path.find(text).unwrap_or_else(|| panic!("no {text} in {path}"));
    let bin = format!("{}/sysroots/bin:", tools.display());
    assert!(at("/bitbake/bin:") < at(&bin) && at(&bin) < at("/usr/bin"), "{path}");
    let conf = format!("environment OPENSSL_CONF={}/openssl.cnf", tools.display());
    assert!(logs.contains(&conf) && logs.contains(" BB_LOGCONFIG OPENSSL_CONF"), "{logs}");
    assert!(!logs.contains("environment LD_PRELOAD"), "{logs}");

    // The installer has the rights of layer code, and layer code cannot change what it left.
    let left = |name: &str| std::fs::read_to_string(tools.join(name)).unwrap();
    assert!(!left("environment-of-the-installer").contains("hunter22"));
    let tool = std::fs::metadata(tools.join("sysroots/bin/tool")).unwrap();
    if nix::unistd::geteuid().is_root() {
        assert_ne!(left("user").trim(), "0");
        assert_eq!((tool.uid(), tool.mode() & 0o7777), (0, 0o755));
    }
    assert!(!store(&sandbox).join(format!("{sha256}.sh")).exists(), "the installer is not kept");

    let ran = sandbox.call(["plan", "--json"]);
    let plan: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(plan["settings"]["buildtools"]["sha256"], *sha256);
    sandbox.call(["dump"]).assert_says(&["[buildtools]", &server.address]);
    let without = sandbox.call(["plan", "--set", "buildtools.enabled=false"]);
    assert!(without.code == Some(0) && !without.stdout.contains("buildtools"), "{without:?}");
    let mut prune = sandbox.command(["cache", "prune", "--local", "--downloads-max-age", "0s", "--work-dir"]);
    prune.arg(sandbox.work());
    let ran = sandbox.start(prune).wait();
    ran.assert_code(&[0]);
    ran.assert_says(&["1 installation of buildtools", &sha256]);
    assert!(!tools.exists());
}

#[test]
fn an_installer_that_cannot_be_used_is_an_error() {
    let Some(sandbox) = Sandbox::new("an_installer_that_cannot_be_used_is_an_error") else { return };
    let good = Server::new("200 OK", INSTALLER);
    let broken = "#!/bin/sh\necho 'Error: Incompatible SDK installer!'\nexit 1\n";
    let empty = "#!/bin/sh\nexit 0\n";
    let broken_server = Server::new("200 OK", broken);
    let empty_server = Server::new("200 OK", empty);
    let missing = Server::new("404 Not Found", "");
    let busy = Server::new("503 Busy", "");
    let of_installer = sha256(&sandbox, INSTALLER);
    // A port that no test listens on.
    let closed = "http://127.0.0.1:9/installer.sh".to_owned();
    let put = store(&sandbox).join(format!("{of_installer}.sh")).display().to_string();
    for (url, sha256, code, says) in [
        (&good.address, "0".repeat(64), 2, [of_installer.as_str(), "use the new checksum"]),
        (
            &broken_server.address,
            sha256(&sandbox, broken),
            3,
            ["exit status 1", "Incompatible SDK installer"],
        ),
        (
            &empty_server.address,
            sha256(&sandbox, empty),
            2,
            ["installed 0 files environment-setup-*", "hint"],
        ),
        (&missing.address, of_installer.clone(), 2, ["answered 404", "check `[buildtools] url`"]),
        (&busy.address, of_installer.clone(), 4, ["answered 503", put.as_str()]),
        (&closed, of_installer.clone(), 4, ["cannot be downloaded", put.as_str()]),
    ] {
        with_buildtools(&sandbox, url, &sha256);
        let ran = sandbox.run();
        ran.assert_code(&[code]);
        ran.assert_says(&says);
        assert!(!store(&sandbox).join(format!("{sha256}.complete")).exists(), "{url}");
    }
    // Without a network, the file can be put there.
    std::fs::write(&put, INSTALLER).unwrap();
    with_buildtools(&sandbox, &closed, &of_installer);
    sandbox.run().assert_code(&[0]);

    let text = sandbox.manifest_text();
    sandbox.write_manifest(&format!("{text}\n[buildtools]\nurl = \"{closed}\"\n"));
    let ran = sandbox.run();
    ran.assert_code(&[2]);
    ran.assert_says(&["[buildtools]", "sha256"]);
}

/// The agent may be root, and must not read what the script puts in the place of the environment.
#[test]
fn the_environment_of_buildtools_is_not_read_through_a_link() {
    let Some(sandbox) = Sandbox::new("the_environment_of_buildtools_is_not_read_through_a_link") else {
        return;
    };
    let stolen = sandbox.path().join("stolen");
    std::fs::write(&stolen, "PATH=/usr/bin:/bin\0STOLEN=hunter22hunter22\0").unwrap();
    let installer = format!(
        "#!/bin/sh\ncat >\"$2/environment-setup-x86_64-standin-linux\" <<'END'\n\
         trap 'ln -sf {} after' EXIT\nEND\n",
        stolen.display()
    );
    let server = Server::new("200 OK", &installer);
    with_buildtools(&sandbox, &server.address, &sha256(&sandbox, &installer));
    let ran = sandbox.run();
    ran.assert_code(&[2]);
    ran.assert_says(&["environment-setup-x86_64-standin-linux left no environment"]);
}

/// An installer that waits for a file. Its agent is killed, or a second job comes.
fn slow(sandbox: &Sandbox) -> (Server, PathBuf, String) {
    let go = sandbox.path().join("go");
    let slow = format!("{INSTALLER}\nwhile ! [ -e {} ]; do sleep 0.05; done\n", go.display());
    let sha256 = sha256(sandbox, &slow);
    let server = Server::new("200 OK", &slow);
    with_buildtools(sandbox, &server.address, &sha256);
    (server, go, sha256)
}

fn start(sandbox: &Sandbox, name: &str) -> Running {
    let mut command = sandbox.command(["run", "--set", &format!("name={name}"), "--work-dir"]);
    command.arg(sandbox.work()).arg("--out").arg(sandbox.path().join(name));
    sandbox.start(command)
}

#[test]
fn a_killed_installation_is_made_anew() {
    let Some(sandbox) = Sandbox::new("a_killed_installation_is_made_anew") else { return };
    let (server, go, sha256) = slow(&sandbox);
    let started = store(&sandbox).join(&sha256).join("started");
    let mut killed = sandbox.start(sandbox.run_command());
    killed.wait_until("the installer runs", || started.exists());
    killed.signal(Signal::SIGKILL);
    assert_eq!(killed.wait().signal, Some(9));
    // The installer of the killed job may still write there, so the next job waits for its end.
    let mut next = start(&sandbox, "meta-next");
    next.wait_until("the job waits", || {
        next_output(&sandbox).contains("another job installs the buildtools")
    });
    std::fs::write(&go, "").unwrap();
    next.wait().assert_code(&[0]);
    assert!(store(&sandbox).join(format!("{sha256}.complete")).exists());
    assert_eq!(server.requests(), 1, "the verified installer is used again");
}

/// The events of the job with its own output directory.
fn next_output(sandbox: &Sandbox) -> String {
    std::fs::read_to_string(sandbox.path().join("meta-next/events.jsonl")).unwrap_or_default()
}

#[test]
fn two_jobs_install_once() {
    let Some(sandbox) = Sandbox::new("two_jobs_install_once") else { return };
    let (server, go, sha256) = slow(&sandbox);
    let started = store(&sandbox).join(&sha256).join("started");
    let mut first = start(&sandbox, "meta-first");
    first.wait_until("the installer runs", || started.exists());
    let mut next = start(&sandbox, "meta-next");
    next.wait_until("the job waits", || {
        next_output(&sandbox).contains("another job installs the buildtools")
    });
    std::fs::write(&go, "").unwrap();
    first.wait().assert_code(&[0]);
    next.wait().assert_code(&[0]);
    assert_eq!(server.requests(), 1);
}
