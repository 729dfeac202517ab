//! `devtool` and `boot` with OE-Core's own programs: a recipe is changed and its patch goes into the layer; an image is
//! started by runqemu.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use build_agent_tests::{BUILD_USER, Ran, git};

use crate::POKY;
use crate::fixture::{Fixture, NARROW_BUILD, WITHOUT_PATCH_TOOLS};
use crate::guest;

/// A recipe with an archive as its source. `devtool build` asks for do_packagedata.
const RECIPE: &str = r#"
SUMMARY = "A fixture"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/MIT;md5=0835ade698e0bcf8506ecda2f7b4f302"
SRC_URI = "file://loud-1.0.tar"
INHIBIT_DEFAULT_DEPS = "1"
PACKAGE_ARCH = "${MACHINE_ARCH}"
inherit deploy nopackages
PATCHTOOL = "patch"
POPULATESYSROOTDEPS:class-target = ""
deltask do_install
do_compile() {
    tr a-z A-Z <${S}/words.txt >${WORKDIR}/loud.txt
}
do_deploy() {
    install -m 0644 ${WORKDIR}/loud.txt ${DEPLOYDIR}/
}
addtask deploy after do_compile before do_build
do_packagedata() {
    :
}
addtask packagedata after do_compile
"#;

struct Development(Fixture);

impl Development {
    fn new(test: &str) -> Option<Development> {
        let fixture = Fixture::long(test, "meta-deploy", &[POKY])?;
        let recipe = fixture.layer().join("recipes-fixture/loud");
        let source = fixture.directory.path().join("loud-1.0");
        std::fs::create_dir_all(recipe.join("files")).unwrap();
        std::fs::create_dir(&source).unwrap();
        std::fs::write(source.join("words.txt"), "hello\n").unwrap();
        std::fs::write(recipe.join("loud_1.0.bb"), format!("{RECIPE}{WITHOUT_PATCH_TOOLS}")).unwrap();
        let archive = recipe.join("files/loud-1.0.tar");
        run(Command::new("tar")
            .arg("-C")
            .arg(fixture.directory.path())
            .arg("-cf")
            .arg(archive)
            .arg("loud-1.0"));
        git(&fixture.layer(), ["add", "--all"]);
        if nix::unistd::geteuid().is_root() {
            // A person works as the user of the layer; so does devtool.
            run(Command::new("chown").args(["-R", BUILD_USER]).arg(fixture.layer()));
        }
        Some(Development(fixture))
    }

    fn call(&self, name: &str, words: &[&str]) -> Ran {
        let narrow = format!("config.local_conf={NARROW_BUILD}");
        let mut all = vec![name, "--set", &narrow];
        if name == "run" {
            all.extend(words);
        } else {
            all.push("--");
            all.extend(words);
        }
        self.0.call(&all)
    }

    fn build(&self) -> PathBuf {
        self.0.directory.path().join("work/meta-deploy-scarthgap/build")
    }

    fn deployed(&self) -> String {
        std::fs::read_to_string(self.build().join("tmp/deploy/images/qemux86-64/loud.txt")).unwrap()
    }
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}

#[test]
fn devtool_changes_a_recipe_and_writes_the_patch_to_the_layer() {
    let Some(development) = Development::new("devtool_changes_a_recipe_and_writes_the_patch_to_the_layer")
    else {
        return;
    };
    development.call("devtool", &["modify", "loud"]).assert_code(&[0]);
    let change = "cd workspace/sources/loud && echo 'good bye' >words.txt && \
                  git -c user.name=A -c user.email=a@example.com commit --quiet --all --message 'Say good bye'";
    development.call("shell", &["sh", "-c", change]).assert_code(&[0]);
    development.call("devtool", &["build", "loud"]).assert_code(&[0]);
    assert_eq!(development.deployed(), "GOOD BYE\n");

    // A job builds what the layer has; afterwards, shell and devtool go on with the workspace.
    let ran = development.call("run", &["--only", "build", "--set", "build.targets=[\"loud\"]"]);
    ran.assert_code(&[0]);
    ran.assert_says(&["are not part of this job"]);
    assert_eq!(development.deployed(), "HELLO\n");
    development.call("shell", &["bitbake", "loud"]).assert_code(&[0]);
    assert_eq!(development.deployed(), "GOOD BYE\n");

    development.call("devtool", &["finish", "loud", "meta-deploy"]).assert_code(&[0]);
    let recipe = development.0.layer().join("recipes-fixture/loud");
    let text = std::fs::read_to_string(recipe.join("loud_1.0.bb")).unwrap();
    assert!(text.contains("file://0001-Say-good-bye.patch"), "{text}");
    assert!(find(&recipe, "0001-Say-good-bye.patch"));
    // BitBake applies the patch with the tools of this machine.
    let ran = development.call("run", &["--only", "build", "--set", "build.targets=[\"loud\"]"]);
    ran.assert_code(&[0]);
    assert!(!ran.output().contains("are not part of this job"), "{}", ran.output());
    assert_eq!(development.deployed(), "GOOD BYE\n");
    guest::assert_nothing_runs(&development.0);
}

fn find(directory: &Path, name: &str) -> bool {
    let found = Command::new("find").arg(directory).args(["-name", name]).output().unwrap();
    !found.stdout.is_empty()
}

/// A child that is killed when the test ends.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn boot_starts_a_built_image_with_its_console_on_the_terminal() {
    let Some(fixture) = guest::guest("boot_starts_a_built_image_with_its_console_on_the_terminal") else {
        return;
    };
    let words =
        guest::words(&fixture, "good", &["--only", "build", "--set", "build.targets=[\"guest-image\"]"]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    fixture.call(&words).assert_code(&[0]);

    let conf = words[..3].iter().map(|word| if *word == "run" { "boot" } else { word }).collect::<Vec<_>>();
    let mut command = fixture.command(&[&conf[..], &["--", "qemuparams=-name boot-test"]].concat());
    let [stdout, stderr] = ["boot.stdout", "boot.stderr"].map(|name| fixture.directory.path().join(name));
    command.stdin(Stdio::piped());
    command.stdout(std::fs::File::create(&stdout).unwrap()).stderr(std::fs::File::create(&stderr).unwrap());
    let mut guest = Guest(command.spawn().unwrap());
    let said = || [&stdout, &stderr].map(|path| std::fs::read_to_string(path).unwrap_or_default()).concat();
    let deadline = Instant::now() + Duration::from_secs(600);
    while !said().contains("guest: ready") {
        assert!(guest.0.try_wait().unwrap().is_none(), "it ended\n{}", said());
        assert!(Instant::now() < deadline, "the guest is not ready\n{}", said());
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(said().contains("-name boot-test") && said().contains("hostfwd=tcp:127.0.0.1:"), "{}", said());
    // The keys that end QEMU on a terminal.
    guest.0.stdin.as_mut().unwrap().write_all(b"\x01x").unwrap();
    let status = guest.0.wait().unwrap();
    assert!(status.success(), "{status:?}\n{}", said());
    guest::assert_nothing_runs(&fixture);
}
