//! `[check] patches`: each patch states its upstream status, by the rules of OE-Core's patchreview.

use std::path::PathBuf;

use crate::config::{CheckScope, Settings};
use crate::stages::blocking;
use crate::stages::cleanup::{ServerEnd, UnitEnd};
use agent_fs::untrusted;
use agent_process::Runner;
use agent_types::error::Result;
use agent_types::events::{Case, EventKind, Finding, Level, Unit};
use agent_types::outcome::Outcome;
use agent_types::stage::Stage;
use agent_yocto::changed_lines::{self, Changes};
use agent_yocto::patch_review::{self, Remark};

use super::comparison::{Comparison, layer_directories};

pub fn unit() -> Unit {
    Unit::new(Stage::Check, "patches")
}

/// A patch, relative to the checkout, and what there is to fix in it.
type Reviewed = (PathBuf, Vec<Remark>);

/// Reviews the patches of the layers under test.
///
/// # Errors
/// When the job is stopped.
pub async fn run(settings: &Settings, comparison: &Comparison, runner: &Runner) -> Result<Outcome> {
    let unit = unit();
    runner.events.emit(EventKind::UnitStarted { unit: unit.clone() }).await;
    let changes = match settings.check.patches {
        CheckScope::Changed => comparison.changes.clone(),
        CheckScope::Off | CheckScope::All => Changes::everything(),
    };
    let (checkout, layers, release) =
        (settings.checkout.clone(), layer_directories(settings), settings.release);
    let review = move || {
        let mut reviewed: Vec<Reviewed> = Vec::new();
        for file in changed_lines::files(&checkout, &layers) {
            let is_patch = file.extension().is_some_and(|kind| kind == "patch" || kind == "diff");
            if !is_patch || !changes.touches(&file) {
                continue;
            }
            let remarks = match untrusted::read_named(&checkout.join(&file), untrusted::SOURCE) {
                Ok(bytes) => patch_review::review(&file.to_string_lossy(), &bytes, release),
                Err(error) => vec![unreadable(&error)],
            };
            reviewed.push((file, remarks));
        }
        Ok(reviewed)
    };
    let reviewed = match blocking(&runner.interrupt, "the patches were reviewed", review).await {
        Ok(reviewed) => reviewed,
        Err(error) => {
            UnitEnd::error(unit, &error).report(ServerEnd::default(), &runner.events).await;
            return Err(error);
        }
    };
    let outcome = judge(settings.check.patches, &reviewed);
    if !reviewed.is_empty() {
        runner.events.info(format!("{} reviewed", patches(reviewed.len()))).await;
    }
    for (file, remarks) in reviewed {
        report(&unit, file, remarks, runner).await;
    }
    let end = UnitEnd { unit, outcome: outcome.clone(), log: None, excerpt: Vec::new() };
    end.report(ServerEnd::default(), &runner.events).await;
    Ok(outcome)
}

fn patches(number: usize) -> String {
    if number == 1 { "1 patch".to_owned() } else { format!("{number} patches") }
}

fn unreadable(error: &std::io::Error) -> Remark {
    Remark {
        rule: "patch-unreadable",
        level: Level::Error,
        message: format!("it cannot be read: {error}"),
        line: None,
        hint: "make it a regular file that the build user can read",
    }
}

fn is_error(remark: &Remark) -> bool {
    remark.level == Level::Error
}

fn judge(scope: CheckScope, reviewed: &[Reviewed]) -> Outcome {
    let bad: Vec<&Reviewed> = reviewed.iter().filter(|(_, remarks)| remarks.iter().any(is_error)).collect();
    match (bad.first(), bad.len()) {
        (None, _) if reviewed.is_empty() => Outcome::Skipped(match scope {
            CheckScope::Changed => "the change touches no patch".into(),
            CheckScope::Off | CheckScope::All => "the layers have no patches".into(),
        }),
        (None, _) => Outcome::Passed,
        (Some((file, remarks)), number) => {
            let first = remarks.iter().find(|remark| is_error(remark)).map_or("", |remark| &remark.message);
            let more = if number > 1 { format!(" and {} more", number - 1) } else { String::new() };
            Outcome::Failed(format!("{}: {first}{more}", file.display()))
        }
    }
}

async fn report(unit: &Unit, file: PathBuf, remarks: Vec<Remark>, runner: &Runner) {
    let outcome = match remarks.iter().find(|remark| is_error(remark)) {
        Some(remark) => Outcome::Failed(remark.message.clone()),
        None => Outcome::Passed,
    };
    let case = Case {
        unit: unit.clone(),
        class: "patches".into(),
        name: file.display().to_string(),
        outcome,
        message: String::new(),
        seconds: None,
    };
    for remark in remarks {
        let finding = Finding {
            unit: unit.clone(),
            level: remark.level,
            rule: remark.rule.into(),
            message: remark.message,
            file: Some(file.clone()),
            line: remark.line,
            hint: Some(remark.hint.into()),
        };
        runner.events.emit(EventKind::Finding(finding)).await;
    }
    runner.events.emit(EventKind::Case(case)).await;
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use agent_types::release::Release;

    #[test]
    fn a_patch_without_upstream_status_fails_and_an_empty_check_does_not_pass() {
        let review = |name: &str, text: &str| {
            let release = Release::find("scarthgap").unwrap();
            (PathBuf::from(name), patch_review::review(name, text.as_bytes(), release))
        };
        let good = review("a.patch", "Upstream-Status: Pending\nSigned-off-by: A <a@b>\n");
        let unsigned = review("b.patch", "Upstream-Status: Pending\n");
        let bad = review("c.patch", "");
        assert_eq!(judge(CheckScope::All, &[good.clone(), unsigned]), Outcome::Passed);
        let failed = judge(CheckScope::Changed, &[bad.clone(), good, bad]);
        assert_eq!(failed.reason(), Some("c.patch: `c.patch` has no Upstream-Status and 1 more"));
        assert_eq!(judge(CheckScope::Changed, &[]).word(), "skipped");
    }
}
