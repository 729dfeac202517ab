//! What `labgrid-client` prints: who holds a place, and what a place has. It has no machine-readable output.

/// Who holds a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub host: String,
    pub user: String,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.host, self.user)
    }
}

/// What a place has, as far as it is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlaceInfo {
    /// Host and port of ssh (`NetworkService`).
    pub ssh: Option<(String, u16)>,
    /// The user of `NetworkService`.
    pub user: Option<String>,
    pub serial: Option<SerialPort>,
    /// A switch for the memory card: the host writes it, and then the device gets it.
    pub has_sd_mux: bool,
}

/// A serial port on the network (`NetworkSerialPort`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SerialPort {
    pub host: String,
    pub port: u16,
    /// The telnet protocol of RFC 2217 instead of the plain bytes.
    pub is_rfc2217: bool,
}

/// The holder of the place by the table of `labgrid-client who`: user, host, place, time.
pub fn holder(lines: &[String], place: &str) -> Option<Holder> {
    lines.iter().find_map(|line| {
        let mut words = line.split_whitespace();
        let (user, host, held) = (words.next()?, words.next()?, words.next()?);
        (held == place).then(|| Holder { host: host.into(), user: user.into() })
    })
}

/// Reads `labgrid-client show`: a line for each resource, and its parameters as Python prints them.
pub fn place_info(lines: &[String]) -> PlaceInfo {
    let mut info = PlaceInfo::default();
    let starts: Vec<usize> = lines
        .iter()
        .enumerate()
        .filter(|(_, line)| {
            ["Acquired resource '", "Matching resource '"].iter().any(|start| line.starts_with(start))
        })
        .map(|(index, _)| index)
        .collect();
    for (number, start) in starts.iter().enumerate() {
        let end = starts.get(number + 1).copied().unwrap_or(lines.len());
        let text = lines[start + 1..end].join(" ");
        let port = value(&text, "port").and_then(|port| port.parse().ok());
        match value(&text, "cls") {
            Some("NetworkService") => {
                let address = value(&text, "address");
                info.ssh = info.ssh.or(address.map(|host| (host.to_owned(), port.unwrap_or(22))));
                info.user = info.user.or(value(&text, "username").map(str::to_owned));
            }
            Some(class) if class.contains("SDMux") || class.contains("SDWire") => info.has_sd_mux = true,
            Some("NetworkSerialPort") => {
                let host = value(&text, "host");
                let is_rfc2217 = value(&text, "protocol") != Some("raw");
                let serial =
                    host.zip(port).map(|(host, port)| SerialPort { host: host.into(), port, is_rfc2217 });
                info.serial = info.serial.or(serial);
            }
            _ => {}
        }
    }
    info
}

/// The value behind `'key': ` in a dictionary of Python, without quotes.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let (_, after) = text.split_once(&format!("'{key}': "))?;
    let quoted = after.strip_prefix(['\'', '"']).and_then(|rest| rest.split(['\'', '"']).next());
    quoted
        .or_else(|| after.split([',', '}', ' ']).next())
        .filter(|value| !value.is_empty() && *value != "None")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn finds_who_holds_a_place() {
        let who = lines(
            "User     Host        Place   Changed\n\
             7-abc    lease-rpi   rpi     2026-01-01 00:00:00\n\
             me       desk        other   2026-01-01 00:00:00\n",
        );
        assert_eq!(holder(&who, "rpi").map(|holder| holder.to_string()).as_deref(), Some("lease-rpi/7-abc"));
        assert_eq!(holder(&who, "other").map(|holder| holder.to_string()).as_deref(), Some("desk/me"));
        assert_eq!(holder(&who, "rp"), None);
        assert_eq!(holder(&[], "rpi"), None);
    }

    #[test]
    fn finds_ssh_and_the_console_of_a_place() {
        let show = lines(
            "Place 'board':\n  matches:\n    lab/board/NetworkPowerPort\n  acquired: lease-board/1-x\n\
             Acquired resource 'NetworkPowerPort' (lab/board/NetworkPowerPort/NetworkPowerPort):\n\
             \x20 {'acquired': 'board',\n   'avail': True,\n   'cls': 'NetworkPowerPort',\n\
             \x20  'params': {'extra': {'proxy': 'lab', 'proxy_required': False},\n\
             \x20             'host': 'http://127.0.0.1:9/{index}', 'index': '0', 'model': 'rest'}}\n\
             Acquired resource 'NetworkSerialPort' (lab/board/NetworkSerialPort/NetworkSerialPort):\n\
             \x20 {'acquired': 'board', 'avail': True, 'cls': 'NetworkSerialPort',\n\
             \x20  'params': {'extra': {}, 'host': '127.0.0.1', 'port': 4001, 'protocol': 'raw', 'speed': 115200}}\n\
             Acquired resource 'NetworkService' (lab/board/NetworkService/NetworkService):\n\
             \x20 {'acquired': 'board', 'avail': True, 'cls': 'NetworkService',\n\
             \x20  'params': {'address': '127.0.0.1', 'extra': {}, 'port': 2222, 'username': 'root'}}\n",
        );
        let wanted = PlaceInfo {
            ssh: Some(("127.0.0.1".into(), 2222)),
            user: Some("root".into()),
            serial: Some(SerialPort { host: "127.0.0.1".into(), port: 4001, is_rfc2217: false }),
            has_sd_mux: false,
        };
        assert_eq!(place_info(&show), wanted);
        let other: Vec<String> = show
            .iter()
            .map(|line| line.replace(", 'port': 2222", "").replace("'raw'", "'rfc2217'"))
            .collect();
        let info = place_info(&other);
        assert_eq!(info.ssh, Some(("127.0.0.1".into(), 22)));
        assert!(info.serial.is_some_and(|serial| serial.is_rfc2217));
        assert_eq!(place_info(&[]), PlaceInfo::default());
        let mux =
            "Acquired resource 'x' (y):\n {'acquired': 'x', 'cls': 'NetworkUSBSDMuxDevice', 'params': {}}";
        assert!(place_info(&lines(mux)).has_sd_mux);
        // A port that is not there yet.
        assert_eq!(
            place_info(&lines(
                "Acquired resource 'x' (y):\n {'cls': 'NetworkSerialPort', 'params': {'host': None}}"
            ))
            .serial,
            None
        );
    }
}
