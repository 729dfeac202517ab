//! Tries to connect to the servers that give credentials.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use super::facts::{Answers, Endpoint, Server};

/// These servers are on the machine or next to it.
const TIMEOUT: Duration = Duration::from_secs(1);

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

/// Whether a server of metadata says that there is no role. Only servers that name themselves are believed.
fn has_no_role(connection: TcpStream, address: SocketAddr) -> bool {
    const SESSION: &str = "PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\n\
        X-aws-ec2-metadata-token-ttl-seconds: 60\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let session = exchange(connection, SESSION).as_deref().and_then(session).map(str::to_owned);
    let header = session.map_or(String::new(), |token| format!("X-aws-ec2-metadata-token: {token}\r\n"));
    let role = format!(
        "GET /latest/meta-data/iam/security-credentials/ HTTP/1.1\r\nHost: 169.254.169.254\r\n\
         {header}Connection: close\r\n\r\n"
    );
    let connection = TcpStream::connect_timeout(&address, TIMEOUT).ok();
    connection.and_then(|connection| exchange(connection, &role)).is_some_and(|head| says_no_role(&head))
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

/// AWS answers 404. Other clouds have the same address and no credentials of AWS.
fn says_no_role(head: &str) -> bool {
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    let headers = lines.take_while(|line| !line.is_empty()).filter_map(|line| line.split_once(':'));
    headers.into_iter().any(|(name, value)| {
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "server" => (value == "EC2ws" && status == "404") || value.starts_with("IMDS/"),
            "metadata-flavor" => value == "Google",
            _ => false,
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn only_a_server_that_names_itself_has_no_role() {
        for (head, wanted) in [
            ("HTTP/1.1 404 Not Found\r\nServer: EC2ws\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\nServer: EC2ws\r\n\r\nthe-role", false),
            ("HTTP/1.1 401 Unauthorized\r\nServer: EC2ws\r\n\r\n", false),
            ("HTTP/1.1 400 Bad Request\r\nServer: IMDS/150.870.65.1854\r\n\r\n", true),
            ("HTTP/1.1 404 Not Found\r\nMetadata-Flavor: Google\r\n\r\n", true),
            ("HTTP/1.0 404 File not found\r\nServer: SimpleHTTP/0.6\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\n\r\nServer: IMDS/1", false),
            ("", false),
        ] {
            assert_eq!(says_no_role(head), wanted, "{head:?}");
        }
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
