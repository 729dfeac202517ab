//! `[check] cve`: the recipes of the layers under test against a prepared database of CVEs.
//!
//! Each recipe has a report of its own. Only CVEs that the base does not have are errors. Nothing is downloaded.

mod bitbake;
mod database;
mod sbom;
mod selection;
mod totals;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use tracing::Instrument;

use crate::config::{CheckScope, Settings};
use crate::stages::blocking;
use crate::stages::cleanup::{ServerEnd, UnitEnd};
use crate::stages::configure::BuildEnvironment;
use agent_process::Runner;
use agent_types::affected::Affected;
use agent_types::error::{Error, Result};
use agent_types::events::{Case, EventKind, Finding, Level, Unit};
use agent_types::outcome::Outcome;
use agent_types::stage::Stage;
use agent_yocto::cve::{self, Compared, Method, RecipeList, Report};

use super::comparison::{Comparison, layer_directories};
use bitbake::Side;
use totals::{Totals, recipe_outcome, sentence};

pub fn unit() -> Unit {
    Unit::new(Stage::Check, "cve")
}

/// Checks the recipes. `affected`: what the change affects, if the job knows it.
///
/// # Errors
/// When the machine cannot do its part, or the job is stopped.
pub async fn run(
    settings: &Settings,
    configured: &BuildEnvironment,
    (comparison, affected): (&Comparison, Option<&Affected>),
    runner: &Runner,
) -> Result<Outcome> {
    let unit = unit();
    runner.events.emit(EventKind::UnitStarted { unit: unit.clone() }).await;
    let check = CveCheck { settings, configured, comparison, affected, unit: unit.clone(), runner };
    let mut server = ServerEnd::default();
    let checked = check.execute(&mut server).instrument(crate::stages::step(&unit)).await;
    let end = match &checked {
        Ok(Checked { outcome, log, excerpt }) => {
            UnitEnd { unit, outcome: outcome.clone(), log: log.clone(), excerpt: excerpt.clone() }
        }
        Err(error) => UnitEnd::error(unit, error),
    };
    end.report(server, &runner.events).await;
    checked.map(|checked| checked.outcome)
}

/// How the check ended, with the log of the command that decided.
struct Checked {
    outcome: Outcome,
    log: Option<PathBuf>,
    excerpt: Vec<String>,
}

impl From<Outcome> for Checked {
    fn from(outcome: Outcome) -> Checked {
        Checked { outcome, log: None, excerpt: Vec::new() }
    }
}

struct CveCheck<'a> {
    settings: &'a Settings,
    configured: &'a BuildEnvironment,
    comparison: &'a Comparison,
    affected: Option<&'a Affected>,
    unit: Unit,
    runner: &'a Runner,
}

/// The reports of one side, by recipe.
type Reports = BTreeMap<String, Report>;

/// The reports of one side of the change, or why there are none.
type SideResult = std::result::Result<SideReports, Checked>;

struct SideReports {
    reports: Reports,
    /// Recipes whose task failed.
    broken: BTreeSet<String>,
    log: Option<PathBuf>,
}

