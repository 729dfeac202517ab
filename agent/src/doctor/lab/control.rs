//! What controls each device: labgrid's coordinator and place, keys, tokens.

use std::net::IpAddr;
use std::path::Path;

use agent_devices::lab::{Control, Device, Labgrid};
use agent_fs::untrusted;
use agent_process::{Answer, PROBE_LIMIT, Prober};

use super::super::finding::Finding;
use super::files::private_file;
use super::of_device;

/// The oldest labgrid that speaks the protocol of the present one.
const OLDEST: u32 = 25;

pub async fn check(prober: &Prober, device: &Device) -> Vec<Finding> {
    match &device.control {
        Control::Labgrid(place) => labgrid(prober, &device.name, place).await,
        Control::Ssh(ssh) => {
            ssh.ssh_key.iter().map(|key| private_file(&device.name, "ssh key", key)).collect()
        }
        Control::Lava(lava) => vec![private_file(&device.name, "token", &lava.token_file)],
        Control::Qemu(_) => Vec::new(),
    }
}

async fn labgrid(prober: &Prober, device: &str, place: &Labgrid) -> Vec<Finding> {
    let client = place.client.to_string_lossy();
    let of_coordinator = ["-x", place.coordinator.as_str()];
    let ask = async |name: &str, words: &[&str]| {
        let argv = [&[&*client][..], &of_coordinator, words].concat();
        prober.ask(name, &argv, None, &prober.environment, PROBE_LIMIT).await
    };
    let version = ask("labgrid-version", &["version"]).await;
    let mut findings = vec![judge_version(device, place, &version)];
    if version.lines().is_some() {
        let shown = ask("labgrid-place", &["-p", &place.place, "show"]).await;
        findings.push(judge_place(device, place, &shown));
    }
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"]
        .map(|table| untrusted::read_text(Path::new(table), untrusted::PAGE).unwrap_or_default());
    findings.extend(judge_coordinator(device, &place.coordinator, &tables.join("\n")));
    findings.extend(place.ssh_key.iter().map(|key| private_file(device, "ssh key", key)));
    findings
}

fn judge_version(device: &str, place: &Labgrid, answer: &Answer) -> Finding {
    let name = of_device(device, "labgrid");
    let fix = format!("start the coordinator at {}, and install labgrid 25 or newer", place.coordinator);
    let Some(lines) = answer.lines() else { return Finding::failed(name, answer.complaint(), fix) };
    let version = lines.iter().rev().find(|line| line.starts_with(|char: char| char.is_ascii_digit()));
    let major = version.and_then(|version| version.split('.').next()?.parse::<u32>().ok());
    match (major, version) {
        (Some(major), Some(version)) if major >= OLDEST => Finding::ok(name, version.clone()),
        (_, Some(version)) => Finding::failed(name, format!("{version} is too old"), fix),
        (_, None) => Finding::warning(name, "it does not say its version", fix),
    }
}

fn judge_place(device: &str, place: &Labgrid, answer: &Answer) -> Finding {
    let name = of_device(device, "place");
    let Some(lines) = answer.lines() else {
        let fix = format!("labgrid-client -p {} create", place.place);
        return Finding::failed(name, answer.complaint(), fix);
    };
    let has = |class: &str| lines.iter().any(|line| line.contains(&format!("/{class}/")));
    let has_power = ["Power", "GPIO", "Relay"].iter().any(|word| {
        lines.iter().any(|line| line.starts_with("Matching resource") && line.contains(word))
            || lines.iter().any(|line| line.starts_with("Acquired resource") && line.contains(word))
    });
    let matches = "let an exporter export it, and add it with `labgrid-client add-match`";
    if !has_power && place.environment.is_none() {
        Finding::failed(name, format!("{} has no power switch", place.place), matches)
    } else if !has("NetworkService") && place.address.is_none() {
        let fix = format!("{matches}, or name the device's `host` in lab.toml");
        Finding::failed(name, format!("{} has no NetworkService", place.place), fix)
    } else if !has("NetworkSerialPort") {
        Finding::warning(
            name,
            format!("{} has no NetworkSerialPort: reports have no console", place.place),
            matches,
        )
    } else {
        Finding::ok(name, place.place.clone())
    }
}

