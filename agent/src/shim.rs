//! The agent's binary under other names: what it has to be before anything else.

use std::ffi::OsString;

use agent_cache::signature_cache::bitbake_shim;

use crate::config;

/// Becomes the program whose name the process was called by. Comes back when that is none of them.
pub fn become_program() {
    let argv: Vec<OsString> = std::env::args_os().collect();
    if bitbake_shim::is_called(argv.first().map(OsString::as_os_str)) {
        bitbake_shim::main(argv, config::whole_environment());
    }
    if argv.first().is_some_and(|name| name == agent_process::SANDBOX) {
        agent_process::sandbox(argv, config::whole_environment());
    }
}
