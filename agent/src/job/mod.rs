//! The job: which stages run, in which order, and what one hands to the next.

mod plan;
mod stage;

pub use plan::{Plan, Selection};
pub use stage::Stage;
