//! Several machines with one share in a bucket, which each reads through its endpoint.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use build_agent_tests::fake_s3::{FakeS3, Fault};
use build_agent_tests::{Ran, Running, agent, commit, git, json};
use serde_json::Value;

use crate::fixture::{Fixture, NARROW_BUILD, TIMEOUT, sstate};
use crate::{BITBAKE, OE_CORE, POKY};

/// A build machine with its own work directory and output directory.
struct Machine<'a> {
    layer: PathBuf,
    directory: PathBuf,
    conf: String,
    s3: Option<&'a FakeS3>,
}

impl Machine<'_> {
    fn new<'a>(layer: &Path, directory: PathBuf, conf: &str, s3: Option<&'a FakeS3>) -> Machine<'a> {
        std::fs::create_dir(&directory).unwrap();
        Machine { layer: layer.to_owned(), directory, conf: conf.to_owned(), s3 }
    }

    fn build(&self, words: &[&str]) -> Ran {
        let mut command = agent();
        command.current_dir(&self.layer).args(["run", "--only", "build,publish"]);
        command.args(["--set", &format!("config.local_conf={}", self.conf)]);
        if let Some(s3) = self.s3 {
            s3.configure(&mut command);
            command.args(["--set", "cache.share=s3://bucket/share"]);
        }
        command.arg("--work-dir").arg(self.directory.join("work")).arg("--out").arg(self.out()).args(words);
        Running::start(command, &self.directory).wait_for(TIMEOUT)
    }

    fn out(&self) -> PathBuf {
        self.directory.join("out")
    }

    fn result(&self) -> Value {
        json(&self.out().join("result.json"))
    }

    /// What BitBake printed.
    fn log(&self) -> String {
        std::fs::read_to_string(self.out().join("logs/build-qemux86-64.log")).unwrap()
    }

    /// The names of all objects of shared state in the work directory, which contain the hashes of the tasks.
    fn objects(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let mut open = vec![self.directory.join("work")];
        while let Some(directory) = open.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
                let name = name.to_string_lossy().into_owned();
                if path.is_dir() && !path.is_symlink() {
                    open.push(path);
                } else if name.starts_with("sstate:") && name.ends_with(".siginfo") {
                    names.insert(name);
                }
            }
        }
        names
    }

    /// Fails unless everything came from the bucket, and no task ran in its place.
    #[track_caller]
    fn assert_all_from_the_mirror(&self) {
        let summary = sstate(self.result());
        assert!(summary["wanted"].as_u64() > Some(0), "{summary}");
        assert_eq!(summary["mirrors"], summary["wanted"], "{summary}");
        let log = self.log();
        let ran = |task: &str| log.lines().any(|line| line.contains(&format!(": task {task}: Started")));
        for task in ["do_fetch", "do_unpack", "do_deploy", "do_populate_lic"] {
            assert!(!ran(task), "{task} ran: {log}");
        }
        assert!(ran("do_deploy_setscene"), "{log}");
    }
}

fn fixture(test: &str) -> Option<Fixture> {
    Fixture::new(test, "meta-deploy", &[POKY])
}

/// BitBake sorts a task's files by their paths: all work directories come before the layer.
fn machine<'a>(fixture: &Fixture, name: &str, s3: &'a FakeS3) -> Machine<'a> {
    let directory = fixture.directory.path().join(format!("machine-{name}"));
    Machine::new(&fixture.layer(), directory, NARROW_BUILD, Some(s3))
}

#[test]
fn a_machine_with_empty_caches_builds_everything_from_a_bucket() {
    let test = "a_machine_with_empty_caches_builds_everything_from_a_bucket";
    let Some(fixture) = fixture(test) else { return };
    let s3 = FakeS3::new();
    let first = machine(&fixture, "first", &s3);
    first.build(&["--trusted"]).assert_code(&[0]);
    let summary = sstate(first.result());
    assert_eq!(summary["missed"], summary["wanted"], "{summary}");
    let shared = s3.objects("share/sstate/scarthgap/");
    assert!(shared.keys().any(|key| key.ends_with("_deploy.tar.zst")), "{:?}", shared.keys());
    assert!(!s3.objects("share/index/scarthgap/").is_empty());

    // This job is not trusted, so it only reads.
    let second = machine(&fixture, "second", &s3);
    second.build(&[]).assert_code(&[0]);
    second.assert_all_from_the_mirror();
    assert_eq!(s3.objects("share/sstate/scarthgap/"), shared, "an untrusted build wrote to the share");
    let cache = &second.result()["cache"][0];
    assert!(cache["traffic"]["objects_read"].as_u64() > Some(0), "{cache}");

    // The questions cost nothing: no object of shared state was asked for with HEAD.
    let asked = s3.requests();
    let is_head = |(method, key): &&(String, String)| method == "HEAD" && key.contains("/sstate/");
    assert_eq!(asked.iter().find(is_head), None);
}

