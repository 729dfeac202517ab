//! Validates `[device]`: tests on a device of a lab, or on a guest in QEMU.

use std::time::Duration;

use agent_artifacts::store::artifact_pattern::artifact_pattern;
use agent_devices::request::DeviceTest;

use super::manifest::{UnvalidatedManifest, YesOrNo};
use super::problem::{Diagnostic, KeyPath};
use super::settings::{DeviceRoute, DeviceTests, DeviceWait};
use super::tests_section::suite;
use super::validator::Validator;
use super::values;

const DAY: Duration = Duration::from_secs(24 * 3600);
const HOUR: Duration = Duration::from_secs(3600);

/// Maximum distance from 0 of a priority.
const MOST_PRIORITY: i64 = 100;

/// The longest command: it travels in the request.
const LONGEST_COMMAND: usize = 4096;

/// What follows the image's name in the names of its files.
const IMAGE_FILES: &str =
    "{wic,wic.gz,wic.bz2,wic.xz,wic.zst,wic.bmap,ext4,ext4.gz,ext4.zst,cpio.gz,qemuboot.conf}";

/// The kernels of all architectures, by the names of their links.
const KERNELS: &str = "{bzImage,Image,Image.gz,zImage,uImage,fitImage,vmlinux}";

fn key(name: &str) -> KeyPath {
    KeyPath::root().key("device").key(name)
}

/// Validates the section. `machines`: those of `[config]`. A default replaces an invalid value.
pub fn validate(
    check: &mut Validator,
    raw: &UnvalidatedManifest,
    machines: &[String],
) -> Option<DeviceTests> {
    let written = raw;
    let raw = raw.device.as_ref()?;
    let word = |text: &str| values::name(text).map(|()| text.to_owned());
    let conf_name = |text: &str| values::conf_name(text).map(|()| text.to_owned());
    let pool = check.one(&key("pool"), raw.pool.as_ref(), word).unwrap_or_default();
    let image = check.one(&key("image"), raw.image.as_ref(), conf_name).unwrap_or_default();
    let machine = check
        .one(&key("machine"), raw.machine.as_ref(), |text| machine(text, machines))
        .or_else(|| machines.first().cloned())
        .unwrap_or_default();
    check.not_empty(&key("tests"), raw.tests.as_ref(), "name a test, or remove [device]");
    let tests = match &raw.tests {
        None if raw.commands.is_some() => vec![DeviceTest::Runtime, DeviceTest::Commands],
        None => vec![DeviceTest::Runtime],
        Some(tests) => check.list(&key("tests"), Some(tests), test),
    };
    check.not_empty(&key("commands"), raw.commands.as_ref(), "write shell commands, or remove the key");
    check.not_empty(&key("files"), raw.files.as_ref(), "name the files that the device needs");
    let files = match &raw.files {
        None => default_files(&image, &machine),
        Some(files) => check.list(&key("files"), Some(files), file),
    };
    let device = DeviceTests {
        suites: check.list(&key("suites"), raw.suites.as_ref(), |text| suite(text).map(|()| text.to_owned())),
        commands: check.list(&key("commands"), raw.commands.as_ref(), command),
        features: check.list(&key("features"), raw.features.as_ref(), word),
        priority: priority(check, raw.priority),
        required: raw.required.unwrap_or(true),
        untrusted: raw.untrusted == Some(YesOrNo::Yes),
        wait: check.one(&key("wait"), raw.wait.as_ref(), wait).unwrap_or(DeviceWait::No),
        queue_limit: check
            .one(&key("queue_limit"), raw.queue_limit.as_ref(), values::duration)
            .unwrap_or(DAY),
        run_limit: check.one(&key("run_limit"), raw.run_limit.as_ref(), values::duration).unwrap_or(HOUR),
        route: DeviceRoute::Submit,
        pool,
        image,
        machine,
        tests,
        files,
    };
    combinations(check, written, &device);
    Some(device)
}

