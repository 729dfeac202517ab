//! From manifest, lock, environment and flags to [`Settings`]: all problems at once, each with its
//! place, and nothing runs before they are mended.

pub mod remote;
mod settings;

pub use settings::*;
