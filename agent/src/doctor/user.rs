//! Checks the build user, its home directory, the locale, and the umask.

use std::path::{Path, PathBuf};

use agent_process::User;
use agent_types::error::Result;

use super::finding::Finding;
use agent_process::{Answer, PROBE_LIMIT, Prober};

#[derive(Clone, Debug)]
pub struct UserFacts {
    /// `HOME` in the agent's own environment.
    pub home_variable: Option<PathBuf>,
    /// Lines `home yes|no` and `writable yes|no`, from a script that ran as the build user.
    pub home: Answer,
    /// Output of `locale -a`, or the names of the files below `/usr/lib/locale`.
    pub locales: Answer,
    /// The agent's umask, from `/proc/self/status`.
    pub umask: Option<u32>,
}

const HOME: &str = r#"
[ -d "$1" ] && echo 'home yes' || echo 'home no'
[ -w "$1" ] && echo 'writable yes' || echo 'writable no'
"#;

/// Lists the installed locales. `locale` is part of libc-bin; images without it have at most the archive,
/// which `grep` can search.
const LIST_LOCALES: &str = r#"
if command -v locale >/dev/null 2>&1; then locale -a 2>/dev/null
else ls /usr/lib/locale 2>/dev/null; grep -aho 'en_US\.utf8' /usr/lib/locale/locale-archive 2>/dev/null
fi
exit 0
"#;

pub async fn gather(
    prober: &Prober,
    user: Option<&User>,
    home: &Path,
    home_variable: Option<PathBuf>,
) -> UserFacts {
    let home = home.to_string_lossy();
    let home_words = [&*home];
    let (home, locales) = tokio::join!(
        prober.script("home", HOME, &home_words, user),
        prober.ask("locale", &["sh", "-c", LIST_LOCALES], None, &prober.environment, PROBE_LIMIT),
    );
    let status = fs_err::read_to_string("/proc/self/status").unwrap_or_default();
    UserFacts { home_variable, home, locales, umask: umask(&status) }
}

/// Reads the `Umask:` line of `/proc/self/status`, which exists since Linux 4.7.
fn umask(status: &str) -> Option<u32> {
    let octal = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(octal.trim(), 8).ok()
}

/// Judges the user that would run layer code; `agent_is_root` says whether the agent can switch to it.
pub fn judge(agent_is_root: bool, user: &Result<User>, facts: &UserFacts) -> Vec<Finding> {
    let mut findings = vec![judge_user(agent_is_root, user)];
    if let Ok(user) = user {
        findings.push(judge_home(user, facts));
    }
    findings.push(judge_locale(&facts.locales));
    findings.push(judge_umask(facts.umask));
    findings
}

fn judge_user(agent_is_root: bool, user: &Result<User>) -> Finding {
    const FIX: &str =
        "useradd --create-home builder; then `--build-user builder` (or run the agent as that user)";
    match user {
        Err(error) => {
            let causes = error.causes.iter().map(|cause| format!(": {cause}")).collect::<String>();
            let fix = error.hint.clone().unwrap_or_else(|| FIX.to_owned());
            Finding::failed("user", format!("{}{causes}", error.message), fix)
        }
        Ok(user) if user.uid == 0 => {
            let found = format!("layer code would run as {} with uid 0, and BitBake rejects root", user.name);
            // Rootless containers map the caller to uid 0, so another user inside would not help.
            Finding::failed(
                "user",
                found,
                format!("{FIX}; in rootless podman: `podman run --userns=keep-id`"),
            )
        }
        Ok(user) => {
            let how = if agent_is_root { "the agent is root and drops to" } else { "the agent runs as" };
            Finding::ok("user", format!("{how} {} (uid {}, gid {})", user.name, user.uid, user.gid))
        }
    }
}

fn judge_home(user: &User, facts: &UserFacts) -> Finding {
    let home = user.home.display();
    let name = &user.name;
    if matches!(facts.home, Answer::Nothing(_)) {
        let found = format!("cannot check {home}: {}", facts.home.complaint());
        return Finding::failed("home", found, "restore its file system, or use a local home directory");
    }
    if facts.home.value("home") != Some("yes") {
        let found = format!("{home}, the home of {name} in /etc/passwd, is not a directory for that user");
        return Finding::failed(
            "home",
            found,
            format!("mkhomedir_helper {name}, or `install -d -o {name} {home}`"),
        );
    }
    if facts.home.value("writable") != Some("yes") {
        let found = format!("{home}, the home of {name} in /etc/passwd, is not writable by that user");
        return Finding::failed("home", found, format!("chown {name}: {home}"));
    }
    match &facts.home_variable {
        Some(variable) if *variable != user.home => {
            // CodeBuild keeps HOME=/root under `run-as`; the agent ignores it.
            let found = format!("{home} (from /etc/passwd); HOME={} is ignored", variable.display());
            Finding::ok("home", found)
        }
        _ => Finding::ok("home", format!("{home}, writable by {name}")),
    }
}

