//! Runs BitBake for the check in a temporary build directory: it lists the recipes, and writes their reports.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::stages::blocking;
use crate::stages::cleanup::ServerEnd;
use crate::stages::layers::{known_layers, name};
use agent_fs::read;
use agent_process::{Command, CommandOutcome, ExitReason, LineHandler, UntilStopped};
use agent_types::error::{Error, Result};
use agent_types::events::EventKind;
use agent_types::outcome::Outcome;
use agent_yocto::bitbake::Build;
use agent_yocto::check_layer::crash;
use agent_yocto::conf::Purpose;
use agent_yocto::cve::{self, Method, Places, RecipeList, Report};
use agent_yocto::host;

use super::super::ended_badly;
use super::{Checked, CveCheck, Reports, SideReports, SideResult, unexplained};

/// A longer report of one recipe is an attack: the kernel's has some megabytes.
const LONGEST_REPORT: u64 = 64 << 20;

/// The head or the base of the change.
#[derive(Debug)]
pub struct Side {
    /// For logs.
    pub name: &'static str,
    /// The layers under test on this side.
    pub layers: Vec<PathBuf>,
    /// Contains the build directory and the reports.
    pub directory: PathBuf,
    pub database: PathBuf,
}

impl Side {
    fn build(&self) -> PathBuf {
        self.directory.join("build")
    }

    pub fn reports(&self) -> PathBuf {
        self.directory.join("reports")
    }
}

impl CveCheck<'_> {
    /// Makes the build directory, and lists the recipes that BitBake builds.
    pub async fn list(
        &self,
        side: &Side,
        method: Method,
        server: &mut ServerEnd,
    ) -> Result<std::result::Result<RecipeList, Checked>> {
        self.make_directories(side, method).await?;
        let program = self.configured.tools.bitbake.join("bin/bitbake-layers");
        let mut command = Command::new(program, side.build(), format!("cve-{}-recipes", side.name));
        command = command.args(["show-recipes"]).status(format!("lists the recipes of the {}", side.name));
        self.prepare(&mut command, side);
        let list = Listing(RecipeList::of(side.layers.iter().map(|layer| name(layer))));
        let mut output = UntilStopped::new(list, &command.stopping);
        let ended = self.runner.run(command, &mut output).await;
        *server = ServerEnd::stop(&side.build(), self.configured.user.as_ref(), self.runner).await;
        let finished = ended?;
        let list = output.lines.0;
        match finished.end {
            ExitReason::Exited(0) if list.begun => Ok(Ok(list)),
            ExitReason::Exited(0) => Err(Error::internal("bitbake-layers show-recipes printed no list")
                .hint(format!("read `{}`", finished.log.display()))),
            _ => self.bad_end("bitbake-layers", None, &finished).map(Err),
        }
    }

    /// Lets BitBake write the reports of these recipes.
    pub async fn build(
        &self,
        side: &Side,
        method: Method,
        wanted: &BTreeSet<String>,
        server: &mut ServerEnd,
    ) -> Result<SideResult> {
        let program = self.configured.tools.bitbake.join("bin/bitbake");
        let mut command = Command::new(program, side.build(), format!("cve-{}", side.name));
        command = command.args(["-k", "-c", method.task()]).args(wanted);
        command = command.status(format!("BitBake checks the recipes of the {} for CVEs", side.name));
        self.prepare(&mut command, side);
        let mut output = UntilStopped::new(Build::new(self.unit.clone()), &command.stopping);
        let ended = self.runner.run(command, &mut output).await;
        *server = ServerEnd::stop(&side.build(), self.configured.user.as_ref(), self.runner).await;
        let finished = ended?;
        let build = output.lines;
        let (failures, failed) = build.failed_tasks(finished.success());
        match finished.end {
            ExitReason::Exited(0) => {}
            ExitReason::Exited(_) if failed > 0 => {}
            _ => {
                return self.bad_end("bitbake", build.errors.first().map(String::as_str), &finished).map(Err);
            }
        }
        let broken: BTreeSet<String> =
            failures.iter().filter_map(|failure| recipe_of(&failure.recipe, wanted)).collect();
        if finished.end != ExitReason::Exited(0) && broken.is_empty() {
            return Err(unexplained(build.errors.first().map(String::as_str), &finished.end.to_string()));
        }
        let (directory, names) = (side.reports(), wanted.clone());
        let read = move || read_reports(&directory, &names);
        let reports = blocking(&self.runner.interrupt, "the reports were read", read).await?;
        let log = Some(self.runner.relative_log(&finished.log));
        Ok(Ok(SideReports { reports, broken, log }))
    }

    /// The build directory with the configuration of the check, the class, and a directory for reports.
    async fn make_directories(&self, side: &Side, method: Method) -> Result<()> {
        let (settings, configured, runner) = (self.settings, self.configured, self.runner);
        configured.scratch_directory(settings, &side.directory, None, runner).await?;
        configured.scratch_directory(settings, &side.reports(), configured.user.as_ref(), runner).await?;
        let siblings = side.layers.iter().filter(|layer| !configured.repo_layers.contains(layer));
        let layers: Vec<PathBuf> = configured.repo_layers.iter().chain(siblings).cloned().collect();
        let purpose = Purpose::CheckLayer;
        configured.empty_directory(settings, &side.build(), &layers, purpose, runner).await?;
        let reports = side.reports();
        // Only the agent writes there.
        let classes = settings.paths.work.join("cve-class");
        let places = Places { classes: &classes, reports: &reports, database: &side.database };
        let (conf, auto) = (method.conf(&places), side.build().join("conf/auto.conf"));
        let write = move || write_files(&classes, &auto, &conf);
        blocking(&runner.interrupt, "the CVE check was configured", write).await
    }

    fn prepare(&self, command: &mut Command, side: &Side) {
        command.environment = self.configured.environment(&side.build());
        // The layer under test may provide them, so that the configuration of a layer check has others.
        if let Some(machine) = self.settings.config.machines.first() {
            command.environment.set("MACHINE", machine);
        }
        command.environment.set("DISTRO", &self.settings.config.distro);
        command.user = self.configured.user.clone();
    }

    /// The verdict on a command of BitBake that failed.
    fn bad_end(&self, tool: &str, error: Option<&str>, finished: &CommandOutcome) -> Result<Checked> {
        let checked = |outcome| Checked {
            outcome,
            log: Some(self.runner.relative_log(&finished.log)),
            excerpt: finished.tail.clone(),
        };
        let ExitReason::Exited(_) = finished.end else { return Ok(checked(ended_badly(tool, finished))) };
        let tail = finished.tail.join("\n");
        if let Some(trouble) = host::trouble(&tail) {
            return Err(trouble);
        }
        let checkout = &self.settings.checkout;
        match known_layers(self.settings, self.configured).fault_of_any_file(&tail) {
            Some(fault) if fault.is_under_test => {
                Ok(checked(Outcome::Failed(format!("{}: {}", fault.place(checkout), fault.why))))
            }
            Some(fault) => Err(crash::dependency_error(&fault, checkout)),
            None => {
                let said = error.map(|error| error.trim_start_matches("ERROR: ").to_owned());
                let why = said.unwrap_or_else(|| format!("{tool} ended with {}", finished.end));
                Ok(checked(Outcome::NotRun(why)))
            }
        }
    }
}

