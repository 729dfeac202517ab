//! AWS IoT Device Tester on a device.
//!
//! ```text
//! download      fetches it by AWS's signed API
//! installation  an unpacked zip: its user, its lock, its configuration, its reports
//! config        renders the configuration
//! summary       reads the console
//! reports       reads the reports
//! verdict       judges all of that
//! signing       which suites AWS signs
//! ```
//!
//! It runs as the owner of its installation, and its only credentials are those of the profile that the lab names for
//! it. AWS documents neither its exit status nor well-formed reports, so only agreement of all evidence is a pass.

mod config;
mod download;
mod installation;
mod reports;
mod signing;
mod summary;
mod verdict;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agent_artifacts::aws::signed::{Caller, CallerKeys, keys};
use agent_process::{Command, CommandOutcome, Environment, ExitReason, User, agent_user};
use agent_types::error::{Error, Result};
use agent_types::outcome::Outcome;
use agent_yocto::environment::host_environment;

use crate::lab::DeviceTester;
use crate::on_target::user::{test_user, user_directory};
use crate::request::RequestTrust;
use crate::test_run::{TestEnd, TestRun, ended_badly};
use config::Dut;
use installation::{Installation, PROGRAM, off_thread};
use summary::Summary;
use verdict::{Asked, Evidence};

/// AWS's licence, which the owner of the lab accepts.
const LICENSE: &str = "https://docs.aws.amazon.com/greengrass/v2/developerguide/idt-license.html";

/// Bytes of the lab's template of `userdata.json`.
const TEMPLATE_LIMIT: u64 = 1 << 20;

/// The name of the file that `--userdata` names. It must lie in `configs/`.
const USERDATA: &str = "build-agent-userdata.json";

/// Runs a suite.
///
/// # Errors
/// The lab host could not do its part.
pub async fn run(run: TestRun<'_>, suite: &str) -> Result<TestEnd> {
    let attempt = run.attempt;
    let Some(tester) = attempt.lab.testers.iter().find(|tester| tester.suite == suite) else {
        let why = format!("the lab {} has no Device Tester with the suite {suite}", attempt.lab.name);
        return Ok(TestEnd::of(Outcome::NotRun(why)));
    };
    if attempt.request.trust == RequestTrust::Untrusted {
        let why = "Device Tester gives the device AWS credentials, so it does not run for untrusted sources";
        return Ok(TestEnd::of(Outcome::NotRun(why.into())));
    }
    if !tester.accept_license {
        return Err(Error::usage("the licence of AWS IoT Device Tester is not accepted").hint(format!(
            "read {LICENSE}, then set `accept_license = true` for the suite {suite} in lab.toml"
        )));
    }
    let installation = Arc::new(install(&run, tester).await?);
    let name = installation.suite(suite)?;
    let place = attempt.work.join(format!("idt-{suite}"));
    user_directory(&place, installation.user.as_ref())?;
    let keys = match &tester.profile {
        Some(profile) => Some(keys(Caller::Profile(profile)).await?),
        None => None,
    };
    warn_of_expiry(&run, keys.as_ref(), tester).await;
    let has_userdata = configure(&run, tester, &installation, &place, keys.is_some()).await?;
    let before = off_thread(&installation, Installation::executions).await?;
    let mut command = command(&run, tester, &installation, &name, has_userdata)?;
    command.environment = environment(installation.user.as_ref(), &place, keys.as_ref(), tester)?;
    let mut console = Summary::default();
    attempt.fence.check()?;
    let finished = attempt.runner.run(command, &mut console).await?;
    judged(&run, tester, &installation, &name, before, console, finished).await
}

/// Opens the installation, after a download if the lab names none.
async fn install(run: &TestRun<'_>, tester: &DeviceTester) -> Result<Installation> {
    if std::env::consts::ARCH != "x86_64" {
        return Err(Error::machine("AWS IoT Device Tester for Linux runs on x86-64 only")
            .hint("run the lab with Device Tester on such a machine"));
    }
    let attempt = run.attempt;
    let directory = match &tester.directory {
        Some(directory) => directory.clone(),
        None => {
            let directory = attempt.lab.state.join("device-tester").join(&tester.suite);
            if !directory.exists() {
                let user = test_user(&attempt)?;
                download::install(tester, &directory, user.as_ref(), attempt.runner).await?;
            }
            directory
        }
    };
    Installation::open(&directory, attempt.runner).await
}

/// A run that is longer than its credentials are valid fails in the middle.
async fn warn_of_expiry(run: &TestRun<'_>, keys: Option<&CallerKeys>, tester: &DeviceTester) {
    let expires = keys.and_then(|keys| keys.expires).and_then(|at| at.duration_since(SystemTime::now()).ok());
    let Some(left) = expires.filter(|left| *left < run.attempt.request.run_limit()) else { return };
    let minutes = Duration::from_secs(left.as_secs() / 60 * 60);
    let message = format!(
        "the credentials of Device Tester end in {}, before the request's limit for its run",
        humantime::format_duration(minutes)
    );
    let profile = tester.profile.as_deref().unwrap_or_default();
    let hint = format!(
        "set `duration_seconds` in the AWS profile {profile}, and the role's maximum session duration"
    );
    run.attempt.runner.events.warn(message, Some(hint)).await;
}

