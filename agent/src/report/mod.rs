//! What happened, for people and for other programs.
//!
//! The recorder is the one listener of a job: it redacts each event, appends it to `events.jsonl`,
//! shows it on the console and folds it into a [`Summary`]. Last it runs the report stage. Every report is a pure function of that
//! summary, so `build-agent report events.jsonl` rebuilds them all after the machine was killed.

mod cache;
mod combined;
mod combined_findings;
pub mod comparison;
mod console;
mod cost;
mod critical_path;
mod durations;
mod events_file;
pub mod github;
pub mod github_actions;
mod junit;
mod known;
pub mod markdown;
pub mod merged;
mod metrics;
mod output;
mod output_file;
pub mod page;
mod recheck;
mod recorder;
mod reducer;
mod report_files;
mod reports;
mod reproduce;
mod result;
mod rows;
pub mod sarif;
mod sink;
mod stored_report;
mod summary;
mod timeline;
mod totals;
pub mod verdict;

#[cfg(test)]
pub mod sample;

pub use combined::{add_lost_reports, combined, without_run};
pub use console::{
    Json, Plain, Style, Terminal, ThreadedSink, duration, final_summary, shell_word, with_output_timeout,
};
pub use cost::Cost;
pub use critical_path::critical_path;
pub use durations::Durations;
pub use events_file::{EventsFile, Torn, read as read_events, read_job};
pub use junit::{write as write_junit, write_all as write_merged_junit};
pub use metrics::{Dimensions, Metrics};
pub use output::{AGENT_LOG, CELL_PINS, CELLS, begin, begin_log, begin_merged, prepare_out, write_all};
pub use output_file::replace;
pub use page::write_all as write_pages;
pub use recheck::{Recheck, recheck_result};
pub use recorder::{Recorded, Recording, record, show};
pub use report_files::FILE_DEADLINE;
pub use reports::{NotMade, Report, Reports, make as make_reports};
pub use reproduce::{Checkout, ReproducePlan};
pub use result::{
    LARGEST as LARGEST_RESULT, parse as parse_result, read as read_result, render as render_result,
    write as write_result,
};
pub use sink::Sink;
pub use stored_report::StoredReport;
pub use summary::{
    At, CaseResult, CommandResult, Notice, Published, STORED_REPORT, StageError, StageResult, Summary,
    TierResult, UnitResult,
};
pub use timeline::{TaskRun, Timeline};
pub use totals::{Status, Suite, Test, Totals};
