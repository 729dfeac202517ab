//! Results that somebody changed: whatever is in them, no report panics, and nothing reaches a terminal or a page as more
//! than text.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde_json::{Value, json};

use super::super::page::tests::rich;
use super::super::sample::{passed, reduce, with_bucket};
use super::super::{ReproducePlan, Style, Summary, combined, final_summary, junit, markdown, merged, sarif};
use super::super::{recheck_result, write_pages};
use super::{parse, render};

/// Text that a terminal, a shell, a page, GitHub's runner or a log service would interpret.
const TEXT: &str =
    "\u{1b}]0;x\u{7}\u{9b}31m\u{202e}\r\n::error::x\n<script>alert(1)</script>\"'`$(id)\0|\u{feff}";

/// The values that take the place of each part of a result.
fn values() -> Vec<Value> {
    vec![
        json!(TEXT),
        json!("é".repeat(5000)),
        json!("../../../etc/passwd"),
        json!("9999-12-31T23:59:59.999Z"),
        json!("1970-01-01T00:00:00Z"),
        json!(u64::MAX),
        json!(1_000_000_007_u64),
        json!(i64::MIN),
        json!(f64::MAX),
        json!(null),
        json!([]),
    ]
}

/// A job that has something in each part of its result.
fn full() -> Value {
    let mut result: Value = serde_json::from_str(&render(&rich()).unwrap()).unwrap();
    let unit = json!({ "stage": "build", "name": "core-image-minimal" });
    let more = json!({
        "prices": {
            "machine": { "compute_type": "LARGE", "usd_per_minute": 0.1, "source": "a list" },
            "efs_read_gb": 0.03, "efs_write_gb": 0.06, "nat_gb": 0.05,
        },
        "reproduction": {
            "image": "registry.example/x@sha256:00", "source": "https://example.org/x.git", "pull_request": 7,
            "base": "00112233445566778899aabbccddeeff00112233", "manifest_path": "x.toml", "manifest": "version = 1",
        },
        "retries": [{ "unit": unit, "reason": "no answer", "seconds": 1.0, "pause": 2.0 }],
        "device": { "id": "r", "pool": "p", "image": "i", "address": "/queue", "waits": false },
        "report": { "address": "/share/results/x", "url": "https://example.org/report.html" },
    });
    for (name, value) in more.as_object().unwrap() {
        result[name] = value.clone();
    }
    parse(&serde_json::to_vec(&result).unwrap(), "full").unwrap();
    result
}

/// The paths of all parts of a value, of a list those of its first element and, if it is no object, its last.
fn paths(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    let mut below = |name: &str, value: &Value| {
        let path = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
        found.insert(path.clone());
        paths(value, &path, found);
    };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| below(name, value)),
        Value::Array(values) => {
            let last = values.len().saturating_sub(1);
            let is_shown = |at: &usize| *at == 0 || *at == last && !values[last].is_object();
            let at = (0..values.len()).filter(is_shown);
            at.for_each(|at| below(&at.to_string(), &values[at]));
        }
        _ => {}
    }
}

/// Makes all reports of the summary, and returns those that are printed or posted, and the page.
fn reports(summary: &Summary, out: &Path) -> (Vec<String>, String) {
    let jobs = [summary.clone(), summary.clone()];
    let plan = ReproducePlan::of(summary);
    let texts = vec![
        final_summary(summary, Path::new("out"), Style::PLAIN),
        merged::text(&jobs),
        markdown::render(summary, &markdown::Options::default()),
        markdown::render_all(&jobs, &markdown::Options::default()),
        plan.map_or_else(|error| error.to_string(), |plan| plan.script()),
    ];
    sarif::render(&jobs).unwrap();
    junit::render(summary).unwrap();
    render(&combined(&jobs)).unwrap();
    let _ = merged::attempts(jobs.to_vec());
    write_pages(&[(summary, out)], out).unwrap();
    (texts, fs_err::read_to_string(out.join("report.html")).unwrap())
}

/// Makes all reports of a changed result. `None`: it is refused.
fn made(forged: &Value, out: &Path) -> Option<Result<(), &'static str>> {
    let run = || {
        let summary = parse(&serde_json::to_vec(forged).unwrap(), "x").ok()?;
        let _ = recheck_result(summary.clone());
        Some(reports(&summary, out))
    };
    let Ok(made) = catch_unwind(AssertUnwindSafe(run)) else { return Some(Err("panic")) };
    let (texts, page) = made?;
    let acts = |c: char| c.is_control() && c != '\n' && c != '\t' || c == '\u{202e}';
    Some(if texts.iter().any(|text| text.contains(acts)) {
        Err("control characters")
    } else if page.contains("<script>alert") {
        Err("a script in the page")
    } else {
        Ok(())
    })
}

#[test]
fn no_part_of_a_result_can_break_a_report() {
    let out = tempfile::tempdir().unwrap();
    let (mut wrong, mut seen, mut read) = (Vec::new(), BTreeSet::new(), 0);
    let others = [passed(), reduce(&with_bucket())];
    let others = others.map(|summary| serde_json::from_str(&render(&summary).unwrap()).unwrap());
    for original in [full()].into_iter().chain(others) {
        let mut parts = BTreeSet::new();
        paths(&original, "", &mut parts);
        for value in values() {
            let mut all_at_once = original.clone();
            for part in parts.difference(&seen) {
                let mut forged = original.clone();
                *forged.pointer_mut(part).unwrap() = value.clone();
                let Some(made) = made(&forged, out.path()) else { continue };
                read += 1;
                wrong.extend(made.err().map(|fault| format!("{part} = {value:.60}: {fault}")));
                if let Some(place) = all_at_once.pointer_mut(part).filter(|place| !place.is_array()) {
                    *place = value.clone();
                }
            }
            if let Some(Err(fault)) = made(&all_at_once, out.path()) {
                wrong.push(format!("all = {value:.60}: {fault}"));
            }
        }
        seen.append(&mut parts);
    }
    assert!(wrong.is_empty(), "{} faults:\n{}", wrong.len(), wrong.join("\n"));
    assert!(seen.len() > 200 && read > 500, "{} parts, {read} results", seen.len());
}
