//! Chooses the hash equivalence server of a build, checks that it answers, and configures BitBake.
//!
//! If a configured server does not answer, BitBake prints a warning for each task. A server whose database is
//! on a network file system is an error from BitBake 2.18 on, and did not work before. So the server is
//! checked first, and one that BitBake starts stays on local disk.
//!
//! The reports to a server decide what others use from the shared state. So an untrusted source gets its own
//! server, which uses the configured one as its upstream: `lib/hashserv/server.py` only queries an upstream
//! (`get_taskhash`, `get_outhash`, `get_unihash`, `unihash_exists`) and never reports to it.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use agent_types::error::Result;

use super::path::plain_path;

/// Time limit for the answer of a server.
pub const LIMIT: Duration = Duration::from_secs(3);

/// `[cache] hash_server` of the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashServer {
    Off,
    /// A server that BitBake starts, with a local database.
    Auto,
    /// `host:port`, `ws://…` or `wss://…`.
    Address(String),
}

/// The configuration for BitBake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serve {
    Nothing,
    /// BitBake starts its own server.
    Own {
        /// The directory of its database, on local disk. A BitBake without a variable for it uses the build
        /// directory.
        database: Option<PathBuf>,
        /// A server that is queried but never reported to.
        upstream: Option<String>,
    },
    Address(String),
}

/// The first versions with a feature, from `lib/bb/cooker.py` and `lib/hashserv/__init__.py` of BitBake's
/// branches.
const UPSTREAM_SINCE: Version = (1, 50);
const WEBSOCKETS_SINCE: Version = (2, 8);
const DATABASE_SINCE: Version = (2, 18);

type Version = (u32, u32);

/// Chooses the server. `bitbake` is the version of the tree in use (`bb.__version__`), `trusted` says whether
/// the source is trusted, `database` is a directory on local disk. Does not contact a server. The second
/// value is the reason if the manifest's choice cannot be used.
pub fn plan(wanted: &HashServer, trusted: bool, bitbake: &str, database: &Path) -> (Serve, Option<String>) {
    let version = version(bitbake);
    let own = |upstream| Serve::Own {
        database: (version >= DATABASE_SINCE).then(|| database.to_owned()),
        upstream,
    };
    let without = |why: String| (Serve::Nothing, Some(why));
    match wanted {
        HashServer::Off => (Serve::Nothing, None),
        HashServer::Auto => (own(None), None),
        HashServer::Address(address) if is_websocket(address) && version < WEBSOCKETS_SINCE => {
            without(format!("BitBake {bitbake} cannot talk to {address}: it knows no websockets"))
        }
        HashServer::Address(address) if trusted => (Serve::Address(address.clone()), None),
        HashServer::Address(address) if version >= UPSTREAM_SINCE => (own(Some(address.clone())), None),
        HashServer::Address(address) => without(format!(
            "the source is not trusted, and BitBake {bitbake} cannot read {address} without reporting to it"
        )),
    }
}

impl Serve {
    /// The server that must answer.
    pub fn address(&self) -> Option<&str> {
        match self {
            Serve::Nothing => None,
            Serve::Own { upstream, .. } => upstream.as_deref(),
            Serve::Address(address) => Some(address),
        }
    }

    /// The lines for `local.conf`. Disabled features are written, too, because distros enable them.
    ///
    /// # Errors
    /// If the database directory has characters that a configuration does not support.
    pub fn render(&self) -> Result<String> {
        let equivalence = "BB_SIGNATURE_HANDLER ?= \"OEEquivHash\"\n";
        Ok(match self {
            Serve::Nothing => {
                "# Without a hash server the equivalence handler of some distros cannot work.\n\
                 BB_HASHSERVE = \"\"\n\
                 BB_SIGNATURE_HANDLER ?= \"OEBasicHash\"\n"
                    .to_owned()
            }
            Serve::Own { database, upstream } => {
                let mut text = format!("BB_HASHSERVE = \"auto\"\n{equivalence}");
                if let Some(database) = database {
                    let _ = writeln!(text, "BB_HASHSERVE_DB_DIR = \"{}\"", plain_path(database)?);
                }
                if let Some(upstream) = upstream {
                    let _ = writeln!(text, "BB_HASHSERVE_UPSTREAM = \"{upstream}\"");
                }
                text
            }
            Serve::Address(address) => format!("BB_HASHSERVE = \"{address}\"\n{equivalence}"),
        })
    }
}

pub fn is_websocket(address: &str) -> bool {
    address.starts_with("ws://") || address.starts_with("wss://")
}