/// Each of these builds is green.
#[test]
fn a_bucket_that_fails_costs_only_time() {
    let test = "a_bucket_that_fails_costs_only_time";
    let Some(fixture) = Fixture::long(test, "meta-deploy", &[POKY]) else { return };
    let s3 = FakeS3::new();
    machine(&fixture, "first", &s3).build(&["--trusted"]).assert_code(&[0]);
    let of_sstate = |key: &str| key.contains("/sstate/");
    type Judge = fn(u64, bool) -> Fault;
    let judges: [(&str, Judge); 5] = [
        ("truncated", |_, is_sstate| if is_sstate { Fault::Truncated } else { Fault::No }),
        ("refused", |_, is_sstate| if is_sstate { Fault::Refused(503, "SlowDown") } else { Fault::No }),
        ("reset", |_, is_sstate| if is_sstate { Fault::Before } else { Fault::No }),
        ("sometimes", |number, _| if number % 5 == 4 { Fault::Before } else { Fault::No }),
        ("down", |_, _| Fault::Refused(500, "InternalError")),
    ];
    for (name, judge) in judges {
        s3.faults(move |number, request| judge(number, of_sstate(&request.key)));
        let reading = machine(&fixture, name, &s3);
        reading.build(&[]).assert_code(&[0]);
        let log = reading.log();
        assert!(log.contains("all succeeded"), "{name}: {log}");
    }
    s3.faults(|_, _| Fault::No);

    // The index has what was pruned: BitBake asks in vain, and builds.
    let keys: Vec<String> = s3.objects("share/sstate/").into_keys().collect();
    let index = s3.objects("share/index/");
    s3.clear();
    index.iter().for_each(|(key, content)| s3.put(key, content));
    let pruned = machine(&fixture, "pruned", &s3);
    pruned.build(&[]).assert_code(&[0]);
    let summary = sstate(pruned.result());
    assert_eq!(summary["mirrors"], summary["wanted"], "the index said so: {summary}");

    // Objects with other content than BitBake wrote.
    for key in &keys {
        s3.put(key, b"no archive");
    }
    machine(&fixture, "damaged", &s3).build(&[]).assert_code(&[0]);
}

/// A recipe that needs no toolchain, in the syntax of every release.
const RECIPE: &str = r#"
SUMMARY = "Deployed notes"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/MIT;md5=0835ade698e0bcf8506ecda2f7b4f302"
SRC_URI = "file://notes.txt"
INHIBIT_DEFAULT_DEPS = "1"
PACKAGE_ARCH = "${MACHINE_ARCH}"
deltask do_patch
deltask do_configure
deltask do_compile
deltask do_install
deltask do_populate_sysroot
inherit deploy nopackages
do_deploy() {
    echo "x" > ${DEPLOYDIR}/notes.txt
}
addtask deploy after do_unpack before do_build
"#;

/// All supported releases: the override character, the branch of BitBake if it is a repository of its own, and the
/// series of OE-Core.
const RELEASES: [(&str, char, Option<&str>, &str); 14] = [
    ("dunfell", '_', None, "dunfell"),
    ("gatesgarth", '_', None, "gatesgarth"),
    ("hardknott", '_', None, "hardknott"),
    ("honister", ':', None, "honister"),
    ("kirkstone", ':', None, "kirkstone"),
    ("langdale", ':', None, "langdale"),
    ("mickledore", ':', None, "mickledore"),
    ("nanbield", ':', None, "nanbield"),
    ("scarthgap", ':', None, "scarthgap"),
    ("styhead", ':', None, "styhead"),
    ("walnascar", ':', None, "walnascar"),
    ("whinlatter", ':', Some("2.16"), "whinlatter"),
    ("wrynose", ':', Some("2.18"), "wrynose"),
    ("master", ':', Some("master"), "wrynose blacksail"),
];

