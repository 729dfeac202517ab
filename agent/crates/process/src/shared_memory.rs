//! Whether `/dev/shm` can be used: Python's `multiprocessing` keeps its locks there, and BitBake does not
//! start without them.

use agent_types::error::Error;

use super::{Answer, Prober, User};

/// Where the C library keeps shared memory and semaphores.
const DIRECTORY: &str = "/dev/shm";

/// Tries to write a byte in the directory.
const SCRIPT: &str = r#"
[ -d "$1" ] || { echo 'missing yes'; exit 0; }
trial=$(mktemp "$1/.build-agent.XXXXXX" 2>&1) || { echo "refused $trial"; exit 0; }
trap 'rm -f -- "$trial"' EXIT
{ printf x > "$trial"; } 2>/dev/null && echo 'writable yes' || echo 'full yes'
"#;

/// Why `/dev/shm` cannot be used, and the fix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    pub why: String,
    pub fix: String,
}

/// Looks as the user that runs BitBake; `None`: as the agent itself.
pub async fn look(prober: &Prober, user: Option<&User>) -> Answer {
    prober.script("shared-memory", SCRIPT, &[DIRECTORY], user).await
}

/// `None` when all is well.
pub fn judge(answer: &Answer) -> Option<Unusable> {
    const MOUNT: &str = "mount -t tmpfs -o mode=1777 tmpfs /dev/shm; in docker: leave out --read-only for it, or add --tmpfs /dev/shm";
    let unusable = |why: String, fix: &str| Some(Unusable { why, fix: fix.to_owned() });
    if answer.value("writable").is_some() {
        None
    } else if answer.value("missing").is_some() {
        unusable(format!("{DIRECTORY} is missing"), MOUNT)
    } else if answer.value("full").is_some() {
        unusable(format!("{DIRECTORY} is full"), "remove what is left there; in docker: --shm-size=256m")
    } else {
        let words = answer.value("refused").map_or_else(|| answer.complaint(), str::to_owned);
        unusable(format!("{DIRECTORY} cannot be written: {words}"), MOUNT)
    }
}

impl From<Unusable> for Error {
    fn from(unusable: Unusable) -> Error {
        Error::machine(format!(
            "{}; BitBake cannot start, because Python keeps its locks there",
            unusable.why
        ))
        .hint(unusable.fix)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::process::Command;

    use super::*;

    fn run(directory: &std::path::Path) -> Answer {
        let output = Command::new("sh").args(["-c", SCRIPT, "sh"]).arg(directory).output().unwrap();
        let lines = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
        Answer::Said { ok: output.status.success(), lines }
    }

    #[test]
    fn the_script_tells_what_is_wrong_and_leaves_nothing_behind() {
        let top = tempfile::tempdir().unwrap();
        assert_eq!(judge(&run(top.path())), None);
        assert_eq!(std::fs::read_dir(top.path()).unwrap().count(), 0);
        let missing = judge(&run(&top.path().join("none"))).unwrap();
        assert_eq!(missing.why, "/dev/shm is missing");
        // Nobody can make files there, whoever runs the tests.
        let refused = judge(&run(std::path::Path::new("/proc"))).unwrap();
        assert!(refused.why.starts_with("/dev/shm cannot be written: mktemp"), "{refused:?}");
    }

    #[test]
    fn no_answer_is_no_success() {
        let said = |line: &str| Answer::Said { ok: true, lines: vec![line.to_owned()] };
        for (answer, words) in [
            (said("full yes"), "is full"),
            (said("refused mktemp: Read-only file system"), "Read-only file system"),
            (Answer::Nothing("no answer".into()), "no answer"),
        ] {
            assert!(judge(&answer).unwrap().why.contains(words), "{answer:?}");
        }
        assert_eq!(judge(&said("writable yes")), None);
    }
}