fn write_files(classes: &Path, auto: &Path, conf: &str) -> Result<()> {
    let (name, text) = cve::class_file();
    let class = classes.join(name);
    if let Some(directory) = class.parent() {
        fs_err::create_dir_all(directory)?;
    }
    fs_err::write(&class, text)?;
    // The directory belongs to the build user: through no link.
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(auto)?;
    file.write_all(conf.as_bytes())?;
    Ok(())
}

/// The recipe of `zlib-1.3.1-r0` or `zlib_1.3.1`.
fn recipe_of(name: &str, wanted: &BTreeSet<String>) -> Option<String> {
    let is_it = |recipe: &&String| {
        name.strip_prefix(recipe.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '_']))
    };
    wanted.iter().filter(is_it).max_by_key(|recipe| recipe.len()).cloned()
}

/// Reads each report separately; a recipe may have none.
fn read_reports(directory: &Path, wanted: &BTreeSet<String>) -> Result<Reports> {
    let mut reports = Reports::new();
    for recipe in wanted {
        let path = directory.join(cve::report_name(recipe));
        let bytes = match read::whole(&path, LONGEST_REPORT) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(damaged(&path, &error.to_string())),
        };
        let found = Report::parse(&String::from_utf8_lossy(&bytes)).map_err(|why| damaged(&path, &why))?;
        if let Some(report) = found.into_iter().find(|report| report.recipe == *recipe) {
            reports.insert(recipe.clone(), report);
        }
    }
    Ok(reports)
}

fn damaged(path: &Path, why: &str) -> Error {
    Error::internal(format!("the CVE report `{}` cannot be read: {why}", path.display()))
}

struct Listing(RecipeList);

impl LineHandler for Listing {
    fn line(&mut self, line: &str) -> Vec<EventKind> {
        self.0.line(line);
        Vec::new()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_name_is_the_recipe() {
        let wanted: BTreeSet<String> = ["gtk", "gtk+3", "gtk-doc"].map(str::to_owned).into();
        for (name, recipe) in [
            ("gtk-doc-1.33-r0", Some("gtk-doc")),
            ("gtk-4.0-r0", Some("gtk")),
            ("gtk+3_3.24", Some("gtk+3")),
            ("gtkmm-1", None),
            ("zlib-1.3-r0", None),
        ] {
            assert_eq!(recipe_of(name, &wanted).as_deref(), recipe, "{name}");
        }
    }

    #[test]
    fn each_report_is_read_separately() {
        let top = tempfile::tempdir().unwrap();
        let write = |name: &str, recipe: &str| {
            let text = format!(r#"{{"version": "1", "package": [{{"name": "{recipe}", "issue": []}}]}}"#);
            fs_err::write(top.path().join(format!("{name}_cve.json")), text).unwrap();
        };
        write("a", "a");
        write("other", "other");
        write("c", "of-another-recipe");
        let wanted: BTreeSet<String> = ["a", "b", "c"].map(str::to_owned).into();
        let reports = read_reports(top.path(), &wanted).unwrap();
        assert_eq!(reports.keys().collect::<Vec<_>>(), ["a"]);
        fs_err::write(top.path().join("b_cve.json"), "{").unwrap();
        assert!(read_reports(top.path(), &wanted).is_err());
    }
}