/// Checks that involve several keys.
fn combinations(check: &mut Validator, raw: &UnvalidatedManifest, device: &DeviceTests) {
    let runs = |test: &DeviceTest| device.tests.contains(test);
    if runs(&DeviceTest::Commands) && !check.has(&key("commands")) {
        let mistake = Diagnostic::new("`commands` needs the commands");
        check.value(&key("tests"), mistake.hint("write them in [device] commands"));
    }
    for (name, test) in [("commands", DeviceTest::Commands), ("suites", DeviceTest::Runtime)] {
        if check.has(&key(name)) && !runs(&test) {
            let mistake = Diagnostic::new(format!("has no effect without the test `{test}`"));
            check.value(&key(name), mistake.hint(format!("add \"{test}\" to [device] tests")));
        }
    }
    let is_built = |target: &String| {
        target.rsplit(':').next() == Some(&device.image) || target.contains(&format!("{}:do_", device.image))
    };
    let targets = raw.build.targets.iter().flatten();
    if !device.image.is_empty() && !targets.clone().any(is_built) {
        let mistake = Diagnostic::new(format!("[build] does not build `{}`", device.image));
        check.value(&key("image"), mistake.hint("add it to [build] targets"));
    }
    let has_store = check.has(&KeyPath::root().key("artifacts").key("destination"));
    if !device.pool.is_empty() && !device.is_guest() && !has_store {
        let mistake = Diagnostic::new(format!("a lab with `{}` needs a store for the request", device.pool));
        let hint = "write [artifacts] destination: the lab reads requests there; or write `pool = \"qemu\"`";
        check.value(&key("pool"), mistake.hint(hint));
    }
    if device.is_guest() {
        for name in ["features", "priority", "required", "wait", "queue_limit", "untrusted"] {
            if check.has(&key(name)) {
                let mistake = Diagnostic::new("has no effect with `pool = \"qemu\"`");
                check.value(&key(name), mistake.hint("the job itself starts the guest, so no lab is asked"));
            }
        }
        if let Some(DeviceTest::DeviceTester(suite)) =
            device.tests.iter().find(|test| matches!(test, DeviceTest::DeviceTester(_)))
        {
            let mistake = Diagnostic::new(format!("`idt:{suite}` needs a device of a lab"));
            check.value(
                &key("tests"),
                mistake.hint("only a lab has AWS IoT Device Tester and its credentials"),
            );
        }
    }
}

fn machine(text: &str, machines: &[String]) -> Result<String, Diagnostic> {
    match machines.iter().any(|machine| machine == text) {
        true => Ok(text.to_owned()),
        false => Err(Diagnostic::new(format!("`{text}` is not built"))
            .hint(format!("[config] machines names {}", machines.join(", ")))),
    }
}

fn test(text: &str) -> Result<DeviceTest, Diagnostic> {
    text.parse().map_err(Diagnostic::new)
}

/// A glob of files in one directory.
fn file(text: &str) -> Result<String, Diagnostic> {
    if text.contains('/') {
        return Err(Diagnostic::new(format!("`{text}` contains a `/`"))
            .hint("the files lie directly in the deploy directory of the machine, such as *.wic.bz2"));
    }
    artifact_pattern(text).map(str::to_owned)
}

fn command(text: &str) -> Result<String, Diagnostic> {
    match text.chars().find(|char| char.is_control() && *char != '\n' && *char != '\t') {
        _ if text.trim().is_empty() => Err(Diagnostic::new("is empty")),
        _ if text.len() > LONGEST_COMMAND => {
            Err(Diagnostic::new(format!("has {} bytes, more than {LONGEST_COMMAND}", text.len()))
                .hint("put a script into the image, and call it"))
        }
        Some(char) => Err(Diagnostic::new(format!("contains the control character {char:?}"))),
        None => Ok(text.to_owned()),
    }
}

fn wait(text: &str) -> Result<DeviceWait, Diagnostic> {
    match text {
        "no" => Ok(DeviceWait::No),
        text => values::duration(text).map(DeviceWait::AtMost).map_err(|mistake| {
            Diagnostic::new(mistake.message).hint("write \"no\", or how long the job waits, such as \"2h\"")
        }),
    }
}

fn priority(check: &mut Validator, raw: Option<i64>) -> i32 {
    let Some(number) = raw else { return 0 };
    match i32::try_from(number).ok().filter(|_| number.abs() <= MOST_PRIORITY) {
        Some(priority) => priority,
        None => {
            let mistake = Diagnostic::new(format!("is {number}"));
            let hint = format!("write a number from -{MOST_PRIORITY} to {MOST_PRIORITY}");
            check.value(&key("priority"), mistake.hint(hint));
            0
        }
    }
}

