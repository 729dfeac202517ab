//! Images for QEMU: Debian's cloud kernel, busybox and dropbear (`tests/guest`).

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{repository, skip};

/// What QEMU has to know of the image.
const CONF: &str = "[config_bsp]\n\
    kernel_imagetype = bzImage\n\
    machine = qemux86-64\n\
    qb_cpu = -cpu max -machine q35\n\
    qb_default_fstype = cpio.gz\n\
    qb_mem = -m 256\n\
    qb_network_device = -device virtio-net-pci,netdev=net0,mac=@MAC@\n\
    qb_system_name = qemu-system-x86_64\n\
    serial_consoles = 115200;ttyS0\n";

/// The image of the tests.
pub const IMAGE: &str = "core-image-test";

/// Its file that is written to a device.
pub const DISK: &str = "core-image-test-qemux86-64.cpio.gz";

/// The packages for images; `None`, with a SKIPPED line, if something is missing.
pub fn packages(test: &str) -> Option<PathBuf> {
    let packages =
        std::env::var_os("BUILD_AGENT_TEST_GUEST").map_or_else(|| PathBuf::from("/"), PathBuf::from);
    let has_kernel = std::fs::read_dir(packages.join("boot")).into_iter().flatten().flatten().any(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.starts_with("vmlinuz-") && name.ends_with("-cloud-amd64")
    });
    let missing = [
        (Path::new("/usr/bin/qemu-system-x86_64").exists(), "qemu-system-x86"),
        (is_on_path("ping"), "iputils-ping"),
        (is_on_path("ssh"), "openssh-client"),
        (packages.join("usr/sbin/dropbear").exists(), "dropbear-bin"),
        (has_kernel, "linux-image-cloud-amd64"),
    ];
    match missing.iter().find(|(is_there, _)| !is_there) {
        Some((_, package)) => {
            skip(
                test,
                &format!("{package} is not there; `.ci/run` unpacks it, and sets BUILD_AGENT_TEST_GUEST"),
            );
            None
        }
        None => Some(packages),
    }
}

fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// Packs kernel and initial file system of the packages: `vmlinuz` and `initrd.gz` in `directory`. `mode`: how it does
/// not work (`tests/guest/init`); empty for one that works.
pub fn pack(packages: &Path, directory: &Path, mode: &str) {
    let mut pack = Command::new("python3");
    pack.arg(repository().join("tests/guest/initrd.py")).arg(packages).arg(directory).arg(mode);
    assert!(pack.status().expect("python3 starts").success(), "{pack:?}");
}

/// Makes an image in `directory`: kernel, initial file system and QEMU's settings. `mode`: as for [`pack`].
pub fn image(packages: &Path, directory: &Path, mode: &str) -> Vec<PathBuf> {
    let system = directory.join("system");
    pack(packages, &system, mode);
    let files = [directory.join("bzImage"), directory.join(DISK)];
    std::fs::rename(system.join("vmlinuz"), &files[0]).expect("an image for QEMU");
    std::fs::rename(system.join("initrd.gz"), &files[1]).expect("an image for QEMU");
    std::fs::remove_dir(system).expect("an image for QEMU");
    let conf = directory.join("core-image-test-qemux86-64.qemuboot.conf");
    std::fs::write(&conf, CONF).expect("an image for QEMU");
    let [kernel, disk] = files;
    vec![kernel, disk, conf]
}
