//! From manifest, lock, environment and flags to [`Settings`]: all problems at once, each with its
//! place, and nothing runs before they are mended.

mod flags;
mod manifest;
mod problem;
mod settings;
mod structure;
mod tree;

pub use manifest::{FILE_NAME, schema};
pub use problem::{Place, Problem, Problems};
pub use settings::*;
