//! Jobs in GitHub Actions: who is trusted, which rules apply, and which commands GitHub's runner executes.

use std::path::{Path, PathBuf};
use std::process::Command;

use build_agent_tests::{Ran, Sandbox, commit, git, github, npm_package};

/// A checkout as `actions/checkout` makes it for one of the recorded events, and the server that it came from.
struct Run {
    sandbox: Sandbox,
    event: &'static str,
}

impl Run {
    /// The layer with its manifest is on the branch `main`; `change` is committed on top for a pull request.
    fn new(test: &str, event: &'static str, change: impl FnOnce(&Path)) -> Option<Run> {
        let sandbox = Sandbox::new(test)?;
        commit(&sandbox.layer(), "Add the manifest");
        let run = Run { sandbox, event };
        std::fs::create_dir_all(run.server().parent().unwrap()).unwrap();
        std::fs::rename(run.sandbox.layer(), run.server()).unwrap();
        git(&run.server(), ["switch", "--quiet", "-c", "change"]);
        change(&run.server());
        commit(&run.server(), "Change something");
        git(&run.server(), ["switch", "--quiet", "main"]);
        let branch = if event == "push" { "main" } else { "change" };
        run.check_out(&["--depth=1", "--branch", branch]);
        Some(run)
    }

    /// The repository in place of GitHub's server.
    fn server(&self) -> PathBuf {
        self.sandbox.path().join("example/meta-tested")
    }

    fn check_out(&self, words: &[&str]) {
        let _ = std::fs::remove_dir_all(self.sandbox.layer());
        let server = format!("file://{}", self.server().display());
        let all = ["clone", "--quiet"].iter().chain(words).copied().chain([server.as_str(), "meta-tested"]);
        git(self.sandbox.path(), all);
    }

    fn summary(&self) -> PathBuf {
        self.sandbox.path().join("summary.md")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.sandbox.run_command();
        let head = git(&self.sandbox.layer(), ["rev-parse", "HEAD"]);
        command.envs(github::variables(self.event, &self.sandbox.layer(), &head));
        command.env("GITHUB_SERVER_URL", format!("file://{}", self.sandbox.path().display()));
        command.env("GITHUB_STEP_SUMMARY", self.summary());
        command.args(words);
        command
    }

    fn run(&self, words: &[&str]) -> Ran {
        let _ = std::fs::remove_file(self.summary());
        self.sandbox.start(self.command(words)).wait()
    }
}

fn write(directory: &Path, name: &str, text: &str) {
    std::fs::create_dir_all(directory.join(name).parent().unwrap()).unwrap();
    std::fs::write(directory.join(name), text).unwrap();
}

fn edit(directory: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(directory.join("build-agent.toml")).unwrap();
    assert!(text.contains(from), "{from:?} is not in the manifest");
    write(directory, "build-agent.toml", &text.replace(from, to));
}

#[test]
fn findings_become_annotations_at_their_lines_and_the_job_has_a_summary() {
    let test = "findings_become_annotations_at_their_lines_and_the_job_has_a_summary";
    let change = |layer: &Path| {
        let text = std::fs::read_to_string(layer.join("conf/layer.conf")).unwrap();
        write(layer, "conf/layer.conf", &format!("{text}LAYERDEPENDS_tested = 'core (~12)'\n"));
    };
    let Some(run) = Run::new(test, "pull_request", change) else { return };
    let ran = run.run(&[]);
    ran.assert_code(&[1]);
    let commands = github::executed(&ran);
    let line = std::fs::read_to_string(run.sandbox.layer().join("conf/layer.conf")).unwrap().lines().count();
    let place = format!("::error file=conf/layer.conf,line={line},title=depends-version::");
    assert!(commands.iter().any(|command| command.starts_with(&place)), "{place} in {commands:#?}");
    let summary = std::fs::read_to_string(run.summary()).unwrap();
    assert!(summary.starts_with("### build-agent: **FAILED**\n"), "{summary}");
    assert!(summary.contains(&format!("- `conf/layer.conf:{line}: error: ")), "{summary}");
    assert!(summary.contains("| check | failed |"), "{summary}");
    // JSON stays JSON.
    let ran = run.run(&["--output", "json"]);
    for line in ran.stdout.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
    assert!(github::executed(&ran).iter().any(|command| command.starts_with(&place)), "{}", ran.output());
}

