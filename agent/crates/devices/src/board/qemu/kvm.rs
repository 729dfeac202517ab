//! Whether KVM runs a guest here. That `/dev/kvm` exists does not say so: inside other virtual machines and containers
//! it may refuse some processors, or run nothing. The look is short: a guest of a few bytes. A larger one can still hang.

use std::path::Path;
use std::time::Duration;

use agent_process::{Command, ExitReason, Runner, User};
use agent_yocto::environment::HOST_PATH;

use crate::board::qemu::conf::MachineConf;

/// Where the kernel offers KVM.
const DEVICE: &str = "/dev/kvm";

/// For a guest of five bytes.
const LIMIT: Duration = Duration::from_secs(20);

/// The size of the guest's firmware. Its last sixteen bytes are where an x86 processor starts.
const FIRMWARE: usize = 64 << 10;

/// `mov al, 0x10; out 0xf4, al; hlt`: tells QEMU's device `isa-debug-exit` to end.
const CODE: [u8; 5] = [0xb0, 0x10, 0xe6, 0xf4, 0xf4];

/// QEMU's exit status then: twice the number, plus one.
const STATUS: i32 = 0x21;

/// Whether KVM runs a guest of this machine for this user.
pub async fn works(conf: &MachineConf, directory: &Path, user: Option<&User>, runner: &Runner) -> bool {
    let program = conf.program.as_str();
    let architecture = program.strip_prefix("qemu-system-").unwrap_or(program);
    if !Path::new(DEVICE).exists() || architecture != std::env::consts::ARCH {
        return false;
    }
    if architecture != "x86_64" {
        // QEMU itself falls back to emulation if KVM refuses.
        return true;
    }
    let firmware = directory.join("kvm-probe.bin");
    let mut bytes = vec![0; FIRMWARE];
    bytes[FIRMWARE - 16..][..CODE.len()].copy_from_slice(&CODE);
    if fs_err::write(&firmware, bytes).is_err() {
        return false;
    }
    let mut command = Command::new(program, directory, "kvm-probe")
        .args(["-accel", "kvm", "-machine", conf.machine.as_deref().unwrap_or("pc")])
        .args(["-cpu", conf.cpu.as_deref().unwrap_or("qemu64")])
        .args(["-nodefaults", "-display", "none", "-no-reboot"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04", "-bios"])
        .arg(&firmware)
        .status("a look whether KVM runs guests");
    command.environment.set("PATH", HOST_PATH).set("LC_ALL", "C.UTF-8").set("TMPDIR", directory);
    command.user = user.cloned();
    command.timeout = Some(LIMIT);
    command.grace = Some(Duration::from_secs(1));
    let ended = runner.run(command, &mut ()).await;
    ended.is_ok_and(|ended| ended.end == ExitReason::Exited(STATUS))
}
