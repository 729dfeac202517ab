//! The stages of a job. Each takes the settings and the earlier stages' outputs and gives its own.

pub mod checkout;
