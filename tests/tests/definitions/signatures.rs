//! Repositories that have to be signed, with keys that the test makes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use build_agent_tests::{Ran, Sandbox, commit, git, skip};

use super::kas::python;

/// Keys in a directory of their own.
struct Keys {
    gnupg: PathBuf,
    /// The private key of ssh; the public one has `.pub`.
    ssh: PathBuf,
}

impl Keys {
    fn new(top: &Path) -> Keys {
        let keys = Keys { gnupg: top.join("gnupg"), ssh: top.join("bob") };
        fs::create_dir(&keys.gnupg).unwrap();
        run(Command::new("chmod").arg("700").arg(&keys.gnupg));
        for name in ["alice", "mallory"] {
            let address = format!("{name}@example.invalid");
            run(keys.gpg().args([
                "--passphrase",
                "",
                "--quick-generate-key",
                &address,
                "ed25519",
                "sign",
                "never",
            ]));
        }
        run(Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "bob", "-f"])
            .arg(&keys.ssh));
        keys
    }

    fn gpg(&self) -> Command {
        let mut command = Command::new("gpg");
        command.args(["--batch", "--quiet", "--no-tty"]).env("GNUPGHOME", &self.gnupg);
        command
    }

    /// Writes the public keys into the layer.
    fn export(&self, directory: &Path) {
        fs::create_dir_all(directory).unwrap();
        let key = self.gpg().args(["--armor", "--export", "alice@example.invalid"]).output().unwrap();
        fs::write(directory.join("alice.asc"), &key.stdout).unwrap();
        fs::copy(self.ssh.with_extension("pub"), directory.join("bob.pub")).unwrap();
    }

    fn fingerprint(&self) -> String {
        let listed =
            self.gpg().args(["--with-colons", "--list-keys", "alice@example.invalid"]).output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        let line = listed.lines().find(|line| line.starts_with("fpr:")).unwrap();
        line.split(':').nth(9).unwrap().to_owned()
    }

    /// Git with the options of a signature.
    fn sign(&self, top: &Path, who: &str, words: &[&str]) {
        let ssh = format!("user.signingKey={}", self.ssh.display());
        let openpgp = format!("user.signingKey={who}@example.invalid");
        let options = match who {
            "bob" => ["gpg.format=ssh", ssh.as_str()],
            _ => ["gpg.format=openpgp", openpgp.as_str()],
        };
        let mut command = Command::new("git");
        command.current_dir(top).env("GNUPGHOME", &self.gnupg);
        for option in [options[0], options[1], "user.name=T", "user.email=t@example.invalid"] {
            command.args(["-c", option]);
        }
        run(command.args(words));
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        // The agent of gpg is a server of this directory.
        let _ = Command::new("gpgconf").args(["--kill", "all"]).env("GNUPGHOME", &self.gnupg).status();
    }
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

fn has_programs(test: &str) -> bool {
    let missing = ["gpg", "gpgconf", "ssh-keygen"].into_iter().find(|program| {
        Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err()
    });
    if let Some(program) = missing {
        skip(test, &format!("{program} is not installed"));
    }
    missing.is_none()
}

fn checkout(sandbox: &Sandbox, sets: &[&str]) -> Ran {
    let mut command = sandbox.run_command();
    command.args(["--only", "checkout"]);
    for set in sets {
        command.args(["--set", set]);
    }
    sandbox.start(command).wait()
}

