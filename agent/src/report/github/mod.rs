//! What a job posts to GitHub: commit statuses, a check run, a comment, findings.
//!
//! [`content`] is pure: from a summary to what is posted. [`post`] posts it. [`live`] updates the check run while the job
//! runs. Nothing here changes a verdict.

mod access;
mod annotations;
mod claim;
mod content;
mod live;
mod place;
mod post;
mod reports;

pub use access::{Access, AppKey, Credentials};
pub use content::{device_without_result, unreadable_result};
pub use live::LiveCheck;
pub use place::Place;
pub use post::{DEADLINE, Poster, Stage};
pub use reports::{device_posts, posts};
