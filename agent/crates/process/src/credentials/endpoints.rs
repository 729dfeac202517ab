//! Tries to connect to the servers that give credentials.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use super::facts::{Answers, Endpoint, Server};

/// These servers are on the machine or next to it.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Of docker without TLS.
const ENGINE_PORT: u16 = 2375;

/// The head of an answer is shorter.
const HEAD: u64 = 4096;

/// The addresses that AWS documents.
pub fn known() -> [(SocketAddr, Server); 5] {
    let v4 = |c, d| SocketAddr::from((Ipv4Addr::new(169, 254, c, d), 80));
    let v6 = |last| SocketAddr::from((Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, last), 80));
    [
        (v4(170, 2), Server::Container),
        (v4(170, 23), Server::PodIdentity),
        (v6(0x23), Server::PodIdentity),
        (v4(169, 254), Server::Instance),
        (v6(0x254), Server::Instance),
    ]
}

/// Tries the known addresses and these, in parallel.
pub fn try_all(named: &[SocketAddr]) -> Vec<Endpoint> {
    let mut all = known().to_vec();
    for &address in named {
        if all.iter().all(|(known, _)| *known != address) {
            all.push((address, Server::Named));
        }
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = all
            .iter()
            .map(|&(address, kind)| (address, kind, scope.spawn(move || try_one(address, kind))))
            .collect();
        let joined = threads.into_iter().map(|(address, kind, thread)| {
            // A panic is no proof that the address is closed.
            Endpoint { address, kind, answers: thread.join().unwrap_or(Answers::Yes) }
        });
        joined.collect()
    })
}

fn try_one(address: SocketAddr, kind: Server) -> Answers {
    let Ok(connection) = TcpStream::connect_timeout(&address, TIMEOUT) else { return Answers::No };
    if kind == Server::Instance && has_no_role(connection, address) {
        return Answers::WithoutCredentials;
    }
    Answers::Yes
}

/// An engine of containers that listens without a password, as AWS's documentation starts dockerd in CodeBuild.
pub fn engine() -> Option<PathBuf> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ENGINE_PORT));
    is_engine(address).then(|| format!("tcp://{address}").into())
}

fn is_engine(address: SocketAddr) -> bool {
    let connection = TcpStream::connect_timeout(&address, TIMEOUT).ok();
    let answer = connection.and_then(|connection| exchange(connection, "GET /_ping HTTP/1.0\r\n\r\n"));
    answer.is_some_and(|answer| header(&answer, "api-version").is_some())
}

/// Whether a server of metadata says that the machine has no identity. Only servers that name themselves are believed.
fn has_no_role(connection: TcpStream, address: SocketAddr) -> bool {
    const SESSION: &str = "PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\n\
        X-aws-ec2-metadata-token-ttl-seconds: 60\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let session = exchange(connection, SESSION).as_deref().and_then(session).map(str::to_owned);
    let header = session.map_or(String::new(), |token| format!("X-aws-ec2-metadata-token: {token}\r\n"));
    let role = format!(
        "GET /latest/meta-data/iam/security-credentials/ HTTP/1.1\r\nHost: 169.254.169.254\r\n\
         {header}Connection: close\r\n\r\n"
    );
    let ask = |request: &str| {
        let connection = TcpStream::connect_timeout(&address, TIMEOUT).ok();
        connection.and_then(|connection| exchange(connection, request))
    };
    let Some(answer) = ask(&role) else { return false };
    match cloud(&answer) {
        Some(Cloud::Aws) => status(&answer) == Some("404"),
        // Azure answers 400 if the machine has no identity.
        Some(Cloud::Azure) => ask(AZURE).is_some_and(|answer| matches!(status(&answer), Some("400" | "404"))),
        // Google lists the accounts.
        Some(Cloud::Google) => ask(GOOGLE).is_some_and(|answer| match status(&answer) {
            Some("404") => true,
            Some("200") => answer.split_once("\r\n\r\n").is_some_and(|(_, list)| list.trim().is_empty()),
            _ => false,
        }),
        None => false,
    }
}

const AZURE: &str = "GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fmanagement.azure.com%2F \
     HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\nConnection: close\r\n\r\n";

const GOOGLE: &str = "GET /computeMetadata/v1/instance/service-accounts/ HTTP/1.1\r\nHost: metadata.google.internal\r\n\
     Metadata-Flavor: Google\r\nConnection: close\r\n\r\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cloud {
    Aws,
    Azure,
    Google,
}

/// Whose server of metadata gave the answer.
fn cloud(answer: &str) -> Option<Cloud> {
    match (header(answer, "server"), header(answer, "metadata-flavor")) {
        (_, Some("Google")) => Some(Cloud::Google),
        (Some("EC2ws"), _) => Some(Cloud::Aws),
        (Some(name), _) if name.starts_with("IMDS/") => Some(Cloud::Azure),
        _ => None,
    }
}

fn status(answer: &str) -> Option<&str> {
    answer.lines().next()?.split(' ').nth(1)
}

/// The value of a header; the name is in lower case.
fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let headers = answer.lines().skip(1).take_while(|line| !line.is_empty());
    let mut headers = headers.filter_map(|line| line.split_once(':'));
    headers.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// Sends a request; returns what comes back in time.