/// Payloads that GitHub has published, of every kind that starts a job: none is misread, and none makes a source trusted
/// that no variable of the runner trusts.
#[test]
fn published_payloads_of_github_are_read() {
    let test = "published_payloads_of_github_are_read";
    let Some(package) = npm_package(test, "@octokit/webhooks-examples", "7.6.1") else { return };
    let Some(run) = Run::new(test, "pull_request", |_| {}) else { return };
    let index = std::fs::read_to_string(package.join("api.github.com/index.json")).unwrap();
    let events: serde_json::Value = serde_json::from_str(&index).unwrap();
    let payload = run.sandbox.path().join("payload.json");
    let (mut read, mut planned) = (0, 0);
    for event in events.as_array().unwrap() {
        let name = event["name"].as_str().unwrap();
        if !["push", "pull_request", "workflow_run", "merge_group", "workflow_dispatch", "issue_comment"]
            .contains(&name)
        {
            continue;
        }
        for example in event["examples"].as_array().unwrap() {
            std::fs::write(&payload, example.to_string()).unwrap();
            let mut command = run.sandbox.command(["plan", "--json"]);
            let head = git(&run.sandbox.layer(), ["rev-parse", "HEAD"]);
            command.envs(github::variables("pull_request", &run.sandbox.layer(), &head));
            command.env("GITHUB_EVENT_NAME", name).env("GITHUB_EVENT_PATH", &payload);
            command.env("GITHUB_SERVER_URL", format!("file://{}", run.sandbox.path().display()));
            let ran = run.sandbox.start(command).wait();
            // The branches of the example's repository cannot be read here.
            ran.assert_code(&[0, 4]);
            if ran.code == Some(0) {
                let plan: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
                assert_eq!(plan["cache"]["trusted"], false, "{name}: {plan:#}");
                planned += 1;
            }
            read += 1;
        }
    }
    assert!(read > 40 && planned > 0, "{planned} of {read}");
}

/// Layer code prints commands in all forms; GitHub's runner executes only the agent's.
#[test]
fn layer_code_cannot_give_commands_to_githubs_runner() {
    let test = "layer_code_cannot_give_commands_to_githubs_runner";
    let Some(run) = Run::new(test, "pull_request", |_| {}) else { return };
    let hostile = [
        "::set-env name=A::b",
        "  ::add-path::/x",
        "##[add-matcher]x",
        "x ##[set-output name=a]b",
        "::stop-commands::x",
    ];
    let said =
        hostile.iter().map(|words| format!("yocto-check-layer say {words}\nbitbake-layers say {words}"));
    let failing = hostile.map(|words| words.replace(' ', "_")).join(" ");
    let behaviours = said.chain([format!("yocto-check-layer fail {failing}")]);
    for (number, behaviour) in behaviours.enumerate() {
        run.sandbox.behaviour(&behaviour);
        let output = if number % 2 == 0 { "plain" } else { "json" };
        let ran = run.run(&["--output", output, "--log-level", "debug"]);
        let commands = github::executed(&ran);
        let own = |command: &String| ["::error ", "::warning "].iter().any(|own| command.starts_with(own));
        assert!(commands.iter().all(own), "{behaviour}: {commands:#?}");
        // Commands of the next program in the step are executed again.
        let after = format!("{}\n::notice::of the next program\n", ran.output());
        let all = github::executed_in(&after);
        assert_eq!(all.last().map(String::as_str), Some("::notice::of the next program"), "{after}");
    }
}

#[test]
fn errors_in_the_manifest_are_annotated_at_their_lines() {
    let test = "mistakes_in_the_manifest_are_annotated_at_their_lines";
    let Some(run) = Run::new(test, "push", |_| {}) else { return };
    edit(&run.sandbox.layer(), "branch = ", "brunch = ");
    let ran = run.run(&[]);
    ran.assert_code(&[2]);
    let commands = github::executed(&ran);
    let place =
        "::error file=build-agent.toml,line=7,title=build-agent::[repos.poky] brunch: unknown key%0Ahint: ";
    assert!(commands.iter().any(|command| command.starts_with(place)), "{commands:#?}");
    let summary = std::fs::read_to_string(run.summary()).unwrap();
    assert!(summary.contains("nothing was run") && summary.contains("brunch: unknown key"), "{summary}");
}

