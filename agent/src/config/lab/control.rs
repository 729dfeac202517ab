//! Validates what controls a device: the tables `labgrid`, `lava`, `ssh` and `qemu`.

use std::path::PathBuf;

use agent_devices::lab::{Control, Labgrid, Lava, QemuDevice, SshDevice, WriteImage};
use url::Url;

use super::super::problem::{Diagnostic, KeyPath};
use super::LabValidator;
use super::file::{UnvalidatedDevice, UnvalidatedLabgrid, UnvalidatedLava, UnvalidatedQemu, UnvalidatedSsh};

/// Where a coordinator of labgrid listens by default.
const COORDINATOR: &str = "127.0.0.1:20408";

type Result<T> = std::result::Result<T, Diagnostic>;

/// What controls the device; exactly one table must say so.
pub(super) fn validate(check: &mut LabValidator, path: &KeyPath, raw: &UnvalidatedDevice) -> Option<Control> {
    let tables = [
        ("labgrid", raw.labgrid.is_some()),
        ("lava", raw.lava.is_some()),
        ("ssh", raw.ssh.is_some()),
        ("qemu", raw.qemu.is_some()),
    ];
    let named: Vec<&str> = tables.iter().filter(|(_, is_named)| *is_named).map(|(name, _)| *name).collect();
    if let [_, second, ..] = named.as_slice() {
        let mistake = Diagnostic::new(format!("has more than one control: {}", named.join(", ")));
        check.check.key(&path.key(second), mistake.hint("keep the table of what controls the device"));
        return None;
    }
    if named.is_empty() {
        if tables.iter().all(|(name, _)| !check.check.has(&path.key(name))) {
            let mistake = Diagnostic::new("nothing controls it");
            check.check.key(path, mistake.hint("add one of the tables labgrid, lava, ssh, qemu below it"));
        }
        return None;
    }
    let labgrid = raw.labgrid.as_ref().and_then(|raw| labgrid(check, &path.key("labgrid"), raw));
    let lava = raw.lava.as_ref().and_then(|raw| lava(check, &path.key("lava"), raw));
    let ssh = raw.ssh.as_ref().and_then(|raw| ssh(check, &path.key("ssh"), raw));
    let qemu = raw.qemu.as_ref().and_then(|raw| qemu(check, &path.key("qemu"), raw));
    labgrid.or(lava).or(ssh).or(qemu)
}

fn labgrid(check: &mut LabValidator, path: &KeyPath, raw: &UnvalidatedLabgrid) -> Option<Control> {
    let standard = COORDINATOR.to_owned();
    let coordinator =
        check.check.one(&path.key("coordinator"), raw.coordinator.as_ref().or(Some(&standard)), coordinator);
    let place = check.check.one(&path.key("place"), raw.place.as_ref(), place);
    let client = raw.client.as_ref().map(|client| vec![client.clone()]);
    let client = check.program(&path.key("client"), client.as_ref());
    let environment = check.file(&path.key("environment"), raw.environment.as_ref());
    let write = check.program(&path.key("write"), raw.write.as_ref());
    let host = check.check.one(&path.key("host"), raw.host.as_ref(), host);
    let port = port(check, &path.key("port"), raw.port);
    if raw.port.is_some() && raw.host.is_none() {
        let mistake = Diagnostic::new("has no effect without `host`");
        check.check.value(&path.key("port"), mistake.hint("add the device's `host`"));
    }
    let ssh_key = check.file(&path.key("ssh_key"), raw.ssh_key.as_ref());
    Some(Control::Labgrid(Labgrid {
        coordinator: coordinator?,
        place: place?,
        client: client
            .and_then(|words| words.into_iter().next())
            .map_or("labgrid-client".into(), PathBuf::from),
        environment,
        write: write.map_or(WriteImage::WriteImage, WriteImage::Command),
        address: host.map(|host| (host, port)),
        ssh_key,
    }))
}

