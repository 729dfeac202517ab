//! Validates the tables of Device Tester, `[testers.SUITE]`.

use std::time::Duration;

use agent_devices::lab::DeviceTester;

use super::super::problem::{Diagnostic, KeyPath};
use super::super::values;
use super::LabValidator;
use super::file::{UnvalidatedLab, UnvalidatedTester};

/// Tests can be silent for minutes, while a device restarts.
const STALL: Duration = Duration::from_secs(20 * 60);

pub(super) fn validate(check: &mut LabValidator, raw: &UnvalidatedLab) -> Vec<DeviceTester> {
    let table = KeyPath::root().key("testers");
    let testers = raw.testers.iter().flatten();
    testers.filter_map(|(suite, raw)| tester(check, &table.key(suite), suite, raw)).collect()
}

fn tester(
    check: &mut LabValidator,
    path: &KeyPath,
    suite: &str,
    raw: &UnvalidatedTester,
) -> Option<DeviceTester> {
    if let Err(mistake) = values::name(suite) {
        check.check.key(path, mistake.hint("write the name of the suite, such as GGV2Q"));
    }
    let directory = check.path(&path.key("directory"), raw.directory.as_ref());
    let accept_license = raw.accept_license.unwrap_or(false);
    if raw.accept_license == Some(false) {
        let mistake = Diagnostic::new("is false: Device Tester must not run");
        let hint = "read its licence and accept it with `true`, or remove the table";
        check.check.value(&path.key("accept_license"), mistake.hint(hint));
    }
    let profile = check.check.one(&path.key("profile"), raw.profile.as_ref(), word);
    let region = check.check.one(&path.key("region"), raw.region.as_ref(), region);
    let groups = check.check.list(&path.key("groups"), raw.groups.as_ref(), word);
    let features = raw.features.iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect();
    let userdata = check.file(&path.key("userdata"), raw.userdata.as_ref());
    let stall = check.check.one(&path.key("stall"), raw.stall.as_ref(), values::duration).unwrap_or(STALL);
    let suite = suite.to_owned();
    Some(DeviceTester {
        suite,
        directory,
        accept_license,
        profile,
        region: region?,
        groups,
        features,
        userdata,
        stall,
    })
}

/// A word that becomes an argument of a program.
fn word(text: &str) -> Result<String, Diagnostic> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    match !text.is_empty() && !text.starts_with('-') && text.chars().all(good) {
        true => Ok(text.to_owned()),
        false => {
            Err(Diagnostic::new(format!("`{text}` is not a name"))
                .hint("use letters, digits, `.`, `_` and `-`"))
        }
    }
}

fn region(text: &str) -> Result<String, Diagnostic> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    match text.contains('-') && !text.starts_with('-') && text.chars().all(good) {
        true => Ok(text.to_owned()),
        false => Err(Diagnostic::new(format!("`{text}` is not an AWS region"))
            .hint("write its code, such as eu-central-1")),
    }
}
