//! The agent's binary under other names: what it has to be before anything else.
//!
//! Part of both programs. `build-agent-shim` must not use the crate `build_agent`: the linker would go through
//! all that the agent has, with the AWS SDK, a second time.

use std::ffi::OsString;

use agent_cache::signature_cache::bitbake_shim;

/// Becomes the program whose name the process was called by. Comes back when that is none of them.
pub fn become_program(environment: Vec<(OsString, OsString)>) {
    let argv: Vec<OsString> = std::env::args_os().collect();
    if bitbake_shim::is_called(argv.first().map(OsString::as_os_str)) {
        bitbake_shim::main(argv, environment);
    }
    if argv.first().is_some_and(|name| name == agent_process::SANDBOX) {
        agent_process::sandbox(argv, environment);
    }
}
