//! The job: which stages run, in which order, and what one hands to the next.

mod credentials;
mod dir_lock;
mod disk_use;
mod flight_recorder;
mod local_caches;
mod machine_check;
mod plan;
mod publish_stage;
mod run;
mod stale_processes;
mod stop_notice;
mod test_stage;

pub use credentials::{end_isolation, isolate_credentials};
pub use dir_lock::DirLock;
pub use disk_use::DiskUse;
pub use flight_recorder::{FlightRecorder, LastAttempt};
pub use local_caches::{CacheLease, claim_caches};
pub use plan::{Plan, Selection, Step};
pub use run::{Opening, interrupt, run};
pub use stale_processes::end_leftovers;
pub use stop_notice::StopNotice;