/// Whether the coordinator listens on loopback only; anybody who reaches it can take every place.
fn judge_coordinator(device: &str, coordinator: &str, tables: &str) -> Option<Finding> {
    let name = of_device(device, "coordinator");
    let fix = "start it with `-l 127.0.0.1:20408`: it has no authentication";
    let (host, port) = coordinator.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    let is_loopback = host == "localhost"
        || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if !is_loopback {
        let found = format!("{coordinator} is on the network, where anybody can take its places");
        return Some(Finding::warning(name, found, fix));
    }
    listens_outside(tables, port)
        .then(|| Finding::failed(name, format!("port {port} listens on more than loopback"), fix))
}

/// Whether the tables of the kernel's TCP sockets have one that listens on this port, and not only on loopback.
fn listens_outside(tables: &str, port: u16) -> bool {
    const LISTEN: &str = "0A";
    const LOOPBACK: [&str; 3] =
        ["0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"];
    tables.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, local, _, state, ..] = words.as_slice() else { return false };
        let Some((address, number)) = local.split_once(':') else { return false };
        *state == LISTEN && u16::from_str_radix(number, 16) == Ok(port) && !LOOPBACK.contains(&address)
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::finding::State;
    use super::*;
    use agent_devices::lab::WriteImage;

    fn said(lines: &[&str]) -> Answer {
        Answer::Said { ok: true, lines: lines.iter().map(|line| (*line).to_owned()).collect() }
    }

    fn place() -> Labgrid {
        Labgrid {
            coordinator: "127.0.0.1:20408".into(),
            place: "rpi".into(),
            client: "labgrid-client".into(),
            environment: None,
            write: WriteImage::WriteImage,
            address: None,
            ssh_key: None,
        }
    }

    #[test]
    fn labgrid_is_reachable_and_new() {
        for (answer, state) in [
            (said(&["26.0.1"]), State::Ok),
            (said(&["25.0"]), State::Ok),
            (said(&["0.4.1"]), State::Failed),
            (said(&["?"]), State::Warning),
            (Answer::Nothing("not there".into()), State::Failed),
        ] {
            assert_eq!(judge_version("d", &place(), &answer).state, state, "{answer:?}");
        }
    }

    #[test]
    fn a_place_has_power_ssh_and_a_console() {
        let resource = |class: &str| format!("Matching resource '{class}' (lab/rpi/{class}/{class}):");
        let [power, ssh, serial] = ["NetworkPowerPort", "NetworkService", "NetworkSerialPort"].map(resource);
        for (lines, state, found) in [
            (vec![&*power, &ssh, &serial], State::Ok, "rpi"),
            (vec![&*power, &ssh], State::Warning, "rpi has no NetworkSerialPort"),
            (vec![&*power, &serial], State::Failed, "rpi has no NetworkService"),
            (vec![&*ssh, &serial], State::Failed, "rpi has no power switch"),
        ] {
            let finding = judge_place("d", &place(), &said(&lines));
            assert_eq!(finding.state, state, "{finding:?}");
            assert!(finding.found.starts_with(found), "{finding:?}");
        }
        assert_eq!(judge_place("d", &place(), &Answer::Nothing("x".into())).state, State::Failed);
    }

    #[test]
    fn a_coordinator_is_for_this_machine_only() {
        // Port 20408 is 4FB8.
        let table = |address: &str, state: &str| {
            format!("  sl  local_address rem_address   st\n   0: {address}:4FB8 00000000:0000 {state} 0:0\n")
        };
        for (coordinator, table, wanted) in [
            ("127.0.0.1:20408", table("0100007F", "0A"), None),
            ("localhost:20408", table("00000000000000000000000001000000", "0A"), None),
            ("[::1]:20408", String::new(), None),
            ("127.0.0.1:20408", table("00000000000000000000000000000000", "0A"), Some(State::Failed)),
            ("127.0.0.1:20408", table("00000000", "0A"), Some(State::Failed)),
            ("127.0.0.1:20408", table("0A00000A", "01"), None),
            ("127.0.0.1:20409", table("00000000", "0A"), None),
            ("lab.example.org:20408", String::new(), Some(State::Warning)),
        ] {
            let state = judge_coordinator("d", coordinator, &table).map(|finding| finding.state);
            assert_eq!(state, wanted, "{coordinator} {table}");
        }
    }
}
