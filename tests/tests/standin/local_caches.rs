//! The caches that the jobs of one user share.

use std::path::Path;
use std::process::Command;

use build_agent_tests::{Ran, Sandbox};
use serde_json::Value;

/// A job that builds `hello`.
struct Job(Sandbox);

impl Job {
    fn new(test: &str) -> Option<Job> {
        let sandbox = Sandbox::new(test)?;
        let text = sandbox.manifest_text();
        sandbox.write_manifest(&format!("{text}\n[build]\ntargets = [\"hello\"]\n"));
        Some(Job(sandbox))
    }

    fn command(&self, name: &str, more: &[&str]) -> Command {
        let mut command = self.0.run_command();
        command.args(["--only", "build", "--set", &format!("name={name}")]).args(more);
        command
    }

    #[track_caller]
    fn passes(&self, command: Command) -> Ran {
        let ran = self.0.start(command).wait();
        ran.assert_code(&[0]);
        ran
    }

    fn local_conf(&self, name: &str) -> String {
        let conf = format!("{name}-scarthgap/build/conf/local.conf");
        std::fs::read_to_string(self.0.work().join(conf)).unwrap()
    }

    fn cache(&self, words: &[&str], work: &Path) -> Ran {
        let mut command = self.0.command(["cache"]);
        command.args(words).arg("--local").arg("--work-dir").arg(work);
        self.0.start(command).wait()
    }
}

fn places(directory: &Path) -> [String; 2] {
    [
        format!("SSTATE_DIR ?= \"{}/sstate/scarthgap\"", directory.display()),
        format!("DL_DIR ?= \"{}/downloads\"", directory.display()),
    ]
}

#[test]
fn jobs_of_one_user_share_their_caches() {
    let Some(job) = Job::new("jobs_of_one_user_share_their_caches") else { return };
    let work = job.0.work();
    let elsewhere = job.0.path().join("elsewhere");
    job.passes(job.command("meta-first", &[]));
    job.passes(job.command("meta-second", &[]));
    for name in ["meta-first", "meta-second"] {
        let conf = job.local_conf(name);
        assert!(!work.join(format!("{name}-scarthgap/sstate")).exists());
        assert!(places(&work).iter().all(|place| conf.contains(place)), "{conf}");
    }
    assert_eq!(std::fs::read_dir(work.join("leases")).unwrap().count(), 0, "the leases end with the jobs");

    // Trusted sources do not use what others left.
    job.passes(job.command("meta-first", &["--trusted"]));
    assert!(places(&work.join("trusted")).iter().all(|place| job.local_conf("meta-first").contains(place)));
    assert_eq!(std::fs::read_dir(work.join("trusted/leases")).unwrap().count(), 0);

    let with = |name: &str, variable: (&str, &Path)| {
        let mut command = job.command(name, &[]);
        command.env(variable.0, variable.1);
        job.passes(command);
        job.local_conf(name)
    };
    let own = |name: &str| places(&work.join(format!("{name}-scarthgap")));
    // In CI, untrusted jobs may run on the same machine.
    for (name, variable) in [("meta-ci", ("CI", "true")), ("meta-off", ("BUILD_AGENT_CACHE", "off"))] {
        let conf = with(name, (variable.0, Path::new(variable.1)));
        assert!(own(name).iter().all(|place| conf.contains(place)), "{conf}");
    }
    let conf = with("meta-second", ("BUILD_AGENT_CACHE", &elsewhere));
    assert!(places(&elsewhere).iter().all(|place| conf.contains(place)), "{conf}");
    assert!(elsewhere.join("layers").is_dir());
}

#[test]
fn a_job_has_caches_of_its_own_if_it_cannot_use_the_shared_ones() {
    let test = "a_job_has_caches_of_its_own_if_it_cannot_use_the_shared_ones";
    let Some(job) = Job::new(test) else { return };
    let run = |cache: &Path| {
        let mut command = job.command("meta-tested", &[]);
        command.env("BUILD_AGENT_CACHE", cache);
        job.passes(command)
    };
    let own = places(&job.0.work().join("meta-tested-scarthgap"));
    let is_own = || own.iter().all(|place| job.local_conf("meta-tested").contains(place));
    let file = job.0.path().join("file");
    std::fs::write(&file, "").unwrap();
    run(&file).assert_says(&["does not use the caches of your other jobs"]);
    assert!(is_own());
    let mut shell = job.0.command(["shell"]);
    shell.arg(job.0.manifest()).arg("--work-dir").arg(job.0.work()).args(["--", "true"]);
    shell.env("BUILD_AGENT_CACHE", &file);
    job.passes(shell).assert_says(&["does not use the caches of your other jobs"]);
    if nix::unistd::geteuid().is_root() {
        // What another user left.
        let foreign = job.0.path().join("foreign");
        std::fs::create_dir_all(foreign.join("downloads")).unwrap();
        run(&foreign).assert_says(&["belongs to uid 0", "chown -R"]);
        assert!(is_own());
    } else {
        let closed = job.0.path().join("closed");
        std::fs::create_dir(&closed).unwrap();
        std::fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o555)).unwrap();
        run(&closed).assert_says(&["does not use the caches of your other jobs"]);
        assert!(is_own());
    }
}

