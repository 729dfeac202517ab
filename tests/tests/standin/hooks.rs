//! `[[hooks]]`: programs of the manifest around a stage.

use build_agent_tests::{BUILD_USER, Sandbox, commit, git};
use serde_json::Value;

/// The outcomes of the hooks by their names, in the order of the report.
fn hooks(result: &Value) -> Vec<(String, String)> {
    let units = result["units"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = units.map(|unit| (text(&unit["name"]), text(&unit["outcome"])));
    all.filter(|(name, _)| name.starts_with("hook ")).collect()
}

/// The output of the hook of that name; empty if it did not run.
fn output(sandbox: &Sandbox, name: &str) -> String {
    let result = sandbox.result();
    let mut units = result["units"].as_array().unwrap().iter();
    let unit =
        units.find(|unit| unit["name"].as_str().unwrap().starts_with(&format!("hook {name} "))).unwrap();
    let log = unit["log"].as_str().map(|log| std::fs::read_to_string(sandbox.out().join(log)).unwrap());
    log.unwrap_or_default()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, outcome)| ((*name).to_owned(), (*outcome).to_owned())).collect()
}

fn add(sandbox: &Sandbox, hooks: &str) {
    sandbox.write_manifest(&format!("{}\n{hooks}", sandbox.manifest_text()));
}

#[test]
fn hooks_run_as_the_build_user_around_their_stage() {
    let Some(sandbox) = Sandbox::new("hooks_run_as_the_build_user_around_their_stage") else { return };
    add(
        &sandbox,
        "[[hooks]]\nname = 'early'\nbefore = 'checkout'\nargv = ['sh', '-c', 'echo early; env']\n\
         [[hooks]]\nname = 'prepare'\nbefore = 'check'\nargv = ['sh', '-c', 'id -un; pwd; command -v bitbake; env']\n\
         [[hooks]]\nname = 'own'\nafter = 'check'\nargv = ['ci/own.sh', 'a b', '$HOME']\n",
    );
    std::fs::create_dir(sandbox.layer().join("ci")).unwrap();
    std::fs::write(sandbox.layer().join("ci/own.sh"), "#!/bin/sh\necho \"arguments: $1|$2\"\n").unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(sandbox.layer().join("ci/own.sh"), executable).unwrap();
    let mut command = sandbox.run_command();
    command.arg("--trusted").env("AWS_SECRET_ACCESS_KEY", "canary-of-the-agent").env("CANARY", "x");
    sandbox.start(command).wait().assert_code(&[0]);
    let wanted = [
        ("hook early (before checkout)", "passed"),
        ("hook prepare (before check)", "passed"),
        ("hook own (after check)", "passed"),
    ];
    assert_eq!(hooks(&sandbox.result()), pairs(&wanted));
    let log = |name: &str| output(&sandbox, name);
    let prepare = log("prepare");
    if nix::unistd::geteuid().is_root() {
        assert!(prepare.starts_with(&format!("{BUILD_USER}\n")), "{prepare}");
    }
    assert!(prepare.contains(&format!("\n{}\n", sandbox.layer().display())), "{prepare}");
    assert!(prepare.contains("/bin/bitbake\n") && prepare.contains("\nBUILDDIR="), "{prepare}");
    for text in [&prepare, &log("early")] {
        assert!(!text.contains("canary") && !text.contains("CANARY"), "{text}");
    }
    assert!(log("own").contains("arguments: a b|$HOME\n"), "no shell parses it");
    sandbox.assert_nothing_runs();
}

#[test]
fn a_hook_that_fails_stops_its_stage() {
    let Some(sandbox) = Sandbox::new("a_hook_that_fails_stops_its_stage") else { return };
    add(
        &sandbox,
        "[[hooks]]\nname = 'fails'\nbefore = 'check'\nargv = ['sh', '-c', 'echo because; exit 3']\n\
         [[hooks]]\nname = 'second'\nbefore = 'check'\nargv = ['true']\n\
         [[hooks]]\nname = 'later'\nafter = 'check'\nargv = ['true']\n",
    );
    let mut command = sandbox.run_command();
    command.arg("--trusted");
    let ran = sandbox.start(command).wait();
    ran.assert_code(&[1]);
    ran.assert_says(&["hook fails ended with exit status 3", "because"]);
    let result = sandbox.result();
    let wanted = [
        ("hook fails (before check)", "failed"),
        ("hook second (before check)", "not-run"),
        ("hook later (after check)", "not-run"),
    ];
    assert_eq!(hooks(&result), pairs(&wanted));
    let units = result["units"].as_array().unwrap();
    let check = units.iter().find(|unit| unit["name"] == "yocto-check-layer meta-tested").unwrap();
    assert_eq!(check["outcome"], "not-run");
}