fn lava(check: &mut LabValidator, path: &KeyPath, raw: &UnvalidatedLava) -> Option<Control> {
    let url = check.check.one(&path.key("url"), raw.url.as_ref(), |text| web_address(text, "url"));
    let files = check.check.one(&path.key("files"), raw.files.as_ref(), |text| web_address(text, "files"));
    let token_file = check.file(&path.key("token_file"), raw.token_file.as_ref());
    let job = check.file(&path.key("job"), raw.job.as_ref());
    Some(Control::Lava(Lava { url: url?, token_file: token_file?, job: job?, files: files? }))
}

fn ssh(check: &mut LabValidator, path: &KeyPath, raw: &UnvalidatedSsh) -> Option<Control> {
    let host = check.check.one(&path.key("host"), raw.host.as_ref(), host);
    let port = port(check, &path.key("port"), raw.port);
    let ssh_key = check.file(&path.key("ssh_key"), raw.ssh_key.as_ref());
    let write = check.program(&path.key("write"), raw.write.as_ref());
    let restart = check.program(&path.key("restart"), raw.restart.as_ref());
    Some(Control::Ssh(SshDevice { host: host?, port, ssh_key, write, restart }))
}

fn qemu(check: &mut LabValidator, path: &KeyPath, raw: &UnvalidatedQemu) -> Option<Control> {
    let in_range = |memory: &u32| (32..=1 << 20).contains(memory);
    let memory = match raw.memory.map(|memory| u32::try_from(memory).ok().filter(in_range)) {
        None => None,
        Some(Some(memory)) => Some(memory),
        Some(None) => {
            let mistake = Diagnostic::new("is out of range");
            check.check.value(&path.key("memory"), mistake.hint("write MiB, from 32 to 1048576"));
            None
        }
    };
    Some(Control::Qemu(QemuDevice { memory }))
}

fn port(check: &mut LabValidator, path: &KeyPath, raw: Option<i64>) -> u16 {
    match raw.map(|port| u16::try_from(port).ok().filter(|port| *port != 0)) {
        None => 22,
        Some(Some(port)) => port,
        Some(None) => {
            let mistake = Diagnostic::new("is not a port");
            check.check.value(path, mistake.hint("write a number from 1 to 65535"));
            22
        }
    }
}

/// A host name or an IPv4 address. It becomes an argument of ssh.
fn host(text: &str) -> Result<String> {
    let good = |c: char| c.is_ascii_alphanumeric() || ".-".contains(c);
    let is_host = !text.is_empty() && !text.starts_with(['-', '.']) && text.chars().all(good);
    match is_host {
        true => Ok(text.to_owned()),
        false => Err(Diagnostic::new(format!("`{text}` is not a host name or an IPv4 address"))
            .hint("write it without a user and without a port")),
    }
}

fn coordinator(text: &str) -> Result<String> {
    let hint = "write HOST:PORT, such as 127.0.0.1:20408";
    let (name, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let is_ipv6 = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let is_host =
        host(name).is_ok() || is_ipv6.is_some_and(|name| name.parse::<std::net::Ipv6Addr>().is_ok());
    match port.parse::<u16>() {
        Ok(port) if port != 0 && is_host => Ok(text.to_owned()),
        _ => Err(Diagnostic::new(format!("`{text}` is not the address of a coordinator")).hint(hint)),
    }
}

/// The name of a place. It becomes an argument of labgrid-client.
fn place(text: &str) -> Result<String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._/@-".contains(c);
    let is_good = text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(good);
    match is_good {
        true => Ok(text.to_owned()),
        false => Err(Diagnostic::new(format!("`{text}` is not the name of a place"))
            .hint("write it as `labgrid-client places` shows it")),
    }
}

/// An http address, without a slash at its end and without a password.
fn web_address(text: &str, key: &str) -> Result<String> {
    let hint = format!("write an https address, such as {key} = \"https://lava.example.org\"");
    let url = Url::parse(text)
        .ok()
        .filter(|url| ["https", "http"].contains(&url.scheme()) && url.host_str().is_some())
        .ok_or_else(|| Diagnostic::new("is not the address of a server").hint(hint.clone()))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Diagnostic::new("contains a user or a password").hint("use `token_file`"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(Diagnostic::new("has a part after `?` or `#`").hint(hint));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}
