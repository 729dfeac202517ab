//! The job's metrics for CloudWatch: one line in the Embedded Metric Format, which CloudWatch Logs turns into metrics
//! without any further right or request.
//!
//! <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};

use agent_process::blocking;
use agent_types::error::Result;
use agent_types::events::CacheOutcome;
use agent_types::outcome::{ExitStatus, Outcome};

use super::cost::Cost;
use super::reports::Report;
use super::summary::{At, Summary};

const NAMESPACE: &str = "BuildAgent";

const PROJECT: &str = "Project";

/// Metrics that there are also with `Project` as the only dimension: an alarm names every dimension, and does not know
/// the release.
const OF_THE_PROJECT: [&str; 1] = [SSTATE_HIT];

const SSTATE_HIT: &str = "SstateHitPercent";

/// Each combination of dimension values is a metric that AWS bills. So all values come from short lists: a layer
/// cannot make new ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dimensions {
    /// The CodeBuild project, if any.
    pub project: Option<String>,
    /// The repository of the layer, as CodeBuild names it. A pull request cannot change this name.
    pub layer: Option<String>,
    /// The code name.
    pub release: String,
    pub trusted: bool,
}

impl Dimensions {
    fn pairs(&self) -> [(&'static str, String); 4] {
        [
            (PROJECT, value(self.project.as_deref().unwrap_or("none"))),
            ("Layer", value(self.layer.as_deref().unwrap_or("none"))),
            ("Release", value(&self.release)),
            ("Trust", if self.trusted { "trusted" } else { "untrusted" }.into()),
        ]
    }
}

/// Maximum length of a dimension value. CloudWatch allows 1024 bytes of ASCII.
const MAX_VALUE: usize = 128;

/// The value of a dimension, or `other` for an unusual one.
fn value(text: &str) -> String {
    let is_usual = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/+".contains(&byte);
    let usual = !text.is_empty() && text.len() <= MAX_VALUE && text.bytes().all(is_usual);
    if usual { text } else { "other" }.to_owned()
}

/// Prints the metrics. If that fails, the job's result is the same.
pub struct Metrics {
    pub dimensions: Dimensions,
    /// Prints a line.
    pub print: fn(&str) -> Result<()>,
}

impl Report for Metrics {
    fn name(&self) -> &'static str {
        "metrics"
    }

    /// Allows for a slow reader of standard output.
    fn deadline(&self) -> Duration {
        Duration::from_secs(10)
    }

    fn is_required(&self) -> bool {
        false
    }

    fn write(&self, summary: Arc<Summary>) -> BoxFuture<'static, Result<()>> {
        let (line, print) = (line(&summary, &self.dimensions), self.print);
        Box::pin(blocking(move || print(&line)))
    }
}

/// The line, with its end.
fn line(summary: &Summary, dimensions: &Dimensions) -> String {
    let pairs = dimensions.pairs();
    let measured: Vec<Metric> =
        metrics(summary).into_iter().filter(|metric| metric.value.is_finite()).collect();
    let directive = |dimensions: &[&str], is_wanted: &dyn Fn(&Metric) -> bool| {
        let definitions: Vec<Value> =
            measured.iter().filter(|metric| is_wanted(metric)).map(Metric::definition).collect();
        let wanted = !definitions.is_empty();
        wanted.then(|| json!({ "Namespace": NAMESPACE, "Dimensions": [dimensions], "Metrics": definitions }))
    };
    let all = pairs.each_ref().map(|(name, _)| *name);
    let directives = [
        directive(&all, &|_| true),
        directive(&[PROJECT], &|metric| OF_THE_PROJECT.contains(&metric.name.as_str())),
    ];
    let mut members = Map::new();
    members.insert(
        "_aws".into(),
        json!({
            "Timestamp": summary.last_event.unwrap_or_else(At::now).unix_milliseconds(),
            "CloudWatchMetrics": directives.into_iter().flatten().collect::<Vec<Value>>(),
        }),
    );
    members.extend(pairs.into_iter().map(|(name, value)| (name.to_owned(), Value::from(value))));
    members.extend(measured.into_iter().map(|metric| (metric.name, Value::from(metric.value))));
    // For searches in the log: no metric and no dimension.
    members.insert("Exit".into(), json!(summary.exit));
    members.insert("Job".into(), json!(summary.job.id));
    format!("{}\n", Value::Object(members))
}

