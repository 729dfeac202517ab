//! Builds at the limits of a machine: memory, disk space, and the job's time.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use build_agent_tests::{Ran, Running, agent, commit, is_left_to_the_long_run, json};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::POKY;
use crate::fixture::{Fixture, NARROW_BUILD, TIMEOUT, WITHOUT_PATCH_TOOLS, WITHOUT_TOOLCHAIN, sstate};

/// A recipe that needs no toolchain and whose tasks have shared state. `compile`: the shell code of its do_compile.
fn recipe(layer: &Path, name: &str, compile: &str, more: &str) {
    let text = format!(
        "{WITHOUT_TOOLCHAIN}{WITHOUT_PATCH_TOOLS}\
         do_compile() {{\n{compile}\n}}\n\
         do_deploy() {{\n    cp ${{B}}/{name} ${{DEPLOYDIR}}/\n}}\n\
         addtask compile after do_unpack\n\
         addtask deploy after do_compile before do_build\n\
         {more}\n"
    );
    let directory = layer.join("recipes-fixture").join(name);
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join(format!("{name}_1.0.bb")), text).unwrap();
}

/// The arguments of a job that builds the recipe `parallel`.
fn words(release: &str, local_conf: &str) -> Vec<String> {
    let narrow = NARROW_BUILD.replace(" rm_work", "");
    let [release, branch] = ["release", "repos.poky.branch"].map(|key| format!("{key}={release}"));
    let local_conf = format!("config.local_conf={narrow}{local_conf}");
    let mut words = ["run", "--only", "build"].map(str::to_owned).to_vec();
    for set in ["build.targets=[\"parallel\"]", &release, &branch, &local_conf] {
        words.extend(["--set".to_owned(), set.to_owned()]);
    }
    words
}

fn build(fixture: &Fixture, release: &str, local_conf: &str, more: &[&str]) -> Value {
    let words = words(release, local_conf);
    let words: Vec<&str> = words.iter().map(String::as_str).chain(more.iter().copied()).collect();
    fixture.call(&words).assert_code(&[0]);
    sstate(fixture.result())
}

/// What the recipe deployed.
fn deployed(fixture: &Fixture, release: &str) -> String {
    let work = fixture.directory.path().join(format!("work/meta-deploy-{release}"));
    std::fs::read_to_string(work.join("build/tmp/deploy/images/qemux86-64/parallel")).unwrap()
}

/// The recipe's own values arrive, and the hash of the task that uses them does not change.
#[test]
fn no_limit_of_parallelism_changes_a_hash() {
    let test = "no_limit_of_parallelism_changes_a_hash";
    let Some(fixture) = Fixture::new(test, "meta-deploy", &[POKY]) else { return };
    let compile = "    echo \"this is ${PARALLEL_MAKE} of ${BB_NUMBER_THREADS} for ${EXTRA_OEMAKE} ${XZ_DEFAULTS} \
        ${ZSTD_THREADS}\" > ${B}/parallel";
    recipe(&fixture.layer(), "parallel", compile, "");
    commit(&fixture.layer(), "Add a recipe");
    // All that the agent writes on a machine with little memory and disk space, and in a retry.
    let little = "BB_NUMBER_THREADS = \"1\"\n\
        BB_NUMBER_PARSE_THREADS = \"1\"\n\
        PARALLEL_MAKE = \"-j 7\"\n\
        PARALLEL_MAKE:pn-parallel = \"-j 3\"\n\
        do_compile[number_threads] = \"1\"\n\
        XZ_MEMLIMIT = \"77MiB\"\n\
        XZ_THREADS = \"2\"\n\
        ZSTD_THREADS = \"2\"\n\
        INHERIT += \"rm_work\"\n";
    let more: &[&str] =
        if is_left_to_the_long_run(&format!("{test} (walnascar)")) { &[] } else { &["walnascar"] };
    for release in ["kirkstone", "scarthgap"].iter().chain(more) {
        let first = build(&fixture, release, "", &[]);
        assert!(first["missed"].as_u64() > Some(0), "{release}: {first}");
        assert!(deployed(&fixture, release).starts_with("this is -j "), "{release}");
        let second = build(&fixture, release, little, &["--fresh"]);
        assert_eq!(second["missed"], 0, "{release}: {second}");
        assert_eq!(second["local"], first["wanted"], "{release}: {second}");
        // They do arrive.
        let sstate = fixture.directory.path().join("work/sstate").join(release);
        std::fs::remove_dir_all(sstate).unwrap();
        build(&fixture, release, little, &["--fresh"]);
        let deployed = deployed(&fixture, release);
        assert!(deployed.starts_with("this is -j 3 of 1 for "), "{release}: {deployed}");
    }
}

