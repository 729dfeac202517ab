//! Test: images and ptests on a running system, for each machine.
//!
//! What an image or a recipe needs to be tested is not what a product may have (root without a password), so tests in
//! QEMU have a build directory of their own; packages come from shared state. A system that answers ssh runs an
//! image of the job's build, which is tested without changes.

mod context;
mod export;
mod image;
mod machine;
mod ptests;
mod testable;
mod tool;

use std::path::PathBuf;
use std::time::Duration;

use agent_devices::on_target::oe_test::own_address;
use agent_process::{Runner, cgroup};
use agent_types::affected::{Affected, Evidence};
use agent_types::error::{Error, Result};
use agent_types::events::Unit;
use agent_types::outcome::Outcome;
use agent_types::stage::Stage;
use agent_yocto::testimage::cases;
use agent_yocto::testimage::conf::{self, SshTarget, Target, TestConf, guest_memory};
use agent_yocto::testimage::layer::TestLayer;

use super::blocking;
use super::configure::BuildEnvironment;
use super::kvm;
use super::pending::{Pending, report_without_run};
use crate::config::{Ptest, Settings, TestRunner, TestTarget};
use context::MachineTests;

pub use export::{Exported, export};

/// The tests of the manifest: one unit for each image and machine, and one for the ptests of each machine.
pub fn units(settings: &Settings) -> Vec<Unit> {
    let machines = settings.config.machines.iter();
    machines.flat_map(|machine| machine_units(settings, machine)).collect()
}

fn machine_units(settings: &Settings, machine: &str) -> Vec<Unit> {
    let images = settings.test.images.iter().map(|image| image_unit(image, machine));
    let ptests = has_ptest_images(settings).then(|| ptests_unit(machine));
    images.chain(ptests).collect()
}

/// Whether the agent makes images for ptests. On a system that answers ssh the ptests of its own image run.
fn has_ptest_images(settings: &Settings) -> bool {
    settings.test.ptest != Ptest::Off && settings.test.target == TestTarget::Qemu
}

/// The image whose ptests run with its other tests.
fn ptest_image(settings: &Settings) -> Option<&str> {
    let asked = settings.test.ptest != Ptest::Off && settings.test.target != TestTarget::Qemu;
    settings.test.images.first().filter(|_| asked).map(String::as_str)
}

fn image_unit(image: &str, machine: &str) -> Unit {
    Unit::new(Stage::Test, format!("{image} ({machine})"))
}

/// The name of the ptests' unit instead of an image.
const PTESTS: &str = "ptests";

fn ptests_unit(machine: &str) -> Unit {
    image_unit(PTESTS, machine)
}

/// Runs all tests of the manifest; the worst outcome decides. `affected`: what the change affects, if it is known.
pub async fn run(
    settings: &Settings,
    configured: &BuildEnvironment,
    affected: Option<&Affected>,
    runner: &Runner,
) -> Result<Outcome> {
    let mut pending = Pending::new(units(settings), &runner.events);
    let outcome = run_pending(settings, configured, affected, runner, &mut pending).await;
    pending.not_run_after(outcome.as_ref()).await;
    outcome
}

async fn run_pending(
    settings: &Settings,
    configured: &BuildEnvironment,
    affected: Option<&Affected>,
    runner: &Runner,
    pending: &mut Pending<'_>,
) -> Result<Outcome> {
    let mut setup = None;
    let mut outcomes: Vec<(Unit, Outcome)> = Vec::new();
    for machine in &settings.config.machines {
        if let Some(why) = runner.interrupt.state() {
            return Ok(super::interrupted(why));
        }
        let recipes = recipes(settings, affected, machine)?;
        let images = images(settings, affected, &recipes);
        let unaffected = settings.test.images.iter().filter(|image| !images.contains(image));
        let mut skipped: Vec<(Unit, String)> =
            unaffected.map(|image| (image_unit(image, machine), UNAFFECTED.to_owned())).collect();
        let nothing = recipes.is_empty() && images.is_empty();
        if nothing && has_ptest_images(settings) {
            skipped.push((ptests_unit(machine), nothing_to_test(affected)));
        }
        for (unit, why) in skipped {
            pending.start(&unit);
            let outcome = Outcome::Skipped(why);
            report_without_run(unit.clone(), outcome.clone(), &runner.events).await;
            outcomes.push((unit, outcome));
        }
        if nothing {
            continue;
        }
        let setup = match &mut setup {
            Some(setup) => &*setup,
            none => &*none.insert(Setup::make(settings, configured, runner).await?),
        };
        let tests = MachineTests { settings, configured, runner, setup, machine };
        let (done, stopped) = tests.run(&images, &recipes, pending).await?;
        outcomes.extend(done);
        let failed = outcomes.iter().any(|(_, outcome)| !outcome.is_success());
        if stopped || failed && !settings.check.keep_going {
            break;
        }
    }
    let all = outcomes.iter().map(|(_, outcome)| outcome);
    let worst = Outcome::worst(all).cloned();
    let worst = worst.ok_or_else(|| Error::internal("the test stage ran and tested nothing"))?;
    Ok(never_tested(settings, &outcomes).filter(|_| worst.is_success()).unwrap_or(worst))
}

