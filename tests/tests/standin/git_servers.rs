//! Repositories of real servers on loopback: Git LFS over http, and ssh with keys.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use build_agent_tests::{BUILD_USER, Sandbox, commit, git, repository, skip};
use sha2::{Digest, Sha256};

/// A server; stopped when the value is dropped.
struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A repository with a layer at its top; `files` are more.
fn layer(top: &Path, files: &[(&str, &str)]) {
    let conf = "BBPATH .= \":${LAYERDIR}\"\nBBFILE_COLLECTIONS += \"extra\"\nBBFILE_PATTERN_extra = \"^${LAYERDIR_RE}/\"\n\
                LAYERSERIES_COMPAT_extra = \"scarthgap\"\n";
    for (name, text) in [&[("conf/layer.conf", conf)][..], files].concat() {
        let file = top.join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }
    git(top, ["init", "--quiet", "--initial-branch", "main"]);
    commit(top, "A layer");
}

/// Adds `[repos.extra]`.
fn add_repo(sandbox: &Sandbox, url: &str) {
    let repo = format!("[repos.extra]\nurl = \"{url}\"\nbranch = \"main\"\nlayers = [\".\"]\n\n[check]");
    sandbox.change_manifest("[check]", &repo);
}

fn checkout_of_extra(sandbox: &Sandbox) -> PathBuf {
    let result = sandbox.result();
    let repos = result["repos"].as_array().unwrap();
    let extra = repos.iter().find(|repo| repo["name"] == "extra").unwrap();
    PathBuf::from(extra["path"].as_str().unwrap())
}

fn only_checkout(sandbox: &Sandbox, variables: &[(&str, &Path)]) -> build_agent_tests::Ran {
    let mut command = sandbox.run_command();
    command.args(["--only", "checkout"]).envs(variables.iter().copied());
    sandbox.start(command).wait()
}

#[test]
fn files_of_git_lfs_come_from_the_server() {
    let name = "files_of_git_lfs_come_from_the_server";
    // The agent's git has this PATH.
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let found = Command::new("git").args(["lfs", "version"]).env("PATH", path).output().unwrap();
    if !found.status.success() {
        return skip(name, "git-lfs is not installed");
    }
    let Some(sandbox) = Sandbox::new(name) else { return };
    let (root, content) = (sandbox.path().join("served"), "a large file\n");
    let id: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    let pointer =
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{id}\nsize {}\n", content.len());
    let top = root.join("group/extra.git");
    layer(
        &top,
        &[(".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n"), ("files/a.bin", &pointer)],
    );
    let object = top.join("lfs-objects").join(&id);
    std::fs::create_dir_all(object.parent().unwrap()).unwrap();
    let mut command = Command::new("python3");
    command.arg(repository().join("tests/stand-ins/git_server.py")).arg(&root);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let server = Server { child, port: line.trim().parse().unwrap() };
    add_repo(&sandbox, &format!("http://127.0.0.1:{}/group/extra.git", server.port));
    // The server does not have the object yet.
    let ran = only_checkout(&sandbox, &[]);
    assert_ne!(ran.code, Some(0), "{}", ran.output());
    ran.assert_says(&["extra"]);
    std::fs::write(&object, content).unwrap();
    only_checkout(&sandbox, &[]).assert_code(&[0]);
    let file = checkout_of_extra(&sandbox).join("files/a.bin");
    assert_eq!(std::fs::read_to_string(file).unwrap(), content);
}

/// `sshd` of the machine, or `BUILD_AGENT_TEST_SSHD`.
fn sshd() -> Option<PathBuf> {
    let named = std::env::var_os("BUILD_AGENT_TEST_SSHD").map(PathBuf::from);
    named.into_iter().chain([PathBuf::from("/usr/sbin/sshd")]).find(|path| path.is_file())
}

fn key(path: &Path) {
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path);
    assert!(command.status().unwrap().success());
}

/// An ssh server that lets this key in, as the user who runs it: it needs no right of root.
fn ssh_server(sshd: &Path, home: &Path, client: &Path) -> Server {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let keys = home.join("authorized_keys");
    std::fs::copy(client.with_extension("pub"), &keys).unwrap();
    let config = format!(
        "ListenAddress 127.0.0.1\nPort {port}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\nUsePAM no\n\
         PasswordAuthentication no\n",
        home.join("host").display(),
        keys.display()
    );
    std::fs::write(home.join("config"), config).unwrap();
    let is_root = nix::unistd::geteuid().is_root();
    let mut command = Command::new(if is_root { Path::new("setpriv") } else { sshd });
    if is_root {
        let mut chown = Command::new("chown");
        assert!(chown.args(["-R", BUILD_USER]).arg(home).status().unwrap().success());
        command.args(["--reuid", BUILD_USER, "--regid", BUILD_USER, "--init-groups"]).arg(sshd);
    }
    command.args(["-D", "-e", "-f"]).arg(home.join("config"));
    let log = std::fs::File::create(home.parent().unwrap().join("sshd.log")).unwrap();
    let child = command.stdin(Stdio::null()).stderr(log).spawn().unwrap();
    let server = Server { child, port };
    let deadline = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "sshd does not answer: {home:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    server
}

#[test]
fn a_key_of_the_site_opens_a_repository_over_ssh() {
    let name = "a_key_of_the_site_opens_a_repository_over_ssh";
    let Some(sshd) = sshd() else {
        return skip(name, "no sshd in /usr/sbin or $BUILD_AGENT_TEST_SSHD (openssh-server)");
    };
    let Some(sandbox) = Sandbox::new(name) else { return };
    let user = match nix::unistd::geteuid() {
        id if id.is_root() => BUILD_USER.to_owned(),
        id => nix::unistd::User::from_uid(id).unwrap().unwrap().name,
    };
    let (home, keys) = (sandbox.path().join("server"), sandbox.path().join("keys"));
    for directory in [&home, &keys] {
        std::fs::create_dir(directory).unwrap();
    }
    let (mine, other) = (keys.join("mine"), keys.join("other"));
    for path in [&mine, &other, &home.join("host")] {
        key(path);
    }
    let host = std::fs::read_to_string(home.join("host.pub")).unwrap();
    layer(&home.join("extra"), &[]);
    let server = ssh_server(&sshd, &home, &mine);
    let known = |name: &str, host: &str| {
        let file = keys.join(name);
        std::fs::write(&file, format!("[127.0.0.1]:{} {host}", server.port)).unwrap();
        file
    };
    let right = known("known", &host);
    let wrong = known("wrong", &std::fs::read_to_string(other.with_extension("pub")).unwrap());
    add_repo(&sandbox, &format!("ssh://{user}@127.0.0.1:{}{}", server.port, home.join("extra").display()));
    let run = |key: &Path, hosts: &Path| {
        only_checkout(
            &sandbox,
            &[("BUILD_AGENT_SSH_KEY_FILE", key), ("BUILD_AGENT_SSH_KNOWN_HOSTS_FILE", hosts)],
        )
    };
    for (key, hosts, said) in [(&other, &right, "extra"), (&mine, &wrong, "extra")] {
        let ran = run(key, hosts);
        assert_ne!(ran.code, Some(0), "{}", ran.output());
        ran.assert_says(&[said]);
    }
    let ran = run(&mine, &right);
    let log = std::fs::read_to_string(sandbox.path().join("sshd.log")).unwrap();
    assert_eq!(ran.code, Some(0), "{}\n{log}", ran.output());
    assert!(checkout_of_extra(&sandbox).join("conf/layer.conf").is_file());
}
