//! The reports of a run of GitHub Actions: annotations at the lines to fix, and the job summary.

mod annotations;
mod job_summary;
mod workflow_commands;

pub(super) use annotations::relative;
pub use annotations::{Annotations, early_error};
pub use job_summary::{JobSummary, append_early_error, append_markdown};
pub use workflow_commands::{StopCommands, Stream, WorkflowCommands};
