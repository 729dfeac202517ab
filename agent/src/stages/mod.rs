//! The stages, one file each. A stage takes the settings and the earlier stages' outputs and
//! returns its own; it emits events and never formats a report.

pub mod build;
pub mod check;
pub mod checkout;
pub mod configure;
pub mod publish;