/// Why an image is not tested.
const UNAFFECTED: &str = "the change does not affect this image";

/// The images to test: if only what the change affects is built, those that it affects. `recipes`: those whose ptests run.
fn images(settings: &Settings, affected: Option<&Affected>, recipes: &[String]) -> Vec<String> {
    let affected = affected.filter(|_| settings.build.changed);
    let runs_ptests = |image: &str| !recipes.is_empty() && ptest_image(settings) == Some(image);
    let is_affected = |image: &&String| {
        affected.is_none_or(|affected| affected.targets.contains(image) || runs_ptests(image))
    };
    settings.test.images.iter().filter(is_affected).cloned().collect()
}

/// Why there is no recipe whose ptests could run. If there is a reason, BitBake is not queried.
fn nothing_to_test(affected: Option<&Affected>) -> String {
    match affected {
        Some(affected) if affected.evidence == Evidence::Signatures && affected.tasks == 0 => {
            "the change affects 0 tasks".into()
        }
        _ => "the change affects no recipe of the layers for this machine".into(),
    }
}

/// The failure, if no machine tested an image or the recipes that the manifest names.
fn never_tested(settings: &Settings, outcomes: &[(Unit, Outcome)]) -> Option<Outcome> {
    let are_named = has_ptest_images(settings) && matches!(settings.test.ptest, Ptest::Recipes(_));
    let ptests = are_named.then_some(PTESTS).into_iter();
    settings.test.images.iter().map(String::as_str).chain(ptests).find_map(|name| {
        let mut why = None;
        for machine in &settings.config.machines {
            let unit = image_unit(name, machine);
            match outcomes.iter().find(|(known, _)| *known == unit) {
                Some((_, Outcome::Skipped(reason))) if reason == UNAFFECTED => return None,
                Some((_, Outcome::Skipped(reason))) => why = why.or(Some(reason.as_str())),
                Some(_) => return None,
                None => {}
            }
        }
        let why = why.unwrap_or("it was skipped");
        Some(Outcome::Failed(format!("no machine tested {name}: {why}")))
    })
}

/// The recipes whose ptests run on this machine, if they have some.
fn recipes(settings: &Settings, affected: Option<&Affected>, machine: &str) -> Result<Vec<String>> {
    match &settings.test.ptest {
        Ptest::Off => Ok(Vec::new()),
        Ptest::Recipes(recipes) => Ok(recipes.clone()),
        Ptest::Changed => {
            let affected = affected.ok_or_else(|| {
                Error::internal("[test] ptest = \"changed\" needs to know what the change affects")
                    .hint("name the recipes in [test] ptest instead")
            })?;
            Ok(changed_recipes(affected, machine))
        }
    }
}

/// Recipes of the layers under test that the change affects on this machine. What runs on the build machine has no ptests.
fn changed_recipes(affected: &Affected, machine: &str) -> Vec<String> {
    // A multiconfig's recipe is tested with its plain name: the tests have one configuration.
    let changed = affected.recipes.iter().filter(|recipe| recipe.is_for(machine));
    let names = changed.map(|recipe| recipe.name.rsplit(':').next().unwrap_or_default());
    let on_host =
        |name: &str| name.ends_with("-native") || name.starts_with("nativesdk-") || name.contains("-cross-");
    let mut names: Vec<String> = names.filter(|name| !on_host(name)).map(str::to_owned).collect();
    names.sort();
    names.dedup();
    names
}

