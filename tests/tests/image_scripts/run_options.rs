//! The options and the own commands of `docker/run`.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use crate::fixture::{ScriptFixture, output_text};
use crate::run::{assert_no_secrets_are_left, run};

fn file(fixture: &ScriptFixture, name: &str, text: &str) -> PathBuf {
    let path = fixture.0.path().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    path
}

fn shown(path: &std::path::Path) -> String {
    path.canonicalize().unwrap().display().to_string()
}

#[test]
fn git_gets_the_ssh_agent_or_a_key() {
    let fixture = ScriptFixture::new();
    let socket = fixture.0.path().join("agent.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    file(&fixture, "home/.ssh/known_hosts", "");
    let home = fixture.0.path().join("home").display().to_string();
    let variables = [("SSH_AUTH_SOCK", socket.to_str().unwrap()), ("HOME", &home)];
    let (output, call) = run(&fixture, &fixture.sources(), &["--ssh-agent", "plan"], &variables);
    assert!(output.status.success(), "{}", output_text(&output));
    let mount =
        format!("source={},target=/run/ssh-agent --env SSH_AUTH_SOCK=/run/ssh-agent ", socket.display());
    assert!(call.contains(&mount) && call.ends_with(" build-agent plan"), "{call}");
    assert!(call.contains("known_hosts,target=/run/ssh/known_hosts,readonly"), "{call}");

    let key = file(&fixture, "keys/id_ed25519", "key");
    let keys = key.parent().unwrap();
    let words = ["--ssh-dir", keys.to_str().unwrap(), "plan"];
    let (_, call) = run(&fixture, &fixture.sources(), &words, &[]);
    assert!(call.contains(&format!("source={},target=/run/ssh,readonly ", shown(keys))), "{call}");
    assert!(call.contains("BUILD_AGENT_SSH_KEY_FILE=/run/ssh/id_ed25519 "), "{call}");
    assert!(!call.contains("KNOWN_HOSTS"), "there are none: {call}");

    let (_, call) = run(&fixture, &fixture.sources(), &["plan"], &variables);
    assert!(!call.contains("ssh"), "{call}");
}

#[test]
fn passwords_of_git_reach_the_agent_in_its_file() {
    let fixture = ScriptFixture::new();
    let store = "https://me%40x:hunter%3a22@git.example.org\nhttps://bot:h%C3%BCnter33@example.com:8443/group/x.git\n\
                 http://me:plain@insecure.example.org\nhttps://git.example.net\n";
    let store = file(&fixture, "store", store);
    let netrc = "# machine no login no password no\nmachine a.example.org\n  login me password hunter44\n\
                 machine b.example.org login you password hunter55 default login x password hunter66\n";
    let netrc = file(&fixture, "netrc", netrc);
    let words =
        ["--git-credential-store", store.to_str().unwrap(), "--netrc", netrc.to_str().unwrap(), "check"];
    let (output, call) = run(&fixture, &fixture.sources(), &words, &[]);
    assert!(output.status.success(), "{}", output_text(&output));
    let secrets = fixture.notes().into_iter().filter(|note| note.contains("https://")).collect::<Vec<_>>();
    let text = secrets.join(" ").replace("secret ", "");
    let expected = [
        "https://git.example.org/=me@x:hunter:22",
        "https://example.com:8443/=bot:hünter33",
        "https://a.example.org/=me:hunter44",
        "https://b.example.org/=you:hunter55",
    ];
    assert_eq!(
        text.replace("BUILD_AGENT_GIT_CREDENTIALS=", "").split_whitespace().collect::<Vec<_>>(),
        expected
    );
    assert!(!call.contains("unter") && !output_text(&output).contains("unter"), "{call}");
    assert_no_secrets_are_left(&fixture);

    // The agent splits the words at blanks, and each at its first colon.
    for (option, text) in [
        ("--git-credential-store", "https://me:hunter%2022@git.example.org\n"),
        ("--git-credential-store", "https://m%3ae:hunter22@git.example.org\n"),
        ("--netrc", "machine a.example.org login m:e password hunter22\n"),
    ] {
        let odd = file(&fixture, "odd", text);
        let (output, _) = run(&fixture, &fixture.sources(), &[option, odd.to_str().unwrap(), "check"], &[]);
        assert_eq!(output.status.code(), Some(2), "{text}");
        let output = output_text(&output);
        assert!(output.contains("which the agent cannot use") && !output.contains("hunter"), "{output}");
    }

    let empty = file(&fixture, "empty", "http://me:hunter22@insecure.example.org\n");
    let words = ["--git-credential-store", empty.to_str().unwrap(), "check"];
    let (output, _) = run(&fixture, &fixture.sources(), &words, &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(output_text(&output).contains("no user and password"), "{}", output_text(&output));
}

#[test]
fn aws_gets_temporary_keys_or_a_directory() {
    let fixture = ScriptFixture::new();
    let aws = file(
        &fixture,
        "bin/aws",
        "#!/bin/sh\n[ \"$*\" = 'configure export-credentials --profile dev --format env-no-export' ] || exit 1\n\
         printf 'AWS_ACCESS_KEY_ID=AKIA1\\nAWS_SECRET_ACCESS_KEY=hunter22/+=\\nAWS_SESSION_TOKEN=hunter33\\n'\n",
    );
    std::fs::set_permissions(&aws, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = |fixture: &ScriptFixture| {
        let engine = build_agent_tests::repository().join("tests/stand-ins/engine");
        let bin = fixture.0.path().join("bin");
        format!("{}:{}:{}", bin.display(), engine.display(), std::env::var("PATH").unwrap())
    };
    let variables = [("PATH", path(&fixture))];
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    let (output, call) = run(&fixture, &fixture.sources(), &["--aws-profile", "dev", "run"], &variables);
    assert!(output.status.success(), "{}", output_text(&output));
    let secrets = fixture.calls("secret ");
    let expected =
        ["AWS_ACCESS_KEY_ID=AKIA1", "AWS_SECRET_ACCESS_KEY=hunter22/+=", "AWS_SESSION_TOKEN=hunter33"];
    assert_eq!(secrets, expected.map(|secret| format!("secret {secret}")));
    assert!(!call.contains("hunter"), "{call}");
    let (output, _) = run(&fixture, &fixture.sources(), &["--aws-profile", "other", "run"], &variables);
    assert!(output_text(&output).contains("aws sso login --profile other"), "{}", output_text(&output));

    let directory = file(&fixture, "dot-aws/config", "[profile dev]\n");
    let token = file(&fixture, "token", "x");
    let web = [("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()), ("AWS_PROFILE", "dev")];
    let words = ["--aws-dir", directory.parent().unwrap().to_str().unwrap(), "run"];
    let (_, call) = run(&fixture, &fixture.sources(), &words, &web);
    let mount = format!("source={},target=/home/builder/.aws,readonly ", shown(directory.parent().unwrap()));
    assert!(call.contains(&mount) && call.contains("--env AWS_PROFILE "), "{call}");
    assert!(call.contains("--env AWS_WEB_IDENTITY_TOKEN_FILE=/run/aws-web-identity-token "), "{call}");
}

#[test]
fn the_work_tree_can_be_read_only_and_the_caches_elsewhere() {
    let fixture = ScriptFixture::new();
    let layer = fixture.0.path().join("meta-x");
    std::fs::create_dir(&layer).unwrap();
    let cache = fixture.0.path().join("cache").display().to_string();
    let (output, call) = run(&fixture, &layer, &["--repo-ro", "check"], &[("BUILD_AGENT_CACHE", &cache)]);
    assert!(output.status.success(), "{}", output_text(&output));
    let top = shown(&layer);
    assert!(call.contains(&format!("source={top},target=/src/meta-x,readonly ")), "{call}");
    let out = format!("source={top}/build-agent-out,target=/src/meta-x/build-agent-out ");
    assert!(call.contains(&out) && layer.join("build-agent-out").is_dir(), "{call}");
    assert!(call.contains("/cache,target=/cache --env BUILD_AGENT_CACHE=/cache "), "{call}");
    let (_, call) = run(&fixture, &layer, &["check"], &[("BUILD_AGENT_CACHE", "off")]);
    assert!(call.contains("--env BUILD_AGENT_CACHE ") && !call.contains("readonly"), "{call}");
}

#[test]
fn clean_and_purge_print_what_they_delete_and_ask() {
    for command in ["clean", "purge"] {
        let fixture = ScriptFixture::new();
        let (output, _) = run(&fixture, &fixture.sources(), &[command], &[]);
        assert_eq!(output.status.code(), Some(2), "{command}");
        let text = output_text(&output);
        assert!(text.contains("this deletes the") && text.contains("--force"), "{command}: {text}");
        let harmless = ["--version", "version", "volume inspect "];
        let is_harmless = |note: &String| harmless.iter().any(|start| note.starts_with(start));
        assert!(fixture.notes().iter().all(is_harmless), "{:?}", fixture.notes());
        let (output, call) = run(&fixture, &fixture.sources(), &["--force", command], &[]);
        assert!(output.status.success(), "{command}: {}", output_text(&output));
        match command {
            "purge" => assert!(call.starts_with("volume rm build-agent-work-"), "{call}"),
            _ => assert!(call.ends_with(" build-agent cache prune --local --work-max-age 0s"), "{call}"),
        }
    }
    for (fails, code, expected) in [
        ("volume inspect", 0, "there is no volume build-agent-work-"),
        ("version", 2, "docker does not answer"),
    ] {
        let fixture = ScriptFixture::new();
        let fails = [("ENGINE_FAILS", fails)];
        let (output, _) = run(&fixture, &fixture.sources(), &["--force", "purge"], &fails);
        assert_eq!(output.status.code(), Some(code), "{expected}");
        assert!(output_text(&output).contains(expected), "{}", output_text(&output));
        assert!(fixture.calls("volume rm").is_empty());
    }
}

#[test]
fn an_option_without_its_value_or_directory_is_an_error() {
    let fixture = ScriptFixture::new();
    for (words, expected) in [
        (&["--ssh-dir"][..], "--ssh-dir needs a value"),
        (&["--aws-dir", "/not/there", "run"], "/not/there is not a directory"),
        (&["--netrc", "/not/there", "run"], "/not/there cannot be read"),
        (&["--ssh-agent", "run"], "SSH_AUTH_SOCK names no socket"),
    ] {
        let (output, _) = run(&fixture, &fixture.sources(), words, &[]);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(output_text(&output).contains(expected), "{words:?}: {}", output_text(&output));
    }
    assert!(fixture.calls("run --rm --inter").is_empty());
}
