//! Invalid input files, and streams that nobody reads: the agent does not hang, does not panic, and creates no files.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use build_agent_tests::{Sandbox, agent, repository, skip};

/// Puts something that is not a regular file at `path`.
fn plant(kind: &str, path: &Path) {
    match kind {
        "directory" => std::fs::create_dir(path).unwrap(),
        "pipe" => nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
        "device" => symlink("/dev/zero", path).unwrap(),
        "loop" => symlink(path.file_name().unwrap(), path).unwrap(),
        "huge" => File::create(path).unwrap().set_len(10 << 30).unwrap(),
        _ => panic!("{kind}"),
    }
}

#[test]
fn an_invalid_manifest_is_status_2_immediately() {
    let Some(sandbox) = Sandbox::new("an_invalid_manifest_is_status_2_immediately") else { return };
    let table = [
        ("directory", "does not exist"),
        ("pipe", "is not a regular file"),
        ("device", "is not a regular file"),
        ("loop", "does not exist"),
        ("huge", "is larger than"),
    ];
    for (kind, words) in table {
        let path = sandbox.layer().join(kind);
        plant(kind, &path);
        let ran = sandbox.call([Path::new("run"), &path]);
        ran.assert_code(&[2]);
        ran.assert_says(&[kind, words]);
    }
    assert!(!sandbox.layer().join("build-agent-out").exists());
}

/// If the lock file cannot be read, repositories are not resolved by their branches.
#[test]
fn an_invalid_lock_file_is_status_2_immediately() {
    let Some(sandbox) = Sandbox::new("an_invalid_lock_file_is_status_2_immediately") else { return };
    let lock = sandbox.layer().join("build-agent.lock");
    for kind in ["directory", "pipe", "device", "loop", "huge"] {
        plant(kind, &lock);
        let ran = sandbox.run();
        ran.assert_code(&[2]);
        ran.assert_says(&["cannot read ", "build-agent.lock"]);
        assert!(!sandbox.work().exists() && !sandbox.out().exists());
        if kind == "directory" { std::fs::remove_dir(&lock) } else { std::fs::remove_file(&lock) }.unwrap();
    }
}

/// A closed pipe is not an error, but a full disk is. Neither causes a panic.
#[test]
fn output_that_cannot_be_written() {
    let Some(sandbox) = Sandbox::new("output_that_cannot_be_written") else { return };
    let manifest = sandbox.manifest().display().to_string();
    let missing = sandbox.path().join("missing").display().to_string();
    let table: [(&[&str], i32, i32); 4] = [
        (&["schema"], 3, 0),
        (&["plan", &manifest], 3, 0),
        (&["plan", &manifest, "--json"], 3, 0),
        (&["plan", &missing], 2, 2),
    ];
    let full = || File::options().write(true).open("/dev/full").unwrap();
    for (words, on_full, on_closed) in table {
        let mut command = agent();
        command.args(words).stdout(full()).stderr(Stdio::piped());
        let output = command.output().unwrap();
        let output_text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(on_full), "{words:?}: {output_text}");
        assert!(!output_text.contains("panicked"), "{output_text}");
        // Both at once: no stream is left for a message.
        assert_eq!(agent().args(words).stdout(full()).stderr(full()).status().unwrap().code(), Some(on_full));

        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = agent().args(words).stdout(writer).output().unwrap();
        assert_eq!(output.status.code(), Some(on_closed), "{words:?}");
        assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"));
    }
}

/// The verdict does not depend on the console.
#[test]
fn a_job_continues_without_a_console() {
    let Some(sandbox) = Sandbox::new("a_job_continues_without_a_console") else { return };
    for output in ["plain", "json"] {
        let mut command = sandbox.run_command();
        command.args(["--output", output]);
        let full = || File::options().write(true).open("/dev/full").unwrap();
        let status = command.stdin(Stdio::null()).stdout(full()).stderr(full()).status().unwrap();
        assert_eq!(status.code(), Some(0), "{output}");
        assert_eq!(sandbox.result()["outcome"], "passed");
    }
}

