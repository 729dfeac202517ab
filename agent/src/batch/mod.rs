//! The cells of a matrix as separate builds on other machines: one batch of CodeBuild, with one result.
//!
//! ```text
//! warm ──> cell, cell, cell … ──> merge
//! ```
//!
//! [`graph`] says which builds there are, [`spec`] writes them as a buildspec, [`codebuild`] starts and reads the batch, and
//! [`warm`] says what fills the caches, and
//! [`follow`] watches the batch. [`supersede`] selects the older batches of a pull request. CodeBuild passes no data between the builds of a batch. They share it in the store of artifacts,
//! below a path that each of them computes ([`key`]): `warm` stores the lock for all cells, and each cell its result ([`records`]).
//! [`merge`] decides: a cell without a result is never green.

pub mod aws_batch;
pub mod codebuild;
pub mod compute;
pub mod follow;
pub mod graph;
pub mod key;
pub mod memory;
pub mod merge;
pub mod records;
mod shortened;
pub mod spec;
pub mod supersede;
pub mod warm;
