//! What an image says about its machine for QEMU (`IMAGE.qemuboot.conf`), and QEMU's arguments.
//!
//! The file comes from a build, and QEMU's arguments can read and write any file of the host. So nothing of it is passed
//! on as it is: only known settings with harmless values are taken, and the devices are chosen here.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Bytes of the file that are read.
pub const LARGEST: u64 = 64 << 10;

/// Memory that an image may ask for, in MiB. lab.toml may say more.
const MOST_MEMORY: u32 = 4096;

/// Memory of a guest if the image says nothing, in MiB.
const MEMORY: u32 = 512;

/// Processors of a guest at most.
const MOST_PROCESSORS: u32 = 8;

/// The settings of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineConf {
    /// `qemu-system-x86_64` …
    pub program: String,
    pub machine: Option<String>,
    pub cpu: Option<String>,
    pub memory: u32,
    pub processors: u32,
    pub network: String,
    /// Names of files of the request, in the order of preference.
    pub kernels: Vec<String>,
    pub dtb: Option<String>,
    /// The device of the root file system, as the kernel calls it.
    pub root: String,
    pub kernel_arguments: String,
    /// The end of the image's name that the build prefers, such as `ext4`.
    pub file_system: Option<String>,
}

/// The files of a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestFiles {
    /// `None`: the disk has a boot loader.
    pub kernel: Option<PathBuf>,
    pub initrd: Option<PathBuf>,
    pub dtb: Option<PathBuf>,
    pub disk: Option<PathBuf>,
}

/// How a guest is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestOptions {
    /// A port of loopback that leads to the guest's ssh server.
    pub port: u16,
    pub kvm: bool,
    /// The guest reaches nothing of this machine and its networks.
    pub isolated: bool,
}

/// Reads the file.
///
/// # Errors
/// What is missing or cannot be used.
pub fn parse(text: &str) -> Result<MachineConf, String> {
    let values = values(text);
    let get = |name: &str| values.get(name).map(String::as_str).filter(|value| !value.is_empty());
    let program = get("qb_system_name").ok_or("it has no qb_system_name")?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !program.strip_prefix("qemu-system-").is_some_and(|arch| !arch.is_empty() && arch.chars().all(is_name))
    {
        return Err(format!("its qb_system_name, {program:?}, is not a program of QEMU"));
    }
    let mut options = Options::default();
    for name in ["qb_machine", "qb_cpu", "qb_mem", "qb_smp"] {
        options.read(get(name).unwrap_or_default());
    }
    let file = |name: &str| get(name).and_then(file_name);
    let kernels = [file("qb_default_kernel"), file("kernel_imagetype")].into_iter().flatten().collect();
    let root = get("qb_kernel_root").filter(|root| is_device(root)).unwrap_or("/dev/vda").to_owned();
    let console = get("serial_consoles").and_then(first_console).unwrap_or_else(|| "ttyS0".into());
    let words = [
        get("qb_cmdline_ip_slirp").unwrap_or("ip=dhcp"),
        &format!("console={console}"),
        get("qb_kernel_cmdline_append").unwrap_or_default(),
    ];
    Ok(MachineConf {
        program: program.to_owned(),
        machine: options.machine,
        cpu: options.cpu,
        memory: options.memory.unwrap_or(MEMORY).clamp(64, MOST_MEMORY),
        processors: options.processors.unwrap_or(1).clamp(1, MOST_PROCESSORS),
        network: get("qb_network_device").and_then(network_model).unwrap_or_else(|| "virtio-net-pci".into()),
        kernels,
        dtb: file("qb_dtb"),
        root,
        kernel_arguments: words.join(" ").split_whitespace().collect::<Vec<_>>().join(" "),
        file_system: get("qb_default_fstype").and_then(file_name),
    })
}

/// The keys and values of the file's only section, keys in lower case.
fn values(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';', '[']));
    let pairs = lines.filter_map(|line| line.split_once('='));
    pairs.map(|(key, value)| (key.trim().to_ascii_lowercase(), value.trim().to_owned())).collect()
}

