//! The signature cache: answers that BitBake already gave to exactly the same query, for a faster layer check.
//!
//! yocto-check-layer asks BitBake for the signatures of the whole world several times. During one run of it the agent
//! puts a shim before `bitbake` on the PATH ([`ShimDir`], [`bitbake_shim`]). The shim sends each query that it
//! recognises ([`CacheableQuery`]) to the agent's [`CacheServer`]. The server asks the [`SignatureCache`], which reads
//! every input from disk ([`inputs`]), makes a key of them ([`Inputs`]) and looks for it in the [`Stores`]. On a miss
//! the server runs the real BitBake ([`BitbakeRunner`]), passes its answer on, and inserts it into the cache, if nobody
//! can have forged it ([`Admission`]).
//!
//! Some queries tell which ones come next. The [`prefetcher`] runs BitBake for those before they come
//! ([`query_plan`]).
//!
//! An answer to other inputs would be a wrong verdict. So whatever is not understood is not answered from the cache, and
//! says why: a [`NotCacheable`] is no error, the real BitBake runs. Over the socket comes only a query, never an answer.
//! Layer code may ask as well, and learns nothing that it could not compute.
//!
//! A job that asks what a change affects queries the tasks of its base and head ([`TaskQueries`]).
//!
//! ```text
//! server → query_handler → prefetcher → cache → store, key, provenance
//! ```

mod admission;
mod autorev;
mod bitbake_runner;
pub mod bitbake_shim;
mod bucket_store;
mod cache;
mod concurrency;
mod difference;
mod digest;
mod git_state;
mod hermeticity;
mod home;
mod host;
mod inputs;
mod key;
mod layers;
mod listing;
mod lock;
mod not_cacheable;
mod parse_cache;
mod parse_run;
mod plausibility;
mod prefetch_table;
mod prefetcher;
mod protocol;
mod provenance;
mod python_packages;
mod query;
mod query_handler;
mod query_log;
mod query_plan;
mod seen;
mod server;
mod shim_dir;
mod stat_cache;
mod store;
mod stores;
mod task_query;
mod tracked;
mod tree;

pub use admission::{Admission, WrittenConf, runs_code};
pub use bitbake_runner::{BitbakeRunner, ScratchBuildDir, TaskFiles};
pub use bucket_store::BucketStore;
pub use cache::{CacheOptions, SignatureCache};
pub use concurrency::Concurrency;
pub use digest::Digest;
pub use inputs::{Place, Replaced, trees_of};
pub use key::{Inputs, Key};
pub use not_cacheable::{CacheResult, NotCacheable};
pub use parse_run::{ParseInputs, ParseRun};
pub use provenance::{ProvenanceSummary, Rerun};
pub use query::{CacheableQuery, Invocation};
pub use query_plan::QueryPlan;
pub use server::CacheServer;
pub use shim_dir::ShimDir;
pub use stat_cache::StatCache;
pub use store::{Store, make_private};
pub use stores::Stores;
pub use task_query::{ANSWER as TASK_LIST, Side, SideInputs, TaskQueries, TaskRun};
