//! The part of the agent that is started many times in a job, without what makes the agent large. The agent
//! starts it under the names that `shim` knows.
#[path = "../shim.rs"]
mod shim;

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    shim::become_program(std::env::vars_os().collect());
    let _ = writeln!(std::io::stderr(), "build-agent-shim: this program is for build-agent itself");
    ExitCode::from(2)
}
