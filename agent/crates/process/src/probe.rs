//! Questions to other programs, each with a time limit.
//!
//! File systems are asked through children, too: a lost NFS mount holds whoever touches it in
//! uninterruptible sleep, and that must not be the agent.

use std::path::Path;
use std::time::Duration;

use agent_types::events::EventKind;

use super::{Command, Environment, ExitReason, LineHandler, Runner, User};

/// For questions that the machine answers itself.
pub const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// Lines of an answer that are kept; none of the questions has more.
const MOST_LINES: usize = 4096;

/// What a program answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Said {
        ok: bool,
        lines: Vec<String>,
    },
    /// Why there is no answer: not installed, no answer in time.
    Nothing(String),
}

impl Answer {
    /// The lines of a program that ended well.
    pub fn lines(&self) -> Option<&[String]> {
        match self {
            Answer::Said { ok: true, lines } => Some(lines),
            _ => None,
        }
    }

    /// The value of a `key value` line; the scripts of the doctor answer in such lines.
    pub fn value(&self, key: &str) -> Option<&str> {
        let Answer::Said { lines, .. } = self else { return None };
        lines.iter().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
    }

    /// Why it went wrong, in one line.
    pub fn complaint(&self) -> String {
        match self {
            Answer::Said { lines, .. } => lines
                .iter()
                .find(|line| !line.trim().is_empty())
                .map_or_else(|| "failed without a word".to_owned(), |line| line.trim().to_owned()),
            Answer::Nothing(why) => why.clone(),
        }
    }
}

/// Asks programs.
#[derive(Clone, Debug)]
pub struct Prober {
    /// Its grace is how long a program that gave no answer may take to end.
    pub runner: Runner,
    pub environment: Environment,
    /// The beginning of the logs' names, such as `doctor`.
    pub log: &'static str,
}

impl Prober {
    /// Runs a program as `user` (`None`: as the agent itself) and waits at most `limit`.
    pub async fn ask(
        &self,
        name: &str,
        argv: &[&str],
        user: Option<&User>,
        environment: &Environment,
        limit: Duration,
    ) -> Answer {
        let [program, arguments @ ..] = argv else { return Answer::Nothing("no program named".into()) };
        // Not in the directory in question: changing into it may be what hangs.
        let mut command =
            Command::new(*program, Path::new("/"), format!("{}-{name}", self.log)).args(arguments);
        command.environment = environment.clone();
        command.user = user.cloned();
        command.timeout = Some(limit);
        command.stall = Some(limit);
        let mut kept = Kept(Vec::new());
        // A process in uninterruptible sleep survives even SIGKILL, so its end is not waited for.
        let timeout = limit + self.runner.grace * 4;
        let ended = tokio::time::timeout(timeout, self.runner.run(command, &mut kept)).await;
        let too_late = || Answer::Nothing(format!("`{program}` gave no answer within {}s", limit.as_secs()));
        match ended {
            Err(_) => too_late(),
            Ok(Err(error)) => Answer::Nothing(error.to_string().replace('\n', " ")),
            Ok(Ok(finished)) => match finished.end {
                ExitReason::Exited(status) => Answer::Said { ok: status == 0, lines: kept.0 },
                ExitReason::Signalled(signal) => {
                    Answer::Nothing(format!("`{program}` was ended by signal {signal}"))
                }
                ExitReason::TimedOut | ExitReason::Stalled(_) => too_late(),
                ExitReason::Cancelled => Answer::Nothing("cancelled".into()),
            },
        }
    }

    /// Runs a fixed shell script; what varies comes as `$1`, `$2` …, never inside the script.
    pub async fn script(&self, name: &str, script: &str, words: &[&str], user: Option<&User>) -> Answer {
        let mut argv = vec!["sh", "-c", script, "sh"];
        argv.extend(words);
        self.ask(name, &argv, user, &self.environment, PROBE_LIMIT).await
    }
}

struct Kept(Vec<String>);

impl LineHandler for Kept {
    fn line(&mut self, line: &str) -> Vec<EventKind> {
        if self.0.len() < MOST_LINES {
            self.0.push(line.to_owned());
        }
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(ok: bool, lines: &[&str]) -> Answer {
        Answer::Said { ok, lines: lines.iter().map(|&line| line.to_owned()).collect() }
    }

    #[test]
    fn an_answer_has_lines_only_when_the_program_ended_well() {
        assert_eq!(said(true, &["a"]).lines(), Some(&["a".to_owned()][..]));
        assert_eq!(said(false, &["a"]).lines(), None);
        assert_eq!(Answer::Nothing("x".into()).lines(), None);
    }

    #[test]
    fn values_are_found_by_whole_key() {
        let answer = said(true, &["space-left 1", "space 2 3", "empty "]);
        assert_eq!(answer.value("space"), Some("2 3"));
        assert_eq!(answer.value("empty"), Some(""));
        assert_eq!(answer.value("spac"), None);
    }

    #[test]
    fn the_first_line_with_words_is_the_complaint() {
        assert_eq!(said(false, &["", "  fatal: no", "more"]).complaint(), "fatal: no");
        assert_eq!(said(false, &[]).complaint(), "failed without a word");
    }
}
