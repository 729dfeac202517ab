//! `[check] cve`: the recipes of the layers under test against a prepared database of CVEs.
//!
//! Each recipe has a report of its own. Only CVEs that the base does not have are errors. Nothing is downloaded.

mod bitbake;
mod database;
mod sbom;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use tracing::Instrument;

use crate::config::{CheckScope, Settings};
use crate::stages::blocking;
use crate::stages::cleanup::{ServerEnd, UnitEnd};
use crate::stages::configure::BuildEnvironment;
use agent_process::Runner;
use agent_types::error::{Error, Result};
use agent_types::events::{Case, EventKind, Finding, Level, Unit};
use agent_types::outcome::Outcome;
use agent_types::stage::Stage;
use agent_types::words::count;
use agent_yocto::changed_lines::{self, Changes};
use agent_yocto::cve::{self, Compared, Method, Report};

use super::comparison::{Comparison, layer_directories};
use bitbake::Side;

pub fn unit() -> Unit {
    Unit::new(Stage::Check, "cve")
}

/// Checks the recipes.
///
/// # Errors
/// When the machine cannot do its part, or the job is stopped.
pub async fn run(
    settings: &Settings,
    configured: &BuildEnvironment,
    comparison: &Comparison,
    runner: &Runner,
) -> Result<Outcome> {
    let unit = unit();
    runner.events.emit(EventKind::UnitStarted { unit: unit.clone() }).await;
    let check = CveCheck { settings, configured, comparison, unit: unit.clone(), runner };
    let mut server = ServerEnd::default();
    let checked = check.to_its_outcome(&mut server).instrument(crate::stages::step(&unit)).await;
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
    unit: Unit,
    runner: &'a Runner,
}

/// The reports of one side, by recipe.
type Reports = BTreeMap<String, Report>;

/// What one side of the change gave; otherwise why it gave nothing.
type SideResult = std::result::Result<SideReports, Checked>;

struct SideReports {
    reports: Reports,
    /// Recipes whose task failed.
    broken: BTreeSet<String>,
    log: Option<PathBuf>,
}