#[test]
fn a_repository_has_to_be_signed_by_one_of_its_signers() {
    let name = "a_repository_has_to_be_signed_by_one_of_its_signers";
    if !has_programs(name) {
        return;
    }
    let Some(sandbox) = Sandbox::new(name) else { return };
    let keys = Keys::new(sandbox.path());
    keys.export(&sandbox.layer().join("keys"));
    commit(&sandbox.layer(), "Keys");
    let upstream = sandbox.upstream();
    let of_alice = r#"repos.poky.signers=["keys/alice.asc"]"#;
    let of_bob = r#"repos.poky.signers=["keys/bob.pub"]"#;
    let of_both = r#"repos.poky.signers=["keys/bob.pub", "keys/alice.asc"]"#;
    let with = |fingerprint: &str| {
        format!(r#"repos.poky.signers=[{{ key = "keys/alice.asc", fingerprint = "{fingerprint}" }}]"#)
    };
    let (right, wrong) = (with(&keys.fingerprint()), with(&"0".repeat(40)));
    let signed = |who: &str| keys.sign(&upstream, who, &["commit", "-q", "--allow-empty", "-S", "-m", who]);
    let check = |sets: &[&str], said: Result<&str, &str>| {
        let ran = checkout(&sandbox, sets);
        ran.assert_code(if said.is_ok() { &[0] } else { &[2] });
        let (Ok(words) | Err(words)) = said;
        ran.assert_says(&[words]);
    };
    let refused = |who: &str| format!("is not signed with {who}");
    check(&[of_both], Err(&refused("keys/bob.pub or keys/alice.asc")));
    signed("alice");
    check(&[of_both], Ok("is signed with keys/alice.asc"));
    check(&[&right], Ok("is signed with keys/alice.asc"));
    check(&[&wrong], Err(&refused("keys/alice.asc")));
    check(&[of_bob], Err(&refused("keys/bob.pub")));
    signed("bob");
    check(&[of_both], Ok("is signed with keys/bob.pub"));
    check(&[of_alice], Err(&refused("keys/alice.asc")));
    signed("mallory");
    check(&[of_both], Err(&refused("keys/bob.pub or keys/alice.asc")));

    // The signature of a tag is its own.
    let tag = |name: &str| {
        format!(
            r#"repos.poky={{ url = "file://{}", tag = "{name}", layers = ["meta", "meta-poky"], signers = ["keys/bob.pub"] }}"#,
            upstream.display()
        )
    };
    keys.sign(&upstream, "bob", &["tag", "-s", "-m", "x", "good"]);
    keys.sign(&upstream, "alice", &["tag", "-s", "-m", "x", "other"]);
    signed("bob");
    git(&upstream, ["tag", "light"]);
    check(&[&tag("good")], Ok("tag good is signed with keys/bob.pub"));
    check(&[&tag("other")], Err("tag other of"));
    check(&[&tag("light")], Err("tag light of"));
    git(&upstream, ["tag", "newer", "good"]);
    check(&[&tag("newer")], Err("`refs/tags/newer` is the signed tag `good` under another name"));
    check(&[r#"repos.poky.signers=["poky:key.asc"]"#], Err("is a key of the repository that it signs"));
    check(
        &[r#"repos.poky.signers=[{ fingerprint = "SHA256:x" }]"#],
        Err("[[repos.poky.signers]] key: is missing"),
    );
    check(&[r#"repos.poky.signers=["keys/none.asc"]"#], Err("cannot read the key `keys/none.asc`"));
    check(&[r#"repos.poky.signers=["build-agent.toml"]"#], Err("is neither an OpenPGP public key nor"));
}

#[test]
fn a_definition_of_kas_names_signers() {
    let name = "a_definition_of_kas_names_signers";
    if !has_programs(name) {
        return;
    }
    let Some(sandbox) = Sandbox::new(name) else { return };
    let keys = Keys::new(sandbox.path());
    keys.export(&sandbox.layer());
    let upstream = sandbox.upstream();
    let text = format!(
        "header: {{version: 19}}\ndistro: poky\nsigners:\n  bob: {{type: ssh, repo: this, path: bob.pub}}\n  \
         alice: {{repo: this, path: alice.asc, fingerprint: {}}}\nrepos:\n  this:\n  poky:\n    url: file://{}\n    \
         branch: scarthgap\n    signed: true\n    allowed_signers: [alice, bob]\n    layers: {{meta: , meta-poky: }}\n",
        keys.fingerprint(),
        upstream.display()
    );
    let file = sandbox.layer().join("kas.yml");
    let run = |text: &str| {
        fs::write(&file, text).unwrap();
        let [file, work, out] =
            [file.clone(), sandbox.work(), sandbox.out()].map(|path| path.display().to_string());
        sandbox.call(["run", &file, "--only", "checkout", "--work-dir", &work, "--out", &out])
    };
    let ran = run(&text);
    ran.assert_code(&[2]);
    ran.assert_says(&["is not signed with alice.asc or bob.pub"]);
    keys.sign(&upstream, "alice", &["commit", "-q", "--allow-empty", "-S", "-m", "Signed"]);
    let ran = run(&text);
    ran.assert_code(&[0]);
    ran.assert_says(&["is signed with alice.asc"]);
    for (from, to, said) in [
        ("[alice, bob]", "[alice, eve]", "kas.yml:"),
        ("[alice, bob]", "[eve]", "`eve` is not one of `signers`"),
        ("allowed_signers: [alice, bob]", "branch: scarthgap", "no `allowed_signers` are named"),
        (
            "repo: this, path: alice.asc",
            "gpg_keyserver: x.example",
            "the key of `alice` would come from a key server",
        ),
    ] {
        assert!(text.contains(from), "{from}");
        let ran = run(&text.replace(from, to));
        ran.assert_code(&[2]);
        ran.assert_says(&[said]);
    }
}

/// Checks out a definition with kas itself: whether it accepts the signature of poky, and what it says.
fn by_kas(python: &Path, file: &Path, work: &Path) -> (bool, String) {
    let mut command = Command::new(python);
    command.args(["-m", "kas", "checkout"]).arg(file).env("KAS_WORK_DIR", work).current_dir(work);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // What comes next fails, because the stand-in for poky has no build environment of kas.
    (said.contains("Repository poky signature valid"), said)
}

/// An exported definition has the keys, and kas itself decides by them as the agent does.
#[test]
fn signers_are_exported() {
    let name = "signers_are_exported";
    if !has_programs(name) {
        return;
    }
    let Some(sandbox) = Sandbox::new(name) else { return };
    let keys = Keys::new(sandbox.path());
    let (layer, upstream) = (sandbox.layer(), sandbox.upstream());
    keys.export(&layer.join("ci/keys"));
    fs::copy(layer.join("ci/keys/alice.asc"), layer.join("ci/keys/bob.asc")).unwrap();
    // Paths of a manifest are relative to its directory, and those of kas to the checkout.
    let manifest = layer.join("ci/build-agent.toml").display().to_string();
    let text = fs::read_to_string(sandbox.manifest()).unwrap();
    fs::remove_file(sandbox.manifest()).unwrap();
    fs::write(&manifest, text.replace("[check]", "[layer]\npaths = [\"..\"]\n\n[check]")).unwrap();
    commit(&layer, "Keys");
    let file = layer.join("kas.yml");
    let export_with = |sets: &[&str]| {
        let words = ["export", &manifest, "--kas", file.to_str().unwrap()];
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        sandbox.call([&words[..], &sets].concat()).assert_code(&[0]);
        fs::read_to_string(&file).unwrap()
    };
    let export = |signers: &str| export_with(&[&format!("repos.poky.signers=[{signers}]")]);
    let (work, out) = (sandbox.work().display().to_string(), sandbox.out().display().to_string());
    let by_agent = || {
        let words = ["run", file.to_str().unwrap(), "--only", "checkout", "--work-dir", &work, "--out", &out];
        sandbox.call(words).code == Some(0)
    };
    let python = python(name);
    let has_gnupg = |python: &PathBuf| {
        Command::new(python)
            .args(["-c", "import gnupg"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    };
    if !python.as_ref().is_some_and(has_gnupg) {
        skip(
            name,
            "kas cannot verify: its python has no gnupg (pip install python-gnupg); only the agent does",
        );
    }
    let judged = |who: &str, is_good: bool| {
        keys.sign(&upstream, who, &["commit", "-q", "--allow-empty", "-S", "-m", who]);
        assert_eq!(by_agent(), is_good, "{who}: the agent");
        let Some(python) = python.as_ref().filter(|python| has_gnupg(python)) else { return };
        let work = tempfile::tempdir_in(sandbox.path()).unwrap();
        let (accepts, said) = by_kas(python, &file, work.path());
        assert_eq!(accepts, is_good, "{who}: {said}");
    };
    let fingerprint = keys.fingerprint().to_lowercase();
    let text = export(&format!(r#"{{ key = "keys/alice.asc", fingerprint = "{fingerprint}" }}"#));
    let upper = fingerprint.to_uppercase();
    for line in ["type: gpg", "repo: \"meta-tested\"", "path: \"ci/keys/alice.asc\"", "- \"alice\"", &upper] {
        assert!(text.contains(line), "{line}: {text}");
    }
    judged("alice", true);
    judged("mallory", false);
    let text = export(r#""keys/bob.pub""#);
    assert!(text.contains("type: ssh"), "{text}");
    judged("bob", true);
    // Two keys with one name; keys of both kinds; a key that the export cannot read.
    let text = export_with(&[
        r#"repos.keys={ url = "https://keys.invalid/keys", branch = "main" }"#,
        r#"repos.poky.signers=["keys/bob.pub", "keys/bob.asc", "keys:eve.asc"]"#,
    ]);
    for line in
        ["\"bob-2\"", "kas refuses signers of both kinds", "The key \"keys:eve.asc\" is not read here"]
    {
        assert!(text.contains(line), "{line}: {text}");
    }
}