/// `2.8.1` → (2, 8); an unknown format is older than every version.
fn version(text: &str) -> Version {
    let mut numbers = text.split('.').map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Checks that a hash server answers. For a websocket, checks only the connection.
///
/// # Errors
/// Why it cannot be used, for people.
pub async fn ask(address: &str, limit: Duration) -> std::result::Result<(), String> {
    let answer = async {
        let mut stream = match url::Url::parse(address).ok().filter(|_| is_websocket(address)) {
            Some(url) => {
                let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
                TcpStream::connect((host, url.port_or_known_default().unwrap_or(80))).await?
            }
            None => TcpStream::connect(address).await?,
        };
        if is_websocket(address) { Ok(true) } else { greet(&mut stream).await }
    };
    match tokio::time::timeout(limit, answer).await {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => Err("it is not a hash server".into()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {}", humantime::format_duration(limit))),
    }
}

/// Sends the protocol's greeting, and a request that servers of all releases know. They answer with an
/// object, either the statistics or an error.
async fn greet(stream: &mut TcpStream) -> std::io::Result<bool> {
    stream.write_all(b"OEHASHEQUIV 1.1\n\n{\"get-stats\": null}\n").await?;
    let mut first = [0];
    stream.read_exact(&mut first).await?;
    Ok(first == *b"{")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn address(text: &str) -> HashServer {
        HashServer::Address(text.into())
    }

    #[test]
    fn chooses_the_server() {
        let database = Path::new("/w/hashserv");
        let own = |with_database: bool, upstream: Option<&str>| Serve::Own {
            database: with_database.then(|| database.to_owned()),
            upstream: upstream.map(str::to_owned),
        };
        let tcp = "h:8686";
        let ws = "wss://h/ws";
        let table = [
            (HashServer::Off, true, "2.8.0", Serve::Nothing, false),
            (HashServer::Auto, false, "1.46.0", own(false, None), false),
            (HashServer::Auto, true, "2.16.0", own(false, None), false),
            (HashServer::Auto, true, "2.18.0", own(true, None), false),
            (address(tcp), true, "1.46.0", Serve::Address(tcp.into()), false),
            (address(tcp), false, "1.46.0", Serve::Nothing, true),
            (address(tcp), false, "1.48.0", Serve::Nothing, true),
            (address(tcp), false, "1.50.0", own(false, Some(tcp)), false),
            (address(tcp), false, "2.18.0", own(true, Some(tcp)), false),
            (address(ws), true, "2.8.0", Serve::Address(ws.into()), false),
            (address(ws), true, "2.6.0", Serve::Nothing, true),
            (address(ws), false, "2.6.0", Serve::Nothing, true),
            (address(ws), false, "2.10.0", own(false, Some(ws)), false),
            (address(tcp), false, "nonsense", Serve::Nothing, true),
        ];
        for (wanted, trusted, bitbake, serve, said) in table {
            let (found, why) = plan(&wanted, trusted, bitbake, database);
            assert_eq!(found, serve, "{wanted:?} {trusted} {bitbake}");
            assert_eq!(why.is_some(), said, "{why:?}");
        }
    }

    #[test]
    fn renders_every_setting() {
        let own = Serve::Own { database: Some("/w/hashserv".into()), upstream: Some("h:1".into()) };
        assert_eq!(
            own.render().unwrap(),
            "BB_HASHSERVE = \"auto\"\nBB_SIGNATURE_HANDLER ?= \"OEEquivHash\"\n\
             BB_HASHSERVE_DB_DIR = \"/w/hashserv\"\nBB_HASHSERVE_UPSTREAM = \"h:1\"\n"
        );
        let plain = Serve::Own { database: None, upstream: None }.render().unwrap();
        assert_eq!(plain.lines().count(), 2, "{plain}");
        let address = Serve::Address("h:1".into()).render().unwrap();
        assert!(address.starts_with("BB_HASHSERVE = \"h:1\"\n") && address.contains("OEEquivHash"));
        let nothing = Serve::Nothing.render().unwrap();
        assert!(nothing.contains("BB_HASHSERVE = \"\"\n") && nothing.contains("OEBasicHash"));
        assert!(Serve::Own { database: Some("/a b".into()), upstream: None }.render().is_err());
    }

    /// A server that answers each client with these bytes and keeps the connection open.
    async fn server(answer: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut asked = vec![0; 64];
                let read = stream.read(&mut asked).await.unwrap();
                assert!(asked[..read].starts_with(b"OEHASHEQUIV 1.1\n\n{"), "{asked:?}");
                stream.write_all(answer).await.unwrap();
                if !answer.is_empty() {
                    kept.push(stream);
                }
            }
        });
        address
    }

    #[tokio::test]
    async fn accepts_only_a_hash_server() {
        assert_eq!(ask(&server(b"{\"requests\": {}}\n").await, LIMIT).await, Ok(()));
        assert!(
            ask(&server(b"HTTP/1.1 400 Bad Request\r\n").await, LIMIT)
                .await
                .unwrap_err()
                .contains("not a hash server")
        );
        assert!(ask(&server(b"").await, LIMIT).await.is_err(), "closed without an answer");
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = free.local_addr().unwrap().to_string();
        drop(free);
        assert!(ask(&closed, LIMIT).await.is_err(), "no server");
        assert!(ask(&format!("ws://{closed}/ws"), LIMIT).await.is_err(), "no server");
    }

    #[tokio::test]
    async fn silent_server_times_out() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let said = ask(&address, Duration::from_millis(20)).await.unwrap_err();
        assert_eq!(said, "no answer within 20ms");
    }
}
