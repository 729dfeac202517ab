//! Runs the cells of a manifest's matrix on this machine: each is a child process of the same program. They run
//! serially or in parallel, and their results become one.

mod child;
mod concurrency;
mod console;
mod schedule;
mod verdict;

pub use child::{CellChild, CellEnd, Status};
pub use concurrency::{Jobs, MEMORY_PER_CELL, parallel_cells};
pub use console::{Console, ConsoleKind};
pub use schedule::run_all;
pub use verdict::of_cell;
