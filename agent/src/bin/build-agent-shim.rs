//! The part of the agent that is started many times in a job, without what makes the agent large. The agent
//! starts it under the names that `shim` knows.
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    build_agent::shim::become_program();
    let _ = writeln!(std::io::stderr(), "build-agent-shim: this program is for build-agent itself");
    ExitCode::from(2)
}
