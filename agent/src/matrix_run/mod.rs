//! Runs the cells of a manifest's matrix on this machine: each is a child process of the same program, one after another or
//! side by side. Their results become one.

mod at_once;
mod child;
mod console;
mod schedule;
mod verdict;

pub use at_once::{Jobs, NEED, at_once};
pub use child::{CellChild, Status};
pub use console::{Console, ConsoleKind};
pub use schedule::run_all;
pub use verdict::of_cell;