/// Every recipe has its own outcome, and a dead server is not a failure of the layer.
#[test]
fn changed_recipes_have_their_own_outcomes() {
    let test = "changed_recipes_have_their_own_outcomes";
    let Some(fixture) = Fixture::new(test, "meta-deploy", &[POKY]) else { return };
    let dead = "SRC_URI = \"http://127.0.0.1:1/x.tar.gz\"\n\
        SRC_URI[sha256sum] = \"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"";
    let commit_all = |version: u32| {
        let touch = |name: &str| format!("    : {version}\n    touch ${{B}}/{name}");
        recipe(&fixture.layer(), "good", &touch("good"), "");
        recipe(&fixture.layer(), "bad", &format!("    : {version}\n    exit 1"), "");
        recipe(&fixture.layer(), "needs-bad", &touch("needs-bad"), "do_compile[depends] = \"bad:do_deploy\"");
        recipe(&fixture.layer(), "other-machine", &touch("x"), "COMPATIBLE_MACHINE = \"qemuarm64\"");
        recipe(&fixture.layer(), "dead", &touch("dead"), dead);
        recipe(&fixture.layer(), "same", "    touch ${B}/same", "");
        commit(&fixture.layer(), "Change recipes");
    };
    commit_all(1);
    commit_all(2);
    let local_conf = format!("{NARROW_BUILD}BB_NO_NETWORK = \"0\"\nMIRRORS = \"\"\nPREMIRRORS = \"\"\n");
    let local_conf = format!("config.local_conf={local_conf}");
    let words = ["run", "--only", "build", "--set", "build.targets=[]", "--set", "build.changed=true"];
    let ran = fixture.call(&[&words[..], &["--set", &local_conf]].concat());
    ran.assert_code(&[4]);
    ran.assert_says(&["a source cannot be fetched, because its server does not answer: dead"]);
    let result = fixture.result();
    let units = result["units"].as_array().unwrap();
    let outcome = |name: &str| {
        let unit = units.iter().find(|unit| unit["name"] == format!("{name} (qemux86-64)").as_str());
        unit.map(|unit| unit["outcome"].as_str().unwrap())
    };
    for (name, wanted) in [
        ("good", Some("passed")),
        ("bad", Some("failed")),
        ("needs-bad", Some("not-run")),
        ("other-machine", Some("skipped")),
        ("dead", Some("not-run")),
        ("same", None),
        ("fetch", Some("not-run")),
        ("changed recipes", Some("failed")),
    ] {
        assert_eq!(outcome(name), wanted, "{name}: {units:#?}");
    }
    let retries = result["retries"].as_array().unwrap();
    assert_eq!(retries.len(), 2, "{retries:?}");
}

/// The retry overrides what the manifest sets, and repeats only what failed.
#[test]
fn a_recipe_that_lacks_memory_is_built_with_less_at_the_same_time() {
    let test = "a_recipe_that_lacks_memory_is_built_with_less_at_the_same_time";
    if !std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1) {
        build_agent_tests::skip(test, "there is one processor");
        return;
    }
    let Some(fixture) = Fixture::new(test, "meta-deploy", &[POKY]) else { return };
    let compile = "    if [ \"${PARALLEL_MAKE}\" != \"-j 1\" ]; then\n\
        echo \"virtual memory exhausted: Cannot allocate memory\"\n\
        exit 1\n    fi\n    touch ${B}/parallel";
    recipe(&fixture.layer(), "parallel", compile, "");
    commit(&fixture.layer(), "Add a recipe");
    build(&fixture, "scarthgap", "PARALLEL_MAKE = \"-j 2\"\n", &[]);
    let result = fixture.result();
    assert_eq!(result["outcome"], "passed");
    let retries = result["retries"].as_array().unwrap();
    assert!(matches!(&retries[..], [retry] if retry["cause"] == "memory"), "{retries:?}");
    let again = fixture.out().join("logs/build-qemux86-64-again.log");
    assert!(!std::fs::read_to_string(again).unwrap().contains("task do_unpack: Started"));
}