/// The files that devices usually need: disk images, what describes a guest, and the kernel.
fn default_files(image: &str, machine: &str) -> Vec<String> {
    vec![
        format!("{image}-{machine}.{IMAGE_FILES}"),
        format!("{image}-{machine}.rootfs.{IMAGE_FILES}"),
        KERNELS.to_owned(),
    ]
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::config::Request;
    use crate::config::settings::DeviceRoute;
    use crate::config::tests::{Checkout, good_and, problems};

    const BUILD: &str = "[build]\ntargets=['core-image-minimal']\n[artifacts]\ndestination='/store'\n";

    fn device(lines: &str) -> DeviceTests {
        let text = good_and(&format!("{BUILD}[device]\nimage='core-image-minimal'\n{lines}"));
        Checkout::new(&[("build-agent.toml", &text)]).load(&[]).unwrap().device.unwrap()
    }

    #[test]
    fn defaults() {
        let found = device("pool='raspberrypi4'");
        assert_eq!((found.machine.as_str(), &found.tests[..]), ("qemux86-64", &[DeviceTest::Runtime][..]));
        assert_eq!((found.wait, found.required, found.untrusted), (DeviceWait::No, true, false));
        assert_eq!((found.queue_limit, found.run_limit, found.priority), (DAY, HOUR, 0));
        assert!(found.files[0].starts_with("core-image-minimal-qemux86-64.{wic,"), "{:?}", found.files);
        let found = device("pool='p'\ncommands=['true']\nwait='2h'");
        assert_eq!(found.tests, [DeviceTest::Runtime, DeviceTest::Commands]);
        assert_eq!(found.wait, DeviceWait::AtMost(2 * HOUR));
        let none = Checkout::new(&[("build-agent.toml", &good_and(""))]).load(&[]).unwrap();
        assert_eq!(none.device, None);
    }

    #[test]
    fn the_trust_decides_about_the_route() {
        let load = |lines: &str, trusted| {
            let text = good_and(&format!("{BUILD}[device]\nimage='core-image-minimal'\n{lines}"));
            let checkout = Checkout::new(&[("build-agent.toml", &text)]);
            let request = Request { trusted, ..Request::default() };
            let settings = checkout.load_with(&request, &[]).unwrap();
            (settings.device.unwrap().route, settings.artifacts.rules.len())
        };
        let closed =
            DeviceRoute::Closed("the source is not trusted, and [device] untrusted is \"no\"".into());
        for (lines, trusted, wanted, rules) in [
            ("pool='qemu'", false, DeviceRoute::Guest, 0),
            ("pool='qemu'", true, DeviceRoute::Guest, 0),
            ("pool='pi'", true, DeviceRoute::Submit, 0),
            ("pool='pi'", false, closed.clone(), 0),
            ("pool='pi'\nuntrusted='no'", false, closed, 0),
            ("pool='pi'\nuntrusted='yes'", true, DeviceRoute::Submit, 0),
            ("pool='pi'\nuntrusted='yes'", false, DeviceRoute::Publish, 4),
            ("pool='pi'\nuntrusted='yes'\ntests=['idt:X']\nfiles=['*.wic']", false, DeviceRoute::Publish, 1),
        ] {
            assert_eq!(load(lines, trusted), (wanted, rules), "{lines} {trusted}");
        }
    }

    #[test]
    fn mistakes_have_their_place() {
        let (image, pool) = ("image='core-image-minimal'\n", "pool='pi'\n");
        for (lines, wanted) in [
            (image.to_owned(), "[device] pool: is missing"),
            (pool.to_owned(), "[device] image: is missing"),
            (format!("{pool}image='other'"), "[device] image: [build] does not build `other`"),
            (format!("{image}pool='a/b'"), "[device] pool: `a/b` is a path"),
            (format!("{image}{pool}plce='x'"), "[device] plce: unknown key"),
            (format!("{image}{pool}machine='beaglebone'"), "[device] machine: `beaglebone` is not built"),
            (format!("{image}{pool}tests=[]"), "[device] tests: is empty"),
            (format!("{image}{pool}tests=['testimage']"), "[device] tests: `testimage` is not a test"),
            (format!("{image}{pool}tests=['idt:a/b']"), "[device] tests: `a/b` is not the name"),
            (format!("{image}{pool}tests=['ptest','ptest']"), "[device] tests: `ptest` is listed twice"),
            (format!("{image}{pool}tests=['commands']"), "[device] tests: `commands` needs the commands"),
            (format!("{image}{pool}tests=['ptest']\ncommands=['true']"), "[device] commands: has no effect"),
            (format!("{image}{pool}tests=['ptest']\nsuites=['ssh']"), "[device] suites: has no effect"),
            (format!("{image}{pool}commands=[' ']"), "[device] commands: is empty"),
            (format!("{image}{pool}commands=['a\\u0000']").replace('\'', "\""), "control character"),
            (format!("{image}{pool}suites=['Ssh']"), "[device] suites: `Ssh` is not a suite"),
            (format!("{image}{pool}features=['a b']"), "[device] features: `a b`"),
            (format!("{image}{pool}files=[]"), "[device] files: is empty"),
            (format!("{image}{pool}files=['../x']"), "[device] files: `../x` contains a `/`"),
            (format!("{image}{pool}files=['..']"), "[device] files: `..` can never match"),
            (format!("{image}{pool}priority=101"), "[device] priority: is 101"),
            (format!("{image}{pool}wait='soon'"), "[device] wait: `soon` is not a duration"),
            (format!("{image}{pool}wait=true"), "[device] wait: must be a string"),
            (format!("{image}{pool}untrusted=true"), "[device] untrusted: must be a string"),
            (format!("{image}{pool}untrusted='maybe'"), "[device] untrusted: `maybe`"),
            (format!("{image}{pool}queue_limit='0s'"), "[device] queue_limit: `0s` must not be zero"),
            (format!("{image}{pool}run_limit='x'"), "[device] run_limit: `x`"),
            (format!("{image}pool='qemu'\nwait='1h'"), "[device] wait: has no effect with `pool = \"qemu\"`"),
            (format!("{image}pool='qemu'\nuntrusted='yes'"), "[device] untrusted: has no effect"),
            (format!("{image}pool='qemu'\ntests=['idt:GGV2Q']"), "`idt:GGV2Q` needs a device of a lab"),
        ] {
            let found = problems(&good_and(&format!("{BUILD}[device]\n{lines}")));
            assert!(
                found.len() == 1 && found[0].contains(wanted),
                "{lines}: wanted {wanted}, got {found:#?}"
            );
        }
    }
}
