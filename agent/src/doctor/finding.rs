//! Findings of the doctor, as text and as JSON.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use agent_types::error::{Class, Error};
use agent_types::outcome::ExitStatus;

/// Names the layout of `doctor --json`. Its number rises when old readers could not read the new layout.
pub const SCHEMA: &str = "build-agent/doctor/v1";

/// Severity of a finding, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// A job on this machine cannot work.
    Failed,
    /// A job may work, but this may cause a failure later; or the check could not run.
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

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Short and stable, e.g. `host tools`.
    pub name: String,
    pub state: State,
    /// What was found.
    pub found: String,
    /// The exact command or change that fixes it; present unless the state is `Ok`.
    #[serde(flatten, serialize_with = "serialize_fix")]
    pub fix: Option<String>,
    /// The cause of a failure: this machine or something upstream.
    #[serde(skip)]
    pub class: Class,
    /// The directory that the finding is about. A directory with a failure gets no `Ok` finding.
    #[serde(skip)]
    pub directory: Option<PathBuf>,
}

/// Writes the key `fix`, and `mend` for readers of agents before that key had its name.
fn serialize_fix<S: Serializer>(fix: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    if let Some(fix) = fix {
        map.serialize_entry("fix", fix)?;
        map.serialize_entry("mend", fix)?;
    }
    map.end()
}

impl Finding {
    pub fn ok(name: impl Into<String>, found: impl Into<String>) -> Finding {
        Finding {
            name: name.into(),
            state: State::Ok,
            found: found.into(),
            fix: None,
            class: Class::Machine,
            directory: None,
        }
    }

    pub fn warning(name: impl Into<String>, found: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding { state: State::Warning, fix: Some(fix.into()), ..Finding::ok(name, found) }
    }

    pub fn failed(name: impl Into<String>, found: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding { state: State::Failed, fix: Some(fix.into()), ..Finding::ok(name, found) }
    }

    /// The same finding, caused by something outside this machine.
    pub fn upstream(self) -> Finding {
        Finding { class: Class::Upstream, ..self }
    }

    /// The same finding, about this directory.
    pub fn about(self, directory: &Path) -> Finding {
        Finding { directory: Some(directory.to_owned()), ..self }
    }
}

/// All findings, in the order of the checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Findings(pub Vec<Finding>);

impl Findings {
    /// Removes the `Ok` findings about a directory that has a failure as well.
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

    /// The exit status: failures of this machine come before those upstream, because the reader can fix them.
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

    /// The failures as one error; `None`, if there are none.
    pub fn error(&self) -> Option<Error> {
        let failed: Vec<&Finding> = self.0.iter().filter(|finding| finding.state == State::Failed).collect();
        let first = failed.first()?;
        let mut error =
            Error::new(first.class, format!("this machine is not ready: {}: {}", first.name, first.found));
        error.hint = first.fix.clone();
        error.causes = failed[1..]
            .iter()
            .map(|one| {
                format!("{}: {}; fix: {}", one.name, one.found, one.fix.as_deref().unwrap_or_default())
            })
            .collect();
        Some(error)
    }

    /// The document of `--json`.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({ "schema": SCHEMA, "exit": self.exit_status(), "findings": self })
    }

    /// The document of `--json` for several releases: each finding names the release that it was checked for.
    pub fn json_of_releases(checked: &[(&str, Findings)]) -> serde_json::Value {
        if let [(_, findings)] = checked {
            return findings.json();
        }
        let all = Findings(checked.iter().flat_map(|(_, findings)| findings.0.clone()).collect());
        let mut document = all.json();
        let releases =
            checked.iter().flat_map(|(release, findings)| std::iter::repeat_n(release, findings.0.len()));
        let findings = document["findings"].as_array_mut().into_iter().flatten();
        for (finding, release) in findings.zip(releases) {
            finding["release"] = serde_json::json!(release);
        }
        document
    }

    fn count(&self, state: State) -> usize {
        self.0.iter().filter(|finding| finding.state == state).count()
    }
}

/// The text for people: failures first, each finding with its fix, and the totals at the end.
impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.0.iter().map(|finding| printable(&finding.name).chars().count()).max().unwrap_or(0);
        let mut sorted: Vec<&Finding> = self.0.iter().collect();
        sorted.sort_by_key(|finding| finding.state);
        for finding in sorted {
            let name = printable(&finding.name);
            writeln!(f, "{:<7}  {name:<names$}  {}", finding.state.word(), printable(&finding.found))?;
            if let Some(fix) = &finding.fix {
                writeln!(f, "{:<7}  {:<names$}  fix: {}", "", "", printable(fix))?;
            }
        }
        let [failed, warnings, ok] = [State::Failed, State::Warning, State::Ok].map(|s| self.count(s));
        let warnings_word = if warnings == 1 { "warning" } else { "warnings" };
        writeln!(f, "{failed} failed, {warnings} {warnings_word}, {ok} ok")
    }
}

/// Escapes control characters: the text has paths and output of other programs, and goes to a terminal.
fn printable(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn exit_status_is_machine_before_upstream_and_ignores_warnings() {
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
    fn text_lists_failures_first_and_escapes_control_characters() {
        let findings = Findings(vec![
            Finding::ok("user", "builder"),
            Finding::warning("disk", "3 GiB", "free some"),
            Finding::failed("git", "fatal: \x1b[31mred\nnext", "give access"),
        ]);
        let text = findings.to_string();
        assert_eq!(
            text,
            "failed   git   fatal: \\u{1b}[31mred\\nnext\n               fix: give access\n\
             warning  disk  3 GiB\n               fix: free some\n\
             ok       user  builder\n\
             1 failed, 1 warning, 1 ok\n"
        );
    }

    #[test]
    fn directory_with_a_failure_has_no_ok_finding() {
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
    fn json_of_several_releases_is_one_document() {
        let good = || Findings(vec![Finding::ok("git", "there")]);
        let bad =
            Findings(vec![Finding::ok("git", "there"), Finding::failed("host tools", "gone", "get them")]);
        assert_eq!(Findings::json_of_releases(&[("scarthgap", good())]), good().json());
        let json = Findings::json_of_releases(&[("kirkstone", good()), ("scarthgap", bad)]);
        assert_eq!((&json["schema"], &json["exit"]), (&SCHEMA.into(), &"machine".into()));
        let found: Vec<_> = json["findings"].as_array().unwrap().iter().collect();
        let named = |finding: &serde_json::Value| format!("{} {}", finding["release"], finding["name"]);
        assert_eq!(
            found.into_iter().map(named).collect::<Vec<_>>(),
            ["\"kirkstone\" \"git\"", "\"scarthgap\" \"git\"", "\"scarthgap\" \"host tools\""]
        );
    }

    #[test]
    fn json_has_schema_exit_and_fix() {
        let json = Findings(vec![Finding::failed("git", "gone", "wait").upstream()]).json();
        assert_eq!(json["schema"], SCHEMA);
        assert_eq!(json["exit"], "upstream");
        assert_eq!(json["findings"][0]["state"], "failed");
        assert_eq!(json["findings"][0]["fix"], "wait");
        assert_eq!(json["findings"][0]["mend"], "wait", "the older name of the key");
        let ok = Findings(vec![Finding::ok("git", "there")]).json();
        assert_eq!(ok["findings"][0], serde_json::json!({ "name": "git", "state": "ok", "found": "there" }));
    }
}