/// A control group of the kernel with a limit of memory.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    /// `None`, with a SKIPPED line, where this user cannot make one.
    fn new(test: &str, limit: u64) -> Option<MemoryGroup> {
        let name = format!("build-agent-test-{}", std::process::id());
        let places = [("memory/", "memory.limit_in_bytes"), ("unified/", "memory.max"), ("", "memory.max")];
        for (below, file) in places {
            let group = Path::new("/sys/fs/cgroup").join(below).join(&name);
            if std::fs::create_dir(&group).is_err() {
                continue;
            }
            let group = MemoryGroup(group);
            let limit_file = group.0.join(file);
            if limit_file.is_file() && std::fs::write(&limit_file, limit.to_string()).is_ok() {
                return Some(group);
            }
        }
        build_agent_tests::skip(test, "this user cannot make a control group with a limit of memory");
        None
    }

    /// Starts the command as a member.
    fn start(&self, command: &Command, directory: &Path) -> Running {
        let mut member = Command::new("sh");
        member.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(self.0.join("cgroup.procs"));
        member.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => member.env(name, value),
                None => member.env_remove(name),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            member.current_dir(directory);
        }
        Running::start(member, directory)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // The kernel keeps it until its last member has ended.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The kernel itself kills a task: its limit of memory is that of the machine.
#[test]
fn a_task_that_the_kernel_kills_is_repeated_with_less_at_the_same_time() {
    let test = "a_task_that_the_kernel_kills_is_repeated_with_less_at_the_same_time";
    if !std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1) {
        build_agent_tests::skip(test, "there is one processor");
        return;
    }
    let Some(fixture) = Fixture::new(test, "meta-deploy", &[POKY]) else { return };
    let Some(group) = MemoryGroup::new(test, 1 << 30) else { return };
    let compile = "    if [ \"${PARALLEL_MAKE}\" != \"-j 1\" ]; then\n\
        python3 -c 'x = b\"x\" * (2 << 30)'\n    fi\n    touch ${B}/parallel";
    recipe(&fixture.layer(), "parallel", compile, "");
    commit(&fixture.layer(), "Add a recipe");
    let mut command = agent();
    command.current_dir(fixture.layer()).args(words("scarthgap", "PARALLEL_MAKE = \"-j 2\"\n"));
    command.arg("--work-dir").arg(fixture.directory.path().join("work")).arg("--out").arg(fixture.out());
    let ran = group.start(&command, fixture.directory.path()).wait_for(TIMEOUT);
    ran.assert_code(&[0]);
    let retries = fixture.result()["retries"].clone();
    let retries = retries.as_array().unwrap();
    assert!(matches!(&retries[..], [retry] if retry["cause"] == "memory"), "{retries:?}");
    assert!(retries[0]["reason"].as_str().unwrap().contains("parallel-1.0-r0:do_compile"), "{retries:?}");
}

/// At random moments of a build: BitBake ends, the reports name the stop, and the next job builds the rest.
#[test]
fn an_interrupt_at_any_moment_of_a_build_leaves_no_bitbake() {
    let test = "an_interrupt_at_any_moment_of_a_build_leaves_no_bitbake";
    let Some(fixture) = Fixture::long(test, "meta-deploy", &[POKY]) else { return };
    let compile = "    for step in 1 2 3 4 5 6 7 8 9 10; do sleep 1; done\n    touch ${B}/parallel";
    recipe(&fixture.layer(), "parallel", compile, "");
    commit(&fixture.layer(), "Add a recipe");
    let words = words("scarthgap", "");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let seed = u64::from(std::time::UNIX_EPOCH.elapsed().unwrap().subsec_millis());
    let mut interrupted = 0;
    for number in 0..8 {
        // The first job also clones and parses; none runs into the last second of the recipe's task.
        let after = Duration::from_millis(500 + number * 1500 + seed);
        let running = fixture.start(&words);
        std::thread::sleep(after);
        running.signal(Signal::SIGTERM);
        let ran = running.wait_for(Duration::from_secs(120));
        ran.assert_code(&[0, 130]);
        if ran.code == Some(0) {
            // An interrupt lets running tasks end; this one came after them.
            break;
        }
        interrupted += 1;
        let result = fixture.result();
        assert_eq!(result["outcome"], "cancelled", "after {after:?}");
        assert_eq!(result["totals"]["failed-tasks"], 0, "after {after:?}");
        assert_eq!(build_agent_tests::survivors(fixture.directory.path()), [], "after {after:?}");
    }
    assert!(interrupted > 1, "the build ended before the signals");
    fixture.call(&words).assert_code(&[0]);
}

/// A machine that builds a pull request.
struct Machine<'a> {
    fixture: &'a Fixture,
    directory: PathBuf,
}

