//! Reads `testresults.json`, which OE-Core's test runner writes (`oeqa/core/runner.py`).
//!
//! Layer code can write the file, too, and an older run may have left its results in it. So everything that does not
//! look as expected makes the whole file unreadable, and never a shorter list of tests.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// The file's name.
pub const FILE_NAME: &str = "testresults.json";

/// Prefixes of keys with the results of tests inside of tests, and the class under which reports show them.
const NESTED: [(&str, &str); 3] =
    [("ptestresult.", "ptest"), ("ltpresult.", "ltp"), ("ltpposixresult.", "ltp-posix")];

/// The results of one test run on one image.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    /// `runtime_core-image-minimal_qemux86-64_20260102030405`
    pub id: String,
    pub image: String,
    pub machine: String,
    /// OE-Core's own tests, sorted by id.
    pub tests: Vec<OeTest>,
    /// The tests inside of them, by section.
    pub sections: BTreeMap<SectionId, Section>,
}

/// A test of OE-Core or of a layer, e.g. `ssh.SSHTest.test_ssh`.
#[derive(Clone, Debug, PartialEq)]
pub struct OeTest {
    pub id: String,
    pub status: Status,
    /// Why it did not pass.
    pub log: String,
    pub seconds: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    Passed,
    Failed,
    /// The test itself is broken.
    Error,
    Skipped,
    ExpectedFailure,
    /// It was never reached.
    Unknown,
    /// A status that no release writes.
    Other(String),
}

/// `ptest` and the name of the ptest, which is its directory in the image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SectionId {
    pub kind: &'static str,
    pub name: String,
}

impl SectionId {
    pub fn ptest(name: impl Into<String>) -> SectionId {
        SectionId { kind: "ptest", name: name.into() }
    }
}

/// One ptest: what `ptest-runner` printed from `BEGIN` to `END`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Section {
    /// Whether it came to an end. Without it there are only results that were printed before.
    pub ended: bool,
    pub log: String,
    pub seconds: Option<f64>,
    /// The status of `run-ptest`, if it was not 0.
    pub exit: Option<String>,
    /// Whether it was stopped because it was silent.
    pub timed_out: bool,
    /// The kernel's message when it killed a process for lack of memory.
    pub out_of_memory: Option<String>,
    /// The kernel's message when it panicked.
    pub panic: Option<String>,
    /// The names of its tests and their results.
    pub tests: Vec<(String, Status)>,
}

impl Status {
    fn parse(word: &str) -> Status {
        match word {
            "PASSED" => Status::Passed,
            "FAILED" => Status::Failed,
            "ERROR" => Status::Error,
            "SKIPPED" => Status::Skipped,
            "EXPECTEDFAIL" => Status::ExpectedFailure,
            "UNKNOWN" => Status::Unknown,
            other => Status::Other(other.to_owned()),
        }
    }
}

/// All runs that the file holds.
///
/// # Errors
/// Why the file cannot be relied upon, with the key.
pub fn parse(text: &str) -> Result<Vec<Run>, String> {
    let root: Value = serde_json::from_str(text).map_err(|error| format!("it is not JSON: {error}"))?;
    let runs = object(&root, "the file")?;
    runs.iter().map(|(id, run)| parse_run(id, run)).collect()
}

fn parse_run(id: &str, run: &Value) -> Result<Run, String> {
    let fields = object(run, id)?;
    let part = |name: &str| {
        let value = fields.get(name).ok_or_else(|| format!("`{id}` has no `{name}`"))?;
        object(value, &format!("{id} {name}"))
    };
    let (configuration, results) = (part("configuration")?, part("result")?);
    let word = |name: &str| match configuration.get(name) {
        Some(Value::String(word)) => Ok(word.clone()),
        _ => Err(format!("`{id}`: its configuration has no {name}")),
    };
    let kind = word("TEST_TYPE")?;
    if kind != "runtime" {
        return Err(format!("`{id}`: its TEST_TYPE is `{kind}`, not `runtime`"));
    }
    let mut made = Run {
        id: id.to_owned(),
        image: word("IMAGE_BASENAME")?,
        machine: word("MACHINE")?,
        ..Run::default()
    };
    made.sections = sections(results)?;
    for (key, value) in results {
        match NESTED.iter().find(|(prefix, _)| key.starts_with(prefix)) {
            Some((prefix, kind)) => nested(&mut made.sections, prefix, kind, key, value)?,
            None => made.tests.extend(oe_test(key, value)?),
        }
    }
    Ok(made)
}

