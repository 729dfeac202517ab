//! The user that runs layer code, its home, and the locale.

use std::path::{Path, PathBuf};

use agent_process::User;
use agent_types::error::Result;

use super::finding::Finding;
use agent_process::{Answer, PROBE_LIMIT, Prober};

#[derive(Clone, Debug)]
pub struct Facts {
    /// The variable `HOME` that the agent itself was started with.
    pub home_variable: Option<PathBuf>,
    /// Lines `home yes|no` and `writable yes|no`, asked as the build user.
    pub home: Answer,
    /// `locale -a`, or the names of the files below `/usr/lib/locale`.
    pub locales: Answer,
    /// Of the agent, from `/proc/self/status`.
    pub umask: Option<u32>,
}

const HOME: &str = r#"
[ -d "$1" ] && echo 'home yes' || echo 'home no'
[ -w "$1" ] && echo 'writable yes' || echo 'writable no'
"#;

/// `locale` is part of libc-bin; images without it have at most the archive, which `strings` could
/// read but `grep` is always there.
const PROBE_LIMITES: &str = r#"
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
) -> Facts {
    let home = home.to_string_lossy();
    let home_words = [&*home];
    let (home, locales) = tokio::join!(
        prober.script("home", HOME, &home_words, user),
        prober.ask("locale", &["sh", "-c", PROBE_LIMITES], None, &prober.environment, PROBE_LIMIT),
    );
    let status = fs_err::read_to_string("/proc/self/status").unwrap_or_default();
    Facts { home_variable, home, locales, umask: umask(&status) }
}

/// The `Umask:` line of `/proc/self/status`, there since Linux 4.7.
fn umask(status: &str) -> Option<u32> {
    let octal = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(octal.trim(), 8).ok()
}

/// `agent_is_root` and `user`: who the agent is and whom it would run layer code as.
pub fn judge(agent_is_root: bool, user: &Result<User>, facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![judge_user(agent_is_root, user)];
    if let Ok(user) = user {
        findings.push(judge_home(user, facts));
    }
    findings.push(judge_locale(&facts.locales));
    findings.push(judge_umask(facts.umask));
    findings
}

fn judge_user(agent_is_root: bool, user: &Result<User>) -> Finding {
    const MEND: &str =
        "useradd --create-home builder; then `--build-user builder` (or run the agent as that user)";
    match user {
        Err(error) => {
            let causes = error.causes.iter().map(|cause| format!(": {cause}")).collect::<String>();
            let mend = error.hint.clone().unwrap_or_else(|| MEND.to_owned());
            Finding::failed("user", format!("{}{causes}", error.message), mend)
        }
        Ok(user) if user.uid == 0 => {
            let found = format!("layer code would run as {} with uid 0, and BitBake refuses root", user.name);
            // Rootless containers map the caller to uid 0: no user inside would help there.
            Finding::failed(
                "user",
                found,
                format!("{MEND}; in rootless podman: `podman run --userns=keep-id`"),
            )
        }
        Ok(user) => {
            let how = if agent_is_root { "the agent is root and drops to" } else { "the agent runs as" };
            Finding::ok("user", format!("{how} {} (uid {}, gid {})", user.name, user.uid, user.gid))
        }
    }
}

fn judge_home(user: &User, facts: &Facts) -> Finding {
    let home = user.home.display();
    let name = &user.name;
    if matches!(facts.home, Answer::Nothing(_)) {
        let found = format!("{home} could not be examined: {}", facts.home.complaint());
        return Finding::failed("home", found, "bring its file system back, or take a local home directory");
    }
    if facts.home.value("home") != Some("yes") {
        let found = format!("{home}, the home of {name} in /etc/passwd, does not exist for that user");
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
            // CodeBuild leaves HOME=/root under `run-as`; the agent does not follow it.
            let found =
                format!("{home} of /etc/passwd is used; the variable HOME says {}", variable.display());
            Finding::ok("home", found)
        }
        _ => Finding::ok("home", format!("{home}, writable by {name}")),
    }
}

fn judge_locale(locales: &Answer) -> Finding {
    const MEND: &str = "apt-get install -y locales && localedef -i en_US -f UTF-8 en_US.UTF-8";
    let Answer::Said { lines, .. } = locales else {
        let found = format!("en_US.UTF-8 could not be looked for: {}", locales.complaint());
        return Finding::warning("locale", found, MEND);
    };
    // glibc lists it as `en_US.utf8`, others as `en_US.UTF-8`.
    let is_it = |line: &String| line.trim().replace('-', "").eq_ignore_ascii_case("en_US.utf8");
    if lines.iter().any(is_it) {
        Finding::ok("locale", "en_US.UTF-8 is installed")
    } else {
        let found = "en_US.UTF-8 is not installed, and BitBake runs with no other (C.UTF-8 is not enough)";
        Finding::failed("locale", found, MEND)
    }
}

fn judge_umask(umask: Option<u32>) -> Finding {
    match umask {
        None => Finding::ok("umask", "the kernel does not tell; children get 0022"),
        // What BitBake's own check asks for: the user everything, others reading.
        Some(umask) if umask & 0o755 != 0 => Finding::warning(
            "umask",
            format!("{umask:04o}: what the agent itself writes may be unreadable to the build user"),
            "umask 0022",
        ),
        Some(umask) => Finding::ok("umask", format!("{umask:04o}; children get 0022")),
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
    fn root_needs_somebody_to_drop_to() {
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
            assert_eq!(finding.mend.is_some(), state != Fine, "{finding:?}");
        }
    }

    #[test]
    fn the_home_of_passwd_counts_and_the_variable_does_not() {
        let good = said(&["home yes", "writable yes"]);
        let table = [
            (good.clone(), None, Fine, "writable by builder"),
            (good, Some("/root"), Fine, "HOME says /root"),
            (said(&["home yes", "writable no"]), None, Failed, "not writable"),
            (said(&["home no", "writable no"]), None, Failed, "does not exist"),
            (Answer::Nothing("no answer".into()), None, Failed, "no answer"),
        ];
        for (home, variable, state, words) in table {
            let facts = Facts {
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
    fn only_en_us_utf8_is_the_locale() {
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
    fn umask_of_the_status_file() {
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
