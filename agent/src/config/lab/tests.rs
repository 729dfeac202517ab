#![allow(clippy::unwrap_used)]

use std::time::Duration;

use agent_devices::lab::{DeviceTester, Labgrid, QemuDevice, SshDevice, WriteImage};
use agent_types::artifact::Destination;

use super::*;

const HEAD: &str = "version = 1\nname = 'desk'\nstore = 's3://bucket/builds'\nstate = 'state'\n";

fn lab(text: &str) -> (Option<Lab>, String) {
    let base = tempfile::tempdir().unwrap();
    fs_err::write(base.path().join("key"), "").unwrap();
    let mut problems = Problems::default();
    let lab = read("lab.toml", text.as_bytes(), base.path(), &mut problems);
    let said = problems.to_string().replace(&*base.path().to_string_lossy(), "/lab");
    (lab, said)
}

#[test]
fn reads_every_key() {
    let base = tempfile::tempdir().unwrap();
    for file in ["env.yaml", "key", "good.wic", "user.json", "token", "job.yaml"] {
        fs_err::write(base.path().join(file), "").unwrap();
    }
    let text = format!(
        "{HEAD}build_user = 'builder'\n\
         [limits]\nlease = '30s'\npoll = '2s'\nflash = '1h'\nboot = '2m'\nconsole = '4MiB'\nattempts = 2\n\
         [devices.rpi4-1]\npool = 'raspberrypi4'\nfeatures = ['wifi', 'tpm']\nuntrusted = true\n\
         image = '*.wic.bz2'\nknown_good = 'good.wic'\n\
         [devices.rpi4-1.labgrid]\ncoordinator = '[::1]:1'\nplace = 'rpi/4'\nclient = 'bin/labgrid-client'\n\
         environment = 'env.yaml'\nwrite = ['bin/write', '3']\nhost = 'rpi'\nport = 2222\nssh_key = 'key'\n\
         [devices.rpi4-2]\npool = 'raspberrypi4'\n[devices.rpi4-2.labgrid]\nplace = 'rpi-2'\n\
         [devices.board]\npool = 'p'\nimage = '*.wic'\n[devices.board.ssh]\nhost = '10.0.0.7'\nwrite = ['w']\nrestart = ['r']\n\
         [devices.guest]\npool = 'guests'\nqemu.memory = 512\n\
         [devices.server]\npool = 'q'\n[devices.server.lava]\nurl = 'https://l/'\ntoken_file = 'token'\njob = 'job.yaml'\nfiles = 'https://f/devices'\n\
         [testers.GGV2Q]\ndirectory = '/opt/idt'\naccept_license = true\nprofile = 'idt'\nregion = 'eu-central-1'\ngroups = ['mqtt']\n\
         features = {{ arch = 'aarch64' }}\nuserdata = 'user.json'\nstall = '5m'\n"
    );
    let file = base.path().join("lab.toml");
    fs_err::write(&file, text).unwrap();
    let lab = load_lab(&file).unwrap();
    let path = |name: &str| base.path().join(name);
    assert_eq!(lab.store, Destination::S3 { bucket: "bucket".into(), prefix: "builds".into() });
    assert_eq!(
        (lab.name.as_str(), lab.state, lab.build_user.as_deref()),
        ("desk", path("state"), Some("builder"))
    );
    let seconds = Duration::from_secs;
    let limits = LabLimits {
        lease: seconds(30),
        poll: seconds(2),
        flash: seconds(3600),
        boot: seconds(120),
        console: 4 << 20,
        attempts: 2,
    };
    assert_eq!(lab.limits, limits);
    let device = |name: &str| lab.devices.iter().find(|device| device.name == name).unwrap();
    let first = device("rpi4-1");
    assert_eq!((first.pool.as_str(), first.untrusted), ("raspberrypi4", true));
    assert_eq!(first.features, ["wifi", "tpm"]);
    assert_eq!((first.image.as_deref(), &first.known_good), (Some("*.wic.bz2"), &Some(path("good.wic"))));
    let labgrid = Labgrid {
        coordinator: "[::1]:1".into(),
        place: "rpi/4".into(),
        client: path("bin/labgrid-client"),
        environment: Some(path("env.yaml")),
        write: WriteImage::Command(vec![path("bin/write").display().to_string(), "3".into()]),
        address: Some(("rpi".into(), 2222)),
        ssh_key: Some(path("key")),
    };
    assert_eq!(first.control, Control::Labgrid(labgrid));
    let standard = Labgrid {
        coordinator: "127.0.0.1:20408".into(),
        place: "rpi-2".into(),
        client: "labgrid-client".into(),
        environment: None,
        write: WriteImage::WriteImage,
        address: None,
        ssh_key: None,
    };
    assert_eq!(device("rpi4-2").control, Control::Labgrid(standard));
    let ssh = SshDevice {
        host: "10.0.0.7".into(),
        port: 22,
        ssh_key: None,
        write: Some(vec!["w".into()]),
        restart: Some(vec!["r".into()]),
    };
    assert_eq!(device("board").control, Control::Ssh(ssh));
    assert_eq!(device("guest").control, Control::Qemu(QemuDevice { memory: Some(512) }));
    let Control::Lava(lava) = &device("server").control else { panic!("not LAVA") };
    assert_eq!((lava.url.as_str(), lava.files.as_str()), ("https://l", "https://f/devices"));
    let tester = DeviceTester {
        suite: "GGV2Q".into(),
        directory: Some("/opt/idt".into()),
        accept_license: true,
        profile: Some("idt".into()),
        region: "eu-central-1".into(),
        groups: vec!["mqtt".into()],
        features: vec![("arch".into(), "aarch64".into())],
        userdata: Some(path("user.json")),
        stall: seconds(300),
    };
    assert_eq!(lab.testers, [tester]);
}

