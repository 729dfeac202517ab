//! Checks whether this machine can be a lab host: its directories, users and programs, the store, and what controls each
//! device. Nothing is powered, flashed or acquired.

mod control;
mod files;
mod host;
mod store;

use agent_devices::lab::{Control, Lab};
use agent_process::{Prober, Runner, User, agent_user};
use agent_types::error::Result;
use agent_yocto::environment::HOST_PATH;

use super::finding::{Finding, Findings};

/// What the checks of a lab host need.
pub struct LabDoctor {
    pub lab: Lab,
    /// Whether the agent is root.
    pub agent_is_root: bool,
    /// The user that runs exported tests and guests; `None`: the lab's own.
    pub build_user: Result<Option<User>>,
    pub runner: Runner,
}

/// Checks the machine for the lab.
pub async fn check_lab(input: &LabDoctor) -> Findings {
    let lab = &input.lab;
    let prober = Prober { runner: input.runner.clone(), environment: environment(), log: "doctor-lab" };
    let user = input.build_user.as_ref().ok().and_then(Option::as_ref);
    let (state, programs, stored) = tokio::join!(
        host::gather_state(&prober, &lab.state),
        host::gather_programs(&prober, lab),
        store::check(lab),
    );
    let mut findings =
        vec![host::judge_state(&lab.state, &state), host::judge_user(input.agent_is_root, &input.build_user)];
    findings.extend(host::judge_programs(lab, &programs));
    findings.extend(stored);
    if lab.devices.iter().any(|device| matches!(device.control, Control::Qemu(_))) {
        findings.push(host::judge_kvm(&host::gather_kvm(&prober, user).await));
    }
    for device in &lab.devices {
        findings.extend(control::check(&prober, device).await);
    }
    for tester in &lab.testers {
        findings.extend(files::tester(&prober, tester).await);
    }
    Findings::new(findings)
}

/// The environment of the lab's programs.
fn environment() -> agent_process::Environment {
    let mut environment = agent_process::Environment::default();
    environment.set("PATH", HOST_PATH).set("LC_ALL", "C.UTF-8");
    if let Ok(user) = agent_user() {
        environment.set("HOME", &user.home);
    }
    environment
}

/// A finding about a device.
fn of_device(device: &str, what: &str) -> String {
    format!("{device}: {what}")
}

/// The file systems of other machines, as `stat -f` names them.
const NETWORK_FILE_SYSTEMS: [&str; 10] =
    ["nfs", "nfs4", "cifs", "smb", "smb2", "ceph", "lustre", "v9fs", "afs", "fuseblk"];

/// The finding for a directory that must be on a local disk; `None`: it is.
fn not_local(name: &str, directory: &std::path::Path, kind: &str) -> Option<Finding> {
    NETWORK_FILE_SYSTEMS.contains(&kind).then(|| {
        let found = format!("{} is on {kind}", directory.display());
        Finding::failed(name, found, "use a directory on a local disk")
    })
}