#[test]
fn the_cache_commands_know_the_local_caches() {
    let Some(job) = Job::new("the_cache_commands_know_the_local_caches") else { return };
    let work = job.0.work();
    let none = job.cache(&["stats"], &work);
    none.assert_code(&[2]);
    none.assert_says(&["there are no local caches yet"]);
    job.passes(job.command("meta-first", &[]));
    job.passes(job.command("meta-first", &["--trusted"]));

    // Nothing is deleted before the error.
    let mut command = job.0.command(["cache", "prune", "--layers-max-age", "0s", "--work-max-age", "0s"]);
    command.arg("--share").arg(&work);
    let ran = job.0.start(command).wait();
    ran.assert_code(&[2]);
    ran.assert_says(&["--work-max-age needs the local caches"]);

    let stats = job.cache(&["stats"], &work);
    stats.assert_code(&[0]);
    let (top, trusted) = (work.display().to_string(), work.join("trusted").display().to_string());
    let says =
        [format!("local caches {top}\n"), format!("local caches {trusted}\n"), "meta-first-scarthgap".into()];
    says.iter().for_each(|says| stats.assert_says(&[says]));
    assert!(!stats.output().contains("unknown"), "{}", stats.output());
    let json: Value = serde_json::from_str(&job.cache(&["stats", "--json"], &work).stdout).unwrap();
    assert_eq!((&json["share"], &json["trusted"]["share"]), (&Value::from(top), &Value::from(trusted)));
    assert!(json["layers"]["units"].as_u64() > Some(0), "{json:#}");

    // In the layer's directory, whose manifest names no share, nothing more need be said.
    let mut command = job.0.command(["cache", "stats", "--work-dir"]);
    command.arg(&work);
    job.0.start(command).wait().assert_code(&[0]);

    let age = ["prune", "--sstate-max-age", "0s", "--downloads-max-age", "0s"];
    job.cache(&age, &work).assert_code(&[0]);
    let left: Value = serde_json::from_str(&job.cache(&["stats", "--json"], &work).stdout).unwrap();
    for caches in [&left, &left["trusted"]] {
        assert_eq!(caches["trash"]["units"], 0, "{left:#}");
        let units = caches["downloads"].as_object().unwrap().values().map(|sum| sum["units"].as_u64());
        assert_eq!(units.flatten().sum::<u64>(), 0, "{left:#}");
    }
    job.passes(job.command("meta-first", &[]));

    let work_dirs = ["prune", "--work-max-age", "0s"];
    let mut running = job.0.start(hanging(&job));
    running.wait_until("the build", || work.join("meta-second-scarthgap/build/conf").exists());
    job.cache(&[&work_dirs[..], &["--dry-run"]].concat(), &work)
        .assert_says(&["1 work directory would be deleted"]);
    let source = work.join("meta-first-scarthgap/build/workspace/sources/hello");
    std::fs::create_dir_all(&source).unwrap();
    job.cache(&work_dirs, &work)
        .assert_says(&["1 work directory kept: devtool's workspace", "meta-first-scarthgap"]);
    assert!(source.exists());
    std::fs::remove_dir_all(work.join("meta-first-scarthgap/build/workspace")).unwrap();
    job.cache(&work_dirs, &work).assert_says(&["meta-first-scarthgap"]);
    assert!(!work.join("meta-first-scarthgap").exists());
    assert!(work.join("meta-second-scarthgap/build/conf").exists(), "its job still runs");
    running.signal(nix::sys::signal::Signal::SIGTERM);
    running.wait().assert_code(&[130]);
}

/// Jobs with caches of their own share the store of layer checkouts with others.
#[test]
fn a_prune_keeps_the_layer_checkouts_of_a_job_with_caches_of_its_own() {
    let test = "a_prune_keeps_the_layer_checkouts_of_a_job_with_caches_of_its_own";
    let Some(job) = Job::new(test) else { return };
    let work = job.0.work();
    let checkouts = || {
        let repos = std::fs::read_dir(work.join("layers")).unwrap().flatten();
        let entries = repos.flat_map(|repo| std::fs::read_dir(repo.path()).unwrap().flatten());
        entries.filter(|entry| entry.file_type().unwrap().is_dir()).count()
    };
    let prune = || job.cache(&["prune", "--layers-max-age", "0s"], &work).assert_code(&[0]);
    let file = job.0.path().join("file");
    std::fs::write(&file, "").unwrap();
    // In CI, if it is said, and if the shared ones cannot be used.
    for (variable, value) in
        [("CI", "true"), ("BUILD_AGENT_CACHE", "off"), ("BUILD_AGENT_CACHE", file.to_str().unwrap())]
    {
        let mut command = hanging(&job);
        command.env(variable, value);
        let log = job.0.out().join("logs");
        let _ = std::fs::remove_dir_all(&log);
        let mut running = job.0.start(command);
        running.wait_until("the build", || log.exists() && job.0.logs().contains("hanging"));
        prune();
        assert_eq!(checkouts(), 1, "{variable}={value}: poky is in use");
        running.signal(nix::sys::signal::Signal::SIGTERM);
        running.wait().assert_code(&[130]);
        assert_eq!(std::fs::read_dir(work.join("leases")).unwrap().count(), 0, "the lease ends with the job");
        prune();
        assert_eq!(checkouts(), 0, "{variable}={value}: nothing uses poky");
    }
}

/// A job whose build hangs until it is stopped.
fn hanging(job: &Job) -> Command {
    job.0.behaviour("bitbake hang");
    job.command("meta-second", &[])
}
