//! The one module that starts processes, and the one that deletes files.
//!
//! A [`Command`] says all about a child: its words, its whole environment, its user, its log. A
//! [`Runner`] runs it: own process group, output read as bytes by line, redacted, written to the
//! log and offered to a [`LineHandler`] handler; limits and cancellation; at the end a [`CommandOutcome`] that
//! says how it ended. A child that fails is no error here; not being able to start it is.
//!
//! Nothing survives its command: what is left of the process group, and what left the group as a
//! daemon, is ended when the command is over.

#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))] // they panic when nobody can read

mod activity;
mod blocking;
mod capabilities;
pub mod cgroup;
mod command;
mod control_group;
mod credential_isolation;
pub mod credentials;
mod decoder;
mod event_channel;
mod exec_spec;
mod exit_reason;
mod forkers;
mod interactive;
mod interrupt;
mod kill_report;
mod lines;
mod log;
mod machine_sampler;
mod mount_namespace;
mod orphans;
mod prepare;
mod probe;
mod proc_files;
pub mod processes;
mod redact;
mod runner;
mod running;
pub mod shared_memory;
mod shim;
mod signals;
mod spawn;
mod stop;
mod until_stopped;
mod user;
mod watch;

pub use activity::ActivityClock;
pub use blocking::blocking;
pub use command::{Command, Environment};
pub use credential_isolation::{CredentialIsolation, JobRules};
pub use exec_spec::{ExecSpec, exit_like};
pub use exit_reason::ExitReason;
pub use interactive::interactive;
pub use interrupt::{Interrupt, Interrupted};
pub use lines::LineHandler;
pub use log::{LOG_LIMIT, Log};
pub use machine_sampler::MachineSampler;
pub use mount_namespace::{Mount, MountNamespace, NAME as SANDBOX, main as sandbox};
pub use orphans::{Orphans, end_orphan_group, end_orphans};
pub use prepare::{close_inherited_descriptors, is_ignored, prepare_process, survive_signals};
pub use probe::{Answer, PROBE_LIMIT, Prober};
pub use redact::Redactor;
pub use runner::{CommandOutcome, Runner};
pub use running::{MARKER, nothing_runs, reap};
pub use shim::shim;
pub use signals::signal;
pub use until_stopped::UntilStopped;
pub use user::{User, agent_user, build_user, lesser_owner};
