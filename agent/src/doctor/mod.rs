//! Checks whether this machine can build. Every finding comes with its fix.
//!
//! Each topic has one file with two halves. `gather` collects facts within a time limit. `judge` is a pure
//! function from facts to findings. The checks leave no files, and change one setting: as root, `credentials` closes the
//! credentials to the build user as each job does.

mod check_programs;
mod checks;
mod credentials;
mod finding;
mod isolation;
mod lab;
mod machine;
mod packages;
mod sources;
mod tools;
mod user;
mod workdir;

pub use checks::{DoctorInput, Subject, before_job, run_checks, runner};
pub use finding::{Finding, Findings, State};
pub use lab::{LabDoctor, check_lab};
pub use workdir::{PRUNE, SPACE_TO_CHECK};
