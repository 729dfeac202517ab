//! What the doctor says, and in which words.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use agent_types::error::Class;
use agent_types::outcome::ExitStatus;

/// Names the layout of `doctor --json`; raised when a reader of the old layout would go wrong.
pub const SCHEMA: &str = "build-agent/doctor/v1";

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// A job on this machine will not work.
    Failed,
    /// A job may work; this will bite at some time, or could not be examined.
    Warning,
    Ok,
}

impl State {
    pub const fn word(self) -> &'static str {
        match self {
            State::Failed => "failed",
            State::Warning => "warning",
            State::Ok => "ok",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Short and stable, e.g. `host tools`.
    pub name: String,
    pub state: State,
    /// What was found.
    pub found: String,
    /// The exact command or change that mends it; always there unless the state is `Ok`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
    /// Whose fault a failure is: this machine's, or something upstream.
    #[serde(skip)]
    pub class: Class,
    /// The directory that it is about: one that failed is not listed as fine as well.
    #[serde(skip)]
    pub directory: Option<PathBuf>,
}

impl Finding {
    pub fn ok(name: impl Into<String>, found: impl Into<String>) -> Finding {
        Finding {
            name: name.into(),
            state: State::Ok,
            found: found.into(),
            mend: None,
            class: Class::Machine,
            directory: None,
        }
    }

    pub fn warning(name: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) -> Finding {
        Finding { state: State::Warning, mend: Some(mend.into()), ..Finding::ok(name, found) }
    }

    pub fn failed(name: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) -> Finding {
        Finding { state: State::Failed, mend: Some(mend.into()), ..Finding::ok(name, found) }
    }

    /// The same, but something outside this machine is to blame.
    pub fn upstream(self) -> Finding {
        Finding { class: Class::Upstream, ..self }
    }

    /// The same, about this directory.
    pub fn about(self, directory: &Path) -> Finding {
        Finding { directory: Some(directory.to_owned()), ..self }
    }
}

/// Everything that was found, in the order in which it was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Findings(pub Vec<Finding>);

impl Findings {
    /// Leaves out that a directory is fine where another finding says that it is not.
    pub fn new(mut findings: Vec<Finding>) -> Findings {
        let failed: Vec<PathBuf> = findings
            .iter()
            .filter(|finding| finding.state == State::Failed)
            .filter_map(|finding| finding.directory.clone())
            .collect();
        let is_contradicted = |finding: &Finding| {
            finding.state == State::Ok && finding.directory.as_ref().is_some_and(|one| failed.contains(one))
        };
        findings.retain(|finding| !is_contradicted(finding));
        Findings(findings)
    }

    /// The machine's own failures outweigh what is not reachable: they are the reader's to mend.
    pub fn exit_status(&self) -> ExitStatus {
        let failed = |class| self.0.iter().any(|f| f.state == State::Failed && f.class == class);
        if failed(Class::Machine) {
            ExitStatus::Machine
        } else if failed(Class::Upstream) {
            ExitStatus::Upstream
        } else {
            ExitStatus::Passed
        }
    }

    /// For `--json`.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({ "schema": SCHEMA, "exit": self.exit_status(), "findings": self })
    }

    fn count(&self, state: State) -> usize {
        self.0.iter().filter(|finding| finding.state == state).count()
    }
}

/// For people: failures first, mends below, a count at the end.
impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.0.iter().map(|finding| printable(&finding.name).chars().count()).max().unwrap_or(0);
        let mut sorted: Vec<&Finding> = self.0.iter().collect();
        sorted.sort_by_key(|finding| finding.state);
        for finding in sorted {
            let name = printable(&finding.name);
            writeln!(f, "{:<7}  {name:<names$}  {}", finding.state.word(), printable(&finding.found))?;
            if let Some(mend) = &finding.mend {
                writeln!(f, "{:<7}  {:<names$}  mend: {}", "", "", printable(mend))?;
            }
        }
        let [failed, warnings, ok] = [State::Failed, State::Warning, State::Ok].map(|s| self.count(s));
        let warnings_word = if warnings == 1 { "warning" } else { "warnings" };
        writeln!(f, "{failed} failed, {warnings} {warnings_word}, {ok} ok")
    }
}

/// Paths and the words of other programs end up here: control characters must not reach a terminal.
fn printable(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_outweighs_upstream_and_warnings_do_not_count() {
        let ok = Finding::ok("a", "b");
        let warning = Finding::warning("a", "b", "c");
        let machine = Finding::failed("a", "b", "c");
        let network = Finding::failed("a", "b", "c").upstream();
        let table = [
            (vec![], ExitStatus::Passed),
            (vec![ok.clone(), warning.clone()], ExitStatus::Passed),
            (vec![ok, network.clone()], ExitStatus::Upstream),
            (vec![network, machine, warning], ExitStatus::Machine),
        ];
        for (findings, wanted) in table {
            assert_eq!(Findings(findings.clone()).exit_status(), wanted, "{findings:?}");
        }
    }

    #[test]
    fn people_read_failures_first_and_terminals_get_no_control_characters() {
        let findings = Findings(vec![
            Finding::ok("user", "builder"),
            Finding::warning("disk", "3 GiB", "free some"),
            Finding::failed("git", "fatal: \x1b[31mred\nnext", "give access"),
        ]);
        let text = findings.to_string();
        assert_eq!(
            text,
            "failed   git   fatal: \\u{1b}[31mred\\nnext\n               mend: give access\n\
             warning  disk  3 GiB\n               mend: free some\n\
             ok       user  builder\n\
             1 failed, 1 warning, 1 ok\n"
        );
    }

    #[test]
    fn a_directory_is_not_failed_and_ok() {
        let of = |finding: Finding, directory: &str| finding.about(Path::new(directory));
        let Findings(left) = Findings::new(vec![
            of(Finding::ok("path", "/a"), "/a"),
            of(Finding::ok("path", "/b"), "/b"),
            of(Finding::failed("writable", "/a is not", "x"), "/a"),
            of(Finding::warning("mode", "/b is odd", "x"), "/b"),
            Finding::ok("user", "builder"),
        ]);
        let names: Vec<_> = left.iter().map(|finding| finding.found.as_str()).collect();
        assert_eq!(names, ["/b", "/a is not", "/b is odd", "builder"]);
    }

    #[test]
    fn json_names_its_schema_and_exit() {
        let json = Findings(vec![Finding::failed("git", "gone", "wait").upstream()]).json();
        assert_eq!(json["schema"], SCHEMA);
        assert_eq!(json["exit"], "upstream");
        assert_eq!(json["findings"][0]["state"], "failed");
        assert_eq!(json["findings"][0]["mend"], "wait");
    }
}