impl Machine<'_> {
    fn run(&self, limit: &str) -> Ran {
        let fixture = self.fixture;
        let hold = self.fixture.directory.path().join("hold");
        let mut command: Command = agent();
        command.current_dir(fixture.layer()).args(["run", "--only", "build,publish"]);
        let local_conf = format!("{NARROW_BUILD}HOLD = \"{}\"\n", hold.display());
        command.args(["--set", &format!("config.local_conf={local_conf}")]);
        command.args(["--set", &format!("cache.share={}", fixture.directory.path().join("share").display())]);
        command.args(["--set", "build.targets=[\"second\"]", "--set", "artifacts.rules=[]"]);
        command.args(["--set", &format!("limits.job={limit}"), "--set", "limits.grace=20s"]);
        command
            .arg("--work-dir")
            .arg(self.directory.join("work"))
            .arg("--out")
            .arg(self.directory.join("out"));
        for (name, value) in [
            ("CODEBUILD_BUILD_ID", "x:00000000-0000-0000-0000-000000000000"),
            ("CODEBUILD_SRC_DIR", fixture.layer().to_str().unwrap()),
            ("CODEBUILD_WEBHOOK_EVENT", "PULL_REQUEST_UPDATED"),
            ("CODEBUILD_WEBHOOK_TRIGGER", "pr/12"),
        ] {
            command.env(name, value);
        }
        Running::start(command, &self.directory).wait_for(TIMEOUT)
    }

    fn result(&self) -> Value {
        json(&self.directory.join("out/result.json"))
    }

    /// The tasks that ran, each with its outcome.
    fn tasks(&self) -> String {
        let events = std::fs::read_to_string(self.directory.join("out/events.jsonl")).unwrap();
        events
            .lines()
            .filter(|line| line.contains("\"task-finished\""))
            .map(|line| format!("{line}\n"))
            .collect()
    }
}

/// The first job runs out of time in the second of two recipes. The next one, on another machine, takes the first recipe
/// from the pull request's part of the share.
#[test]
fn a_job_that_ran_out_of_time_is_resumed_by_the_next_one() {
    let test = "a_job_that_ran_out_of_time_is_resumed_by_the_next_one";
    let Some(fixture) = Fixture::new(test, "meta-deploy", &[POKY]) else { return };
    recipe(&fixture.layer(), "first", "    touch ${B}/first", "");
    let compile = "    while [ -e ${HOLD} ]; do sleep 0.1; done\n    touch ${B}/second";
    let needs = "do_compile[depends] = \"first:do_deploy\"\ndo_compile[vardepsexclude] = \"HOLD\"";
    recipe(&fixture.layer(), "second", compile, needs);
    commit(&fixture.layer(), "Add recipes");
    let top = fixture.directory.path();
    std::fs::create_dir(top.join("share")).unwrap();
    std::fs::write(top.join("hold"), "").unwrap();
    let machine = |name: &str| {
        let directory = top.join(name);
        std::fs::create_dir(&directory).unwrap();
        Machine { fixture: &fixture, directory }
    };
    // Even on a slow machine, the first recipe is built within one of these limits.
    let mut limit = 60;
    let first = loop {
        let first = machine(&format!("machine-{limit}"));
        first.run(&format!("{limit}s")).assert_code(&[5]);
        if first.tasks().contains("\"recipe\":\"first-1.0-r0\",\"task\":\"do_deploy\"") {
            break first;
        }
        limit *= 2;
        assert!(limit < 2000, "the first recipe is never built");
    };
    let result = first.result();
    assert_eq!(result["outcome"], "timed-out");
    assert_eq!(result["totals"]["failed-tasks"], 0, "what the stop broke did not fail: {}", first.tasks());

    std::fs::remove_file(top.join("hold")).unwrap();
    let second = machine("machine-second");
    second.run("20m").assert_code(&[0]);
    let summary = sstate(second.result());
    assert!(summary["mirrors"].as_u64() >= Some(1), "{summary}");
    let tasks = second.tasks();
    assert!(tasks.contains("\"recipe\":\"first-1.0-r0\",\"task\":\"do_deploy_setscene\""), "{tasks}");
    assert!(!tasks.contains("\"recipe\":\"first-1.0-r0\",\"task\":\"do_compile\""), "{tasks}");
    assert!(tasks.contains("\"recipe\":\"second-1.0-r0\",\"task\":\"do_compile\""), "{tasks}");
}
