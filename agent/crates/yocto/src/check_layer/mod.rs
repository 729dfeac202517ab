//! yocto-check-layer: its command line, its output, and what may be concluded from both.
//!
//! The tool is run unmodified, one run a layer, and its verdict is the verdict. But a green that
//! cannot be explained is not believed: exit status, summary and test cases have to agree.

mod agreement;
pub mod argv;
pub mod cases;
pub mod crash;
pub mod findings;
pub mod kind;
pub mod known;
mod lists;
pub mod message;
pub mod output;
mod reason;
pub mod recorder;
mod unittest_lines;
pub mod verdict;

pub use argv::arguments;
pub use cases::{ExpectedCase, expected};
pub use findings::findings;
pub use kind::{Kind, Kinds};
pub use known::{KNOWN_FAILURE, KnownFailure, apply_known, forgiving, names_test};
pub use lists::shortened;
pub use output::{CaseVerdict, OutputParser, Parsed, TestCase};
pub use recorder::{Recorder, confirm};
pub use verdict::{FailureCause, JudgedCase, Verdict, judge};
