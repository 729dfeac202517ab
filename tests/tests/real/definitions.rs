//! Definitions of other tools with real BitBake.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use build_agent_tests::{BUILD_USER, commit, copy_tree, git, skip};

use crate::POKY;
use crate::fixture::{Fixture, NARROW_BUILD, WITHOUT_PATCH_TOOLS, WITHOUT_TOOLCHAIN};
use crate::more_checks::clone;

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

/// Variables that differ on purpose, by their beginnings.
const MAY_DIFFER: [(&str, &[&str]); 5] = [
    (
        "the time and the process",
        &["DATETIME", "TIME", "BB_CONSOLELOG", "BB_DEFAULT_EVENTLOG", "LOGFIFO", "BB_ORIGENV"],
    ),
    (
        "the environment of BitBake",
        &[
            "HOME",
            "LOGNAME",
            "USER",
            "PWD",
            "PATH",
            "XAUTHORITY",
            "DEVSHELL",
            "BB_ENV_PASSTHROUGH_ADDITIONS",
            "GIT_CONFIG_",
            "BB_CMDLINE",
        ],
    ),
    ("the agent's clone has no branch, and a place of its own", &["METADATA_BRANCH", "BITBAKEPATH"]),
    (
        "what the agent sets for each job",
        &[
            "CONNECTIVITY_CHECK_URIS",
            "BB_DISKMON_DIRS",
            "BB_HASHSERVE",
            "BB_SIGNATURE_HANDLER",
            "BB_NUMBER_",
            "PARALLEL_MAKE",
            "BUILDSTATS_BASE",
            "INHERIT",
            "CONF_VERSION",
            "LCONF_VERSION",
            "POKY_BBLAYERS_CONF_VERSION",
            "BBINCLUDED",
            "PSEUDO_IGNORE_PATHS",
            "FAKEROOT",
        ],
    ),
    ("a set without an order", &["COMBINED_FEATURES"]),
];

