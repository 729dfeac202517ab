//! Labs: the real program serves requests of a store on stand-in devices that answer real ssh.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod commands;
mod devices;
mod faults;
mod fixture;
mod flow;
mod kills;
mod on_target;
mod page;
