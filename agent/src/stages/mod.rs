//! The stages of a job, one file each.

pub mod publish;