#[derive(Clone, Debug, PartialEq)]
struct Metric {
    name: String,
    /// One of CloudWatch's units.
    unit: &'static str,
    value: f64,
}

impl Metric {
    fn new(name: impl Into<String>, unit: &'static str, value: f64) -> Metric {
        Metric { name: name.into(), unit, value }
    }

    fn definition(&self) -> Value {
        json!({ "Name": self.name, "Unit": self.unit })
    }
}

/// The known values. A stage that did not run and a cache that was not used have no metric: a zero would be wrong.
fn metrics(summary: &Summary) -> Vec<Metric> {
    let passed = summary.exit == ExitStatus::Passed && summary.outcome == Outcome::Passed;
    let mut all = vec![
        Metric::new("Passed", "None", f64::from(u8::from(passed))),
        Metric::new("JobSeconds", "Seconds", summary.seconds),
    ];
    all.extend(summary.stages.iter().filter_map(|stage| {
        let mut name = stage.stage.name().to_owned();
        name[..1].make_ascii_uppercase();
        Some(Metric::new(format!("{name}Seconds"), "Seconds", stage.seconds?))
    }));
    let mut percent = |name: &str, part: u64, whole: u64| {
        if whole > 0 {
            all.push(Metric::new(name, "Percent", 100.0 * part as f64 / whole as f64));
        }
    };
    let queries = || summary.units.iter().flat_map(|unit| &unit.cache_queries);
    let hits = queries().filter(|query| query.outcome == CacheOutcome::Hit).count();
    percent("SignatureCacheHitPercent", hits as u64, queries().count() as u64);
    let sstate = || summary.units.iter().filter_map(|unit| unit.sstate);
    let found = sstate().map(|sstate| sstate.local + sstate.mirrors).sum();
    percent(SSTATE_HIT, found, sstate().map(|sstate| sstate.wanted).sum());
    if !summary.cache.is_empty() {
        let traffic = || summary.cache.iter().map(|tier| tier.traffic);
        let bytes = |sum: u64| sum as f64;
        all.push(Metric::new("ShareBytesRead", "Bytes", bytes(traffic().map(|it| it.bytes_read).sum())));
        all.push(Metric::new(
            "ShareBytesWritten",
            "Bytes",
            bytes(traffic().map(|it| it.bytes_written).sum()),
        ));
        let usd: f64 = traffic().map(|it| it.usd).sum();
        // Only a bucket charges for requests.
        if usd > 0.0 {
            all.push(Metric::new("ShareUsd", "None", usd));
        }
    }
    // Without the price of the machine, the sum would be misleading.
    if let Some(cost) = Cost::of_job(summary).filter(|cost| cost.machine.is_some()) {
        all.push(Metric::new("JobUsd", "None", cost.usd));
    }
    all
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::report::sample::{at, check_layer, failing_job, passing_job, reduce, with_bucket, with_share};
    use agent_types::events::{CacheQuery, EventKind};
    use agent_types::prices::{JobPrices, MachinePrice};

    fn dimensions() -> Dimensions {
        Dimensions {
            project: Some("check-meta-x".into()),
            layer: Some("meta-x".into()),
            release: "scarthgap".into(),
            trusted: true,
        }
    }

    /// What CloudWatch requires of a line: see the specification.
    #[track_caller]
    fn assert_valid(line: &str) -> Value {
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        // The service allows 1 MiB. A pipe writes 4096 bytes at once, so that no other output comes in between.
        assert!(line.len() <= 4096, "{} bytes: {line}", line.len());
        let root: Value = serde_json::from_str(line).unwrap();
        let head = &root["_aws"];
        assert!(head["Timestamp"].as_u64().unwrap() > 1_500_000_000_000, "milliseconds: {line}");
        let directives = head["CloudWatchMetrics"].as_array().unwrap();
        assert!((1..=2).contains(&directives.len()), "{line}");
        for directive in directives {
            assert_eq!(directive["Namespace"], "BuildAgent");
            let [set] = directive["Dimensions"].as_array().unwrap().as_slice() else { panic!("{line}") };
            for name in set.as_array().unwrap() {
                let value = root[name.as_str().unwrap()].as_str().expect("a dimension is a text");
                assert!((1..=1024).contains(&value.len()) && !value.starts_with(':'), "{value:?}");
                assert!(value.bytes().all(|byte| byte.is_ascii_graphic()), "{value:?}");
            }
            let metrics = directive["Metrics"].as_array().unwrap();
            assert!((1..=100).contains(&metrics.len()));
            for metric in metrics {
                let name = metric["Name"].as_str().unwrap();
                assert!(root[name].as_f64().expect("a number").is_finite(), "{name}");
                assert!(
                    ["None", "Seconds", "Percent", "Bytes"].contains(&metric["Unit"].as_str().unwrap()),
                    "{name}"
                );
            }
        }
        root
    }

    /// The names of the metrics that have exactly these dimensions.
    fn with_dimensions(root: &Value, dimensions: &[&str]) -> Vec<String> {
        let directives = root["_aws"]["CloudWatchMetrics"].as_array().unwrap();
        let of = directives.iter().filter(|directive| directive["Dimensions"][0] == json!(dimensions));
        let metrics = of.flat_map(|directive| directive["Metrics"].as_array().unwrap());
        metrics.map(|metric| metric["Name"].as_str().unwrap().to_owned()).collect()
    }

    /// cloudformation/check_layer.yml has the alarm.
    #[test]
    fn the_metric_of_an_alarm_has_only_the_project_as_dimension() {
        let root = assert_valid(&line(&reduce(&failing_job()), &dimensions()));
        assert_eq!(with_dimensions(&root, &["Project"]), ["SstateHitPercent"]);
        let all = with_dimensions(&root, &["Project", "Layer", "Release", "Trust"]);
        assert!(all.contains(&"SstateHitPercent".to_owned()) && all.len() > 2, "{all:?}");
        let root = assert_valid(&line(&reduce(&passing_job()), &dimensions()));
        assert!(with_dimensions(&root, &["Project"]).is_empty(), "no shared state was wanted");
    }

    #[test]
    fn requests_to_a_bucket_have_a_price() {
        let root = assert_valid(&line(&reduce(&with_bucket()), &dimensions()));
        let usd = root["ShareUsd"].as_f64().unwrap();
        assert!((usd - 0.000_3).abs() < 1e-12, "{usd}");
        let root = assert_valid(&line(&reduce(&with_share()), &dimensions()));
        assert_eq!(root["ShareUsd"], Value::Null, "a directory");
    }

    #[test]
    fn the_price_of_a_job_is_a_metric_if_the_compute_type_is_known() {
        let mut summary = reduce(&passing_job());
        assert_eq!(assert_valid(&line(&summary, &dimensions()))["JobUsd"], Value::Null);
        let machine = MachinePrice {
            compute_type: "BUILD_GENERAL1_LARGE".into(),
            usd_per_minute: 0.02,
            source: "a table".into(),
        };
        summary.prices = Some(JobPrices { machine: Some(machine), ..JobPrices::default() });
        assert_eq!(assert_valid(&line(&summary, &dimensions()))["JobUsd"], json!(0.02));
        let mut summary = reduce(&with_bucket());
        summary.prices = Some(JobPrices::default());
        assert_eq!(assert_valid(&line(&summary, &dimensions()))["JobUsd"], Value::Null, "only requests");
    }

    #[test]
    fn a_passed_job() {
        let root = assert_valid(&line(&reduce(&passing_job()), &dimensions()));
        for (name, wanted) in [
            ("Project", json!("check-meta-x")),
            ("Layer", json!("meta-x")),
            ("Release", json!("scarthgap")),
            ("Trust", json!("trusted")),
            ("JobSeconds", json!(5.0)),
            ("CheckoutSeconds", json!(2.0)),
            ("CheckSeconds", json!(2.0)),
            ("PublishSeconds", json!(1.0)),
            ("Job", json!("20260102T030405Z-0f5d7e0c91b2a3d4")),
        ] {
            assert_eq!(root[name], wanted, "{name}");
        }
        assert_eq!(root["_aws"]["Timestamp"], json!(1_767_323_050_000_u64));
        for name in
            ["BuildSeconds", "TestSeconds", "SstateHitPercent", "SignatureCacheHitPercent", "ShareBytesRead"]
        {
            assert_eq!(root[name], Value::Null, "{name}: it did not run");
        }
    }

    #[test]
    fn only_a_passed_job_has_passed() {
        let mut passed = reduce(&passing_job());
        (passed.exit, passed.outcome) = (ExitStatus::Passed, Outcome::Passed);
        let mut lost = passed.clone();
        lost.exit = ExitStatus::Machine;
        let killed = reduce(&passing_job());
        for (summary, wanted) in [(passed, 1.0), (lost, 0.0), (killed, 0.0), (reduce(&failing_job()), 0.0)] {
            assert_eq!(assert_valid(&line(&summary, &dimensions()))["Passed"], json!(wanted));
        }
    }

    #[test]
    fn caches_and_the_share() {
        let root = assert_valid(&line(&reduce(&failing_job()), &dimensions()));
        assert_eq!(root["SstateHitPercent"], json!(50.0), "20 local and 30 from mirrors, of 100");
        assert_eq!(root["Exit"], json!("upstream"));
        let mut events = with_share();
        let query = |outcome| {
            let query = CacheQuery {
                query: "signatures of the world".into(),
                outcome,
                why: None,
                seconds_saved: None,
                recipes: None,
                rerun: 0,
            };
            EventKind::CacheQuery { unit: check_layer(), query }
        };
        use CacheOutcome::{Hit, Miss, Off, Prefetched};
        events.extend([Hit, Miss, Off, Prefetched].map(|outcome| at(7000, query(outcome))));
        let root = assert_valid(&line(&reduce(&events), &dimensions()));
        assert_eq!(root["SignatureCacheHitPercent"], json!(25.0));
        assert_eq!(root["ShareBytesRead"], json!(f64::from(3 << 20)));
        assert_eq!(root["ShareBytesWritten"], json!(5000.0));
    }

    /// Also of a job that was killed before its first event.
    #[test]
    fn hostile_names_are_not_dimensions_and_nan_is_not_a_metric() {
        let long = "x".repeat(129);
        for hostile in ["", "a b", "a\"b", "a\n{\"_aws\":1}", ":a", "ä", "a{b}", "\u{1b}[1m", &long] {
            let dimensions = Dimensions {
                project: Some(hostile.into()),
                layer: Some(hostile.into()),
                release: hostile.into(),
                trusted: false,
            };
            let mut summary = reduce(&passing_job());
            summary.job.name = hostile.into();
            summary.seconds = f64::NAN;
            let root = assert_valid(&line(&summary, &dimensions));
            assert_eq!(
                [&root["Project"], &root["Layer"], &root["Release"]],
                [&json!("other"); 3],
                "{hostile:?}"
            );
            assert_eq!((&root["Trust"], &root["JobSeconds"]), (&json!("untrusted"), &Value::Null));
        }
        let nowhere = Dimensions { project: None, layer: None, ..dimensions() };
        let root = assert_valid(&line(&reduce(&passing_job()), &nowhere));
        assert_eq!((&root["Project"], &root["Layer"]), (&json!("none"), &json!("none")));
        let empty: Value = serde_json::from_str(&line(&Summary::default(), &nowhere)).unwrap();
        assert!(empty["_aws"]["Timestamp"].as_u64().is_some(), "{empty}");
    }

    /// Many stages and metrics at once stay within the limit.
    #[test]
    fn the_longest_line_is_short() {
        let mut summary = reduce(&[with_share(), failing_job()].concat());
        for stage in &mut summary.stages {
            stage.seconds = Some(f64::MAX);
        }
        let long = "x".repeat(MAX_VALUE);
        let dimensions = Dimensions {
            project: Some(long.clone()),
            layer: Some(long.clone()),
            release: long,
            trusted: true,
        };
        assert_valid(&line(&summary, &dimensions));
    }
}
