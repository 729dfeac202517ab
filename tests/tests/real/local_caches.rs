//! Jobs of one user share their local caches with real BitBake.

use build_agent_tests::is_left_to_the_long_run;

use crate::POKY;
use crate::fixture::{Fixture, NARROW_BUILD, sstate};

/// The stand-in's jobs, which always run, show where the caches are.
#[test]
fn another_job_uses_what_the_first_one_built() {
    let test = "another_job_uses_what_the_first_one_built";
    if is_left_to_the_long_run(test) {
        return;
    }
    let Some(fixture) = Fixture::new(test, "meta-deploy", &[POKY]) else { return };
    let local_conf = format!("config.local_conf={NARROW_BUILD}");
    let build = |name: &str| {
        let name = format!("name={name}");
        let words = ["run", "--only", "build", "--set", "build.targets=[\"deploy-files\"]"];
        let sets = ["--set", &name, "--set", &local_conf];
        fixture.call(&[&words[..], &sets].concat()).assert_code(&[0]);
        sstate(fixture.result())
    };
    let first = build("meta-first");
    assert!(first["missed"].as_u64() > Some(0), "{first}");
    let second = build("meta-second");
    assert_eq!((&second["missed"], &second["local"]), (&0.into(), &first["wanted"]), "{second}");

    // What BitBake left is all known.
    let work = fixture.directory.path().join("work").display().to_string();
    let local = ["--local", "--work-dir", &work];
    for words in [&["cache", "stats"][..], &["cache", "verify"], &["cache", "prune", "--max-size", "1KiB"]] {
        let mut command = build_agent_tests::agent();
        let output = command.args(words).args(local).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && !text.contains("unknown"), "{words:?}: {text}");
    }
    assert!(build("meta-third")["missed"].as_u64() > Some(0), "the prune took what no job used");
}
