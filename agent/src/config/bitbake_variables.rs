//! `[config] env`: environment variables that BitBake reads. Every recipe can read them, so no secret may be among them,
//! and none may be one that the agent sets.

use super::manifest::UnvalidatedManifest;
use super::problem::{Diagnostic, KeyPath};
use super::validator::Validator;
use super::values;

/// What the agent, or the system that starts processes, sets itself.
const OWN: [&str; 16] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "TERM",
    "LANG",
    "PYTHONPATH",
    "BUILDDIR",
    "BBPATH",
    "MACHINE",
    "DISTRO",
    "IFS",
    "ENV",
    "BASH_ENV",
    "PWD",
];

/// The beginnings of such names.
const OWN_PREFIXES: [&str; 9] =
    ["BB_ENV_", "BB_ORIGENV", "BUILD_AGENT_", "CODEBUILD_", "GIT_CONFIG", "GIT_SSH", "LC_", "LD_", "PYTHON"];

/// Parts of names of credentials.
const SECRET: [&str; 12] = [
    "TOKEN",
    "SECRET",
    "PASSWORD",
    "PASSWD",
    "CREDENTIAL",
    "PRIVATE_KEY",
    "API_KEY",
    "APIKEY",
    "ACCESS_KEY",
    "AWS_",
    "ACTIONS_RUNTIME",
    "ACTIONS_ID",
];

/// The variables with their values.
pub fn validate(check: &mut Validator, raw: &UnvalidatedManifest) -> Vec<(String, String)> {
    let path = KeyPath::root().key("config").key("env");
    let mut variables = Vec::new();
    for (name, value) in raw.config.env.iter().flatten() {
        if let Err(mistake) = name_of_variable(name) {
            check.key(&path.key(name), mistake);
        } else if let Err(mistake) = values::conf_lines(value) {
            check.value(&path.key(name), mistake);
        } else {
            variables.push((name.clone(), value.clone()));
        }
    }
    variables
}

/// Checks that a variable may reach BitBake.
pub fn name_of_variable(name: &str) -> Result<(), Diagnostic> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let upper = name.to_ascii_uppercase();
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(good) {
        return Err(Diagnostic::new(format!("`{name}` is not the name of an environment variable")));
    }
    if OWN.contains(&upper.as_str()) || OWN_PREFIXES.iter().any(|prefix| upper.starts_with(prefix)) {
        return Err(Diagnostic::new(format!("`{name}` is set by the agent"))
            .hint("write what a build needs into `[config] local_conf`"));
    }
    if SECRET.iter().any(|part| upper.contains(part)) {
        return Err(Diagnostic::new(format!(
            "`{name}` is the name of a credential, which no recipe may read"
        ))
        .hint("credentials stay in the agent: docs/trust.md"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_credentials_nor_the_agents_own_variables_reach_bitbake() {
        for name in ["FOO", "BB_NUMBER_THREADS", "TEMPLATECONF", "SSTATE_MIRRORS", "DL_DIR", "_x1"] {
            assert!(name_of_variable(name).is_ok(), "{name}");
        }
        for name in [
            "",
            "1A",
            "A-B",
            "A=B",
            "PATH",
            "path",
            "LD_PRELOAD",
            "PYTHONHOME",
            "AWS_PROFILE",
            "GITHUB_TOKEN",
            "NPM_Token",
            "BB_ENV_PASSTHROUGH_ADDITIONS",
            "CODEBUILD_SRC_DIR",
            "BUILD_AGENT_LOG",
            "MY_PASSWORD",
            "GIT_SSH_COMMAND",
        ] {
            assert!(name_of_variable(name).is_err(), "{name}");
        }
    }
}
