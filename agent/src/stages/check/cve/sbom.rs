//! Releases without cve-check: sbom-cve-check compares the recipes with the databases.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::config::SBOM_CVE_CHECK;
use crate::stages::blocking;
use agent_fs::read;
use agent_process::{Command, ExitReason};
use agent_types::error::{Error, Result};
use agent_types::outcome::Outcome;
use agent_yocto::cve::{self, Report, sbom};
use agent_yocto::environment::host_environment;

use super::super::ended_badly;
use super::bitbake::Side;
use super::{Checked, CveCheck, Reports, SideReports, SideResult};

const LONGEST_REPORT: u64 = 256 << 20;

impl CveCheck<'_> {
    /// Adds the CVEs of the databases to the statements of the recipes.
    pub async fn with_database(&self, side: &Side, source: &Path, found: SideReports) -> Result<SideResult> {
        if found.reports.is_empty() {
            return Ok(Ok(found));
        }
        let program = self.settings.find_program(SBOM_CVE_CHECK)?;
        let (input, output) = (side.directory.join("sbom-input"), side.directory.join("sbom-output"));
        let user = self.configured.user.as_ref();
        self.configured.scratch_directory(self.settings, &input, None, self.runner).await?;
        self.configured.scratch_directory(self.settings, &output, user, self.runner).await?;
        let (reports, statements) = (found.reports.clone(), side.reports());
        let (directories, database) = ((input.clone(), output.clone()), source.to_owned());
        let write = move || write_input(&directories.0, &directories.1, &database, &reports, &statements);
        if let Err(why) = blocking(&self.runner.interrupt, "the SBOM was written", write).await? {
            return Ok(Err(Outcome::NotRun(why).into()));
        }
        let mut command = Command::new(program, &output, format!("cve-{}-sbom", side.name))
            .args(sbom::arguments(&input, &output))
            .status(format!("sbom-cve-check looks at the recipes of the {}", side.name));
        command.environment = host_environment(&self.configured.whoami, &[]);
        command.environment.set("PYTHONDONTWRITEBYTECODE", "1");
        // Git refuses the repository of another user without it.
        let databases = sbom::databases(source);
        for (name, value) in agent_git::safe_directories(&databases) {
            command.environment.set(name, value);
        }
        command.user = self.configured.user.clone();
        let finished = self.runner.run(command, &mut ()).await?;
        let log = Some(self.runner.relative_log(&finished.log));
        let outcome = match finished.end {
            ExitReason::Exited(0) => None,
            ExitReason::Exited(status) => {
                let said = finished.tail.last().map(|line| format!(": {line}")).unwrap_or_default();
                Some(Outcome::NotRun(format!("sbom-cve-check ended with exit status {status}{said}")))
            }
            _ => Some(ended_badly(cve::PROGRAM, &finished)),
        };
        if let Some(outcome) = outcome {
            return Ok(Err(Checked { outcome, log, excerpt: finished.tail }));
        }
        let (path, wanted) = (output.join(sbom::REPORT), found.reports.keys().cloned().collect());
        let read = move || read_report(&path, &wanted);
        let reports = blocking(&self.runner.interrupt, "the report was read", read).await?;
        Ok(Ok(SideReports { reports, log, ..found }))
    }
}

/// Writes the SBOM, the statements and the configuration. The inner error is the reason why it cannot be checked.
fn write_input(
    input: &Path,
    output: &Path,
    database: &Path,
    reports: &Reports,
    statements: &Path,
) -> Result<std::result::Result<(), String>> {
    let config = match sbom::config(database, output) {
        Ok(config) => config,
        Err(why) => return Ok(Err(why)),
    };
    fs_err::write(input.join("config.toml"), config)?;
    let sbom_directory = input.join("sbom");
    fs_err::create_dir(&sbom_directory)?;
    let all: Vec<Report> = reports.values().cloned().collect();
    for (name, text) in sbom::files(&all) {
        fs_err::write(sbom_directory.join(name), text)?;
    }
    let mut documents: Vec<Value> = Vec::new();
    for recipe in reports.keys() {
        let bytes = read::whole(&statements.join(cve::report_name(recipe)), LONGEST_REPORT)?;
        documents.extend(serde_json::from_slice::<Value>(&bytes).ok());
    }
    fs_err::write(input.join("vex.json"), sbom::manifest(&documents))?;
    Ok(Ok(()))
}

fn read_report(path: &Path, wanted: &BTreeSet<String>) -> Result<Reports> {
    let bad = |why: String| Error::internal(format!("the report of sbom-cve-check cannot be read: {why}"));
    let bytes = read::whole(path, LONGEST_REPORT).map_err(|error| bad(error.to_string()))?;
    let found = Report::parse(&String::from_utf8_lossy(&bytes)).map_err(bad)?;
    let of_recipe = |report: Report| (report.recipe.clone(), report);
    Ok(found.into_iter().filter(|report| wanted.contains(&report.recipe)).map(of_recipe).collect())
}