/// The hashes of tasks and BitBake's configuration hash are the same without a share, with an empty one and with a
/// full one, in every release that runs on this machine.
#[test]
fn hashes_do_not_depend_on_the_share_in_any_release() {
    let test = "hashes_do_not_depend_on_the_share_in_any_release";
    let Some(fixture) = Fixture::long(test, "meta-deploy", &[POKY, OE_CORE, BITBAKE]) else { return };
    let mut ran = Vec::new();
    for (release, separator, bitbake, series) in RELEASES {
        let Some(layer) = layer(&fixture, release, bitbake, series) else { continue };
        let conf = format!(
            "BBMASK = \"/meta/recipes- /meta-poky/recipes-\"\n\
             ASSUME_PROVIDED += \"virtual/fakeroot-native quilt-native\"\n\
             INHERIT{separator}remove = \"uninative\"\n\
             BB_ALLOWED_NETWORKS = \"nowhere.invalid\"\n"
        );
        let s3 = FakeS3::new();
        let place = |name: &str| fixture.directory.path().join(format!("a-machine-{release}-{name}"));
        let without = Machine::new(&layer, place("without"), &conf, None);
        let built = without.build(&["--trusted"]);
        if built.code != Some(0) {
            println!("{release} does not run here: {}", built.output());
            continue;
        }
        let empty = Machine::new(&layer, place("empty"), &conf, Some(&s3));
        empty.build(&["--trusted"]).assert_code(&[0]);
        assert_eq!(empty.objects(), without.objects(), "{release}");
        assert!(empty.objects().len() >= 2, "{release}");

        let full = Machine::new(&layer, place("full"), &conf, Some(&s3));
        full.build(&["--trusted"]).assert_code(&[0]);
        full.assert_all_from_the_mirror();

        // Another job on that machine, with the share as it is now, parses nothing.
        full.build(&["--trusted"]).assert_code(&[0]);
        assert!(full.log().contains(" cached, 0 parsed"), "{release}: {}", full.log());
        ran.push(release);
    }
    println!("hashes are stable in {}", ran.join(", "));
    assert!(ran.len() >= 3, "{ran:?}");
}

/// A layer with one recipe for the release, and its manifest; `None`, if a repository does not have the release.
fn layer(fixture: &Fixture, release: &str, bitbake: Option<&str>, series: &str) -> Option<PathBuf> {
    let layer = fixture.directory.path().join(format!("layer-{release}"));
    let recipe = layer.join("recipes/notes");
    std::fs::create_dir_all(recipe.join("files")).unwrap();
    std::fs::create_dir_all(layer.join("conf")).unwrap();
    std::fs::write(recipe.join("files/notes.txt"), "notes\n").unwrap();
    std::fs::write(recipe.join("notes_1.0.bb"), RECIPE).unwrap();
    let repos = match bitbake {
        None => {
            has_branch(POKY, release)?;
            format!("[repos.poky]\nurl = '{POKY}'\nbranch = '{release}'\nlayers = ['meta', 'meta-poky']\n")
        }
        Some(branch) => {
            has_branch(BITBAKE, branch)?;
            has_branch(OE_CORE, release)?;
            format!(
                "[repos.bitbake]\nurl = '{BITBAKE}'\nbranch = '{branch}'\n\
                 [repos.core]\nurl = '{OE_CORE}'\nbranch = '{release}'\nlayers = ['meta']\n"
            )
        }
    };
    let conf = format!(
        "BBPATH .= \":${{LAYERDIR}}\"\nBBFILES += \"${{LAYERDIR}}/recipes/*/*.bb\"\n\
         BBFILE_COLLECTIONS += \"notes\"\nBBFILE_PATTERN_notes = \"^${{LAYERDIR}}/\"\nBBFILE_PRIORITY_notes = \"6\"\n\
         LAYERDEPENDS_notes = \"core\"\nLAYERSERIES_COMPAT_notes = \"{series}\"\n"
    );
    std::fs::write(layer.join("conf/layer.conf"), conf).unwrap();
    let manifest = format!(
        "version = 1\nname = 'notes'\nrelease = '{release}'\n{repos}[layer]\npaths = ['.']\n\
         [check]\nyocto_check_layer = false\n[build]\ntargets = ['notes']\n"
    );
    std::fs::write(layer.join("build-agent.toml"), manifest).unwrap();
    git(&layer, ["init", "--quiet", "--initial-branch=main"]);
    commit(&layer, "Begin");
    Some(layer)
}

fn has_branch(address: &str, branch: &str) -> Option<()> {
    let mut git = Command::new("git");
    git.args(["ls-remote", "--quiet", "--exit-code", "--heads", address, branch]);
    git.stdout(std::process::Stdio::null()).status().is_ok_and(|status| status.success()).then_some(())
}
