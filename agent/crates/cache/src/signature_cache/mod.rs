//! The fast layer check: answers that BitBake already gave to exactly the same question.
//!
//! yocto-check-layer asks BitBake for the signatures of the whole world several times. For one run of
//! it the agent stands before `bitbake` on the PATH ([`ShimDir`], [`bitbake_shim`]). The shim sends a
//! query that it recognises ([`CacheableQuery`]) to the agent's [`CacheServer`], which reads every input
//! from disk ([`inputs`]), makes a key of them ([`Inputs`]) and answers from the [`Store`], or starts the
//! real BitBake ([`BitbakeRunner`]), gives what it gave, and keeps that if nobody can have forged it ([`Admission`]).
//!
//! At some questions it is known which ones come next. Those are asked ahead ([`query_plan`], [`prefetcher`],
//! [`bitbake_runner`]), and answered from the store when they come.
//!
//! An answer to other inputs would be a wrong verdict. So whatever is not understood is not reused, and says why:
//! a [`NotCacheable`] is no error, the real BitBake runs. What comes over the socket is only a question, never
//! an answer; layer code may ask as well, and learns nothing that it could not compute.

mod admission;
mod autorev;
mod bitbake_runner;
pub mod bitbake_shim;
mod difference;
mod digest;
mod git_state;
mod hermeticity;
mod home;
mod host;
mod inputs;
mod insert;
mod key;
mod layers;
mod listing;
mod parse_cache;
mod prefetcher;
mod progress;
mod protocol;
mod provenance;
mod python_packages;
mod query;
mod query_plan;
mod server;
mod shim_dir;
mod stat_cache;
mod store;
mod tracked;
mod tree;

pub use admission::{Admission, WrittenConf, runs_code};
pub use bitbake_runner::BitbakeRunner;
pub use digest::Digest;
pub use inputs::{Place, trees_of};
pub use key::{Inputs, Key};
pub use provenance::{ProvenanceSummary, Rerun};
pub use query::{CacheableQuery, Invocation};
pub use query_plan::QueryPlan;
pub use server::{CacheServer, RunOptions};
pub use shim_dir::ShimDir;
pub use stat_cache::StatCache;
pub use store::{Store, Stores, make_private};

/// Why answers are not reused or not kept, as a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotCacheable(pub String);

/// A result that a refusal cuts short.
pub type CacheResult<T> = std::result::Result<T, NotCacheable>;

impl std::fmt::Display for NotCacheable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<nix::errno::Errno> for NotCacheable {
    fn from(errno: nix::errno::Errno) -> NotCacheable {
        std::io::Error::from(errno).into()
    }
}

impl From<std::io::Error> for NotCacheable {
    fn from(error: std::io::Error) -> NotCacheable {
        NotCacheable(error.to_string())
    }
}
