//! Clones exactly the wanted commit of a git source, and inspects local work trees.
//!
//! This is a thin layer over the `git` program: it chooses the commands and classifies failures. It does not
//! know manifest files, BitBake or reports. The environment of each git process starts empty; credentials are
//! passed in it, never in arguments. The site's git configuration (system and global) stays in effect.

#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))] // they panic if the reader is gone

mod access;
mod address;
mod base;
mod clone;
mod failure;
mod fetch;
mod history;
mod lfs;
mod listing;
mod program;
mod remote;
mod signature;
mod sites;
mod submodules;
mod worktree;

pub use access::{Access, safe_directories};
pub use address::display_url;
pub use base::{BaseQuery, CommitFiles, ancestry, base_files, base_of};
pub use clone::{
    CONFIGURATION, Cloned, Seed, checkout_files, clone, find_corruption, verify, verify_on_branch,
};
pub use failure::{Failure, Kind};
pub use fetch::pinned;
pub use history::{History, history};
pub use lfs::{lfs_notice, lfs_pointers, lfs_pull, shown_paths};
pub use listing::listing;
pub use program::Git;
pub use remote::{nearest, resolve};
pub use signature::{PublicKey, SignedObject, signer};
pub use sites::{Credential, Mirror, Sites};
pub use submodules::{Submodule, submodule_url, submodules};
pub use worktree::{WorkTree, head, inspect};

#[cfg(any(test, feature = "fixture"))]
pub mod fixture;
#[cfg(test)]
mod tests;
