//! OE-Core's runtime tests and ptests on a device: the job exported them (`testexport`), and `oe-test` runs them here.
//!
//! Exported tests are layer code. They run as the build user, with an environment of their own, and reach nothing of
//! the lab but the device.

mod export;
mod key;
mod server;
pub mod tool;

pub use server::own_address;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_process::{Command, CommandOutcome, ExitReason, User, agent_user, blocking};
use agent_types::error::{Error, Result};
use agent_types::outcome::Outcome;
use agent_yocto::environment::host_environment;
use agent_yocto::testimage::cases::{OE_SUITE, Plan, SUITE, effective};
use agent_yocto::testimage::conf::{LOGS, RESULTS, SshTarget};
use agent_yocto::testimage::files::BuildFiles;
use agent_yocto::testimage::query::{ptest_packages, sections_of_name};
use agent_yocto::testimage::reruns::apply_known;
use agent_yocto::testimage::verdict::{Evidence, Expected, judge};

use crate::on_target::user::{test_user, user_directory};
use crate::request::{DeviceTest, FileRole};
use crate::test_run::{TestEnd, TestRun, ended_badly};
use export::Export;
use key::KeyAgent;
use tool::OeTest;

/// A ptest that prints nothing for this long is stopped.
const SILENCE: Duration = Duration::from_secs(10 * 60);

/// Runs OE-Core's runtime tests, or the ptests.
///
/// # Errors
/// The lab host could not do its part.
pub async fn run(run: TestRun<'_>, test: &DeviceTest) -> Result<TestEnd> {
    let attempt = run.attempt;
    let user = test_user(&attempt)?;
    let place = attempt.work.join(format!("oe-test-{test}"));
    user_directory(&place, user.as_ref())?;
    let export = match unpacked(&run, &place, user.as_ref()).await? {
        Ok(export) => export,
        Err(why) => return Ok(TestEnd::failed(why)),
    };
    let Selection { modules, expected, ptests } = match select(&export, test, &run) {
        Ok(selection) => selection,
        Err(why) => return Ok(TestEnd::failed(why)),
    };
    let logs = place.join(LOGS);
    // Not in the user's directory: what the tests write there decides nothing.
    let plan = attempt.work.join(format!("ptest-plan-{test}.json"));
    let text = Plan { ptests, silence: SILENCE.as_secs(), logs: logs.display().to_string() };
    let text = serde_json::to_string_pretty(&text)
        .map_err(|error| Error::internal("cannot write the plan of the ptests").because(&error))?;
    fs_err::write(&plan, text)?;
    let owner = match &user {
        Some(user) => user.clone(),
        None => agent_user()?,
    };
    let mut command = Command::new("oe-test", &export.directory, format!("oe-test-{test}"));
    command.environment = host_environment(&owner, &[]);
    command.environment.set("HOME", &place).set("PYTHONDONTWRITEBYTECODE", "1");
    command.status = Some(format!("oe-test {test} on {}", attempt.device.name));
    command.timeout = Some(attempt.request.run_limit());
    command.stall = Some(tool::stall_limit(attempt.runner.stall, SILENCE));
    let key = match &run.address.key {
        Some(key) => Some(KeyAgent::start(key, &place, user.as_ref(), attempt.runner).await?),
        None => None,
    };
    if let Some(key) = &key {
        command.environment.set("SSH_AUTH_SOCK", &key.socket);
    }
    command.user = user;
    let ended = run_tool(&run, &place, &export, modules, plan, command).await;
    if let Some(key) = key {
        key.stop().await;
    }
    let finished = ended?;
    let tool = match finished.end {
        ExitReason::Exited(0) => Outcome::Passed,
        _ => ended_badly(&attempt, "oe-test", &finished),
    };
    let files = BuildFiles::new(&place);
    let runs = blocking(move || files.runs(Path::new(RESULTS))).await;
    let evidence = Evidence { tool: Ok(tool), runs, only_tests_failed: tool::only_tests_failed(&finished) };
    let mut judgement = judge(&expected, &evidence);
    // There are no known failures here, but suites that were skipped are found.
    let findings = apply_known(&mut judgement, &[], &expected, run.unit);
    // Results that contradict each other are layer code's, not the lab's fault: another attempt would not change them.
    let outcome = judgement.outcome.unwrap_or_else(|contradiction| Outcome::Failed(contradiction.message));
    let excerpt = if outcome.is_success() { Vec::new() } else { finished.tail.clone() };
    let log = Some(attempt.runner.relative_log(&finished.log));
    Ok(TestEnd { outcome, tests: judgement.tests, findings, log, excerpt })
}