/// `lock` and `shell` are not jobs: the reports of an earlier job stay.
#[test]
fn lock_and_shell_do_not_change_reports() {
    let Some(sandbox) = Sandbox::new("lock_and_shell_do_not_change_reports") else { return };
    sandbox.run().assert_code(&[0]);
    let before = std::fs::read(sandbox.out().join("result.json")).unwrap();
    let manifest = sandbox.manifest();
    for (words, code) in [(&["lock"][..], 0), (&["shell"][..], 0)] {
        let mut command = sandbox.command(words);
        command.arg(&manifest).arg("--work-dir").arg(sandbox.work()).arg("--out").arg(sandbox.out());
        if words == ["shell"] {
            command.args(["--", "true"]);
        }
        let ran = sandbox.start(command).wait();
        ran.assert_code(&[code]);
        assert!(!ran.output().contains("nothing was checked"), "{}", ran.output());
        assert_eq!(std::fs::read(sandbox.out().join("result.json")).unwrap(), before, "{words:?}");
    }
    assert!(!sandbox.layer().join("build-agent-out").exists());
    // A failed lock is reported once, and is not a verdict.
    sandbox.change_manifest("/upstream/poky", "/upstream/gone");
    let ran = sandbox.call([Path::new("lock"), &manifest]);
    ran.assert_code(&[4]);
    assert!(!ran.output().contains("nothing was checked"), "{}", ran.output());
}

/// `build-agent schema` with a validator like those of editors.
#[test]
fn the_schema_accepts_good_manifests_and_rejects_bad_ones() {
    const CHECK: &str = r#"
import json, re, sys, tomllib, jsonschema
schema = json.load(open(sys.argv[1]))
jsonschema.Draft202012Validator.check_schema(schema)
validator = jsonschema.Draft202012Validator(schema)
good = 0
for page in sys.argv[2:]:
    text = open(page).read()
    blocks = re.findall(r"```toml\n(.*?)```", text, re.S) if page.endswith(".md") else [text]
    for manifest in filter(lambda one: "version" in one, map(tomllib.loads, blocks)):
        validator.validate(manifest)
        good += 1
assert good >= 8, good
repo = "version=1\nname='x'\nrelease='scarthgap'\n[repos.poky]\n"
url = repo + "url='https://h/x'\n"
branch = url + "branch='b'\n"
validator.validate(tomllib.loads(branch))
validator.validate(tomllib.loads(branch + "commit='%s'\n" % ("0" * 40)))
validator.validate(tomllib.loads(url + "tag='t'\ncommit='%s'\n" % ("0" * 40)))
validator.validate(tomllib.loads(repo + "path='../poky'\n"))
for bad in [
    "", repo, url, branch.replace("name='x'", "name='a b'"), branch.replace("scarthgap", "Scarthgap"),
    branch.replace("version=1", "version=2"), branch + "tag='t'\n", url + "tag='t'\ncommit='0'\n",
    url + "commit='abc'\n", branch + "path='x'\n", repo + "path='x'\nbranch='b'\n", branch + "layers=[]\n",
    branch + "layers=['a','a']\n", branch + "layer=['a']\n", branch + "[limits]\njob='4'\n",
    branch + "[config]\nmachines=['a b']\n", branch + "[check]\nbitbake_layers=['add-layer x']\n",
    branch + "[check]\nmax_parallel_bitbakes=0\n",
    branch + "[build]\ntargets=['-k']\n", branch + "[[artifacts.rules]]\nrequired=true\n", branch + "[chek]\n",
]:
    assert not validator.is_valid(tomllib.loads(bad)), bad
"#;
    let venv = std::env::var_os("BUILD_AGENT_TEST_VENV").map(|venv| Path::new(&venv).join("bin/python3"));
    let python = venv.unwrap_or_else(|| "python3".into());
    let ready = Command::new(&python).args(["-c", "import tomllib, jsonschema"]).output();
    if !ready.is_ok_and(|output| output.status.success()) {
        skip(
            "the_schema_accepts_good_manifests_and_rejects_bad_ones",
            "no Python with tomllib and jsonschema",
        );
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let schema = directory.path().join("schema.json");
    let printed = agent().arg("schema").stdout(File::create(&schema).unwrap()).status().unwrap();
    assert!(printed.success());
    let mut command = Command::new(python);
    command.args(["-c", CHECK]).arg(schema);
    command.args(["README.md", "docs/manifest.md"].map(|page| repository().join(page)));
    for fixture in std::fs::read_dir(repository().join("layers-fixtures")).unwrap() {
        let manifest = fixture.unwrap().path().join("build-agent.toml");
        command.args(manifest.is_file().then_some(manifest));
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
