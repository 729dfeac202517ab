//! The lines of `local.conf` that tests on a running system need, in the syntax of the release.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use agent_types::error::Result;
use agent_types::release::Release;

use super::cases::SUITE;
use crate::path::plain_path;

/// Where the tests run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A guest that OE-Core starts.
    Qemu { kvm: bool },
    /// A system that answers ssh: OE-Core's `simpleremote`.
    Ssh(SshTarget),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshTarget {
    pub host: String,
    pub port: u16,
    /// The address of this machine as the system under test sees it.
    pub server: String,
}

/// The ssh server that the agent adds to the images for QEMU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SshServer {
    #[default]
    Dropbear,
    OpenSsh,
    /// The images bring their own.
    None,
}

impl SshServer {
    pub fn feature(self) -> &'static str {
        match self {
            SshServer::Dropbear => "ssh-server-dropbear",
            SshServer::OpenSsh => "ssh-server-openssh",
            SshServer::None => "",
        }
    }
}

/// What lets root log in without a password. `debug-tweaks` has not been there since styhead; these are in every
/// release.
pub const LOGIN_FEATURES: &str = "empty-root-password allow-empty-password allow-root-login";

/// The input of the lines.
#[derive(Clone, Debug)]
pub struct TestConf<'a> {
    pub release: &'a Release,
    pub target: &'a Target,
    /// The images of the manifest. Those that the agent makes for ptests say what they need themselves.
    pub images: &'a [String],
    /// Empty: those of the images.
    pub suites: &'a [String],
    /// The image that runs the agent's suite for ptests besides its own.
    pub ptest_image: Option<&'a str>,
    pub ssh_server: SshServer,
    /// For the tests of one image.
    pub timeout: Duration,
    /// MiB.
    pub guest_memory: u64,
    /// Whether the tests are exported and run without BitBake.
    pub exports: bool,
    /// The build directory of the job. Its images run on the system that answers ssh.
    pub built_in: &'a Path,
}

/// Seconds until a guest without KVM must have booted. With KVM OE-Core's own limit stays.
const SLOW_BOOT: u64 = 3000;

/// Directories in the build directory of the tests.
pub const RESULTS: &str = "test-results";
pub const LOGS: &str = "test-logs";
pub const EXPORT: &str = "test-export";

/// The lines. They come after the manifest's own text. `TEST_LOG_DIR` stays where it is: OE-Core's code for QEMU finds
/// modules of Python from there.
///
/// # Errors
/// If a directory has characters that a configuration file does not support.
pub fn lines(conf: &TestConf) -> Result<String> {
    let separator = conf.release.overrides.separator();
    let classes = if conf.exports { "testimage testexport" } else { "testimage" };
    let mut text = format!(
        "\n# Tests on a running system.\n\
         IMAGE_CLASSES{separator}append = \" {classes}\"\n\
         TESTIMAGE_AUTO = \"0\"\n\
         OEQA_JSON_RESULT_DIR = \"${{TOPDIR}}/{RESULTS}\"\n\
         TEST_OVERALL_TIMEOUT = \"{seconds}\"\n",
        seconds = conf.timeout.as_secs(),
    );
    if conf.exports {
        let _ = writeln!(text, "TEST_EXPORT_DIR = \"${{TOPDIR}}/{EXPORT}/${{PN}}\"");
    }
    match conf.target {
        Target::Qemu { kvm } => {
            let _ = write!(
                text,
                "# Images for tests have an empty password: they must not lie where those of the build lie.\n\
                 TMPDIR = \"${{TOPDIR}}/tmp\"\n\
                 TEST_TARGET = \"qemu\"\n\
                 TEST_RUNQEMUPARAMS{separator}append = \" slirp\"\n\
                 TEST_SERVER_IP ?= \"10.0.2.2\"\n\
                 QEMU_USE_KVM = \"{kvm}\"\n\
                 QB_MEM ?= \"-m {memory}\"\n",
                kvm = if *kvm { "1" } else { "" },
                memory = conf.guest_memory,
            );
            if !kvm {
                let _ = writeln!(text, "TEST_QEMUBOOT_TIMEOUT ?= \"{SLOW_BOOT}\"");
            }
            for image in conf.images {
                let feature = conf.ssh_server.feature();
                let blank = if feature.is_empty() { "" } else { " " };
                let _ = writeln!(
                    text,
                    "IMAGE_FEATURES{separator}append{separator}pn-{image} = \" {feature}{blank}{LOGIN_FEATURES}\""
                );
            }
        }
        Target::Ssh(SshTarget { host, port, server }) => {
            let _ = write!(
                text,
                "# What runs there is an image of the job's build: its TMPDIR, wherever the manifest puts it.\n\
                 TMPDIR := \"${{@d.getVar('TMPDIR').replace(d.getVar('TOPDIR'), '{build}', 1)}}\"\n\
                 TEST_TARGET = \"simpleremote\"\n\
                 TEST_TARGET_IP = \"{host}:{port}\"\n\
                 TEST_SERVER_IP = \"{server}\"\n",
                build = plain_path(conf.built_in)?,
            );
        }
    }
    if let Some(image) = conf.ptest_image
        && conf.suites.is_empty()
    {
        let _ = writeln!(text, "TEST_SUITES{separator}append{separator}pn-{image} = \" {SUITE}\"");
    }
    if !conf.suites.is_empty() {
        for image in conf.images {
            let _ = writeln!(text, "TEST_SUITES{separator}pn-{image} = \"{}\"", conf.suites.join(" "));
        }
    }
    Ok(text)
}

