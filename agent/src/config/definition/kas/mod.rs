//! kas: `build-agent run kas.yml`, `base.yml:board.yml`. The semantics are those of kas itself (`includehandler.py`,
//! `config.py`, `repos.py`, `libcmds.py`); the tests compare the two.

pub mod files;
mod format;
mod repos;
mod translate;

pub use translate::translate;

/// The newest format of files whose keys are all known.
pub const NEWEST: i64 = 23;
