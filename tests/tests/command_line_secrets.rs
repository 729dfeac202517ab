//! Secrets on the command line and in the environment: no message of the agent repeats them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::process::Command;

use build_agent_tests::agent;

const SECRET: &str = "hunter22";

const MANIFEST: &str = "version = 1\nname = \"meta-x\"\nrelease = \"scarthgap\"\n[repos.poky]\n\
    url = \"https://host/poky\"\nbranch = \"scarthgap\"\n";

/// Runs the command in the directory; returns both streams.
#[track_caller]
fn output_text(command: &mut Command, directory: &Path) -> String {
    let output = command.current_dir(directory).output().unwrap();
    assert_ne!(output.status.code(), Some(0), "{command:?}");
    assert_ne!(output.status.code(), Some(70), "{command:?}");
    let output_text = [output.stdout, output.stderr].concat();
    assert!(!output_text.is_empty(), "{command:?} says nothing");
    String::from_utf8_lossy(&output_text).into_owned()
}

/// The arguments of each command that ends with an error about this argument.
fn commands(word: &str) -> Vec<Vec<String>> {
    let set = |key: &str| format!("{key}={word}");
    let long = format!("--{word}");
    let all: [&[&str]; 17] = [
        &["plan", "m.toml", "--set", &set("repos.poky.url")],
        &["plan", "m.toml", "--set", &set("name")],
        &["plan", "m.toml", "--set", word],
        &["plan", "m.toml", "--manifest-sha256", word],
        &["plan", word],
        &["run", "m.toml", "--set", &set("name")],
        &["run", "m.toml", "--only", word],
        &["lock", "m.toml", "--set", &set("release")],
        &["shell", "m.toml", "--set", &set("limits.job")],
        &["doctor", "m.toml", "--set", &set("unknown.key")],
        &["check", word],
        &["publish", "tree", &format!("https://x/{word}")],
        &["publish", word, "published"],
        &["report", word],
        &["report", "m.toml", "--format", word],
        &["run", &long],
        &[word],
    ];
    all.iter().map(|words| words.iter().map(ToString::to_string).collect()).collect()
}

#[test]
fn no_message_repeats_a_password_of_the_command_line() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("m.toml"), MANIFEST).unwrap();
    std::fs::create_dir(directory.path().join("tree")).unwrap();
    let words = [
        "https://user:hunter22@host:port/x",
        "https://user:hunter22@ho st/x",
        "https://user:hunter22 hunter22@host:port/x",
        "https://user:hun/hunter22@host/x#y",
        "ftp://user:hunter22@host/x",
        "ext::https:/user:hunter22@host",
        "user:hunter22@host:path/x",
        "https%3A%2F%2Fuser%3Ahunter22%40host%2Fx",
        "ftp://127.0.0.1:1/x?token=hunter22",
        "ftp://127.0.0.1:1/x?X-Amz-Signature=hunter22&y=z",
        "ftp://127.0.0.1:1/x?private_token=%68unter22hunter22",
        "ext::Authorization: Basic hunter22==",
        "GITHUB_TOKEN=hunter22",
        "ftp://user:hunter\u{1b}[31m22hunter22@host/x",
    ];
    for word in words {
        for words in commands(word) {
            let output_text = output_text(agent().args(&words), directory.path());
            assert!(!output_text.contains(SECRET), "{words:?}: {output_text}");
        }
    }
}

#[test]
fn no_message_repeats_a_secret_of_the_environment() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("m.toml"), MANIFEST).unwrap();
    for (name, value) in [
        ("NVD_API_KEY_2", SECRET),
        ("DB_PWD", SECRET),
        ("AUTHORIZATION", "Bearer hunter22"),
        ("GITHUB_TOKEN", SECRET),
        ("https_proxy", "http://me:hunter22@127.0.0.1:1"),
    ] {
        for word in [SECRET, "hunt\u{1b}[0mer22", "68756e7465723232", "NB2W45DFOIZDE==="] {
            let mut command = agent();
            command.args(["plan", "m.toml", "--set"]).arg(format!("name=a b {word}")).env(name, value);
            let output_text = output_text(&mut command, directory.path());
            assert!(output_text.contains("[redacted]"), "{name}, {word}: {output_text}");
            assert!(!output_text.contains(SECRET) && !output_text.contains(word), "{name}: {output_text}");
        }
    }
    // Text that is not a secret stays readable.
    let mut command = agent();
    command.args(["plan", "m.toml", "--set", "name=a b hunter22"]);
    command.envs([("OLDPWD", "/hunter22/x"), ("SIGNING_KEY", "keys/hunter22.pem"), ("USE_TOKEN", "1")]);
    assert!(output_text(&mut command, directory.path()).contains(SECRET));
}
