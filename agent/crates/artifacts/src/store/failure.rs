//! Why a file did not reach the destination.

use agent_types::error::Error;

use super::collect::Problem;

/// Why a file is not at the destination.
#[derive(Debug)]
pub enum Failure {
    /// The file is at fault; others may go on.
    File(Problem),
    /// The destination is; nothing else will work.
    Place(Error),
    /// Somebody asked to stop.
    Stopped,
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Failure {
        Failure::File(problem)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Place(error)
    }
}