/// The variables of `bitbake -e`, with equal names for the directories. `layer` is the name of the one under test.
fn variables(said: &str, layer: &str) -> BTreeMap<String, String> {
    let variable = |line: &str| {
        let (name, value) = line.strip_prefix("export ").unwrap_or(line).split_once("=\"")?;
        let is_name = |c: char| c.is_ascii_alphanumeric() || "_:.+-~".contains(c);
        name.chars().all(is_name).then(|| (name.to_owned(), value.trim_end_matches('"').to_owned()))
    };
    let mut all: BTreeMap<String, String> = said.lines().filter_map(variable).collect();
    let get = |name: &str| all.get(name).cloned().unwrap_or_else(|| panic!("no {name} in {said}"));
    let top = get("TOPDIR");
    let layers = get("BBLAYERS");
    let layer = layers.split_whitespace().find(|path| path.ends_with(layer)).unwrap().to_owned();
    let above = Path::new(&top).parent().unwrap().display().to_string();
    let plain = |path: &str| path.replace(&format!("{top}/.."), &above);
    // Where the other repositories are, of which meta-openembedded is one.
    let repos = layers.split_whitespace().find_map(|path| path.split_once("/meta-openembedded/"));
    let repos = repos.map(|(above, _)| (plain(above), "@REPOS@"));
    let roots: Vec<(String, &str)> = [
        (get("BITBAKEPATH"), "@BITBAKE@"),
        (plain(&layer), "@LAYER@"),
        (get("COREBASE"), "@CORE@"),
        (get("DL_DIR"), "@DL@"),
        (get("SSTATE_DIR"), "@SSTATE@"),
        (top.clone(), "@TOP@"),
    ]
    .into_iter()
    .chain(repos)
    .collect();
    for value in all.values_mut() {
        let short = roots.iter().fold(plain(value), |value, (root, name)| value.replace(root, name));
        *value = short.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    // kas sets empty variables, too.
    all.retain(|_, value| !value.is_empty());
    all
}

/// `bitbake -e` by kas itself, as the build user: BitBake does not run as root. `definition` is a file of the layer.
fn by_kas(fixture: &Fixture, layer: &Path, definition: &str) -> Option<String> {
    let venv = std::env::var_os("BUILD_AGENT_TEST_KAS").map(PathBuf::from)?;
    let packages = fs::read_dir(venv.join("lib")).ok()?.flatten().next()?.path().join("site-packages");
    let (work, is_root) = (fixture.directory.path().join("kas"), nix::unistd::geteuid().is_root());
    let name = layer.file_name().unwrap().to_str().unwrap();
    copy_tree(layer, &work.join(name));
    let mut command = Command::new(if is_root { "setpriv" } else { "env" });
    if is_root {
        assert!(Command::new("chown").args(["-R", BUILD_USER]).arg(&work).status().unwrap().success());
        command.args(["--reuid", BUILD_USER, "--regid", BUILD_USER, "--init-groups", "env"]);
    }
    command.args(["-i", "PATH=/usr/bin:/bin", "LANG=en_US.UTF-8", "LC_ALL=en_US.UTF-8"]);
    command.arg(format!("PYTHONPATH={}", packages.display())).arg(format!("KAS_WORK_DIR={}", work.display()));
    command
        .args(["python3", "-m", "kas", "shell", &format!("{name}/{definition}"), "-c", "bitbake -e"])
        .current_dir(&work);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if said.contains("No module named") {
        return None;
    }
    assert!(output.status.success(), "{said}");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn bitbake_has_the_variables_that_kas_gives_it() {
    let test = "bitbake_has_the_variables_that_kas_gives_it";
    let Some(fixture) = Fixture::new(test, "meta-deploy", &[POKY]) else { return };
    let layer = fixture.layer();
    fs::remove_file(layer.join("build-agent.toml")).unwrap();
    let included = "header: {version: 14}\nmachine: qemuarm\nlocal_conf_header:\n  a: |\n    OF_PARTS ?= \"a\"\n    DISTRO_FEATURES:append = \" kas\"\n";
    let text = format!(
        "header:\n  version: 14\n  includes: [base.yml]\ndistro: poky\ntarget: deploy-files\nenv:\n  X_OF_KAS: two words\n\
         local_conf_header:\n  b: |\n    OF_PARTS ?= \"b\"\n    INHERIT += \"rm_work\"\n\
         repos:\n  meta-deploy:\n  poky:\n    url: {POKY}\n    branch: scarthgap\n    layers: {{meta: , meta-poky: {{prio: 3}}}}\n"
    );
    fs::write(layer.join("base.yml"), included).unwrap();
    fs::write(layer.join("kas.yml"), text).unwrap();
    commit(&layer, "A definition of kas");
    let Some((kas, agent)) = both(test, &fixture, &layer, "kas.yml") else { return };
    assert_eq!((agent["OF_PARTS"].as_str(), agent["X_OF_KAS"].as_str()), ("a", "two words"));
    assert_equal(&kas, &agent);
}

type Variables = BTreeMap<String, String>;

/// The variables by kas itself and by the agent.
fn both(test: &str, fixture: &Fixture, layer: &Path, definition: &str) -> Option<(Variables, Variables)> {
    let Some(kas) = by_kas(fixture, layer, definition) else {
        skip(test, "no kas in $BUILD_AGENT_TEST_KAS for the python3 of the system (pip install kas)");
        return None;
    };
    let ran = fixture.call_in(layer, &["shell", definition, "--", "bitbake", "-e"]);
    ran.assert_code(&[0]);
    let name = layer.file_name().unwrap().to_str().unwrap();
    Some((variables(&kas, name), variables(&ran.stdout, name)))
}

fn assert_equal(kas: &Variables, agent: &Variables) {
    let may_differ =
        |name: &str| MAY_DIFFER.iter().any(|(_, names)| names.iter().any(|start| name.starts_with(start)));
    let names: BTreeSet<&String> = kas.keys().chain(agent.keys()).collect();
    let differences: Vec<String> = names
        .iter()
        .filter(|name| !may_differ(name) && kas.get(**name) != agent.get(**name))
        .map(|name| format!("{name}: kas {:?}, agent {:?}", kas.get(*name), agent.get(*name)))
        .collect();
    println!("{} variables", names.len());
    assert!(names.len() > 2000, "{}", names.len());
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
}

const META_AWS: &str = "https://github.com/aws4embeddedlinux/meta-aws";
const META_RASPBERRYPI: &str = "https://github.com/agherzan/meta-raspberrypi";

/// The definition that meta-raspberrypi keeps for its own builds: with poky of kirkstone and fixed commits, and with the
/// repositories of master, in which BitBake, OE-Core and meta-yocto are apart.
fn of_meta_raspberrypi(test: &str, branch: &str) {
    let addresses = [
        META_RASPBERRYPI,
        "https://git.yoctoproject.org/git/poky",
        "http://git.openembedded.org/meta-openembedded",
        "https://github.com/meta-qt5/meta-qt5/",
    ];
    let Some(fixture) = Fixture::long(test, "meta-deploy", &addresses) else { return };
    let layer = fixture.directory.path().join("meta-raspberrypi");
    clone(META_RASPBERRYPI, branch, &layer);
    let Some((kas, agent)) = both(test, &fixture, &layer, "kas-poky-rpi.yml") else { return };
    assert_eq!((agent["MACHINE"].as_str(), agent["PATCHRESOLVE"].as_str()), ("raspberrypi4", "noop"));
    assert_equal(&kas, &agent);
}

#[test]
fn a_public_definition_of_kirkstone_gives_the_variables_that_kas_gives() {
    of_meta_raspberrypi("a_public_definition_of_kirkstone_gives_the_variables_that_kas_gives", "kirkstone");
}

#[test]
fn a_public_definition_of_master_gives_the_variables_that_kas_gives() {
    of_meta_raspberrypi("a_public_definition_of_master_gives_the_variables_that_kas_gives", "master");
}

/// The configuration that meta-aws keeps for its own check is a job, without another file: the tool comes to a verdict.
#[test]
fn the_configuration_of_meta_aws_is_a_job() {
    let test = "the_configuration_of_meta_aws_is_a_job";
    let addresses = [
        META_AWS,
        "https://git.openembedded.org/bitbake",
        "https://git.openembedded.org/openembedded-core",
        "https://git.yoctoproject.org/meta-yocto",
        "https://github.com/openembedded/meta-openembedded.git",
        // Recipes ask them for a tag while they are parsed.
        "https://github.com/aws-greengrass/aws-greengrass-nucleus.git",
        "https://github.com/aws-greengrass/aws-greengrass-component-sdk.git",
        "https://github.com/aws/SigV4-for-AWS-IoT-embedded-sdk.git",
    ];
    let Some(fixture) = Fixture::long(test, "meta-deploy", &addresses) else { return };
    let layer = fixture.directory.path().join("meta-aws");
    clone(META_AWS, "master", &layer);
    let file = ".github/workflows/poky-for-yocto-check-layer.conf.json";
    let mut command = fixture.command(&["run", file, "--choose", "poky,machine/qemux86-64,distro/poky"]);
    command.current_dir(&layer);
    // It parses the world of all these layers several times: recipes ask a server, so no answer is cached.
    let running = build_agent_tests::Running::start(command, fixture.directory.path());
    let ran = running.wait_for(3 * crate::fixture::TIMEOUT);
    // The layer changes; what counts is a verdict of the tool.
    ran.assert_code(&[0, 1]);
    fixture.assert_reported_as_the_tool_said_of("meta-aws");
}
