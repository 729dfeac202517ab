//! Reasons why a file was not published.

use agent_types::error::Error;

use super::collect::Problem;

/// Why a file was not published.
#[derive(Debug)]
pub enum Failure {
    /// The file cannot be published; others can.
    File(Problem),
    /// The store does not work, so all other files would fail, too.
    Store(Error),
    /// The publication was stopped.
    Stopped,
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Failure {
        Failure::File(problem)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Store(error)
    }
}
