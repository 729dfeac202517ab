//! The validated settings of a lab (`lab.toml`).

use std::path::PathBuf;
use std::time::Duration;

use agent_types::artifact::Destination;

/// A lab host and its devices.
#[derive(Clone, Debug, PartialEq)]
pub struct Lab {
    /// Unique among the labs of a store.
    pub name: String,
    /// Where requests come from and results go: the artifact destination of the jobs.
    pub store: Destination,
    /// Local files of the lab: downloads, work directories, the numbers of leases. Not on a network file system.
    pub state: PathBuf,
    /// Runs exported tests, which are layer code.
    pub build_user: Option<String>,
    pub limits: LabLimits,
    pub devices: Vec<Device>,
    pub testers: Vec<DeviceTester>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LabLimits {
    /// A lease ends this long after its last renewal. It is renewed after a third of it.
    pub lease: Duration,
    /// Between two looks for requests.
    pub poll: Duration,
    /// For writing an image.
    pub flash: Duration,
    /// From power on to ssh.
    pub boot: Duration,
    /// Output of the console that is kept of one attempt, in bytes.
    pub console: u64,
    /// Attempts of one request.
    pub attempts: u32,
}

impl Default for LabLimits {
    fn default() -> LabLimits {
        LabLimits {
            lease: Duration::from_secs(60),
            poll: Duration::from_secs(10),
            flash: Duration::from_secs(30 * 60),
            boot: Duration::from_secs(5 * 60),
            console: 16 << 20,
            attempts: 3,
        }
    }
}

/// A device, and how it is controlled.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// Unique among the devices of a store.
    pub name: String,
    pub pool: String,
    pub features: Vec<String>,
    /// Whether requests of untrusted sources may run here.
    pub untrusted: bool,
    pub control: Control,
    /// Which file of a request is written to the device, as a glob. `None`: nothing is written.
    pub image: Option<String>,
    /// An image that boots for certain. If the tested image does not boot, it tells a bad device from a bad image.
    pub known_good: Option<PathBuf>,
}

/// What controls a device.
#[derive(Clone, Debug, PartialEq)]
pub enum Control {
    Labgrid(Labgrid),
    Lava(Lava),
    Ssh(SshDevice),
    Qemu(QemuDevice),
}

/// A place of labgrid.
#[derive(Clone, Debug, PartialEq)]
pub struct Labgrid {
    /// `host:port` of the coordinator. It has no authentication, so it should listen on loopback only.
    pub coordinator: String,
    pub place: String,
    /// `labgrid-client`: a path, or a name in the directories of the system's programs.
    pub client: PathBuf,
    /// A labgrid environment file with drivers and a strategy, if the place needs one.
    pub environment: Option<PathBuf>,
    /// Writes the image: `write-image`, or a command of the lab with the image's path as its last argument.
    pub write: WriteImage,
    /// Host and port of ssh; `None`: those of the place's `NetworkService`.
    pub address: Option<(String, u16)>,
    pub ssh_key: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum WriteImage {
    /// `labgrid-client write-image`.
    WriteImage,
    /// A program of the lab and its arguments.
    Command(Vec<String>),
}

/// A LAVA server. It leases, flashes, boots and tests devices.
#[derive(Clone, Debug, PartialEq)]
pub struct Lava {
    /// The server, e.g. `https://lava.example.org`.
    pub url: String,
    /// A file with the token.
    pub token_file: PathBuf,
    /// A job definition with placeholders.
    pub job: PathBuf,
    /// Where the server downloads files of requests: an address that ends before the digest.
    pub files: String,
}

/// A device that is simply there. Nothing flashes it unless `write` says how.
#[derive(Clone, Debug, PartialEq)]
pub struct SshDevice {
    pub host: String,
    pub port: u16,
    pub ssh_key: Option<PathBuf>,
    /// A program of the lab that writes the image; its path is the last argument.
    pub write: Option<Vec<String>>,
    /// A program of the lab that restarts the device.
    pub restart: Option<Vec<String>>,
}

/// A guest of QEMU, started from the built image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QemuDevice {
    /// Memory in MiB; `None`: what the image says (`QB_MEM`).
    pub memory: Option<u32>,
}

/// An installation of AWS IoT Device Tester.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceTester {
    /// The suite that requests name, e.g. `GGV2Q`.
    pub suite: String,
    /// Where the zip is unpacked; `None`: it is downloaded.
    pub directory: Option<PathBuf>,
    /// Whether the lab's owner accepted AWS's licence of Device Tester. Nothing is downloaded or started without it.
    pub accept_license: bool,
    /// A named profile of the AWS configuration with a role of its own.
    pub profile: Option<String>,
    pub region: String,
    /// Groups that must be in the report.
    pub groups: Vec<String>,
    /// `device.json` features, name and value.
    pub features: Vec<(String, String)>,
    /// `userdata.json`, as a template of the lab.
    pub userdata: Option<PathBuf>,
    /// Without output for this long it is stopped.
    pub stall: Duration,
}