#[test]
fn only_a_push_to_a_protected_branch_writes_the_share() {
    let test = "only_a_push_to_a_protected_branch_writes_the_share";
    // The event, further variables and the tier that is written.
    let protected = ("GITHUB_REF_PROTECTED", "true");
    type Row<'a> = (&'static str, &'a [(&'a str, &'a str)], &'a str);
    let table: [Row; 5] = [
        ("push", &[protected], "shared read-write"),
        ("push", &[("GITHUB_REF_PROTECTED", "false")], "shared read-only"),
        (
            "push",
            &[protected, ("GITHUB_SHA", "ffffffffffffffffffffffffffffffffffffffff")],
            "shared read-only",
        ),
        ("pull_request", &[protected], "pull-request read-write"),
        ("fork", &[protected], "pull-request read-write"),
    ];
    for (event, variables, wanted) in table {
        let Some(run) = Run::new(test, event, |_| {}) else { return };
        let share = run.sandbox.path().join("share");
        std::fs::create_dir(&share).unwrap();
        let share = format!("cache.share={}", share.display());
        let more = ["--set", &share, "--set", "build.targets=[\"hello\"]", "--only", "build"];
        let mut command = run.command(&more);
        command.env("BUILD_AGENT_TRUSTED_BRANCHES", "main").envs(variables.iter().copied());
        let ran = run.sandbox.start(command).wait();
        ran.assert_code(&[0]);
        let result = run.sandbox.result();
        let first = &result["cache"][0];
        let found = format!("{} {}", first["tier"].as_str().unwrap(), first["state"].as_str().unwrap());
        assert_eq!(found, wanted, "{event} {variables:?}\n{}", ran.output());
        if event != "push" {
            let mut command = run.command(&[&more[..], &["--trusted"]].concat());
            command.env("BUILD_AGENT_TRUSTED_BRANCHES", "main").envs(variables.iter().copied());
            let refused = run.sandbox.start(command).wait();
            refused.assert_code(&[2]);
            refused.assert_says(&["--trusted cannot make this source trusted", "pull request 7"]);
        }
    }
}

/// A change that fails, with a list of known failures that would hide it.
fn edits_its_rules(layer: &Path) {
    let entry = "[[failure]]\ntest = 'test_world'\nreason = 'r'\nexpires = '2999-01-01'\n";
    write(layer, "known.toml", entry);
    edit(layer, "yocto_check_layer = true", "yocto_check_layer = true\nknown_failures = \"known.toml\"");
}

#[test]
fn the_rules_of_the_base_apply_to_a_pull_request() {
    let test = "a_pull_request_is_judged_by_the_rules_of_its_base";
    let Some(run) = Run::new(test, "pull_request", edits_its_rules) else { return };
    run.sandbox.behaviour("yocto-check-layer fail test_world");
    let words = ["this change edits its own rules: build-agent.toml", "the rules of the base main ("];
    let ran = run.run(&[]);
    ran.assert_code(&[1]);
    ran.assert_says(&words);
    let summary = std::fs::read_to_string(run.summary()).unwrap();
    assert!(summary.contains("this change edits its own rules"), "{summary}");
    assert!(github::executed(&ran).iter().any(|command| command.contains("edits its own rules")));
    // A flag must not apply to every pull request.
    let refused = run.run(&["--accept-manifest"]);
    refused.assert_code(&[2]);
    refused.assert_says(&["--accept-manifest is not allowed in a build that a webhook starts"]);
    // A person can accept the rules of this one.
    let mut by_hand = run.command(&["--accept-manifest"]);
    by_hand.env("GITHUB_EVENT_NAME", "workflow_dispatch").env("GITHUB_REF", "refs/heads/change");
    for absent in ["GITHUB_BASE_REF", "GITHUB_HEAD_REF", "GITHUB_EVENT_PATH"] {
        by_hand.env_remove(absent);
    }
    run.sandbox.start(by_hand).wait().assert_code(&[0]);
    // With the full history, the server gets no request.
    run.check_out(&["--branch", "change"]);
    let mut command = run.command(&[]);
    command.env("GITHUB_SERVER_URL", "file:///nowhere");
    let ran = run.sandbox.start(command).wait();
    ran.assert_code(&[1]);
    ran.assert_says(&words);
}

/// Changes the layer in a directory.
type Change = Box<dyn Fn(&Path)>;

