//! The job: which stages run, in which order, and what one hands to the next.

mod exclusive;
mod leftovers;
mod plan;
mod run;
mod stop_notice;

pub use exclusive::Exclusive;
pub use leftovers::end_leftovers;
pub use plan::{Plan, Selection};
pub use run::{interrupt, run};
pub use stop_notice::StopNotice;
