//! The address of this machine that a system under test sees.

use std::net::{ToSocketAddrs, UdpSocket};

use agent_types::error::{Error, Result};

/// The address of this machine that a system at `host` sees. Nothing is sent. `setting`: what names the host. It blocks
/// while it looks up the name.
///
/// # Errors
/// Upstream, if the host has no address that this machine reaches.
pub fn own_address(host: &str, port: u16, setting: &str) -> Result<String> {
    let failed = |error: &std::io::Error| {
        Error::upstream(format!("cannot find the system under test, `{host}`"))
            .because(error)
            .hint(format!("check {setting}, and that this machine can reach it"))
    };
    let addresses = (host, port).to_socket_addrs().map_err(|error| failed(&error))?;
    let address = addresses.into_iter().find(|address| address.is_ipv4());
    let address = address.ok_or_else(|| failed(&std::io::Error::other("it has no IPv4 address")))?;
    let socket = UdpSocket::bind(("0.0.0.0", 0)).map_err(|error| failed(&error))?;
    socket.connect(address).map_err(|error| failed(&error))?;
    Ok(socket.local_addr().map_err(|error| failed(&error))?.ip().to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_knows_its_own_address() {
        assert_eq!(own_address("127.0.0.1", 22, "[test] target").unwrap(), "127.0.0.1");
        let error = own_address("no-such-host.invalid", 22, "[test] target").unwrap_err();
        assert!(error.message.contains("no-such-host.invalid"), "{error}");
        assert!(error.hint.unwrap().contains("[test] target"));
    }
}
