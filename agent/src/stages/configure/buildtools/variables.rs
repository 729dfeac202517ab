//! What the script of the buildtools changes in the environment.

use std::collections::BTreeMap;

use crate::config::name_of_variable;
use agent_yocto::environment::HostTools;

/// What each shell sets itself.
const OF_SHELL: [&str; 4] = ["_", "SHLVL", "PWD", "OLDPWD"];

/// The lists of the variables that BitBake hands on, in new and old releases.
const PASSTHROUGH: [&str; 2] = ["BB_ENV_PASSTHROUGH_ADDITIONS", "BB_ENV_EXTRAWHITE"];

/// No value is longer, in bytes.
const LONGEST: usize = 32 << 10;

/// Characters of a name that a message shows.
const SHOWN: usize = 60;

/// The changes.
#[derive(Debug, PartialEq, Eq)]
pub struct Changed {
    pub tools: HostTools,
    /// Names of variables that do not reach BitBake.
    pub ignored: Vec<String>,
}

/// Compares two environments as `env -0` prints them.
///
/// # Errors
/// Why the second one cannot be used.
pub fn changed(before: &[u8], after: &[u8]) -> Result<Changed, String> {
    let (before, after) = (variables(before)?, variables(after)?);
    let path = after.get("PATH").ok_or("its script leaves no PATH")?;
    if let Some(part) = path.split(':').find(|part| !part.starts_with('/')) {
        return Err(format!("its PATH has `{}`, which is not an absolute path", shown(part)));
    }
    let mut tools = HostTools { path: (*path).to_owned(), ..HostTools::default() };
    let mut ignored = Vec::new();
    for (name, value) in &after {
        if before.get(name) == Some(value) || *name == "PATH" || OF_SHELL.contains(name) {
            continue;
        }
        if PASSTHROUGH.contains(name) {
            let mut words: Vec<String> = value
                .split_whitespace()
                .filter(|word| name_of_variable(word).is_ok())
                .map(str::to_owned)
                .collect();
            words.retain(|word| !tools.passthrough.contains(word));
            tools.passthrough.extend(words);
        } else if name_of_variable(name).is_ok() {
            tools.variables.push(((*name).to_owned(), (*value).to_owned()));
        } else {
            ignored.push(shown(name));
        }
    }
    Ok(Changed { tools, ignored })
}

/// The beginning of a text.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN).flat_map(char::escape_debug).collect()
}

fn variables(text: &[u8]) -> Result<BTreeMap<&str, &str>, String> {
    let text = std::str::from_utf8(text).map_err(|_| "its environment is not UTF-8")?;
    let mut variables = BTreeMap::new();
    for entry in text.split_terminator('\0') {
        let (name, value) = entry.split_once('=').ok_or("its environment has an entry without `=`")?;
        if value.len() > LONGEST || value.chars().any(char::is_control) {
            return Err(format!("the value of {} is too long or has control characters", shown(name)));
        }
        variables.insert(name, value);
    }
    Ok(variables)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(before: &[&str], after: &[&str]) -> Result<Changed, String> {
        let text = |entries: &[&str]| entries.iter().map(|entry| format!("{entry}\0")).collect::<String>();
        changed(text(before).as_bytes(), text(after).as_bytes())
    }

    #[test]
    fn only_what_the_script_changes_reaches_bitbake() {
        // As the script of OE-Core does it.
        let before = ["PATH=/usr/bin:/bin", "HOME=/h", "https_proxy=http://p:1", "SHLVL=1", "_=/usr/bin/env"];
        let after = [
            "PATH=/t/usr/bin:/usr/bin:/bin",
            "HOME=/h",
            "https_proxy=http://p:1",
            "SHLVL=2",
            "_=/x",
            "OLDPWD=/",
            "OPENSSL_CONF=/t/openssl.cnf",
            "GIT_SSL_CAINFO=/etc/ssl/certs/ca-certificates.crt",
            "BB_ENV_PASSTHROUGH_ADDITIONS= OPENSSL_CONF GIT_SSL_CAINFO GIT_SSL_CAINFO GITHUB_TOKEN",
        ];
        let found = of(&before, &after).unwrap();
        assert_eq!(found.tools.path, "/t/usr/bin:/usr/bin:/bin");
        let names: Vec<&str> = found.tools.variables.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["GIT_SSL_CAINFO", "OPENSSL_CONF"]);
        assert!(found.tools.passthrough.contains(&"OPENSSL_CONF".to_owned()));
        assert!(!found.tools.passthrough.contains(&"GITHUB_TOKEN".to_owned()));
        assert!(found.ignored.is_empty(), "{found:?}");
    }

    #[test]
    fn what_the_agent_sets_and_what_has_the_name_of_a_credential_is_ignored() {
        let before = ["PATH=/bin", "HOME=/h"];
        let after =
            ["PATH=/bin", "HOME=/x", "LD_PRELOAD=/t/x.so", "PYTHONHOME=/t", "AWS_PROFILE=x", "BBPATH=/t"];
        let found = of(&before, &after).unwrap();
        assert_eq!(found.ignored, ["AWS_PROFILE", "BBPATH", "HOME", "LD_PRELOAD", "PYTHONHOME"]);
        assert_eq!(found.tools, HostTools { path: "/bin".into(), ..HostTools::default() });
    }

    #[test]
    fn an_environment_that_cannot_be_used_is_an_error() {
        let long = format!("A={}", "x".repeat(LONGEST + 1));
        let long_name = format!("{}=\n", "x".repeat(1000));
        for (after, why) in [
            (vec!["HOME=/h"], "no PATH"),
            (vec!["PATH=/t::/bin"], "has ``"),
            (vec!["PATH=t/bin:/bin"], "has `t/bin`"),
            (vec!["PATH=/bin", "nothing"], "without `=`"),
            (vec!["PATH=/bin", "A=\u{1b}[31m"], "control characters"),
            (vec!["PATH=/bin", "BASH_FUNC_x%%=() {\n}"], "control characters"),
            (vec!["PATH=/bin", &long], "too long"),
            (vec!["PATH=/bin", &long_name], "too long"),
        ] {
            let error = of(&["PATH=/bin"], &after).unwrap_err();
            assert!(error.contains(why) && error.len() < 200, "{after:?}: {error}");
        }
        assert!(changed(b"PATH=/bin\0", b"PATH=/bin\0A=\xff\0").unwrap_err().contains("UTF-8"));
    }
}
