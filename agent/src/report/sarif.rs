//! The findings in SARIF 2.1.0, for GitHub's code scanning, editors and converters:
//! <https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html>.
//!
//! GitHub shows only results with a file, and at most 25,000 of a run
//! (<https://docs.github.com/en/code-security/code-scanning/integrating-with-code-scanning/sarif-support-for-code-scanning>).
//! So a finding without a file is shown at the manifest, and the least important ones are omitted.

use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path, PathBuf};

use percent_encoding::{AsciiSet, utf8_percent_encode};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use agent_fs::names::NOT_IN_URL_PATHS;
use agent_types::error::{Error, Result};
use agent_types::events::{Finding, Level};
use agent_types::sanitize::clean;
use agent_types::truncate;
use agent_types::words::hexadecimal;

use super::known;
use super::output_file::replace;
use super::summary::Summary;

/// The name of the tool in the file.
pub const TOOL: &str = "build-agent";

/// The name of the file.
pub const NAME: &str = "results.sarif";

const SCHEMA: &str =
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";

/// Results of one run.
const MOST: usize = 25_000;

/// Maximum bytes of a message: GitHub shows its beginning, and refuses files of more than 10 MB (compressed).
const MESSAGE: usize = 2048;

/// What an URI reference cannot have in its path.
const PATH: &AsciiSet = &NOT_IN_URL_PATHS.add(b'[').add(b']').add(b':');

/// The whole file: a run for each job.
///
/// # Errors
/// Internal, if it cannot be rendered.
pub fn render(jobs: &[Summary]) -> Result<String> {
    let runs: Vec<Value> = jobs.iter().map(run).collect();
    let log = json!({ "$schema": SCHEMA, "version": "2.1.0", "runs": runs });
    let text = serde_json::to_string_pretty(&log);
    text.map(|text| text + "\n").map_err(|error| Error::internal("cannot render SARIF").because(&error))
}

/// Writes [`NAME`].
///
/// # Errors
/// When it cannot be written.
pub fn write(jobs: &[Summary], out: &Path) -> Result<()> {
    replace(&out.join(NAME), render(jobs)?.as_bytes())
}

fn run(summary: &Summary) -> Value {
    let mut findings: Vec<&Finding> = summary.findings.iter().collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    let omitted = findings.len().saturating_sub(MOST);
    findings.truncate(MOST);
    let mut rules = Rules::default();
    let mut numbers = HashMap::new();
    let results: Vec<Value> =
        findings.into_iter().map(|finding| result(summary, finding, &mut rules, &mut numbers)).collect();
    let mut run = json!({
        "tool": { "driver": {
            "name": TOOL,
            "version": version(summary),
            "rules": rules.list,
        } },
        // GitHub closes the findings of a category that a later run of it does not have.
        "automationDetails": { "id": category(summary) },
        "columnKind": "unicodeCodePoints",
        "invocations": [{
            // Whether the tool did its work; findings do not matter.
            "executionSuccessful": summary.complete && summary.errors.is_empty(),
            "exitCode": summary.exit.code(),
        }],
        "results": results,
    });
    let mut properties = Map::new();
    if let Some(commit) = &summary.job.commit {
        properties.insert("commit".into(), json!(clean(commit)));
    }
    if omitted > 0 {
        properties.insert("omittedResults".into(), json!(omitted));
    }
    run["properties"] = Value::Object(properties);
    run
}

fn version(summary: &Summary) -> &str {
    match summary.agent.as_str() {
        "" => env!("CARGO_PKG_VERSION"),
        version => version,
    }
}

/// `build-agent/meta-x/scarthgap/qemux86-64/`: the part before the last slash is GitHub's category.
pub fn category(summary: &Summary) -> String {
    let job = &summary.job;
    let configuration = job.cell.clone().unwrap_or_else(|| job.machines.join("+"));
    let parts = [&job.name, &job.release, &configuration].map(|part| clean(part).replace('/', "_"));
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    format!("build-agent/{}/", parts.join("/"))
}

/// The rules of a run, each once.
#[derive(Default)]
struct Rules {
    list: Vec<Value>,
    places: BTreeMap<String, usize>,
}

impl Rules {
    fn place(&mut self, id: &str, finding: &Finding) -> usize {
        if let Some(place) = self.places.get(id) {
            return *place;
        }
        let mut rule = json!({
            "id": id,
            "shortDescription": { "text": id },
            "defaultConfiguration": { "level": level(finding.level) },
        });
        if let Some(hint) = &finding.hint {
            rule["help"] = json!({ "text": text(hint) });
        }
        self.places.insert(id.to_owned(), self.list.len());
        self.list.push(rule);
        self.list.len() - 1
    }
}

