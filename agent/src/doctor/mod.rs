//! Checks whether this machine can build. Every finding comes with its fix.
//!
//! Each topic has one file with two halves. `gather` collects facts within a time limit. `judge` is a pure
//! function from facts to findings. The checks change nothing and leave no files.

mod checks;
mod finding;
mod isolation;
mod machine;
mod packages;
mod sources;
mod tools;
mod user;
mod workdir;

pub use checks::{DoctorInput, Subject, run_checks, runner};
pub use finding::{Finding, Findings, State};
