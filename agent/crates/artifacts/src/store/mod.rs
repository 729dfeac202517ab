//! Publishes the files of a tree that rules select, and an index of them.
//!
//! The tree is not trusted (`agent_fs::tree`). Rules select files (`rules`, `collect`). Each file is read in
//! pieces and hashed (`source`), and written to a bucket or a directory (`artifact_store`) under a key
//! (`names`). The [`index`] is written last.

pub mod artifact_pattern;
mod artifact_store;
mod bucket;
mod collect;
mod directory;
mod failure;
pub mod index;

mod names;

mod publication;
mod rules;
mod source;
mod stale_temp_files;

pub(crate) use collect::Problem;
pub use names::layout;
pub(crate) use names::{join, segment};
pub use publication::Publication;
pub(crate) use source::Source;

#[cfg(test)]
mod hostile_tests;