fn result(
    summary: &Summary,
    finding: &Finding,
    rules: &mut Rules,
    numbers: &mut HashMap<String, u64>,
) -> Value {
    let id = rule_id(&finding.rule);
    let place = rules.place(&id, finding);
    let inside = finding.file.as_deref().and_then(relative);
    let mut message = match (&inside, &finding.file) {
        (None, Some(outside)) => format!("{}: {}", outside.display(), finding.message),
        _ => finding.message.clone(),
    };
    if let Some(hint) = &finding.hint {
        message = format!("{message}\n{hint}");
    }
    let file = inside.unwrap_or_else(|| manifest(summary));
    let has_own = finding.file.as_deref().is_some_and(|path| relative(path).is_some());
    let line = finding.line.filter(|line| has_own && *line > 0).unwrap_or(1);
    json!({
        "ruleId": id,
        "ruleIndex": place,
        "level": level(finding.level),
        "message": { "text": text(&message) },
        "locations": [{ "physicalLocation": {
            "artifactLocation": { "uri": uri(&file) },
            "region": { "startLine": line },
        } }],
        "partialFingerprints": { "primaryLocationLineHash": fingerprint(finding, numbers) },
        "properties": { "step": text(&known::suite(&finding.unit)) },
    })
}

fn level(level: Level) -> &'static str {
    match level {
        Level::Info => "note",
        Level::Warning => "warning",
        Level::Error => "error",
    }
}

/// A rule needs an id.
fn rule_id(rule: &str) -> String {
    let id: String = clean(rule).chars().filter(|c| !c.is_whitespace()).take(255).collect();
    if id.is_empty() { "unnamed".to_owned() } else { id }
}

/// A message needs text.
fn text(words: &str) -> String {
    let mut words = words.lines().map(clean).collect::<Vec<_>>().join("\n");
    truncate::middle(&mut words, MESSAGE);
    if words.trim().is_empty() { "no message".to_owned() } else { words }
}

/// The path relative to the checkout; `None` outside of it.
fn relative(path: &Path) -> Option<PathBuf> {
    let inside = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    let clean: PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
    Some(clean).filter(|clean| inside && !clean.as_os_str().is_empty())
}

/// Where what belongs to no file is shown.
fn manifest(summary: &Summary) -> PathBuf {
    let path = Path::new(&summary.job.manifest);
    let is_address = summary.job.manifest.contains("://");
    relative(path).filter(|_| !is_address).unwrap_or_else(|| PathBuf::from("conf/layer.conf"))
}

fn uri(path: &Path) -> String {
    let parts = path.iter().map(|part| utf8_percent_encode(&part.to_string_lossy(), PATH).to_string());
    parts.collect::<Vec<_>>().join("/")
}