/// What a change can do to the files with the rules.
#[test]
fn no_change_of_the_files_brings_other_rules() {
    let test = "no_change_of_the_files_brings_other_rules";
    let weak = |layer: &Path| edit(layer, "yocto_check_layer = true", "yocto_check_layer = false");
    let changes: [(&str, Change); 5] = [
        ("weakened", Box::new(weak)),
        ("removed", Box::new(|layer: &Path| std::fs::remove_file(layer.join("build-agent.toml")).unwrap())),
        (
            "a link",
            Box::new(move |layer: &Path| {
                weak(layer);
                std::fs::rename(layer.join("build-agent.toml"), layer.join("other.toml")).unwrap();
                std::os::unix::fs::symlink("other.toml", layer.join("build-agent.toml")).unwrap();
            }),
        ),
        (
            "a directory",
            Box::new(move |layer: &Path| {
                weak(layer);
                std::fs::rename(layer.join("build-agent.toml"), layer.join("aside")).unwrap();
                std::fs::create_dir(layer.join("build-agent.toml")).unwrap();
                std::fs::rename(layer.join("aside"), layer.join("build-agent.toml/build-agent.toml"))
                    .unwrap();
            }),
        ),
        (
            "before there were rules",
            Box::new(move |layer: &Path| {
                weak(layer);
                let text = std::fs::read(layer.join("build-agent.toml")).unwrap();
                let first = git(layer, ["rev-list", "--max-parents=0", "HEAD"]);
                git(layer, ["reset", "--quiet", "--hard", &first]);
                std::fs::write(layer.join("build-agent.toml"), text).unwrap();
            }),
        ),
    ];
    for (name, change) in changes {
        let Some(run) = Run::new(test, "pull_request", change) else { return };
        run.sandbox.behaviour("yocto-check-layer fail test_world");
        for command in ["run", "check"] {
            let mut agent = run.sandbox.command([command]);
            let words: Vec<_> = run.command(&[]).get_args().map(|word| word.to_owned()).collect();
            let words = words
                .into_iter()
                .skip(1)
                .filter(|word| command == "run" || !word.to_string_lossy().ends_with(".toml"));
            agent.args(words);
            for (key, value) in run.command(&[]).get_envs() {
                agent.env(key, value.unwrap_or_default());
            }
            let ran = run.sandbox.start(agent).wait();
            assert_eq!(ran.code, Some(1), "{name}, {command}: {}", ran.output());
            ran.assert_says(&["test_world", "this change edits its own rules: build-agent.toml"]);
        }
    }
}

/// A change's own rules must not apply because a server does not answer.
#[test]
fn without_the_base_nothing_runs() {
    let test = "without_the_base_nothing_is_judged";
    let Some(run) = Run::new(test, "fork", edits_its_rules) else { return };
    run.sandbox.behaviour("yocto-check-layer fail test_world");
    let mut command = run.command(&[]);
    command.env("GITHUB_SERVER_URL", "file:///nowhere");
    let ran = run.sandbox.start(command).wait();
    ran.assert_code(&[4]);
    ran.assert_says(&[
        "cannot read the base branch `main`, whose rules apply to this change",
        "fetch-depth: 0",
    ]);
    assert!(github::executed(&ran).iter().any(|command| command.starts_with("::error ")), "{}", ran.output());
    // On a person's machine it is an error: the person named the base.
    run.sandbox.call(["plan", "--base", "missing"]).assert_code(&[2]);
}

/// After another run, by a comment, by hand: the target branch is not known.
#[test]
fn without_a_known_base_no_artifacts_are_published() {
    let test = "without_a_known_base_no_artifacts_are_published";
    let Some(run) = Run::new(test, "fork", |layer| {
        let rules = "\n[[artifacts.rules]]\ninclude = \"conf/**\"\n\n[limits]";
        edit(layer, "\n[limits]", rules);
    }) else {
        return;
    };
    let mut command = run.command(&[]);
    command.env("GITHUB_EVENT_NAME", "workflow_run").env("GITHUB_REF", "refs/heads/main");
    for absent in ["GITHUB_BASE_REF", "GITHUB_HEAD_REF", "GITHUB_EVENT_PATH"] {
        command.env_remove(absent);
    }
    let ran = run.sandbox.start(command).wait();
    ran.assert_code(&[0]);
    ran.assert_says(&[
        "neither the build service nor --base names the base of this change",
        "no artifacts are published",
    ]);
    assert!(!run.sandbox.artifacts().exists(), "something was published");
}

/// The author of a change chooses the commit in which it begins.
#[test]
fn the_rules_of_an_old_commit_do_not_apply() {
    let test = "the_rules_of_an_old_commit_do_not_count";
    let Some(run) = Run::new(test, "pull_request", |_| {}) else { return };
    // The manifest of the first commit hid the failure; the branch has a stricter one by now.
    let server = run.server();
    git(&server, ["switch", "--quiet", "-c", "old", "main"]);
    edits_its_rules(&server);
    commit(&server, "The rules of the past");
    git(&server, ["branch", "--quiet", "--force", "change", "old"]);
    edit(&server, "\nknown_failures = \"known.toml\"", "");
    commit(&server, "Stricter rules");
    git(&server, ["branch", "--quiet", "--force", "main", "HEAD"]);
    git(&server, ["switch", "--quiet", "change"]);
    write(&server, "conf/new.conf", "# the change");
    commit(&server, "Change something");
    git(&server, ["switch", "--quiet", "main"]);
    run.sandbox.behaviour("yocto-check-layer fail test_world");
    for words in [&["--depth=1", "--branch", "change"][..], &["--branch", "change"]] {
        run.check_out(words);
        let ran = run.run(&[]);
        assert_eq!(ran.code, Some(1), "{}", ran.output());
        ran.assert_says(&["test_world", "which has other rules than the commit in which this change began"]);
        assert!(!ran.output().contains("edits its own rules"), "{}", ran.output());
    }
}

