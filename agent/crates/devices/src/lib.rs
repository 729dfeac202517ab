//! Devices under test: requests for them, leases, the providers that control them, and what runs on them.
//!
//! ```text
//! request    what a job wants to have tested, and the verdict on it (a file each, in the store)
//! queue      the requests of a store: submit, cancel, claim, decide
//! lease      which lab has a device
//! record     the small JSON files of the store
//! schedule   which device runs which request
//! health     devices that fail, and devices that people took out
//! lab_state  the local files of a lab host
//! lab        which devices a lab has, and how each is controlled (lab.toml)
//! fence      the number of a lease; commands with an older number are refused
//! board      one device: flash, power, console, address; labgrid, ssh and QEMU control one
//! provider   runs a request on a leased device; providers: which one does
//! board_run  the provider of devices that the agent controls itself: labgrid, ssh, qemu
//! on_target  what runs on a device that answers ssh: commands, oe_test, idt
//! resume     hands verdicts to Step Functions
//! lava       runs a request on a device of a LAVA server
//! ```
//!
//! The store is a bucket or a directory (`agent_artifacts::records`). There is no service: a lab host only makes
//! outgoing connections.

#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))] // they panic if the reader is gone

pub mod board;
pub mod board_run;
pub mod fence;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod fixtures;
pub mod health;
mod junit;
pub mod lab;
pub mod lab_state;
mod lava;
pub mod lease;
pub mod on_target;
pub mod provider;
pub mod providers;
pub mod queue;
pub mod record;
pub mod request;
pub mod resume;
pub mod schedule;
mod test_run;
