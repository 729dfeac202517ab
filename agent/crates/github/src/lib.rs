//! The parts of GitHub's REST API that results need. The crate knows nothing about jobs.
//!
//! Rules for every request: it waits as GitHub asks it to wait, but never longer than the client's deadline; a request
//! that creates something is never repeated before a lookup shows that the first one had no effect.

pub mod app;
pub mod checks;
mod client;
pub mod code_scanning;
pub mod comments;
mod create;
mod failure;
pub mod pulls;
mod repository;
mod retry;
pub mod statuses;

pub use app::{App, Permission};
pub use client::{Client, DEFAULT_API, is_api_url};
pub use failure::{Failure, Result};
pub use repository::Repository;