#[test]
fn a_hook_has_limits_and_leaves_nothing_behind() {
    let Some(sandbox) = Sandbox::new("a_hook_has_limits_and_leaves_nothing_behind") else { return };
    add(
        &sandbox,
        "[[hooks]]\nname = 'slow'\nafter = 'configure'\ntimeout = '1s'\nargv = ['sh', '-c', 'sleep 600 & sleep 600']\n",
    );
    let mut command = sandbox.run_command();
    command.arg("--trusted");
    let ran = sandbox.start(command).wait();
    ran.assert_code(&[5]);
    ran.assert_says(&["longer than its timeout of 1s"]);
    assert_eq!(hooks(&sandbox.result()), pairs(&[("hook slow (after configure)", "timed-out")]));
    sandbox.assert_nothing_runs();
}

/// Without trust nothing of the checkout's own manifest runs as a hook; that of the base does.
/// The output of a hook is hidden and limited like that of every command.
#[test]
fn a_hook_shows_no_secret_and_fills_no_disk() {
    let Some(sandbox) = Sandbox::new("a_hook_shows_no_secret_and_fills_no_disk") else { return };
    let flood = "echo first; head -c 8000000 /dev/zero | tr '\\\\0' x | fold -w 100; echo last";
    add(
        &sandbox,
        &format!(
            "log = '1MiB'\n\
             [[hooks]]\nname = 'leak'\nbefore = 'check'\nargv = ['sh', '-c', 'echo deploy with swordfish-of-the-agent']\n\
             [[hooks]]\nname = 'flood'\nbefore = 'check'\nargv = ['sh', '-c', \"{flood}\"]\n"
        ),
    );
    let mut command = sandbox.run_command();
    command.arg("--trusted").env("DEPLOY_TOKEN", "swordfish-of-the-agent");
    let ran = sandbox.start(command).wait();
    ran.assert_code(&[0]);
    let leak = output(&sandbox, "leak");
    assert!(leak.contains("deploy with ") && !leak.contains("swordfish"), "{leak}");
    assert!(!ran.stdout.contains("swordfish"), "{}", ran.stdout);
    let flood = output(&sandbox, "flood");
    assert!(flood.starts_with("first\n") && flood.ends_with("last\n"), "{} bytes", flood.len());
    assert!(flood.len() < 2 << 20, "{} bytes", flood.len());
}

#[test]
fn only_hooks_of_the_base_run_for_an_untrusted_source() {
    let test = "only_hooks_of_the_base_run_for_an_untrusted_source";
    let Some(sandbox) = Sandbox::new(test) else { return };
    let hook = |word: &str| {
        format!("[[hooks]]\nname = 'x'\nbefore = 'check'\nargv = ['echo', 'hook of the {word}']\n")
    };
    add(&sandbox, &hook("base"));
    commit(&sandbox.layer(), "Add a hook");
    git(&sandbox.layer(), ["switch", "--quiet", "-c", "change"]);
    add(&sandbox, &hook("change"));
    commit(&sandbox.layer(), "Change the hook");
    for (words, outcome, said) in [
        (&[][..], "skipped", None),
        (&["--base", "main"], "passed", Some("hook of the base")),
        (&["--accept-manifest"], "passed", Some("hook of the change")),
    ] {
        let mut command = sandbox.run_command();
        command.args(words);
        let ran = sandbox.start(command).wait();
        ran.assert_code(&[0]);
        assert_eq!(hooks(&sandbox.result()), pairs(&[("hook x (before check)", outcome)]), "{words:?}");
        let wanted = said.map(|said: &str| format!("{said}\n")).unwrap_or_default();
        assert_eq!(output(&sandbox, "x"), wanted, "{words:?}");
        if said.is_none() {
            ran.assert_says(&["no hook runs", "--trusted"]);
        }
    }
}
