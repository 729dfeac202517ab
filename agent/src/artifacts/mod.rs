//! Artifacts and where they go. The only part that talks to AWS.

pub mod aws;
pub mod store;
