//! Definitions of other tools with real BitBake.

use std::fs;
use std::path::Path;

use build_agent_tests::{commit, git};

use crate::POKY;
use crate::fixture::{Fixture, NARROW_BUILD, WITHOUT_PATCH_TOOLS, WITHOUT_TOOLCHAIN};

/// A repository with one file on a branch `main`; its commit.
fn source(top: &Path) -> String {
    fs::create_dir_all(top).unwrap();
    git(top, ["init", "--quiet", "--initial-branch", "main"]);
    fs::write(top.join("notes.txt"), "from the mirror\n").unwrap();
    commit(top, "Notes");
    git(top, ["rev-parse", "HEAD"]).trim().to_owned()
}

/// A definition of kas is built, and the fetcher of BitBake uses the mirror of the site: the server of the recipe does not
/// exist.
#[test]
fn a_definition_of_kas_builds_with_sources_of_a_mirror() {
    let test = "a_definition_of_kas_builds_with_sources_of_a_mirror";
    let Some(fixture) = Fixture::new(test, "meta-deploy", &[POKY]) else { return };
    let mirror = fixture.directory.path().join("mirror");
    let revision = source(&mirror.join("group/notes"));
    let layer = fixture.layer();
    fs::remove_file(layer.join("build-agent.toml")).unwrap();
    let recipe = format!(
        "{WITHOUT_TOOLCHAIN}{WITHOUT_PATCH_TOOLS}SRC_URI = \"git://git.invalid/group/notes;protocol=https;branch=main\"\n\
         SRCREV = \"{revision}\"\nS = \"${{WORKDIR}}/git\"\n\
         do_deploy() {{\n    install -m 0644 ${{S}}/notes.txt ${{DEPLOYDIR}}/of-kas.txt\n}}\n\
         addtask deploy after do_unpack before do_build\n"
    );
    fs::create_dir_all(layer.join("recipes-fixture/of-kas")).unwrap();
    fs::write(layer.join("recipes-fixture/of-kas/of-kas_1.0.bb"), recipe).unwrap();
    // With this line, there are no mirrors.
    let conf = NARROW_BUILD.replace("BB_NO_NETWORK = \"1\"\n", "");
    let conf: String = conf.lines().map(|line| format!("    {line}\n")).collect();
    let base = format!("header:\n  version: 14\nlocal_conf_header:\n  narrow: |\n{conf}");
    fs::create_dir(layer.join("kas")).unwrap();
    fs::write(layer.join("kas/narrow.yml"), base).unwrap();
    let text = format!(
        "header:\n  version: 14\n  includes: [kas/narrow.yml]\nmachine: qemux86-64\ndistro: poky\ntarget: of-kas\n\
         repos:\n  meta-deploy:\n  poky:\n    url: {POKY}\n    branch: scarthgap\n    layers: {{meta: , meta-poky: }}\n\
         artifacts:\n  notes: tmp/deploy/images/**/of-kas.txt\n"
    );
    fs::write(layer.join("kas.yml"), text).unwrap();
    commit(&layer, "A definition of kas");
    let mut command = fixture.command(&["run", "kas.yml"]);
    command.env("BUILD_AGENT_GIT_MIRRORS", format!("https://git.invalid/=file://{}/", mirror.display()));
    let ran = build_agent_tests::Running::start(command, fixture.directory.path())
        .wait_for(crate::fixture::TIMEOUT);
    ran.assert_code(&[0]);
    let result = fixture.result();
    assert_eq!(result["job"]["release"], "scarthgap", "{}", result["job"]);
    let published = result["published"].to_string();
    assert!(
        published.contains("of-kas.txt") || result["artifacts"].to_string().contains("of-kas.txt"),
        "{published}"
    );
}
