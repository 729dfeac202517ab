//! Layers are untrusted: their names, output and code must reach nothing but a log.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use build_agent_tests::{Sandbox, cases, commit, leaks_of, skip, well_formed_xml};

const GITHUB: &str = "ghp_7hIsIsN0T4RealT0ken0123456789abcdef";
const AWS: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

#[test]
fn secrets_reach_no_child_and_no_report() {
    let Some(sandbox) = Sandbox::new("secrets_reach_no_child_and_no_report") else { return };
    let run = |behaviour: &str| {
        sandbox.behaviour(&format!("yocto-check-layer {behaviour}\nbitbake-layers environment"));
        let mut command = sandbox.run_command();
        command.env("GITHUB_TOKEN", GITHUB).env("AWS_SECRET_ACCESS_KEY", AWS);
        let ran = sandbox.start(command).wait();
        ran.assert_code(&[0]);
        ran
    };
    // Each form in which a secret may be printed; the stand-in knows the secret from another source.
    let forms = [
        GITHUB,
        AWS,
        // base64 of the two
        "Z2hwXzdoSXNJc04wVDRSZWFsVDBrZW4wMTIzNDU2Nzg5YWJjZGVm",
        "d0phbHJYVXRuRkVNSS9LN01ERU5HK2JQeFJmaUNZRVhBTVBMRUtFWQ==",
        // and escaped for a URL
        "wJalrXUtnFEMI%2FK7MDENG%2BbPxRfiCYEXAMPLEKEY",
    ];
    let secrets = forms.map(str::to_owned);
    for form in forms {
        let ran = run(&format!("say it is {form} indeed"));
        assert!(secrets.iter().all(|secret| !ran.output().contains(secret)), "{form} was printed");
        assert!(sandbox.logs().contains("it is "), "the words around a secret stay");
        let leaks = leaks_of(&secrets, &sandbox.out());
        assert!(leaks.is_empty(), "{form} is in {leaks:?}");
    }
    run("environment");
    let logs = sandbox.logs();
    assert!(logs.contains("environment BUILDDIR="), "the tools printed their environment");
    for name in ["GITHUB_TOKEN", "AWS_", "CODEBUILD_"] {
        assert!(!logs.contains(&format!("environment {name}")), "a child has {name}");
    }
    assert!(logs.contains("environment LC_ALL=en_US.UTF-8"));
}

