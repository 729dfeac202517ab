//! Devices under test: requests for them, leases, the providers that control them, and what runs on them.
//!
//! ```text
//! request    what a job wants to have tested, and what became of it (a file each, in the store)
//! queue      the requests of a store: submit, cancel, claim, decide
//! lease      which lab has a device
//! record     the small JSON files of the store
//! schedule   which device runs which request
//! health     devices that fail, and devices that people took out
//! lab_state  the local files of a lab host
//! lab        which devices a lab has, and how each is controlled (lab.toml)
//! fence      the number of a lease; commands with an older number are refused
//! board      one device: flash, power, console, address
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
mod board_boot;
mod board_prepare;
mod board_program;
pub mod board_run;
mod commands;
pub mod console;
mod console_lines;
mod console_tcp;
pub mod fence;
mod flash;
pub mod health;
mod idt;
mod junit;
pub mod lab;
pub mod lab_state;
mod labgrid;
mod labgrid_output;
mod lava;
pub mod lease;
pub mod oe_test;
pub mod on_target;
pub mod provider;
pub mod providers;
mod qemu;
mod qemu_conf;
mod qemu_files;
mod qemu_kvm;
pub mod queue;
pub mod record;
pub mod request;
pub mod resume;
pub mod schedule;
mod ssh;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod test_attempt;
#[cfg(test)]
mod test_request;
mod test_run;
mod test_user;
