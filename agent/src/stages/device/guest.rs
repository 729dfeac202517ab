//! The job itself as the lab: it starts a guest in QEMU from the built image.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use agent_devices::fence::{Fence, LeaseName};
use agent_devices::lab::{Control, Device, Lab, LabLimits, QemuDevice};
use agent_devices::provider::{Attempt, AttemptEnd};
use agent_devices::providers::provider_for;
use agent_devices::request::{RequestFile, RequestTrust};
use agent_process::Runner;
use agent_types::error::{Error, Result};
use agent_types::events::JobIdentity;
use agent_types::outcome::Outcome;
use agent_types::words::hexadecimal;

use super::super::blocking;
use super::super::configure::BuildEnvironment;
use super::files::DeviceFile;
use super::request::request;
use crate::config::{DeviceTests, Settings};

/// The name of the guest in reports.
const NAME: &str = "qemu";

/// From the start to ssh: a guest without KVM is slow.
const BOOT: Duration = Duration::from_secs(20 * 60);

const PIECE: usize = 1 << 20;

/// Tests the image on a guest. Its steps are units of their own.
pub async fn run(
    settings: &Settings,
    configured: &BuildEnvironment,
    device: &DeviceTests,
    job: &JobIdentity,
    files: Vec<DeviceFile>,
    runner: &Runner,
) -> Result<Outcome> {
    let directory = settings.paths.guest();
    let (copies, work) = (directory.join("files"), directory.join("work"));
    let (top, within) = (settings.paths.work.clone(), [directory.clone(), copies.clone(), work.clone()]);
    let to = copies.clone();
    let copy = move || {
        agent_fs::remove::remove_tree(&within[0], &top)?;
        for directory in &within {
            make(directory)?;
        }
        files.into_iter().map(|file| copy(file, &to)).collect::<Result<Vec<RequestFile>>>()
    };
    let files = blocking(&runner.interrupt, "the files of the guest were copied", copy).await?;
    let trust = match settings.cache.trust.is_trusted() {
        true => RequestTrust::Trusted,
        false => RequestTrust::Untrusted,
    };
    let request = request(device, job, job.id.as_str(), trust, files, SystemTime::now());
    let guest = Device {
        name: NAME.into(),
        pool: device.pool.clone(),
        features: Vec::new(),
        untrusted: true,
        control: Control::Qemu(QemuDevice::default()),
        image: None,
        known_good: None,
    };
    let lab = Lab {
        name: "this job".into(),
        store: settings.artifacts.destination.clone(),
        state: directory.clone(),
        build_user: configured.user.as_ref().map(|user| user.name.clone()),
        limits: LabLimits { boot: BOOT, ..LabLimits::default() },
        devices: vec![guest.clone()],
        testers: Vec::new(),
    };
    // Nobody else has the guest.
    let lease = LeaseName { device: NAME.into(), number: 1, nonce: job.id.as_str().to_owned() };
    let fence = Fence::new(lease);
    let limited = Runner { interrupt: runner.interrupt.child().limited(device.run_limit), ..runner.clone() };
    let attempt = Attempt {
        lab: &lab,
        device: &guest,
        request: &request,
        number: 1,
        fence: &fence,
        files: &copies,
        work: &work,
        runner: &limited,
    };
    let ended = provider_for(&guest).run(attempt).await;
    let (directory, top) = (directory.clone(), settings.paths.work.clone());
    let removed = agent_process::blocking(move || agent_fs::remove::remove_tree(&directory, &top)).await;
    if let Err(error) = removed {
        runner.events.warn(error.message, error.hint).await;
    }
    match ended? {
        AttemptEnd::Tested(outcome) => Ok(outcome),
        AttemptEnd::DeviceFault(why) => Err(Error::machine(format!("the guest could not be tested: {why}"))
            .hint("build-agent doctor says whether this machine can run QEMU")),
    }
}

/// A directory that the build user can enter.
fn make(directory: &Path) -> Result<()> {
    fs_err::create_dir_all(directory)?;
    Ok(fs_err::set_permissions(directory, std::fs::Permissions::from_mode(0o755))?)
}

/// Copies the opened file: the one in the build directory may change.
fn copy(from: DeviceFile, directory: &Path) -> Result<RequestFile> {
    let DeviceFile { role, name, file } = from;
    let path = directory.join(&name);
    let (bytes, sha256) = copy_open(file, &path)?;
    Ok(RequestFile { role, name, bytes, sha256 })
}

fn copy_open(mut from: File, to: &PathBuf) -> Result<(u64, String)> {
    let mut to = fs_err::File::create_new(to)?;
    let (mut digest, mut bytes, mut piece) = (Sha256::new(), 0, vec![0; PIECE]);
    loop {
        let read = from.read(&mut piece)?;
        if read == 0 {
            break;
        }
        digest.update(&piece[..read]);
        to.write_all(&piece[..read])?;
        bytes += read as u64;
    }
    Ok((bytes, hexadecimal(&digest.finalize())))
}
