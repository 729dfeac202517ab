//! Whether this machine is fit to build: each finding with the change that mends it.
//!
//! Every topic is one file with two halves: gathering facts (bounded in time, nothing may hang) and
//! judging them (pure: facts in, findings out). Nothing is changed, and nothing stays behind.

mod examination;
mod finding;
mod isolation;
mod machine;
mod packages;
mod place;
mod sources;
mod tools;
mod user;

pub use examination::{Examination, Subject, examine, runner};
pub use finding::{Finding, Findings, State};