impl CveCheck<'_> {
    async fn to_its_outcome(&self, server: &mut ServerEnd) -> Result<Checked> {
        let not_run = |why: String| Ok(Outcome::NotRun(why).into());
        let release = self.settings.release.name;
        let method = match Method::of(&self.configured.core) {
            Ok(method) => method,
            Err(why) => return not_run(format!("{release} cannot check recipes for CVEs: {why}")),
        };
        let Some(source) = &self.settings.check.cve_database else {
            return not_run(
                "there is no CVE database: [check] cve_database names one that a scheduled job prepared"
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
            let why = match self.settings.check.cve {
                CheckScope::Changed => "the change touches no recipe that BitBake builds",
                CheckScope::Off | CheckScope::All => "the layers have no recipe that BitBake builds",
            };
            return Ok(Outcome::Skipped(why.into()).into());
        }
        let now = match self.reports(&head, method, &wanted, source, server).await? {
            Ok(now) => now,
            Err(checked) => return Ok(checked),
        };
        let base = match self.base_reports(&now.reports, method, source, &scratch, server).await? {
            Ok(base) => base,
            Err(checked) => return Ok(checked),
        };
        let outcome = self.tell(&wanted, &now, base.as_ref()).await;
        Ok(Checked { outcome, log: now.log, excerpt: Vec::new() })
    }

    /// The recipes to check.
    async fn wanted(&self, listed: BTreeSet<String>) -> Result<BTreeSet<String>> {
        if self.settings.check.cve == CheckScope::All {
            return Ok(listed);
        }
        let (checkout, layers) = (self.settings.checkout.clone(), layer_directories(self.settings));
        let changes = self.comparison.changes.clone();
        let choose = move || Ok(changed_recipes(&listed, &checkout, &layers, &changes));
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
        let in_base = |layer: &PathBuf| base.root.join(layer).components().collect::<PathBuf>();
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
        let wanted: BTreeSet<String> = unpatched.intersection(&listed).cloned().collect();
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

    /// The reports of one side, by the means of the release.
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

    /// The result as events. `base`: without one nothing is new.
    async fn tell(&self, wanted: &BTreeSet<String>, now: &SideReports, base: Option<&Reports>) -> Outcome {
        let files = recipe_files(self.settings);
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

/// The recipes whose files the change touches. A class or a configuration file may change every recipe.
fn changed_recipes(
    listed: &BTreeSet<String>,
    checkout: &Path,
    layers: &[PathBuf],
    changes: &Changes,
) -> BTreeSet<String> {
    let all = changed_lines::files(checkout, layers);
    let is_kind = |file: &Path, kinds: &[&str]| {
        file.extension().and_then(|kind| kind.to_str()).is_some_and(|kind| kinds.contains(&kind))
    };
    if all.iter().any(|file| is_kind(file, &["bbclass", "conf"]) && changes.touches(file)) {
        return listed.clone();
    }
    let mut with_file = BTreeSet::new();
    let mut changed = BTreeSet::new();
    for file in all.iter().filter(|file| is_kind(file, &["bb"])) {
        let Some(name) = recipe_name(file) else { continue };
        with_file.insert(name.to_owned());
        // Its directory holds its patches and included files.
        if file.parent().is_some_and(|directory| changes.touches_below(directory)) {
            changed.insert(name.to_owned());
        }
    }
    // A recipe that sets its own name has no file of that name.
    let unknown =
        listed.iter().filter(|name| !with_file.contains(*name) && changes.touches_below(Path::new("")));
    listed.intersection(&changed).chain(unknown).cloned().collect()
}

/// `PN` by the file's name, as BitBake's default.
fn recipe_name(file: &Path) -> Option<&str> {
    let stem = file.file_stem()?.to_str()?;
    Some(stem.split_once('_').map_or(stem, |(name, _)| name))
}

/// The file of each recipe, relative to the checkout.
fn recipe_files(settings: &Settings) -> BTreeMap<String, PathBuf> {
    let files = changed_lines::files(&settings.checkout, &layer_directories(settings));
    let recipes = files.into_iter().filter(|file| file.extension().is_some_and(|kind| kind == "bb"));
    recipes.filter_map(|file| Some((recipe_name(&file)?.to_owned(), file))).collect()
}

fn recipe_outcome(has_report: bool, is_broken: bool, compared: Option<&Compared>) -> Outcome {
    match compared {
        _ if is_broken => Outcome::NotRun("its task failed".into()),
        _ if !has_report => Outcome::Skipped(
            "there is no report on it: it has no CVE_PRODUCT, or CVE_CHECK_SKIP_RECIPE names it".into(),
        ),
        Some(compared) if !compared.new.is_empty() => {
            Outcome::Failed(format!("new: {}", list(&compared.new)))
        }
        _ => Outcome::Passed,
    }
}

fn list(ids: &BTreeSet<String>) -> String {
    ids.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// `new: …; as in the base: …; fixed: …`
fn sentence(compared: &Compared) -> String {
    let parts =
        [("new", &compared.new), ("unpatched as before", &compared.known), ("fixed", &compared.fixed)];
    let parts = parts.iter().filter(|(_, ids)| !ids.is_empty());
    parts.map(|(word, ids)| format!("{word}: {}", list(ids))).collect::<Vec<_>>().join("; ")
}

/// The numbers of the whole check.
#[derive(Debug, Default)]
struct Totals {
    checked: u64,
    new: u64,
    known: u64,
    fixed: u64,
    /// The first recipe with new CVEs.
    first: Option<String>,
    broken: Option<String>,
}

impl Totals {
    fn add(&mut self, recipe: &str, has_report: bool, is_broken: bool, compared: Option<&Compared>) {
        self.checked += u64::from(has_report);
        if is_broken {
            self.broken.get_or_insert_with(|| recipe.to_owned());
        }
        let Some(compared) = compared else { return };
        self.new += compared.new.len() as u64;
        self.known += compared.known.len() as u64;
        self.fixed += compared.fixed.len() as u64;
        if let Some(id) = compared.new.first() {
            self.first.get_or_insert_with(|| format!("{recipe} has {id}"));
        }
    }

    fn sentence(&self, has_base: bool) -> String {
        let checked = count(self.checked, "recipe");
        match has_base {
            true => format!(
                "{checked} checked for CVEs: {} new, {} as in the base, {} fixed",
                self.new, self.known, self.fixed
            ),
            false => format!(
                "{checked} checked for CVEs: {} unpatched; none counts as new, because the base is not known",
                self.known
            ),
        }
    }

    fn outcome(&self, wanted: usize) -> Outcome {
        match (&self.first, &self.broken) {
            (Some(first), _) => {
                let more = if self.new > 1 { format!(" and {} more", self.new - 1) } else { String::new() };
                Outcome::Failed(format!("new CVEs: {first}{more}"))
            }
            (None, Some(broken)) => {
                Outcome::NotRun(format!("{broken} could not be checked: its task failed"))
            }
            (None, None) if self.checked == 0 => {
                Outcome::Failed(format!("no recipe was checked for CVEs, of {wanted} that should have been"))
            }
            (None, None) => Outcome::Passed,
        }
    }
}

/// What BitBake's output says about an error that it did not explain by a failed task.
fn unexplained(first_error: Option<&str>, end: &str) -> Error {
    let said = first_error.map(|error| error.trim_start_matches("ERROR: ").to_owned());
    Error::internal(format!("BitBake ended with {end} and reported no failed task"))
        .hint(said.unwrap_or_else(|| "read its log".into()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_files_of_a_change_lead_to_its_recipes() {
        let top = tempfile::tempdir().unwrap();
        let [base, head] = ["base", "head"].map(|name| top.path().join(name));
        let write = |root: &Path, name: &str, text: &str| {
            fs_err::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            fs_err::write(root.join(name), text).unwrap();
        };
        for root in [&base, &head] {
            for file in [
                "r/a/a_1.bb",
                "r/b/b_1.bb",
                "r/b/files/b.patch",
                "r/c/odd.bb",
                "README.md",
                "classes/x.bbclass",
            ] {
                write(root, file, "1\n");
            }
        }
        let listed = set(&["a", "b", "named-by-itself", "odd"]);
        let changed = |file: Option<&str>| {
            if let Some(file) = file {
                write(&head, file, "2\n");
            }
            let layers = [PathBuf::new()];
            let found = changed_recipes(&listed, &head, &layers, &Changes::between(&base, &head, &layers));
            if let Some(file) = file {
                write(&head, file, "1\n");
            }
            found
        };
        assert_eq!(changed(None), set(&[]));
        assert_eq!(changed(Some("r/a/a_1.bb")), set(&["a", "named-by-itself"]));
        assert_eq!(changed(Some("r/b/files/b.patch")), set(&["b", "named-by-itself"]));
        assert_eq!(changed(Some("classes/x.bbclass")), listed);
    }

    #[test]
    fn only_new_cves_fail_and_nothing_checked_is_no_pass() {
        let compared = |new: &[&str], known: &[&str]| Compared {
            new: set(new),
            known: set(known),
            ..Compared::default()
        };
        type Row<'a> = (&'a [(&'a str, Option<Compared>, bool)], &'a str);
        let table: [Row; 6] = [
            (&[("a", Some(compared(&[], &[])), false)], "passed"),
            (&[("a", Some(compared(&[], &["C-1"])), false), ("b", None, false)], "passed"),
            (&[("a", Some(compared(&["C-2"], &["C-1"])), false)], "failed"),
            (&[("a", None, false)], "failed"),
            (&[("a", Some(compared(&[], &[])), false), ("b", None, true)], "not-run"),
            (&[("a", Some(compared(&["C-2"], &[])), false), ("b", None, true)], "failed"),
        ];
        for (recipes, wanted) in table {
            let mut totals = Totals::default();
            for (name, compared, broken) in recipes {
                totals.add(name, compared.is_some(), *broken, compared.as_ref());
            }
            assert_eq!(totals.outcome(recipes.len()).word(), wanted, "{recipes:?}");
        }
    }

    #[test]
    fn the_outcome_of_a_recipe_says_why() {
        let compared = Compared { new: set(&["C-1", "C-2"]), known: set(&["C-3"]), fixed: set(&["C-4"]) };
        assert_eq!(recipe_outcome(true, false, Some(&compared)), Outcome::Failed("new: C-1, C-2".into()));
        assert_eq!(sentence(&compared), "new: C-1, C-2; unpatched as before: C-3; fixed: C-4");
        assert_eq!(recipe_outcome(true, false, Some(&Compared::default())), Outcome::Passed);
        assert_eq!(recipe_outcome(false, false, None).word(), "skipped");
        assert_eq!(recipe_outcome(false, true, None).word(), "not-run");
    }
}