#[test]
fn reports_each_mistake_with_its_position() {
    let device = |more: &str| format!("{HEAD}[devices.d]\npool = 'p'\n{more}");
    let ssh = "ssh.host = 'h'\n";
    let mut missing = Vec::new();
    for (text, wanted) in [
        ("", "lab.toml:1:1: version: is missing"),
        ("version = 2", "lab.toml:1:11: version: is 2, but this agent supports only 1"),
        (HEAD, "lab.toml:1:1: devices: is missing"),
        (
            &format!("{HEAD}[devices]"),
            "lab.toml:5:1: [devices]: has no device\n  hint: add a table [devices.NAME]",
        ),
        (&HEAD.replace("desk", "a b"), "lab.toml:2:8: name: `a b` is not a valid name"),
        (
            &HEAD.replace("s3://bucket", "s3://B"),
            "lab.toml:3:9: store: `B` is not a valid name of an S3 bucket",
        ),
        (&HEAD.replace("'state'", "'~/x'"), "lab.toml:4:9: state: `~/x` would need a shell"),
        (&format!("{HEAD}build_user = '-x'"), "lab.toml:5:14: build_user: `-x` is not the name of a user"),
        (&format!("{HEAD}buid_user = 'x'"), "buid_user: unknown key\n  hint: did you mean `build_user`?"),
        (&format!("{HEAD}[limits]\nattempts = 0"), "lab.toml:6:12: [limits] attempts: is out of range"),
        (&format!("{HEAD}[limits]\nlease = '1'"), "lab.toml:6:9: [limits] lease: `1` is not a duration"),
        (&format!("{HEAD}[limits]\nconsole = '1KiB'"), "[limits] console: `1KiB` is less than 1MiB"),
        (&device(""), "[devices.d]: nothing controls it"),
        (&device("sssh.host = 'h'"), "sssh]: unknown key\n  hint: did you mean `ssh`?"),
        (&device("ssh.host = 'h'\nqemu = {}"), "has more than one control: ssh, qemu"),
        (&device("ssh = {}"), "host: is missing\n  hint: Host name or address of the device"),
        (&device("ssh.host = '-oProxyCommand=x'"), "`-oProxyCommand=x` is not a host name"),
        (&device("ssh.host = 'root@h'"), "`root@h` is not a host name"),
        (&device("ssh = { host = 'h', port = 0 }"), "port: is not a port"),
        (
            &device("ssh = { host = 'h', ssh_key = 'none' }"),
            "ssh_key: failed to query resolved metadata `/lab/none`",
        ),
        (&device("ssh = { host = 'h', ssh_key = '.' }"), "ssh_key: is not a regular file"),
        (&device("ssh = { host = 'h', write = [] }"), "write: is empty"),
        (&device("ssh = { host = 'h', write = ['a b'] }"), "write: has a program of more than one word"),
        (&device("ssh = { host = 'h', write = ['w'] }"), "image: is missing: `write` has no file"),
        (&device(&format!("image = '*.wic'\n{ssh}")), "image: has no effect: nothing says how it is written"),
        (&device(&format!("image = 'a/b'\n{ssh}")), "image: `a/b` contains a directory"),
        (&device(&format!("image = '[a'\n{ssh}")), "image: `[a` is not a glob"),
        (&device(&format!("features = ['a b']\n{ssh}")), "features: `a b` is not a valid name"),
        (&device(&format!("features = ['a', 'a']\n{ssh}")), "features: `a` is listed twice"),
        (&device("known_good = 'key'\nlabgrid.place = 'p'"), "image: is missing: nothing is written"),
        (
            &device("known_good = 'key'\nqemu = {}"),
            "known_good: has no effect: each image runs in a new guest",
        ),
        (&format!("{HEAD}[devices.d]\npool = 'qemu'\nqemu = {{}}"), "pool: `qemu` is never asked for"),
        (&device("labgrid.place = '-x'"), "place: `-x` is not the name of a place"),
        (&device("labgrid = { place = 'p', coordinator = 'h' }"), "coordinator: `h` is not the address"),
        (&device("labgrid = { place = 'p', port = 22 }"), "port: has no effect without `host`"),
        (&device("qemu.memory = 8"), "memory: is out of range"),
        (&device("lava.url = 'ftp://x'"), "url: is not the address of a server"),
        (&device("lava.url = 'https://u:hunter2@x'"), "url: contains a user or a password"),
        (&format!("{HEAD}[devices.'a/b']\npool = 'p'\nqemu = {{}}"), "`a/b` is a path, not a name"),
        (&format!("{HEAD}[devices.d]\nqemu = {{}}"), "[devices.d] pool: is missing"),
        (&format!("{HEAD}[testers.X]\nregion = 'eu-central-1'"), "[testers.X] accept_license: is missing"),
        (
            &format!("{HEAD}[testers.X]\ndirectory = '/o'\naccept_license = false"),
            "lab.toml:7:18: [testers.X] accept_license: is false: Device Tester must not run",
        ),
        (&format!("{HEAD}[testers.X]\ndirectory = '/o'\nregion = 'here'"), "`here` is not an AWS region"),
        (&format!("{HEAD}[testers.X]\ndirectory = '/o'"), "[testers.X] region: is missing"),
        (&format!("{HEAD}[testers.X]\ngroups = ['--x']"), "groups: `--x` is not a name"),
    ] {
        let (_, said) = lab(text);
        if !said.contains(wanted) {
            missing.push(format!("{wanted}\n--- not in:\n{said}\n--- of:\n{text}"));
        }
        assert!(!said.contains("hunter2"), "{said}");
    }
    assert!(missing.is_empty(), "{}", missing.join("\n\n"));
}

#[test]
fn every_key_is_described_and_in_the_docs() {
    let page = include_str!("../../../../docs/lab.md");
    let schema = lab_schema();
    assert_eq!(schema["title"], "lab.toml");
    assert!(!schema.to_string().contains("Unvalidated"), "{schema}");
    for table in schema["$defs"].as_object().unwrap().values().chain([&schema]) {
        for (key, property) in table["properties"].as_object().into_iter().flatten() {
            let is_table = property["$ref"].is_string() || property["type"] == "object";
            assert!(is_table || property["description"].is_string(), "{key} has no description");
            let wanted = if is_table { key.clone() } else { format!("| `{key}` |") };
            assert!(page.contains(&wanted), "docs/lab.md has no {wanted}");
        }
    }
}
