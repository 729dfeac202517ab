//! Sources from git: clones that hold exactly the wanted commit, and what a local work tree is.
//!
//! A thin layer over the `git` program. It says which commands run and understands what git says
//! about a failure; it knows nothing of manifests' files, BitBake or reports. Each child has an
//! environment made from nothing; credentials travel in it, never in the arguments.
//! The site's own git configuration (system and global) stays in force.

#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))] // they panic when nobody can read

mod access;
mod address;
mod clone;
mod failure;
mod fetch;
mod lfs;
mod program;
mod remote;
mod worktree;

pub use access::{Access, safe_directories};
pub use address::display_url;
pub use clone::{CONFIGURATION, Cloned, Seed, clone, damage, listing, prove, verify, write_again};
pub use failure::{Failure, Kind};
pub use fetch::pinned;
pub use lfs::{lfs_notice, lfs_pointers};
pub use program::Git;
pub use remote::{nearest, resolve};
pub use worktree::{WorkTree, head, inspect};

#[cfg(any(test, feature = "fixture"))]
pub mod fixture;
#[cfg(test)]
mod tests;