/// Common to all machines: the build directory of the tests, and the layer that the agent writes.
struct Setup {
    /// The build directory of the tests.
    dir: PathBuf,
    target: Target,
    layer: TestLayer,
    /// The suites that run, by OE-Core's names.
    suites: Vec<String>,
    /// Of a guest, in MiB.
    guest_memory: u64,
}

/// What a build directory of tests is for.
struct SetupInput<'a> {
    target: Target,
    images: &'a [String],
    suites: &'a [String],
    /// The image that runs the agent's suite for ptests besides its own.
    ptest_image: Option<&'a str>,
    /// For the tests of one image.
    timeout: Duration,
    exports: bool,
}

impl Setup {
    async fn make(settings: &Settings, configured: &BuildEnvironment, runner: &Runner) -> Result<Setup> {
        let what = SetupInput {
            target: target(settings, configured, runner).await?,
            images: &settings.test.images,
            suites: &settings.test.suites,
            ptest_image: ptest_image(settings),
            timeout: settings.test.timeout,
            exports: settings.test.runner == TestRunner::OeTest,
        };
        Setup::of(what, settings, configured, runner).await
    }

    async fn of(
        what: SetupInput<'_>,
        settings: &Settings,
        configured: &BuildEnvironment,
        runner: &Runner,
    ) -> Result<Setup> {
        let SetupInput { target, images, suites, ptest_image, timeout, exports } = what;
        let guest_memory = guest_memory(cgroup::free_memory(std::path::Path::new("/")));
        let mut suites = cases::effective(suites);
        if ptest_image.is_some() && !suites.is_empty() && !suites.iter().any(|suite| suite == cases::SUITE) {
            suites.push(cases::SUITE.to_owned());
        }
        let (path, work, release) =
            (settings.paths.test_layer(), settings.paths.work.clone(), settings.release);
        let write = move || {
            agent_fs::remove::remove_tree(&path, &work)?;
            Ok(TestLayer::write(&path, release)?)
        };
        let layer = blocking(&runner.interrupt, "the layer of the tests was written", write).await?;
        let lines = conf::lines(&TestConf {
            release: settings.release,
            target: &target,
            images,
            suites: &suites,
            ptest_image,
            ssh_server: settings.test.ssh_server,
            timeout,
            guest_memory,
            exports,
            built_in: &configured.build,
        })?;
        let layers: Vec<_> = configured.layers.iter().cloned().chain([layer.path().to_owned()]).collect();
        let dir = settings.paths.test();
        configured.empty_directory_with(settings, &dir, &layers, &lines, runner).await?;
        Ok(Setup { dir, target, layer, suites, guest_memory })
    }
}

/// Where the tests run, for BitBake's configuration.
async fn target(settings: &Settings, configured: &BuildEnvironment, runner: &Runner) -> Result<Target> {
    match &settings.test.target {
        TestTarget::Qemu => {
            let works = kvm::probe(settings, configured, runner).await;
            if let Err(why) = &works {
                let message = format!("guests run without KVM, which is slow: {why}");
                runner.events.info(message).await;
            }
            Ok(Target::Qemu { kvm: works.is_ok() })
        }
        TestTarget::Ssh { host, port } => {
            let (name, number) = (host.clone(), *port);
            let look = move || own_address(&name, number, "[test] target");
            let server = blocking(&runner.interrupt, "the system under test was found", look).await?;
            Ok(Target::Ssh(SshTarget { host: host.clone(), port: *port, server }))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use agent_types::affected::{AffectedRecipe, Change};

    #[test]
    fn recipes_for_the_build_machine_have_no_ptests() {
        let recipe = |name: &str| AffectedRecipe {
            name: name.into(),
            file: None,
            layer: "x".into(),
            change: Change::Changed,
            tasks: Vec::new(),
            machines: Vec::new(),
        };
        let names =
            ["zlib", "zlib-native", "nativesdk-zlib", "mc:board:curl", "gcc-cross-arm", "curl", "native-x"];
        let mut affected = Affected { recipes: names.map(recipe).into(), ..Affected::default() };
        affected.recipes[0].machines = vec!["qemuarm64".into()];
        assert_eq!(changed_recipes(&affected, "qemuarm64"), ["curl", "native-x", "zlib"]);
        assert_eq!(changed_recipes(&affected, "qemux86-64"), ["curl", "native-x"]);
    }
}
