//! With a share in a bucket, neither the hashes of tasks nor the hash of BitBake's configuration change.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;

use build_agent_tests::fake_s3::FakeS3;
use build_agent_tests::{commit, git, is_left_to_the_long_run, skip};

use crate::bucket::Machine;
use crate::fixture::{Fixture, WITHOUT_TOOLCHAIN};
use crate::{BITBAKE, OE_CORE, POKY};

/// The recipe's own lines, in the syntax of every release.
const RECIPE: &str = r#"
SRC_URI = "file://notes.txt"
deltask do_patch
deltask do_compile
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

/// Without a share, with an empty one, with a full one at another port, and on another machine.
/// False, if the release does not run here.
fn assert_hashes_do_not_depend_on_the_share(fixture: &Fixture, release: &str) -> bool {
    let (release, separator, bitbake, series) =
        *RELEASES.iter().find(|(name, ..)| *name == release).expect("a release");
    let Some(layer) = layer(fixture, release, bitbake, series) else { return false };
    let conf = format!(
        "BBMASK = \"/meta/recipes- /meta-poky/recipes-\"\n\
         ASSUME_PROVIDED += \"virtual/fakeroot-native quilt-native patch-replacement-native\"\n\
         INHERIT{separator}remove = \"uninative rm_work\"\n\
         BB_ALLOWED_NETWORKS = \"nowhere.invalid\"\n"
    );
    let s3 = FakeS3::new();
    let machine = |name: &str| {
        let directory = fixture.directory.path().join(format!("a-machine-{release}-{name}"));
        Machine::new(&layer, directory, &conf, &s3)
    };
    let first = machine("first");
    let built = first.build_without_share(&["--trusted"]);
    if built.code != Some(0) {
        println!("{release} does not run here: {}", built.output());
        return false;
    }
    let hashes = first.objects();
    assert!(hashes.len() >= 2, "{release}: {hashes:?}");
    let ports = [free_port(), free_port()].map(|port| format!("cache.endpoint_port={port}"));
    assert_ne!(ports[0], ports[1]);
    for (number, port) in ports.iter().enumerate() {
        first.build(&["--trusted", "--set", port]).assert_code(&[0]);
        // Another hash would be one more name.
        assert_eq!(first.objects(), hashes, "{release}, {port}");
        // The first job with a share has another configuration than that without.
        if number > 0 {
            let parsed =
                first.log().lines().any(|line| line.contains("complete (") && !line.contains(", 0 parsed"));
            assert!(!parsed, "{release}, {port}: {}", first.log());
            assert!(first.log().contains("Loaded "), "{release}: {}", first.log());
        }
    }
    let second = machine("second");
    second.build(&["--trusted", "--set", &ports[1]]).assert_code(&[0]);
    second.assert_all_from_the_mirror();
    true
}

fn free_port() -> u16 {
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if (1024..=65528).contains(&port) {
            return port;
        }
    }
}

#[test]
fn hashes_do_not_depend_on_the_share() {
    let test = "hashes_do_not_depend_on_the_share";
    let Some(fixture) = Fixture::new(test, "meta-deploy", &[POKY]) else { return };
    assert!(assert_hashes_do_not_depend_on_the_share(&fixture, "scarthgap"));
}

#[test]
fn hashes_do_not_depend_on_the_share_in_any_release() {
    let test = "hashes_do_not_depend_on_the_share_in_any_release";
    if is_left_to_the_long_run(test) {
        return;
    }
    let Some(fixture) = Fixture::new(test, "meta-deploy", &[POKY, OE_CORE, BITBAKE]) else { return };
    // Up to gatesgarth, BitBake does not say which objects come from mirrors.
    let left_out = ["scarthgap", "dunfell", "gatesgarth"];
    let others = RELEASES.iter().map(|(release, ..)| *release).filter(|release| !left_out.contains(release));
    let mut ran = Vec::new();
    for release in others {
        if assert_hashes_do_not_depend_on_the_share(&fixture, release) {
            ran.push(release);
        } else {
            skip(&format!("{test}: {release}"), "a repository does not have this release");
        }
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
    std::fs::write(recipe.join("notes_1.0.bb"), format!("{WITHOUT_TOOLCHAIN}{RECIPE}")).unwrap();
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
