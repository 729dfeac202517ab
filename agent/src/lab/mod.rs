//! A lab host: takes requests from the store, runs them on its devices, and says what happens.
//!
//! ```text
//! serve        the loop over all devices
//! served       a device, as the loop sees it
//! queue_view   one look at the queue: which requests wait, and which have to end
//! attempt      one attempt of a request on one device, from the lease to the verdict
//! device_job   the attempt as a job: events, reports
//! status       what labs say about themselves
//! page         lab.html
//! store_clock  the time by the store
//! ```

mod attempt;
mod device_job;
mod page;
mod queue_view;
mod serve;
mod served;
mod status;
mod store_clock;

pub use serve::{Say, serve};
pub use status::{LabStatus, QueueEntry, labs, queue_entries};