impl CveCheck<'_> {
    async fn execute(&self, server: &mut ServerEnd) -> Result<Checked> {
        let not_run = |why: String| Ok(Outcome::NotRun(why).into());
        let release = self.settings.release.name;
        let method = match Method::of(&self.configured.core) {
            Ok(method) => method,
            Err(why) => return not_run(format!("{release} cannot check recipes for CVEs: {why}")),
        };
        let Some(source) = &self.settings.check.cve_database else {
            return not_run(
                "there is no CVE database: set [check] cve_database to one that a scheduled job prepared"
                    .into(),
            );
        };
        let scratch = self.settings.paths.check_scratch("cve");
        self.configured.scratch_directory(self.settings, &scratch, None, self.runner).await?;
        if let Err(why) = self.prepare_database(method, source, &scratch).await? {
            return not_run(why);
        }
        let head = Side {
            name: "head",
            layers: self.settings.layers.clone(),
            directory: scratch.join("head"),
            database: database::copy_in(&scratch),
        };
        let listed = match self.list(&head, method, server).await? {
            Ok(listed) => listed,
            Err(checked) => return Ok(checked),
        };
        let wanted = self.wanted(listed).await?;
        if wanted.is_empty() {
            return Ok(match self.settings.check.cve {
                CheckScope::Changed => {
                    Outcome::Skipped("the change affects no recipe that BitBake builds".into()).into()
                }
                // A check of no recipe never passes.
                CheckScope::Off | CheckScope::All => {
                    let why = "no recipe was checked for CVEs: the layers have none that BitBake builds";
                    Outcome::Failed(why.into()).into()
                }
            });
        }
        let now = match self.reports(&head, method, &wanted, source, server).await? {
            Ok(now) => now,
            Err(checked) => return Ok(checked),
        };
        let base = match self.base_reports(&now.reports, method, source, &scratch, server).await? {
            Ok(base) => base,
            Err(checked) => return Ok(checked),
        };
        let outcome = self.report_result(&wanted, &now, base.as_ref()).await;
        Ok(Checked { outcome, log: now.log, excerpt: Vec::new() })
    }

    /// The recipes to check.
    async fn wanted(&self, listed: RecipeList) -> Result<BTreeSet<String>> {
        let settings = self.settings;
        if settings.check.cve == CheckScope::All {
            return Ok(listed.recipes);
        }
        let (checkout, layers) = (settings.checkout.clone(), layer_directories(settings));
        let (changes, base) = (self.comparison.changes.clone(), self.comparison.base.clone().ok());
        let machine = settings.config.machines.first().map(String::as_str).unwrap_or_default();
        let affected = self.affected.map(|affected| selection::names(affected, machine));
        let choose = move || {
            let change = selection::Change { checkout: &checkout, base: base.as_deref(), changes: &changes };
            Ok(selection::recipes(&listed, &layers, change, affected.as_ref()))
        };
        blocking(&self.runner.interrupt, "the changed recipes were chosen", choose).await
    }

    /// The reports of the base, if there is something to compare: `None` without a base.
    async fn base_reports(
        &self,
        now: &Reports,
        method: Method,
        source: &Path,
        scratch: &Path,
        server: &mut ServerEnd,
    ) -> Result<std::result::Result<Option<Reports>, Checked>> {
        let unpatched: BTreeSet<String> = now
            .values()
            .filter(|report| !report.unpatched().is_empty())
            .map(|report| report.recipe.clone())
            .collect();
        let base = match &self.comparison.base {
            Ok(_) if unpatched.is_empty() => return Ok(Ok(Some(Reports::new()))),
            Ok(base) => base,
            Err(_) => return Ok(Ok(None)),
        };
        let directories = layer_directories(self.settings);
        // Without a slash at its end, which would belong to the layer's name.
        let in_base = |layer: &PathBuf| base.join(layer).components().collect::<PathBuf>();
        let layers = directories.iter().map(in_base);
        let layers: Vec<PathBuf> = layers.filter(|layer| layer.join("conf/layer.conf").is_file()).collect();
        if layers.is_empty() {
            return Ok(Ok(Some(Reports::new())));
        }
        let side = Side {
            name: "base",
            layers,
            directory: scratch.join("base"),
            database: database::copy_in(scratch),
        };
        let of_base = |checked: Checked| Checked {
            outcome: match checked.outcome {
                Outcome::Failed(why) | Outcome::NotRun(why) => {
                    Outcome::NotRun(format!("the base could not be checked: {why}"))
                }
                other => other,
            },
            ..checked
        };
        let listed = match self.list(&side, method, server).await? {
            Ok(listed) => listed,
            Err(checked) => return Ok(Err(of_base(checked))),
        };
        let wanted: BTreeSet<String> = unpatched.into_iter().filter(|recipe| listed.has(recipe)).collect();
        if wanted.is_empty() {
            return Ok(Ok(Some(Reports::new())));
        }
        match self.reports(&side, method, &wanted, source, server).await? {
            Ok(found) => match found.broken.first() {
                None => Ok(Ok(Some(found.reports))),
                Some(recipe) => {
                    let why = format!("the base could not be checked: the task of {recipe} failed");
                    Ok(Err(Outcome::NotRun(why).into()))
                }
            },
            Err(checked) => Ok(Err(of_base(checked))),
        }
    }

    /// The reports of one side, by the method of the release.
    async fn reports(
        &self,
        side: &Side,
        method: Method,
        wanted: &BTreeSet<String>,
        source: &Path,
        server: &mut ServerEnd,
    ) -> Result<SideResult> {
        let found = match self.build(side, method, wanted, server).await? {
            Ok(found) => found,
            Err(checked) => return Ok(Err(checked)),
        };
        match method {
            Method::CveCheck => Ok(Ok(found)),
            Method::Vex => self.with_database(side, source, found).await,
        }
    }

    /// Reports the result. `base`: without one, no CVE is new.
    async fn report_result(
        &self,
        wanted: &BTreeSet<String>,
        now: &SideReports,
        base: Option<&Reports>,
    ) -> Outcome {
        let settings = self.settings;
        let files = selection::recipe_files(&settings.checkout, &layer_directories(settings));
        let mut totals = Totals::default();
        for recipe in wanted {
            let report = now.reports.get(recipe);
            let compared = report.map(|report| match base {
                Some(base) => cve::compare(report, base.get(recipe)),
                None => Compared {
                    known: report.unpatched().into_iter().map(str::to_owned).collect(),
                    ..Compared::default()
                },
            });
            let outcome = recipe_outcome(report.is_some(), now.broken.contains(recipe), compared.as_ref());
            totals.add(recipe, report.is_some(), now.broken.contains(recipe), compared.as_ref());
            if let (Some(report), Some(compared)) = (report, &compared) {
                for (level, ids) in [(Level::Error, &compared.new), (Level::Warning, &compared.known)] {
                    for id in ids {
                        let finding = self.finding(report, id, level, files.get(recipe));
                        self.runner.events.emit(EventKind::Finding(finding)).await;
                    }
                }
            }
            let case = Case {
                unit: self.unit.clone(),
                class: "cve".into(),
                name: recipe.clone(),
                outcome,
                message: compared.as_ref().map(sentence).unwrap_or_default(),
                seconds: None,
            };
            self.runner.events.emit(EventKind::Case(case)).await;
        }
        self.runner.events.info(totals.sentence(base.is_some())).await;
        totals.outcome(wanted.len())
    }

    fn finding(&self, report: &Report, id: &str, level: Level, file: Option<&PathBuf>) -> Finding {
        let issue = report.issues.get(id);
        let score = issue.and_then(|issue| issue.score.as_deref());
        let score = score.map(|score| format!(" (CVSS {score})")).unwrap_or_default();
        let summary = issue.map(|issue| issue.summary.trim()).filter(|summary| !summary.is_empty());
        let summary: String =
            summary.map(|text| format!(": {text}")).unwrap_or_default().chars().take(400).collect();
        let (recipe, version) = (&report.recipe, &report.version);
        Finding {
            unit: self.unit.clone(),
            level,
            rule: if level == Level::Error { "cve-new" } else { "cve-known" }.into(),
            message: format!("{recipe} {version} has {id}{score}{summary}"),
            file: file.cloned(),
            line: None,
            hint: Some("upgrade or patch it, or state in CVE_STATUS why it does not apply".into()),
        }
    }
}

/// The error of a run of BitBake that failed without a failed task.
fn unexplained(first_error: Option<&str>, end: &str) -> Error {
    let said = first_error.map(|error| error.trim_start_matches("ERROR: ").to_owned());
    Error::internal(format!("BitBake ended with {end} and reported no failed task"))
        .hint(said.unwrap_or_else(|| "read its log".into()))
}