/// `ptestresult.sections` and the like: they name the sections, which the keys of the results need to be understood.
fn sections(results: &Map<String, Value>) -> Result<BTreeMap<SectionId, Section>, String> {
    let mut found = BTreeMap::new();
    for (prefix, kind) in NESTED {
        let key = format!("{prefix}sections");
        let Some(value) = results.get(&key) else { continue };
        for (name, section) in object(value, &key)? {
            let place = format!("{key} {name}");
            let fields = object(section, &place)?;
            let text = |field: &str| match fields.get(field) {
                None | Some(Value::Null) => Ok(None),
                Some(Value::String(text)) => Ok(Some(text.clone())),
                Some(Value::Number(number)) => Ok(Some(number.to_string())),
                Some(_) => Err(format!("`{place}`: its `{field}` is not text")),
            };
            let timed_out = match fields.get("timeout") {
                None | Some(Value::Bool(false) | Value::Null) => false,
                // Any other value counts as a timeout.
                Some(_) => true,
            };
            let seconds = match text("duration")? {
                None => None,
                Some(text) => {
                    Some(seconds(&text).ok_or_else(|| format!("`{place}`: its duration is `{text}`"))?)
                }
            };
            let section = Section {
                ended: true,
                log: text("log")?.unwrap_or_default(),
                seconds,
                exit: text("exitcode")?.filter(|code| code.trim() != "0"),
                timed_out,
                out_of_memory: text("oom")?,
                panic: text("panic")?,
                tests: Vec::new(),
            };
            found.insert(SectionId { kind, name: name.clone() }, section);
        }
    }
    Ok(found)
}

/// `ptestresult.SECTION.TEST`. Both may contain dots.
fn nested(
    sections: &mut BTreeMap<SectionId, Section>,
    prefix: &str,
    kind: &'static str,
    key: &str,
    value: &Value,
) -> Result<(), String> {
    let rest = key.strip_prefix(prefix).unwrap_or(key);
    if matches!(rest, "sections" | "rawlogs") {
        return Ok(());
    }
    let status = status(key, object(value, key)?)?;
    let is_of = |id: &&SectionId| {
        id.kind == kind && rest.strip_prefix(id.name.as_str()).is_some_and(|rest| rest.starts_with('.'))
    };
    let known = sections.keys().filter(is_of).max_by_key(|id| id.name.len()).cloned();
    let (id, test) = match known {
        Some(id) => {
            let test = rest[id.name.len() + 1..].to_owned();
            (id, test)
        }
        None => {
            let (name, test) = rest.split_once('.').ok_or_else(|| format!("`{key}` names no test"))?;
            (SectionId { kind, name: name.to_owned() }, test.to_owned())
        }
    };
    if test.is_empty() || id.name.is_empty() {
        return Err(format!("`{key}` names no test"));
    }
    sections.entry(id).or_default().tests.push((test, status));
    Ok(())
}

/// A test of OE-Core; `None` for other entries, which tests may add.
fn oe_test(key: &str, value: &Value) -> Result<Option<OeTest>, String> {
    let is_id = key.split('.').filter(|part| !part.is_empty()).count() >= 3;
    let Value::Object(fields) = value else {
        return if is_id { Err(format!("`{key}` is not a table")) } else { Ok(None) };
    };
    if !is_id && !fields.contains_key("status") {
        return Ok(None);
    }
    let log = match fields.get("log") {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(log)) => log.clone(),
        Some(_) => return Err(format!("`{key}`: its log is not text")),
    };
    let seconds = match fields.get("duration") {
        None | Some(Value::Null) => None,
        Some(value) => {
            let number = value.as_f64().filter(|seconds| seconds.is_finite() && *seconds >= 0.0);
            Some(number.ok_or_else(|| format!("`{key}`: its duration is `{value}`"))?)
        }
    };
    Ok(Some(OeTest { id: key.to_owned(), status: status(key, fields)?, log, seconds }))
}

fn status(key: &str, fields: &Map<String, Value>) -> Result<Status, String> {
    match fields.get("status") {
        Some(Value::String(word)) => Ok(Status::parse(word)),
        Some(other) => Err(format!("`{key}`: its status is `{other}`")),
        None => Err(format!("`{key}` has no status")),
    }
}

fn seconds(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|seconds: &f64| seconds.is_finite() && *seconds >= 0.0)
}

fn object<'a>(value: &'a Value, place: &str) -> Result<&'a Map<String, Value>, String> {
    value.as_object().ok_or_else(|| format!("`{place}` is not a table"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "results_tests.rs"]
mod tests;