fn exchange(mut connection: TcpStream, request: &str) -> Option<String> {
    connection.set_read_timeout(Some(TIMEOUT)).ok()?;
    connection.set_write_timeout(Some(TIMEOUT)).ok()?;
    connection.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    // What came before an error counts.
    let _ = connection.take(HEAD).read_to_end(&mut answer);
    Some(String::from_utf8_lossy(&answer).into_owned())
}

/// The token of a session in the answer to its request.
fn session(answer: &str) -> Option<&str> {
    let (head, token) = answer.split_once("\r\n\r\n")?;
    let is_token = |token: &str| !token.is_empty() && token.chars().all(|c| c.is_ascii_graphic());
    (head.split(' ').nth(1) == Some("200") && is_token(token)).then_some(token)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A server that gives these answers, one for each connection. Returns the requests.
    fn served(answers: &'static [&'static str]) -> (SocketAddr, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let mut requests = Vec::new();
            for answer in answers {
                let (mut connection, _) = listener.accept().unwrap();
                let mut request = [0; 512];
                let read = connection.read(&mut request).unwrap();
                requests.push(String::from_utf8_lossy(&request[..read]).into_owned());
                let _ = connection.write_all(answer.as_bytes());
            }
            requests
        });
        (address, thread)
    }

    #[test]
    fn only_a_server_that_names_itself_can_say_that_there_is_no_identity() {
        use Answers::{WithoutCredentials, Yes};
        const AWS_404: &str = "HTTP/1.1 404 Not Found\r\nServer: EC2ws\r\n\r\n";
        const AZURE_400: &str = "HTTP/1.1 400 Bad Request\r\nServer: IMDS/150.870.65.1854\r\n\r\n";
        const GOOGLE_404: &str = "HTTP/1.1 404 Not Found\r\nMetadata-Flavor: Google\r\n\r\n";
        let table: [(&'static [&'static str], Answers); 9] = [
            (&["", AWS_404], WithoutCredentials),
            (&["", "HTTP/1.1 200 OK\r\nServer: EC2ws\r\n\r\nthe-role"], Yes),
            (&["", "HTTP/1.1 401 Unauthorized\r\nServer: EC2ws\r\n\r\n"], Yes),
            (&["", "HTTP/1.0 404 File not found\r\nServer: SimpleHTTP/0.6\r\n\r\n"], Yes),
            (&["", "HTTP/1.1 200 OK\r\n\r\nServer: IMDS/1"], Yes),
            (&["", AZURE_400, AZURE_400], WithoutCredentials),
            (&["", AZURE_400, "HTTP/1.1 200 OK\r\nServer: IMDS/1\r\n\r\n{\"access_token\":\"x\"}"], Yes),
            (&["", GOOGLE_404, "HTTP/1.1 200 OK\r\nMetadata-Flavor: Google\r\n\r\n"], WithoutCredentials),
            (&["", GOOGLE_404, "HTTP/1.1 200 OK\r\nMetadata-Flavor: Google\r\n\r\ndefault/\n"], Yes),
        ];
        for (answers, wanted) in table {
            let (address, thread) = served(answers);
            assert_eq!(try_one(address, Server::Instance), wanted, "{answers:?}");
            let requests = thread.join().unwrap();
            assert!(requests[0].starts_with("PUT /latest/api/token "), "{requests:?}");
        }
    }

    #[test]
    fn an_engine_that_listens_for_everybody_is_recognized() {
        for (answer, wanted) in [
            (&["HTTP/1.0 200 OK\r\nApi-Version: 1.41\r\n\r\nOK"][..], true),
            (&["HTTP/1.0 200 OK\r\n\r\nApi-Version: 1"], false),
        ] {
            let (address, thread) = served(answer);
            assert_eq!(is_engine(address), wanted, "{answer:?}");
            thread.join().unwrap();
        }
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(!is_engine(closed));
    }

    #[test]
    fn servers_are_tried_with_a_real_connection() {
        let open = TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let address = open.local_addr().unwrap();
        let answers: Vec<_> =
            try_all(&[address, closed, known()[0].0]).into_iter().skip(known().len()).collect();
        let endpoint = |address, answers| Endpoint { address, kind: Server::Named, answers };
        assert_eq!(answers, [endpoint(address, Answers::Yes), endpoint(closed, Answers::No)]);
        assert_eq!(try_one(closed, Server::Instance), Answers::No);
        let thread = std::thread::spawn(move || {
            let mut requests = Vec::new();
            // The first connection is the one above, which sent nothing.
            for answer in
                ["", "200 OK\r\nServer: EC2ws\r\n\r\nthe-token", "404 Not Found\r\nServer: EC2ws\r\n\r\n"]
            {
                let (mut connection, _) = open.accept().unwrap();
                let mut request = [0; 512];
                let read = connection.read(&mut request).unwrap();
                requests.push(String::from_utf8_lossy(&request[..read]).into_owned());
                let _ = connection.write_all(format!("HTTP/1.1 {answer}").as_bytes());
            }
            requests
        });
        assert_eq!(try_one(address, Server::Instance), Answers::WithoutCredentials);
        let requests = thread.join().unwrap();
        assert!(requests[1].starts_with("PUT /latest/api/token "), "{requests:?}");
        assert!(requests[2].contains("X-aws-ec2-metadata-token: the-token\r\n"), "{requests:?}");
    }
}