/// A merge group has the changes of pull requests.
#[test]
fn the_rules_of_the_base_apply_to_a_merge_group() {
    let test = "a_merge_group_is_judged_by_the_rules_of_its_base";
    let Some(run) = Run::new(test, "pull_request", edits_its_rules) else { return };
    run.sandbox.behaviour("yocto-check-layer fail test_world");
    let event = run.sandbox.path().join("event.json");
    let text =
        r#"{"merge_group":{"base_ref":"refs/heads/main"},"repository":{"full_name":"example/meta-tested"}}"#;
    std::fs::write(&event, text).unwrap();
    let mut command = run.command(&[]);
    command.env("GITHUB_EVENT_NAME", "merge_group").env("GITHUB_EVENT_PATH", &event);
    command.env("GITHUB_REF", "refs/heads/gh-readonly-queue/main/pr-7-x");
    command.env_remove("GITHUB_BASE_REF").env_remove("GITHUB_HEAD_REF");
    let ran = run.sandbox.start(command).wait();
    ran.assert_code(&[1]);
    ran.assert_says(&["this change edits its own rules: build-agent.toml"]);
}

#[test]
fn the_base_can_be_named_on_a_persons_machine() {
    let test = "the_base_can_be_named_on_a_persons_machine";
    let Some(run) = Run::new(test, "pull_request", edits_its_rules) else { return };
    run.check_out(&["--branch", "change"]);
    let ran = run.sandbox.call(["plan", "--base", "main"]);
    ran.assert_code(&[0]);
    ran.assert_says(&["this change edits its own rules: build-agent.toml", "the base main ("]);
    let ran = run.sandbox.call(["plan", "--base", "main", "--accept-manifest"]);
    ran.assert_code(&[0]);
    ran.assert_says(&["a person accepts them"]);
    run.sandbox.call(["plan"]).assert_code(&[0]);
}

/// CodeBuild names the base, too.
#[test]
fn the_rules_of_the_base_apply_in_codebuild_as_well() {
    let test = "codebuild_judges_by_the_base_as_well";
    let Some(run) = Run::new(test, "pull_request", edits_its_rules) else { return };
    run.sandbox.behaviour("yocto-check-layer fail test_world");
    let mut command = run.sandbox.run_command();
    let head = git(&run.sandbox.layer(), ["rev-parse", "HEAD"]);
    command.env("CODEBUILD_BUILD_ID", "p:1").env("CODEBUILD_SRC_DIR", run.sandbox.layer());
    command.env("CODEBUILD_RESOLVED_SOURCE_VERSION", head).env("CODEBUILD_SOURCE_VERSION", "pr/7");
    command.env("CODEBUILD_WEBHOOK_EVENT", "PULL_REQUEST_UPDATED").env("CODEBUILD_WEBHOOK_TRIGGER", "pr/7");
    command.env("CODEBUILD_WEBHOOK_BASE_REF", "refs/heads/main");
    command.env("CODEBUILD_SOURCE_REPO_URL", format!("file://{}", run.server().display()));
    let ran = run.sandbox.start(command).wait();
    ran.assert_code(&[1]);
    ran.assert_says(&["this change edits its own rules: build-agent.toml"]);
}

/// The role of pull requests may not read the secret; the job continues without it.
#[test]
fn a_pull_request_does_not_ask_for_the_token() {
    let test = "a_pull_request_does_not_ask_for_the_token";
    let Some(run) = Run::new(test, "fork", |_| {}) else { return };
    let token = ["github.repository=example/meta-tested", "github.token_secret=build-agent/github"];
    let words: Vec<&str> = token.iter().flat_map(|set| ["--set", *set]).collect();
    let mut command = run.command(&words);
    // No server answers at this address.
    command.env("AWS_ENDPOINT_URL", "http://127.0.0.1:1").env("AWS_REGION", "eu-central-1");
    command.env("AWS_ACCESS_KEY_ID", "AKIATEST").env("AWS_SECRET_ACCESS_KEY", "key-of-the-tests");
    let ran = run.sandbox.start(command).wait();
    ran.assert_code(&[0]);
    ran.assert_says(&["git clones without a token: `build-agent/github` is only read for a trusted source"]);
}