/// QEMU's options that are taken from the file.
#[derive(Default)]
struct Options {
    machine: Option<String>,
    cpu: Option<String>,
    memory: Option<u32>,
    processors: Option<u32>,
}

impl Options {
    fn read(&mut self, text: &str) {
        let mut words = text.split_whitespace();
        while let Some(option) = words.next() {
            let Some(value) = words.next() else { return };
            match option.trim_start_matches('-') {
                "machine" | "M" => self.machine = harmless(value).or(self.machine.take()),
                "cpu" => self.cpu = harmless(value).or(self.cpu.take()),
                "m" => self.memory = mebibytes(value).or(self.memory),
                "smp" => self.processors = leading_number(value).or(self.processors),
                _ => {}
            }
        }
    }
}

/// A model with properties that names no file.
fn harmless(value: &str) -> Option<String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._+-=,".contains(c);
    let names_file = ["dumpdtb", "dtb", "kernel", "initrd", "firmware", "memory-encryption", "append"];
    let named =
        value.split(',').filter_map(|part| part.split_once('=')).any(|(key, _)| names_file.contains(&key));
    (value.chars().all(good) && value.starts_with(|c: char| c.is_ascii_alphanumeric()) && !named)
        .then(|| value.to_owned())
}

fn leading_number(value: &str) -> Option<u32> {
    let digits: String = value.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// `256`, `512M` or `1G` in MiB.
fn mebibytes(value: &str) -> Option<u32> {
    let number = leading_number(value)?;
    match value.trim_start_matches(|c: char| c.is_ascii_digit()) {
        "G" | "g" => number.checked_mul(1024),
        _ => Some(number),
    }
}

/// The model in `-device MODEL,netdev=net0,mac=@MAC@`.
fn network_model(value: &str) -> Option<String> {
    let after = value.split_whitespace().skip_while(|word| *word != "-device").nth(1)?;
    let model = after.split(',').next()?;
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (!model.is_empty() && !model.starts_with('-') && model.chars().all(good)).then(|| model.to_owned())
}

/// A file's name without a directory.
fn file_name(value: &str) -> Option<String> {
    let is_name = !value.contains('/') && !value.starts_with('.') && !value.chars().any(char::is_control);
    (is_name && value != "none").then(|| value.to_owned())
}

fn is_device(value: &str) -> bool {
    value.strip_prefix("/dev/").is_some_and(|name| name.chars().all(|c| c.is_ascii_alphanumeric()))
}

/// The device in `115200;ttyS0 115200;ttyS1`.
fn first_console(value: &str) -> Option<String> {
    let (_, device) = value.split_whitespace().next()?.split_once(';')?;
    device.chars().all(|c| c.is_ascii_alphanumeric()).then(|| device.to_owned())
}

/// QEMU's arguments. Its standard output is the guest's first serial console. Writes to the disk are lost.
pub fn arguments(
    conf: &MachineConf,
    files: &GuestFiles,
    options: GuestOptions,
    memory: Option<u32>,
) -> Vec<OsString> {
    let mut words: Vec<OsString> = Vec::new();
    let mut add = |option: &str, value: OsString| words.extend([option.into(), value]);
    if options.kvm {
        add("-accel", "kvm".into());
    }
    add("-accel", "tcg".into());
    if let Some(machine) = &conf.machine {
        add("-machine", machine.into());
    }
    if let Some(cpu) = &conf.cpu {
        add("-cpu", cpu.into());
    }
    add("-m", memory.unwrap_or(conf.memory).to_string().into());
    add("-smp", conf.processors.to_string().into());
    for (option, file) in [("-kernel", &files.kernel), ("-initrd", &files.initrd), ("-dtb", &files.dtb)] {
        if let Some(file) = file {
            add(option, file.into());
        }
    }
    if files.kernel.is_some() {
        let root = if files.disk.is_some() { format!("root={} rw ", conf.root) } else { String::new() };
        add("-append", format!("{root}{} panic=1", conf.kernel_arguments).into());
    }
    if let Some(disk) = &files.disk {
        disk_arguments(&conf.root, disk, &mut add);
    }
    let isolated = if options.isolated { ",restrict=on" } else { "" };
    let port = options.port;
    add("-netdev", format!("user,id=net0,hostfwd=tcp:127.0.0.1:{port}-:22{isolated}").into());
    add("-device", format!("{},netdev=net0", conf.network).into());
    add("-object", "rng-random,filename=/dev/urandom,id=rng0".into());
    add("-device", "virtio-rng-pci,rng=rng0".into());
    add("-display", "none".into());
    add("-serial", "stdio".into());
    add("-monitor", "none".into());
    words.push("-no-reboot".into());
    words
}

fn disk_arguments(root: &str, disk: &Path, add: &mut impl FnMut(&str, OsString)) {
    let kind = root.strip_prefix("/dev/").unwrap_or(root);
    let interface = match kind.get(..2) {
        Some("sd") => "none,id=disk0",
        Some("hd") => "ide",
        Some("mm") => "sd",
        _ => "virtio",
    };
    let mut drive = OsString::from(format!("if={interface},format=raw,snapshot=on,file="));
    drive.push(doubled_commas(disk));
    add("-drive", drive);
    if kind.starts_with("sd") {
        add("-device", "virtio-scsi-pci,id=scsi0".into());
        add("-device", "scsi-hd,drive=disk0".into());
    }
}

/// A comma in a path ends an option, unless it is doubled.
fn doubled_commas(path: &Path) -> OsString {
    path.to_string_lossy().replace(',', ",,").into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const QEMUX86: &str = "[config_bsp]\n\
        deploy_dir_image = .\n\
        image_link_name = core-image-minimal-qemux86-64.rootfs\n\
        kernel_imagetype = bzImage\n\
        machine = qemux86-64\n\
        qb_cmdline_ip_slirp = ip=dhcp\n\
        qb_cpu = -cpu IvyBridge -machine q35,i8042=off\n\
        qb_default_fstype = ext4\n\
        qb_default_kernel = bzImage--6.6-r0-qemux86-64-20260101.bin\n\
        qb_kernel_cmdline_append = swiotlb=0 \n\
        qb_kernel_root = /dev/vda\n\
        qb_mem = -m 256\n\
        qb_network_device = -device virtio-net-pci,netdev=net0,mac=@MAC@\n\
        qb_opt_append = -usb -device usb-tablet\n\
        qb_smp = -smp 4\n\
        qb_system_name = qemu-system-x86_64\n\
        serial_consoles = 115200;ttyS0 115200;ttyS1\n";

    #[test]
    fn reads_what_a_build_writes() {
        let conf = parse(QEMUX86).unwrap();
        let wanted = MachineConf {
            program: "qemu-system-x86_64".into(),
            machine: Some("q35,i8042=off".into()),
            cpu: Some("IvyBridge".into()),
            memory: 256,
            processors: 4,
            network: "virtio-net-pci".into(),
            kernels: vec!["bzImage--6.6-r0-qemux86-64-20260101.bin".into(), "bzImage".into()],
            dtb: None,
            root: "/dev/vda".into(),
            kernel_arguments: "ip=dhcp console=ttyS0 swiotlb=0".into(),
            file_system: Some("ext4".into()),
        };
        assert_eq!(conf, wanted);
        let arm = QEMUX86
            .replace("qemu-system-x86_64", "qemu-system-aarch64")
            .replace("-cpu IvyBridge -machine q35,i8042=off", "-cpu cortex-a57")
            .replace("qb_mem = -m 256", "qb_mem = -m 1G\nqb_machine = -machine virt\nqb_dtb = a.dtb")
            .replace("ttyS0", "ttyAMA0");
        let conf = parse(&arm).unwrap();
        assert_eq!((conf.machine.as_deref(), conf.cpu.as_deref()), (Some("virt"), Some("cortex-a57")));
        assert_eq!((conf.memory, conf.dtb.as_deref()), (1024, Some("a.dtb")));
        assert!(conf.kernel_arguments.contains("console=ttyAMA0"));
    }

    #[test]
    fn nothing_of_it_reaches_the_host() {
        for (from, to, wanted) in [
            ("qemu-system-x86_64", "/bin/sh", Err("is not a program of QEMU")),
            ("qemu-system-x86_64", "qemu-system-../x", Err("is not a program of QEMU")),
            ("qb_system_name", "x", Err("it has no qb_system_name")),
            ("q35,i8042=off", "q35,dumpdtb=x", Ok("")),
            ("q35,i8042=off", "q35,firmware=/etc/shadow", Ok("")),
            ("-cpu IvyBridge", "-drive file=/etc/shadow", Ok("")),
            ("-m 256", "-m 99999999", Ok("-m 4096")),
            ("-smp 4", "-smp 999,maxcpus=999", Ok("-smp 8")),
            ("virtio-net-pci,netdev", "x/y,netdev", Ok("virtio-net-pci,netdev=net0")),
            ("/dev/vda", "/dev/../x", Ok("root=/dev/vda rw")),
            ("bzImage\n", "../../etc/shadow\n", Ok("")),
        ] {
            match (parse(&QEMUX86.replace(from, to)), wanted) {
                (Ok(conf), Ok(part)) => {
                    let shown = shown(&conf, None);
                    let bad = ["shadow", "/bin/sh", "dumpdtb", "usb-tablet", "9999", "x/y", ".."];
                    assert!(!bad.iter().any(|bad| shown.contains(bad)), "{to}: {shown}");
                    assert!(shown.contains(part), "{to}: {shown}");
                    let files = conf.kernels.iter().chain(&conf.dtb);
                    assert!(files.clone().all(|file| !file.contains('/')), "{conf:?}");
                }
                (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
                (other, _) => panic!("{to}: {other:?}"),
            }
        }
    }

    fn shown(conf: &MachineConf, memory: Option<u32>) -> String {
        let files = GuestFiles {
            kernel: Some("/f/bzImage".into()),
            disk: Some("/f/a,b.ext4".into()),
            ..GuestFiles::default()
        };
        let options = GuestOptions { port: 2222, kvm: true, isolated: false };
        let words = arguments(conf, &files, options, memory);
        words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_guest_has_a_disk_a_network_and_a_console() {
        let conf = parse(QEMUX86).unwrap();
        for part in [
            "-accel kvm -accel tcg -machine q35,i8042=off -cpu IvyBridge -m 1000 -smp 4 -kernel /f/bzImage ",
            "-append root=/dev/vda rw ip=dhcp console=ttyS0 swiotlb=0 panic=1 ",
            "-drive if=virtio,format=raw,snapshot=on,file=/f/a,,b.ext4 ",
            "-netdev user,id=net0,hostfwd=tcp:127.0.0.1:2222-:22 -device virtio-net-pci,netdev=net0 ",
            "-display none -serial stdio -monitor none -no-reboot",
        ] {
            let shown = shown(&conf, Some(1000));
            assert!(shown.contains(part), "{part}\nnot in {shown}");
        }
        for (root, part) in [
            (
                "/dev/sda",
                "-drive if=none,id=disk0,format=raw,snapshot=on,file=/f/a,,b.ext4 -device virtio-scsi-pci",
            ),
            ("/dev/hda", "-drive if=ide,"),
            ("/dev/mmcblk0", "-drive if=sd,"),
        ] {
            let conf = MachineConf { root: root.into(), ..conf.clone() };
            assert!(shown(&conf, None).contains(part), "{root}: {}", shown(&conf, None));
        }
        let options = GuestOptions { port: 1, kvm: false, isolated: true };
        let words = arguments(
            &conf,
            &GuestFiles { disk: Some("/f/d.wic".into()), ..GuestFiles::default() },
            options,
            None,
        );
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        let shown = words.join(" ");
        assert!(shown.contains("restrict=on") && !shown.contains("kvm"), "{shown}");
        assert!(
            !shown.contains("-append") && !shown.contains("-kernel"),
            "a disk boots without the agent's kernel options: {shown}"
        );
    }
}