async fn run_tool(
    run: &TestRun<'_>,
    place: &Path,
    export: &Export,
    modules: Vec<String>,
    plan: PathBuf,
    command: Command,
) -> Result<CommandOutcome> {
    let (host, port) = (run.address.host.clone(), run.address.port);
    let server = blocking(move || own_address(&host, port, "the device's address in lab.toml")).await?;
    let target = SshTarget { host: run.address.host.clone(), port: run.address.port, server };
    let logs = place.join(LOGS);
    run.attempt.fence.check()?;
    let oe_test = OeTest {
        export: &export.directory,
        modules,
        target: &target,
        results: place.join(RESULTS),
        output_log: place.join("oe-test.log"),
        plan,
        logs: &logs,
        files: BuildFiles::new(place),
        command,
    };
    oe_test.run(run.attempt.runner).await
}

/// Unpacks the request's exported tests; the inner error is about the request.
async fn unpacked(
    run: &TestRun<'_>,
    place: &Path,
    user: Option<&User>,
) -> Result<std::result::Result<Export, String>> {
    let files = &run.attempt.request.files;
    let exports: Vec<_> = files.iter().filter(|file| file.role == FileRole::TestExport).collect();
    let name = match exports.as_slice() {
        [only] => only.name.clone(),
        [] => return Ok(Err("the request has no exported tests".into())),
        more => return Ok(Err(format!("the request has {} archives of exported tests", more.len()))),
    };
    let (archive, into, user) = (run.attempt.files.join(&name), place.join("export"), user.cloned());
    let work = move || {
        user_directory(&into, user.as_ref())?;
        let unpacked = export::unpack(&archive, &into, user.as_ref());
        Ok(unpacked.and_then(|()| export::inspect(&into)).map_err(|why| format!("{name}: {why}")))
    };
    blocking(work).await
}

/// What runs, and what must be in the results.
struct Selection {
    modules: Vec<String>,
    expected: Expected,
    /// The ptests by name; `None`: all that the image has.
    ptests: Option<Vec<String>>,
}

/// Selects the modules of the export.
fn select(export: &Export, test: &DeviceTest, run: &TestRun<'_>) -> Result<Selection, String> {
    let request = run.attempt.request;
    if export.machine != request.machine {
        return Err(format!(
            "the tests were exported for the machine {}, and the image is for {}",
            export.machine, request.machine
        ));
    }
    let has = |suite: &str| export.modules.iter().any(|module| module == suite);
    let mut expected =
        Expected { image: export.image.clone(), machine: export.machine.clone(), ..Expected::default() };
    if *test == DeviceTest::Runtime {
        let runs_ptests = |suite: &str| [SUITE, OE_SUITE].contains(&suite);
        // The ptests are a test of their own. All others run, because tests depend on each other.
        let modules: Vec<String> = export.modules.iter().filter(|name| !runs_ptests(name)).cloned().collect();
        if modules.is_empty() {
            return Err("the job exported no runtime tests but those for ptests".into());
        }
        expected.suites = effective(&request.suites);
        expected.suites.retain(|suite| !runs_ptests(suite));
        return Ok(Selection { modules, expected, ptests: Some(Vec::new()) });
    }
    let of = |package: &String| -> BTreeSet<String> { sections_of_name(package).into_iter().collect() };
    let packages = ptest_packages(&export.manifest);
    expected.ptests =
        packages.into_iter().map(|package| (package.clone(), of(&package))).collect::<BTreeMap<_, _>>();
    if expected.ptests.is_empty() {
        return Err(format!("{} has no package with ptests", export.image));
    }
    let modules: Vec<String> = match (has(SUITE), has(OE_SUITE)) {
        (true, _) => vec![SUITE.to_owned()],
        // It depends on the test of ssh.
        (false, true) => ["ssh", OE_SUITE].into_iter().filter(|name| has(name)).map(str::to_owned).collect(),
        (false, false) => return Err("the job exported no suite that runs ptests".into()),
    };
    expected.suites = modules.iter().filter(|name| *name != "ssh").cloned().collect();
    Ok(Selection { modules, expected, ptests: None })
}
