//! Secrets in the environments of all processes that this user can read, and in the text of files.

use std::ffi::OsString;

use agent_types::secrets;

use super::findings::{ExposedSecret, LocationKind};
use crate::processes::{Process, Processes};

/// Variables with the credentials of a build, on the services that run builds.
const NAMES: [&str; 10] = [
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
    "ACTIONS_RUNTIME_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    CONTAINER_PATH,
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "GH_TOKEN",
    "GITHUB_PAT",
    "GITHUB_TOKEN",
    "GIT_TOKEN",
];

/// Names the path on the credential server of CodeBuild and ECS.
pub const CONTAINER_PATH: &str = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";

/// The names to look for.
pub struct Wanted<'a>(&'a [String]);

impl Wanted<'_> {
    /// The known names, and these.
    pub fn new(own: &[String]) -> Wanted<'_> {
        Wanted(own)
    }

    fn is_held(&self, name: &str, value: &str) -> bool {
        let known = NAMES.contains(&name) || self.0.iter().any(|own| own == name);
        known && !value.is_empty() && !value.starts_with('$') && secrets::is_secret(name, value)
    }

    /// The names of the entries `NAME=value`.
    fn of_entries(&self, entries: &[u8]) -> Vec<String> {
        let mut names = Vec::new();
        for entry in entries.split(|byte| *byte == 0) {
            let entry = String::from_utf8_lossy(entry);
            if let Some((name, value)) = entry.split_once('=')
                && self.is_held(name, value)
            {
                names.push(name.to_owned());
            }
        }
        sorted(names)
    }

    /// The names that a text sets: a script, JSON, a properties file.
    pub fn of_text(&self, text: &str) -> Vec<String> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let mut names = Vec::new();
        for line in text.lines() {
            let mut rest = line;
            while let Some(at) = rest.find(['=', ':']) {
                let (before, after) = (rest[..at].trim_end_matches(['"', '\'', ' ']), &rest[at + 1..]);
                let name = before.rsplit(|c| !is_name(c)).next().unwrap_or_default();
                let value = after.trim_start_matches(['"', '\'', ' ', '=']);
                let end = value.find(['"', '\'', ' ', ';', ',']).unwrap_or(value.len());
                if self.is_held(name, &value[..end]) {
                    names.push(name.to_owned());
                }
                rest = after;
            }
        }
        sorted(names)
    }
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names.dedup();
    names
}

/// The environment of this process, which is that of layer code.
pub fn of_own_environment(wanted: &Wanted<'_>, own: &[(OsString, OsString)]) -> Option<ExposedSecret> {
    let text = |word: &OsString| word.to_string_lossy().into_owned();
    let held = own.iter().map(|(name, value)| (text(name), text(value)));
    let holds =
        sorted(held.filter(|(name, value)| wanted.is_held(name, value)).map(|(name, _)| name).collect());
    let location = "the environment of layer code".to_owned();
    (!holds.is_empty()).then_some(ExposedSecret { location, kind: LocationKind::Own, holds })
}

/// All other processes whose environment or arguments have one of the variables, as far as this user can read them.
pub fn of_processes(wanted: &Wanted<'_>) -> Vec<ExposedSecret> {
    let own = std::process::id() as i32;
    let processes = Processes::now();
    let secret = |process: &Process| {
        let in_environment = wanted.of_entries(&process.environment());
        // All users can read these.
        let words = process.arguments();
        let in_arguments: Vec<String> =
            words.iter().flat_map(|word| wanted.of_text(&word.to_string_lossy())).collect();
        let part = if in_environment.is_empty() { "command line" } else { "environment" };
        let holds = sorted([in_environment, in_arguments].concat());
        let location = format!("the {part} of {}", process.label());
        (!holds.is_empty()).then_some(ExposedSecret { location, kind: LocationKind::Process, holds })
    };
    processes.alive().filter(|process| process.pid != own).filter_map(secret).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_every_form() {
        let own = ["DB_PASSWORD".to_owned()];
        let wanted = Wanted::new(&own);
        for (text, names) in [
            ("export AWS_SESSION_TOKEN='hunter22'", &["AWS_SESSION_TOKEN"][..]),
            ("declare -x GITHUB_TOKEN=\"hunter22\"\nA=b", &["GITHUB_TOKEN"]),
            ("A=b;GH_TOKEN=hunter22; DB_PASSWORD=hunter33", &["DB_PASSWORD", "GH_TOKEN"]),
            ("{\"AWS_SECRET_ACCESS_KEY\": \"hunter22\"}", &["AWS_SECRET_ACCESS_KEY"]),
            ("export AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/v2/credentials/x", &[CONTAINER_PATH]),
            ("GITHUB_TOKEN=", &[]),
            ("GITHUB_TOKEN=$token", &[]),
            ("OTHER_TOKEN=hunter22\nXGITHUB_TOKEN=hunter22\nGITHUB_TOKEN_FILE=hunter22", &[]),
            ("# GITHUB_TOKEN is a variable", &[]),
        ] {
            assert_eq!(wanted.of_text(text), names, "{text}");
        }
        let variable = |name: &str, value: &str| (name.into(), value.into());
        let environment =
            [variable("PATH", "/bin"), variable("GH_TOKEN", "hunter22"), variable("DB_PASSWORD", "")];
        assert_eq!(
            of_own_environment(&wanted, &environment).map(|secret| secret.holds),
            Some(vec!["GH_TOKEN".into()])
        );
        assert_eq!(of_own_environment(&wanted, &environment[..1]), None);
        let entries = b"PATH=/bin\0GITHUB_TOKEN=hunter22\0AWS_SESSION_TOKEN=\0\xff=x\0DB_PASSWORD=hunter22\0";
        assert_eq!(wanted.of_entries(entries), ["DB_PASSWORD", "GITHUB_TOKEN"]);
    }
}
