//! Devices of a lab: the real program with real labgrid, real guests of QEMU, and devices that do not work.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod doctor_tests;
mod job_tests;
mod lab_host;
mod labgrid;
mod labgrid_tests;
mod qemu_tests;
mod ssh_tests;
