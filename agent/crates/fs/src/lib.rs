//! Files and directories in which others may write: directory handles that no link leads out of, bounded reads,
//! safe removal, tree walks with the pool of threads that does them, and what a user may do with a path.

#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))] // they panic when nobody can read

pub mod access;
pub mod dir;
pub mod names;
pub mod pool;
pub mod read;
pub mod remove;
pub mod tree;
pub mod untrusted;
pub mod walk;