fn judge_locale(locales: &Answer) -> Finding {
    const FIX: &str = "apt-get install -y locales && localedef -i en_US -f UTF-8 en_US.UTF-8";
    let Answer::Said { lines, .. } = locales else {
        let found = format!("cannot check for en_US.UTF-8: {}", locales.complaint());
        return Finding::warning("locale", found, FIX);
    };
    // glibc lists the locale as `en_US.utf8`, others as `en_US.UTF-8`.
    let is_it = |line: &String| line.trim().replace('-', "").eq_ignore_ascii_case("en_US.utf8");
    if lines.iter().any(is_it) {
        Finding::ok("locale", "en_US.UTF-8 is installed")
    } else {
        let found = "en_US.UTF-8 is not installed, and BitBake requires it (C.UTF-8 is not enough)";
        Finding::failed("locale", found, FIX)
    }
}

fn judge_umask(umask: Option<u32>) -> Finding {
    match umask {
        None => Finding::ok("umask", "unknown to this kernel; child processes get 0022"),
        // OE-Core's sanity check requires: all rights for the user, read access for others.
        Some(umask) if umask & 0o755 != 0 => Finding::warning(
            "umask",
            format!("{umask:04o}: the build user may be unable to read files that the agent writes"),
            "umask 0022",
        ),
        Some(umask) => Finding::ok("umask", format!("{umask:04o}; child processes get 0022")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::doctor::State::{self, Failed, Ok as Fine, Warning};
    use agent_types::error::Error;

    fn user(uid: u32) -> User {
        User { name: "builder".into(), uid, gid: uid, home: "/home/builder".into() }
    }

    fn said(lines: &[&str]) -> Answer {
        Answer::Said { ok: true, lines: lines.iter().map(|&line| line.to_owned()).collect() }
    }

    #[test]
    fn rejects_root_without_a_build_user() {
        let nobody = Error::machine("no user `builder`").hint("make one");
        let table: [(bool, Result<User>, State, &str); 4] = [
            (true, Err(nobody), Failed, "no user `builder`"),
            (true, Ok(user(0)), Failed, "uid 0"),
            (true, Ok(user(1000)), Fine, "drops to builder"),
            (false, Ok(user(1000)), Fine, "runs as builder"),
        ];
        for (root, who, state, words) in table {
            let finding = judge_user(root, &who);
            assert_eq!(finding.state, state, "{who:?}");
            assert!(finding.found.contains(words), "{finding:?}");
            assert_eq!(finding.fix.is_some(), state != Fine, "{finding:?}");
        }
    }

    #[test]
    fn home_comes_from_passwd_and_not_from_the_variable() {
        let good = said(&["home yes", "writable yes"]);
        let table = [
            (good.clone(), None, Fine, "writable by builder"),
            (good, Some("/root"), Fine, "HOME=/root is ignored"),
            (said(&["home yes", "writable no"]), None, Failed, "not writable"),
            (said(&["home no", "writable no"]), None, Failed, "not a directory"),
            (Answer::Nothing("no answer".into()), None, Failed, "no answer"),
        ];
        for (home, variable, state, words) in table {
            let facts = UserFacts {
                home_variable: variable.map(PathBuf::from),
                home: home.clone(),
                locales: said(&[]),
                umask: None,
            };
            let finding = judge_home(&user(1000), &facts);
            assert_eq!(finding.state, state, "{home:?}");
            assert!(finding.found.contains(words), "{finding:?}");
        }
    }

    #[test]
    fn requires_the_locale_en_us_utf8() {
        let table: [(Answer, State); 6] = [
            (said(&["C", "en_US.utf8"]), Fine),
            (said(&["en_US.UTF-8"]), Fine),
            (said(&["C.utf8", "POSIX"]), Failed),
            (said(&["en_US.iso88591", "xen_US.utf8"]), Failed),
            (said(&[]), Failed),
            (Answer::Nothing("no sh".into()), Warning),
        ];
        for (locales, state) in table {
            assert_eq!(judge_locale(&locales).state, state, "{locales:?}");
        }
    }

    #[test]
    fn parses_and_judges_umask() {
        let table = [
            ("Name:\tx\nUmask:\t0022\n", Some(0o022), Fine),
            ("Umask:\t0002\n", Some(0o002), Fine),
            ("Umask:\t0077\n", Some(0o077), Warning),
            ("Umask:\tx\n", None, Fine),
            ("", None, Fine),
        ];
        for (status, wanted, state) in table {
            assert_eq!(umask(status), wanted, "{status:?}");
            assert_eq!(judge_umask(wanted).state, state, "{status:?}");
        }
    }
}