/// The same for the same finding in all jobs, also on another line. Equal findings of a file are numbered.
fn fingerprint(finding: &Finding, numbers: &mut HashMap<String, u64>) -> String {
    let known = known::finding(finding);
    let mut digest = Sha256::new();
    let file = known.file.unwrap_or_default();
    for part in [known.rule.as_str(), &file.to_string_lossy(), &known.message] {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    let hash = hexadecimal(&digest.finalize()[..8]);
    let number = numbers.entry(hash.clone()).or_default();
    *number += 1;
    format!("{hash}:{number}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::report::sample::{check_layer, failing_job, passing_job, reduce};

    fn finding(rule: &str, file: Option<&str>, line: Option<u32>, message: &str) -> Finding {
        Finding {
            unit: check_layer(),
            level: Level::Error,
            rule: rule.into(),
            message: message.into(),
            file: file.map(Into::into),
            line,
            hint: None,
        }
    }

    fn rendered(findings: Vec<Finding>) -> Value {
        let mut summary = reduce(&failing_job());
        summary.findings = findings;
        serde_json::from_str(&render(&[summary]).unwrap()).unwrap()
    }

    #[test]
    fn a_finding_has_its_rule_its_place_and_a_fingerprint() {
        let log: Value = serde_json::from_str(&render(&[reduce(&failing_job())]).unwrap()).unwrap();
        assert_eq!((&log["version"], log["runs"].as_array().unwrap().len()), (&json!("2.1.0"), 1));
        let run = &log["runs"][0];
        assert_eq!(run["automationDetails"]["id"], "build-agent/meta-x/scarthgap/qemux86-64/");
        assert_eq!(run["invocations"][0]["exitCode"], 4);
        assert_eq!(run["tool"]["driver"]["rules"][0]["id"], "upstream-status");
        let result = &run["results"][0];
        assert_eq!((&result["ruleIndex"], &result["level"]), (&json!(0), &json!("warning")));
        let place = &result["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "recipes-x/x/files/fix.patch");
        assert_eq!(place["region"]["startLine"], 1);
        assert_eq!(
            result["message"]["text"],
            "the patch has no Upstream-Status\nadd a line like `Upstream-Status: Pending`"
        );
    }

    #[test]
    fn a_place_is_always_one_in_the_repository() {
        for (file, line, wanted, wanted_line) in [
            (Some("a b/ä#1.bb"), Some(7), "a%20b/%C3%A4%231.bb", 7),
            (Some("./x/y.bb"), Some(0), "x/y.bb", 1),
            (Some("/etc/passwd"), Some(3), "build-agent.toml", 1),
            (Some("../other/x.bb"), Some(3), "build-agent.toml", 1),
            (Some("javascript:alert(1)"), None, "javascript%3Aalert(1)", 1),
            (Some(""), None, "build-agent.toml", 1),
            (None, None, "build-agent.toml", 1),
        ] {
            let log = rendered(vec![finding("x", file, line, "bad")]);
            let place = &log["runs"][0]["results"][0]["locations"][0]["physicalLocation"];
            assert_eq!(place["artifactLocation"]["uri"], wanted, "{file:?}");
            assert_eq!(place["region"]["startLine"], wanted_line, "{file:?}");
        }
        let outside = rendered(vec![finding("x", Some("/w/poky/x.bb"), Some(3), "bad")]);
        assert_eq!(outside["runs"][0]["results"][0]["message"]["text"], "/w/poky/x.bb: bad");
    }

    #[test]
    fn fingerprints_do_not_depend_on_lines_and_are_unique() {
        let of = |findings: Vec<Finding>| -> Vec<String> {
            let log = rendered(findings);
            let results = log["runs"][0]["results"].as_array().unwrap().iter();
            let word = |result: &Value| {
                result["partialFingerprints"]["primaryLocationLineHash"].as_str().unwrap().to_owned()
            };
            results.map(word).collect()
        };
        let one = |line| finding("x", Some("a.bb"), Some(line), "bad");
        let before = of(vec![one(1), one(9)]);
        assert_eq!(before, of(vec![one(4), one(70)]));
        assert_ne!(before[0], before[1]);
        assert_ne!(before[0], of(vec![finding("x", Some("b.bb"), Some(1), "bad")])[0]);
    }

    #[test]
    fn hostile_and_empty_text_gives_a_valid_file() {
        let log = rendered(vec![
            finding("", Some("a.bb"), Some(1), ""),
            finding("a rule\n", Some("a.bb"), Some(1), "\u{1b}[31mred\u{0}\u{202e}"),
            finding("long", Some("a.bb"), Some(1), &"x".repeat(1 << 20)),
        ]);
        let results = log["runs"][0]["results"].as_array().unwrap();
        assert_eq!(results[0]["ruleId"], "unnamed");
        assert_eq!(results[0]["message"]["text"], "no message");
        assert_eq!(results[1]["ruleId"], "arule");
        assert!(!results[1]["message"]["text"].as_str().unwrap().contains(['\u{1b}', '\u{0}', '\u{202e}']));
        assert!(results[2]["message"]["text"].as_str().unwrap().len() <= MESSAGE);
    }

    #[test]
    fn the_most_important_findings_are_kept() {
        let mut findings: Vec<Finding> = (0..100_000)
            .map(|number| Finding {
                level: Level::Warning,
                ..finding("x", Some("a.bb"), Some(1), &number.to_string())
            })
            .collect();
        findings.push(finding("worst", Some("b.bb"), Some(1), "bad"));
        let log = rendered(findings);
        let run = &log["runs"][0];
        assert_eq!(run["results"].as_array().unwrap().len(), MOST);
        assert_eq!(run["results"][0]["ruleId"], "worst");
        assert_eq!(run["properties"]["omittedResults"], 100_001 - MOST);
        let gone = rendered(Vec::new());
        assert_eq!(gone["runs"][0]["results"], json!([]));
    }

    #[test]
    fn each_job_is_a_run_with_a_category_of_its_own() {
        let mut other = reduce(&passing_job());
        other.job.machines = vec!["qemu/arm".into()];
        let log: Value = serde_json::from_str(&render(&[reduce(&failing_job()), other]).unwrap()).unwrap();
        let ids: Vec<&str> = log["runs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|run| run["automationDetails"]["id"].as_str().unwrap())
            .collect();
        assert_eq!(
            ids,
            ["build-agent/meta-x/scarthgap/qemux86-64/", "build-agent/meta-x/scarthgap/qemu_arm/"]
        );
    }
}
