//! Files and directories in which others may write: bounded reads, safe removal, tree walks, and the
//! pool of threads that walks them.

#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))] // they panic when nobody can read

pub mod names;
pub mod pool;
pub mod read;
pub mod remove;
pub mod tree;
pub mod untrusted;
pub mod walk;
