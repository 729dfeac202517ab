//! What a subscriber with this layer records, and with which filter.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value as Json;
use tracing::field::Empty;
use tracing::{debug, info, info_span, trace, warn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::Registry;

use super::*;
use crate::cli::diagnostics::filter::{at_least_info, chosen};
use crate::cli::diagnostics::queue::Writer;
use agent_process::Redactor;

/// Remembers the lines.
struct Memory(Arc<Mutex<Vec<Json>>>);

impl Writer for Memory {
    fn write(&mut self, record: &Record) {
        let line = record.json(&Redactor::default());
        self.0.lock().unwrap().push(serde_json::from_str(&line).unwrap());
    }

    fn dropped(&mut self, count: u64) {
        panic!("{count} were dropped");
    }
}

/// The lines that `work` records with a filter; `None` is the one of `agent.log` without any.
fn recorded(filter: Option<&str>, work: impl FnOnce()) -> Vec<Json> {
    let lines: Arc<Mutex<Vec<Json>>> = Arc::default();
    let queue = Queue::start(Memory(lines.clone())).unwrap();
    let capture = Capture { queue: queue.clone() };
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match filter {
        Some(text) => capture.with_filter(chosen(text).unwrap()).boxed(),
        None => capture.with_filter(at_least_info(None).unwrap()).boxed(),
    };
    tracing::subscriber::with_default(Registry::default().with(layer), work);
    queue.end().wait(Instant::now() + Duration::from_secs(60));
    lines.lock().unwrap().clone()
}

#[test]
fn spans_start_and_end_with_their_fields_and_events_know_where_they_are() {
    let lines = recorded(None, || {
        let stage = info_span!("stage", name = "checkout", outcome = Empty);
        stage.in_scope(|| {
            let command = info_span!("command", number = 3, argv = ?["git", "fetch"], pid = Empty);
            command.record("pid", 4711);
            command.in_scope(|| info!(left = true, "it runs"));
            debug!("not for everybody");
        });
        stage.record("outcome", "passed");
    });
    let brief: Vec<_> =
        lines.iter().map(|line| (line["span"].as_str(), line["message"].as_str().unwrap())).collect();
    let wanted = [
        (Some("stage"), "start"),
        (Some("command"), "start"),
        (None, "it runs"),
        (Some("command"), "end"),
        (Some("stage"), "end"),
    ];
    assert_eq!(brief, wanted);
    let event = &lines[2];
    assert_eq!((&event["fields"]["left"], &event["level"]), (&true.into(), &"info".into()));
    assert_eq!(
        (&event["spans"][0]["span"], &event["spans"][0]["name"]),
        (&"stage".into(), &"checkout".into())
    );
    assert_eq!((&event["spans"][1]["number"], &event["spans"][1]["pid"]), (&3.into(), &4711.into()));
    assert_eq!(lines[3]["fields"]["argv"], r#"["git", "fetch"]"#);
    assert!(lines[3]["fields"]["seconds"].is_number() && lines[4]["fields"]["outcome"] == "passed");
}

/// Says which of these are recorded: own ones, and ones of libraries.
fn levels(filter: Option<&str>) -> String {
    let lines = recorded(filter, || {
        warn!("w");
        info!("i");
        debug!("d");
        trace!("t");
        info!(target: "aws_config::x", "I");
        debug!(target: "aws_config::x", "D");
        trace!(target: "aws_config::x", "T");
        warn!(target: "hyper::x", "4");
        info!(target: "hyper::x", "3");
        debug!(target: "hyper::x", "2");
        trace!(target: "hyper::x", "1");
    });
    lines.iter().map(|line| line["message"].as_str().unwrap()).collect()
}

#[test]
fn filters_have_a_floor_and_a_ceiling() {
    for (filter, wanted) in [
        (None, "wiI4"),
        (Some("warn"), "w4"),
        (Some("debug"), "widID4"),
        // Never what libraries record at `trace`.
        (Some("trace"), "widtID4"),
        (Some("trace,hyper=trace"), "widtID432"),
        (Some("aws_config=trace"), "ID4"),
        (Some("off"), "4"),
        (Some("build_agent::cli=trace,hyper=off"), "widt"),
    ] {
        assert_eq!(levels(filter), wanted, "{filter:?}");
    }
    // `agent.log` has `info` whatever else is asked for.
    for (filter, wanted) in [("error", "wiI4"), ("aws_config=debug", "wiID4"), ("trace", "widtID4")] {
        let lines: Arc<Mutex<Vec<Json>>> = Arc::default();
        let queue = Queue::start(Memory(lines.clone())).unwrap();
        let layer = Capture { queue: queue.clone() }.with_filter(at_least_info(Some(filter)).unwrap());
        tracing::subscriber::with_default(Registry::default().with(layer), || {
            warn!("w");
            info!("i");
            debug!("d");
            trace!("t");
            info!(target: "aws_config::x", "I");
            debug!(target: "aws_config::x", "D");
            trace!(target: "aws_config::x", "T");
            warn!(target: "hyper::x", "4");
            info!(target: "hyper::x", "3");
        });
        queue.end().wait(Instant::now() + Duration::from_secs(60));
        let lines = lines.lock().unwrap();
        let found: String = lines.iter().map(|line| line["message"].as_str().unwrap()).collect();
        assert_eq!(found, wanted, "{filter}");
    }
}

/// `Debug` is other people's code.
#[test]
fn a_panic_while_a_value_is_recorded_harms_nobody() {
    struct Broken;
    impl std::fmt::Debug for Broken {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("broken")
        }
    }
    let lines = recorded(None, || {
        let span = info_span!("stage", value = Empty);
        let caught = catch_unwind(AssertUnwindSafe(|| {
            span.in_scope(|| {
                span.record("value", tracing::field::debug(Broken));
            });
        }));
        assert!(caught.is_err());
        span.in_scope(|| info!("after"));
    });
    let said: Vec<&str> = lines.iter().map(|line| line["message"].as_str().unwrap()).collect();
    assert_eq!(said, ["start", "after", "end"]);
}