/// Thirty-three places that may contain a secret of the agent, and layer code that searches all of them.
#[test]
fn layer_code_finds_no_canary() {
    const NAME: &str = "layer_code_finds_no_canary";
    if !nix::unistd::geteuid().is_root() {
        return skip(NAME, "the agent has no other user to drop to unless it is root");
    }
    let Some(sandbox) = Sandbox::new(NAME) else { return };
    let canary = |name: &str| format!("canary-of-the-agent-{}", name.to_lowercase().replace('_', "-"));
    let variables = [
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_ACCESS_KEY_ID",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "GITHUB_TOKEN",
        "GH_TOKEN",
        "GITLAB_TOKEN",
        "NPM_TOKEN",
        "NVD_API_KEY",
        "NVD_API_KEY_2",
        "DB_PASSWORD",
        "DB_PWD",
        "PGPASSWORD",
        "SSHPASS",
        "AUTHORIZATION",
        "COOKIE",
        "SLACK_WEBHOOK_URL",
        "SIGNING_KEY",
        "CLIENT_SECRET",
        "DOCKER_AUTH_CONFIG",
        "MY_TOKEN_PROD",
        "CODEBUILD_SOURCE_REPO_URL",
        "CODEBUILD_AUTH_TOKEN",
        "NETRC_CREDENTIALS",
        "ANYTHING_AT_ALL",
    ];
    let home = sandbox.path().join("home");
    let files = [
        ".aws/credentials",
        ".aws/config",
        ".netrc",
        ".git-credentials",
        ".ssh/id_ed25519",
        ".docker/config.json",
        ".config/gh/hosts.yml",
    ];
    assert_eq!(variables.len() + files.len(), 33);
    for name in files {
        use std::os::unix::fs::PermissionsExt;
        let path = home.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, canary("file")).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let top = sandbox.path().display();
    sandbox.behaviour(&format!("yocto-check-layer hunt {top}/home {top}/work {top}/meta-tested /dev/shm"));
    let mut command = sandbox.run_command();
    command.env("HOME", &home);
    command.envs(variables.map(|name| (name, canary(name))));
    let ran = sandbox.start(command).wait();
    ran.assert_code(&[0]);
    let logs = sandbox.logs();
    assert!(logs.contains("hunt is over"), "{logs}");
    let found: Vec<&str> = logs.lines().filter(|line| line.contains("hunt found")).collect();
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn names_and_commit_messages_are_never_executed() {
    let Some(sandbox) = Sandbox::new("names_and_commit_messages_are_never_executed") else { return };
    let names: [&[u8]; 8] = [
        b"$(touch pwned)",
        b"`touch pwned`",
        b"new\nline",
        b"quote\"'",
        b"\x1b[31mred\x1b[0m",
        b"latin-\xe9",
        b"-rf",
        b"]]>&amp;<x>",
    ];
    for name in names {
        // The preflight reads patches, and BitBake reads recipes.
        for ending in [b".patch" as &[u8], b"_1.0.bb"] {
            let name = [name, ending].concat();
            let path = sandbox.layer().join("recipes-hello/hello").join(OsStr::from_bytes(&name));
            std::fs::write(path, "Upstream-Status: Pending\n").unwrap();
        }
    }
    commit(&sandbox.layer(), "::set-output name=x::y\n\x1b[31m]]> <b>@everyone</b> $(touch pwned)");
    let ran = sandbox.run();
    ran.assert_code(&[0]);
    assert!(!ran.output().contains("\x1b[31m"), "a layer's escape sequence reached the terminal");
    assert!(ran.output().lines().all(|line| !line.starts_with("::")), "a workflow command was printed");
    well_formed_xml(&sandbox.out().join("junit.xml"), "testcase");
    assert_eq!(sandbox.result()["outcome"], "passed");
    for directory in [sandbox.layer(), sandbox.path().into(), sandbox.work(), sandbox.out()] {
        assert!(!directory.join("pwned").exists(), "a name was run in {}", directory.display());
    }
}

#[test]
fn bytes_that_are_not_text_do_not_stop_the_verdict() {
    let Some(sandbox) = Sandbox::new("bytes_that_are_not_text_do_not_stop_the_verdict") else { return };
    sandbox.behaviour("yocto-check-layer bytes");
    sandbox.run().assert_code(&[0]);
    assert!(cases(&sandbox.result()).contains(&("test_world".into(), "passed".into())));
    well_formed_xml(&sandbox.out().join("junit.xml"), "testcase");
}

/// Layer code, as any user, cannot find the secrets of the agent.
#[test]
fn layer_code_cannot_read_the_agents_memory() {
    let Some(sandbox) = Sandbox::new("layer_code_cannot_read_the_agents_memory") else { return };
    sandbox.behaviour("yocto-check-layer spy");
    sandbox.run().assert_code(&[0]);
    for name in ["environ", "mem", "maps"] {
        assert!(sandbox.logs().contains(&format!("spy {name}: refused")), "{}", sandbox.logs());
    }
}

/// If the agent is root, layer code runs as another user and cannot change the inputs of verdicts.
#[test]
fn layer_code_cannot_write_outside_its_build_directory() {
    const NAME: &str = "layer_code_cannot_write_outside_its_build_directory";
    if !nix::unistd::geteuid().is_root() {
        return skip(NAME, "the agent has no other user to drop to unless it is root");
    }
    let Some(sandbox) = Sandbox::new(NAME) else { return };
    let targets = [
        sandbox.out().join("events.jsonl"),
        sandbox.out().join("result.json"),
        sandbox.manifest(),
        sandbox.layer().join("README.md"),
        sandbox.layer().join(".git/config"),
        sandbox.work().join("written"),
    ];
    let words: Vec<String> = targets.iter().map(|path| path.display().to_string()).collect();
    sandbox.behaviour(&format!("yocto-check-layer outside {}", words.join(" ")));
    sandbox.run().assert_code(&[0]);
    for target in targets {
        let text = std::fs::read(&target).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&text).contains("written by layer code"), "{}", target.display());
        let refused = format!("outside {}: refused", target.display());
        assert!(sandbox.logs().contains(&refused), "{refused:?} is not in the log");
    }
}

#[test]
fn a_secret_that_is_too_short_to_redact_is_reported() {
    let Some(sandbox) = Sandbox::new("a_secret_that_is_too_short_to_redact_is_reported") else { return };
    let mut command = sandbox.run_command();
    command.env("GITHUB_TOKEN", "q9z");
    let ran = sandbox.start(command).wait();
    ran.assert_code(&[0]);
    ran.assert_says(&["variable GITHUB_TOKEN is too short to redact"]);
    assert!(!ran.output().contains("q9z"), "{}", ran.output());
}
