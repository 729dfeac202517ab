//! The one module that starts processes, and the one that deletes files.
//!
//! A [`Command`] says all about a child: its words, its whole environment, its user, its log. A
//! [`Runner`] runs it: own process group, output read as bytes by line, redacted, written to the
//! log and offered to a [`Lines`] handler; limits and cancellation; at the end a [`Finished`] that
//! says how it ended. A child that fails is no error here; not being able to start it is.
//!
//! Nothing survives its command: what is left of the process group, and what left the group as a
//! daemon, is ended when the command is over.

#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))] // they panic when nobody can read

mod apart;
pub mod cgroup;
mod command;
mod control_group;
mod end;
mod ended;
mod forkers;
mod in_place;
mod interactive;
mod interrupt;
mod lines;
mod log;
mod orphans;
mod prepare;
mod probe;
pub mod processes;
mod redact;
mod runner;
mod running;
pub mod shared_memory;
mod shim;
mod spawn;
mod stop;
mod until_stopped;
mod user;
mod watch;

pub use apart::{Apart, NAME as APART, main as apart};
pub use command::{Command, Environment};
pub use end::End;
pub use ended::signal;
pub use in_place::{InPlace, end_like};
pub use interactive::interactive;
pub use interrupt::{Interrupt, Interrupted};
pub use lines::Lines;
pub use log::LOG_LIMIT;
pub use orphans::{Orphans, end_orphans};
pub use prepare::{is_ignored, prepare_process, survive_signals};
pub use probe::{Answer, PROBE_LIMIT, Prober};
pub use redact::Redactor;
pub use runner::{Finished, Runner};
pub use running::{MARKER, nothing_runs, reap};
pub use shim::shim;
pub use until_stopped::UntilStopped;
pub use user::{User, agent_user, build_user, lesser_owner};