/// The memory of a guest in MiB, if the machine has this much left: a quarter, from 512 MiB to 2 GiB. A 32-bit guest has
/// no more address space, and the tests of one recipe seldom need more.
pub fn guest_memory(available: Option<u64>) -> u64 {
    let quarter = available.map_or(1024, |bytes| (bytes >> 20) / 4);
    quarter.clamp(512, 2048) / 256 * 256
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn conf<'a>(
        release: &str,
        target: &'a Target,
        images: &'a [String],
        suites: &'a [String],
    ) -> TestConf<'a> {
        TestConf {
            release: Release::find(release).unwrap(),
            target,
            images,
            suites,
            ptest_image: None,
            ssh_server: SshServer::Dropbear,
            timeout: Duration::from_secs(1800),
            guest_memory: 1024,
            exports: false,
            built_in: Path::new("/w/build"),
        }
    }

    fn has(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.lines().any(|found| found == *line), "no {line} in\n{text}");
        }
    }

    #[test]
    fn a_guest_gets_what_the_release_needs() {
        let (images, suites) = (["img".to_owned()], ["ping".to_owned(), "ssh".to_owned()]);
        let qemu = Target::Qemu { kvm: false };
        let text = lines(&conf("scarthgap", &qemu, &images, &suites)).unwrap();
        has(
            &text,
            &[
                "IMAGE_CLASSES:append = \" testimage\"",
                "TEST_SUITES:pn-img = \"ping ssh\"",
                "QEMU_USE_KVM = \"\"",
                "TEST_QEMUBOOT_TIMEOUT ?= \"3000\"",
                "TEST_RUNQEMUPARAMS:append = \" slirp\"",
                "QB_MEM ?= \"-m 1024\"",
                "TMPDIR = \"${TOPDIR}/tmp\"",
                "TEST_OVERALL_TIMEOUT = \"1800\"",
                "IMAGE_FEATURES:append:pn-img = \" ssh-server-dropbear empty-root-password allow-empty-password allow-root-login\"",
            ],
        );
        let old = lines(&conf("dunfell", &qemu, &images, &suites)).unwrap();
        has(&old, &["IMAGE_CLASSES_append = \" testimage\"", "TEST_SUITES_pn-img = \"ping ssh\""]);
        assert!(old.contains("IMAGE_FEATURES_append_pn-img"), "{old}");
        for text in [&text, &old] {
            assert!(!text.contains("debug-tweaks"), "{text}");
        }
        let fast = Target::Qemu { kvm: true };
        let text =
            lines(&TestConf { ssh_server: SshServer::None, ..conf("master", &fast, &images, &[]) }).unwrap();
        has(
            &text,
            &[
                "QEMU_USE_KVM = \"1\"",
                "IMAGE_FEATURES:append:pn-img = \" empty-root-password allow-empty-password allow-root-login\"",
            ],
        );
        assert!(!text.contains("TEST_QEMUBOOT_TIMEOUT") && !text.contains("TEST_SUITES"), "{text}");
    }

    #[test]
    fn a_device_runs_the_images_of_the_build_as_they_are() {
        let images = ["img".to_owned()];
        let target = SshTarget { host: "board.lab".into(), port: 2222, server: "10.1.2.3".into() };
        let target = Target::Ssh(target);
        let test =
            TestConf { exports: true, ptest_image: Some("img"), ..conf("kirkstone", &target, &images, &[]) };
        let text = lines(&test).unwrap();
        has(
            &text,
            &[
                "TMPDIR := \"${@d.getVar('TMPDIR').replace(d.getVar('TOPDIR'), '/w/build', 1)}\"",
                "TEST_TARGET = \"simpleremote\"",
                "TEST_TARGET_IP = \"board.lab:2222\"",
                "TEST_SERVER_IP = \"10.1.2.3\"",
                "TEST_SUITES:append:pn-img = \" build_agent_ptest\"",
                "IMAGE_CLASSES:append = \" testimage testexport\"",
                "TEST_EXPORT_DIR = \"${TOPDIR}/test-export/${PN}\"",
            ],
        );
        for no in ["IMAGE_FEATURES", "slirp", "TMPDIR =", "QB_MEM"] {
            assert!(!text.contains(no), "{no}: {text}");
        }
    }

    #[test]
    fn the_guest_leaves_memory_to_the_machine() {
        for (available, wanted) in [
            (None, 1024),
            (Some(0), 512),
            (Some(1 << 30), 512),
            (Some(4 << 30), 1024),
            (Some(5 << 30), 1280),
            (Some(64 << 30), 2048),
            (Some(u64::MAX), 2048),
        ] {
            assert_eq!(guest_memory(available), wanted, "{available:?}");
        }
    }
}