/// Writes the configuration; whether there is a `userdata.json`.
async fn configure(
    run: &TestRun<'_>,
    tester: &DeviceTester,
    installation: &Arc<Installation>,
    place: &Path,
    has_credentials: bool,
) -> Result<bool> {
    let request = run.attempt.request;
    let key = match &run.address.key {
        Some(key) => Some(lend_key(key, place, installation.user.as_ref())?),
        None => None,
    };
    let dut = Dut {
        name: &run.attempt.device.name,
        ip: ip_of(&run.address.host, run.address.port).await?,
        port: run.address.port,
        key: key.as_deref(),
    };
    let device = config::device(tester, request, &dut);
    let nucleus = installation.root.join("products/aws.greengrass.nucleus.zip");
    let userdata = match &tester.userdata {
        Some(path) => {
            let text = agent_fs::untrusted::read_text(path, TEMPLATE_LIMIT)?;
            let invalid = |why| Error::usage(format!("{}: {why}", path.display()));
            Some(config::userdata(&text, request, dut.name).map_err(invalid)?)
        }
        None if tester.suite.starts_with("GGV2Q") && nucleus.is_file() => {
            Some(config::greengrass_userdata(&nucleus))
        }
        None => None,
    };
    let has_userdata = userdata.is_some();
    let region = tester.region.clone();
    off_thread(installation, move |installation| {
        let own = installation.read_config("config.json")?;
        let text = config::config(own.as_deref(), &region, has_credentials).map_err(|why| {
            Error::machine(format!("{}: {why}", installation.root.display()))
                .hint("restore the file from the zip of Device Tester")
        })?;
        installation.write_config("config.json", &text)?;
        installation.write_config("device.json", &device)?;
        if let Some(userdata) = userdata {
            installation.write_config(USERDATA, &userdata)?;
        }
        Ok(has_userdata)
    })
    .await
}

/// A copy of the device's key that Device Tester can read. It goes with the attempt's directory.
fn lend_key(key: &Path, place: &Path, user: Option<&User>) -> Result<PathBuf> {
    let bytes = agent_fs::untrusted::read(key, 64 << 10)?;
    let copy = place.join("key");
    installation::write_new(&copy, &bytes)?;
    if let Some(user) = user {
        fs_err::os::unix::fs::chown(&copy, Some(user.uid), Some(user.gid))?;
    }
    Ok(copy)
}

/// Device Tester needs an address, not a name.
async fn ip_of(host: &str, port: u16) -> Result<IpAddr> {
    let failed = |error: &std::io::Error| {
        Error::upstream(format!("cannot find the device under test, `{host}`")).because(error)
    };
    let found: Vec<_> =
        tokio::net::lookup_host((host, port)).await.map_err(|error| failed(&error))?.collect();
    let address = found.iter().find(|address| address.is_ipv4()).or(found.first());
    address.map(std::net::SocketAddr::ip).ok_or_else(|| failed(&std::io::Error::other("it has no address")))
}

fn command(
    run: &TestRun<'_>,
    tester: &DeviceTester,
    installation: &Installation,
    suite: &str,
    has_userdata: bool,
) -> Result<Command> {
    let device = &run.attempt.device.name;
    let log = format!("idt-{}", tester.suite);
    let mut command = Command::new(installation.root.join(PROGRAM), installation.root.join("bin"), log)
        .args(["run-suite", "--suite-id", suite, "--pool-id", device])
        .status(format!("Device Tester {suite} on {device}"));
    if !tester.groups.is_empty() {
        command = command.args(["--group-id", &tester.groups.join(",")]);
    }
    if has_userdata {
        command = command.args(["--userdata", USERDATA]);
    }
    // Without it, Device Tester asks on its console.
    command = command.args(["--update-idt", "n"]);
    command.user.clone_from(&installation.user);
    command.stall = Some(tester.stall);
    // Reads as empty, and keeps the lock for as long as Device Tester lives.
    command.stdin = Some(installation.lock()?);
    Ok(command)
}

/// Nothing of the lab's own environment.
fn environment(
    user: Option<&User>,
    place: &Path,
    keys: Option<&CallerKeys>,
    tester: &DeviceTester,
) -> Result<Environment> {
    let owner = match user {
        Some(user) => user.clone(),
        None => agent_user()?,
    };
    let mut environment = host_environment(&owner, &[]);
    // No credentials file lies there.
    environment.set("HOME", place).set("AWS_REGION", &tester.region);
    if let Some(keys) = keys {
        environment
            .set("AWS_ACCESS_KEY_ID", &keys.access_key_id)
            .set("AWS_SECRET_ACCESS_KEY", &keys.secret_access_key);
        if let Some(token) = &keys.session_token {
            environment.set("AWS_SESSION_TOKEN", token);
        }
    }
    Ok(environment)
}

/// Reads the reports, and judges the run.
async fn judged(
    run: &TestRun<'_>,
    tester: &DeviceTester,
    installation: &Arc<Installation>,
    suite: &str,
    before: BTreeSet<String>,
    console: Summary,
    finished: CommandOutcome,
) -> Result<TestEnd> {
    let execution = console.execution.clone();
    let reports =
        off_thread(installation, move |installation| installation.reports(&before, execution.as_deref()))
            .await;
    // Its exit status is documented nowhere.
    let bad_end = match finished.end {
        ExitReason::Exited(_) => None,
        _ => Some(ended_badly(&run.attempt, "Device Tester", &finished)),
    };
    let asked = Asked { suite, groups: &tester.groups };
    let judgement = verdict::judge(&asked, &Evidence { console, reports, bad_end }, run.unit);
    let outcome = judgement.outcome;
    if outcome == Outcome::Passed && finished.end != ExitReason::Exited(0) {
        let message = format!("Device Tester passed with {}", finished.end);
        run.attempt.runner.events.info(message).await;
    }
    let excerpt = if outcome.is_success() { Vec::new() } else { finished.tail.clone() };
    let log = Some(run.attempt.runner.relative_log(&finished.log));
    Ok(TestEnd { outcome, tests: judgement.tests, findings: judgement.findings, log, excerpt })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "run_tests.rs"]
mod tests;
