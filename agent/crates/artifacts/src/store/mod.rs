//! Artifacts: from a tree and rules to objects at a destination and the index that names them.
//!
//! A tree is read without trust (`tree`), rules select from it (`rules`, `collect`), each file
//! is read in pieces and hashed on the way (`source`) to a bucket or a directory (`place`), under
//! its own name (`names`); the [`index`] comes last.

pub mod artifact_pattern;
mod bucket;
mod collect;
mod directory;
mod failure;
pub mod index;
mod leftovers;
mod names;
mod place;
mod publication;
mod retry;
mod rules;
mod source;

pub use names::layout;
pub use publication::Publication;

#[cfg(test)]
mod hostile_tests;
