//! From what the child found to yes or no, with reasons and a hint.

use agent_types::credentials::{CredentialAccess, Reachable};

use super::facts::{Answers, Clue, Endpoint, Facts, Place, Server};
use super::variables::CONTAINER_PATH;

/// More ways say nothing new.
const MOST: usize = 5;

/// What the agent can do about it.
#[derive(Clone, Copy, Debug)]
pub struct Rights {
    /// Whether layer code runs as another user than the agent.
    pub other_user: bool,
    /// Whether the agent may administer its network.
    pub network: bool,
}

/// What a secret is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opens {
    /// Something by itself.
    Itself,
    /// Only this server.
    Server(Server),
}

fn opens(name: &str) -> Opens {
    match name {
        CONTAINER_PATH => Opens::Server(Server::Container),
        "AWS_CONTAINER_AUTHORIZATION_TOKEN" | "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE" => {
            Opens::Server(Server::PodIdentity)
        }
        _ => Opens::Itself,
    }
}

/// Whether, and how, layer code can reach credentials.
pub fn judge(facts: &Facts, rights: Rights) -> CredentialAccess {
    let mut ways = Ways::default();
    for clue in &facts.clues {
        let names: Vec<&str> =
            clue.holds.iter().map(String::as_str).filter(|name| opens(name) == Opens::Itself).collect();
        if !names.is_empty() {
            ways.add(format!("{} can be read ({})", clue.place, names.join(", ")), cause(clue.kind));
        }
    }
    for endpoint in facts.endpoints.iter().filter(|endpoint| endpoint.answers == Answers::Yes) {
        ways.endpoint(endpoint, &facts.clues);
    }
    for socket in &facts.sockets {
        let way = format!("{} can be used, which makes root of its users", socket.display());
        ways.add(way, Cause::Engine);
    }
    ways.into_access(rights)
}

/// What has to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cause {
    Process,
    File,
    GitConfig,
    OwnEnvironment,
    Address,
    LocalAddress,
    Engine,
}

fn cause(place: Place) -> Cause {
    match place {
        Place::File => Cause::File,
        Place::GitConfig => Cause::GitConfig,
        Place::Process => Cause::Process,
        Place::Own => Cause::OwnEnvironment,
    }
}

#[derive(Default)]
struct Ways {
    open: Vec<String>,
    causes: Vec<Cause>,
    /// Servers that answer, but ask for what layer code does not have.
    locked: Vec<String>,
}

impl Ways {
    fn add(&mut self, way: String, cause: Cause) {
        self.open.push(way);
        self.causes.push(cause);
    }

    fn endpoint(&mut self, endpoint: &Endpoint, clues: &[Clue]) {
        let address = match endpoint.address.port() {
            80 => endpoint.address.ip().to_string(),
            _ => endpoint.address.to_string(),
        };
        let (gives, needs) = match endpoint.kind {
            Server::Instance => ("gives the role of the machine", None),
            Server::Named => ("gives the agent its credentials", None),
            Server::Container => ("gives the role of the build", Some("path")),
            Server::PodIdentity => ("gives the role of the pod", Some("token")),
        };
        let closes = match endpoint.address.ip().is_loopback() {
            true => Cause::LocalAddress,
            false => Cause::Address,
        };
        let Some(needs) = needs else { return self.add(format!("{address} answers and {gives}"), closes) };
        let has_key =
            |clue: &&Clue| clue.holds.iter().any(|name| opens(name) == Opens::Server(endpoint.kind));
        match clues.iter().find(has_key) {
            Some(clue) => {
                self.add(format!("{address} {gives}, and the {needs} can be read: {}", clue.place), closes);
                self.causes.push(cause(clue.kind));
            }
            None => self.locked.push(format!("{address} answers, but layer code cannot read the {needs}")),
        }
    }

    fn into_access(mut self, rights: Rights) -> CredentialAccess {
        if self.open.is_empty() {
            return CredentialAccess { reachable: Reachable::No, reasons: self.locked, hint: None };
        }
        self.causes.sort();
        self.causes.dedup();
        let mut hints: Vec<&str> = self.causes.iter().map(|&cause| hint(cause, rights)).collect();
        hints.dedup();
        hints.push("for sources of strangers give the build a role without rights, or use the runner mode (docs/trust.md)");
        let more = self.open.len().saturating_sub(MOST);
        self.open.truncate(MOST);
        if more > 0 {
            self.open.push(format!("and {more} more"));
        }
        CredentialAccess { reachable: Reachable::Yes, reasons: self.open, hint: Some(hints.join("; ")) }
    }
}

fn hint(cause: Cause, rights: Rights) -> &'static str {
    const BE_ROOT: &str =
        "start the agent as root, without `run-as` and `--user`, so that layer code runs as another user";
    match (cause, rights) {
        (Cause::Engine, _) => "keep the engine's socket out of the build, and turn privileged mode off",
        (Cause::GitConfig, _) => {
            "remove the token from the configuration of git: `persist-credentials: false` of actions/checkout, or `git config \
             --unset-all`"
        }
        (Cause::OwnEnvironment, _) => "take the secret out of the variables that layer code gets",
        (Cause::LocalAddress, _) => {
            "remove AWS_CONTAINER_CREDENTIALS_FULL_URI: this server cannot be closed to one user"
        }
        (_, Rights { other_user: false, .. }) => BE_ROOT,
        (Cause::Process, _) => "stop that process, or start it as another user than the build user",
        (Cause::File, _) => {
            "close the file to the build user: `chmod go-rwx`, and an owner other than the build user"
        }
        (Cause::Address, Rights { network: false, .. }) => {
            "let the agent close the address: give the container the right CAP_NET_ADMIN (docker: --cap-add NET_ADMIN)"
        }
        (Cause::Address, _) => {
            "`ip rule` did not close the address: see `agent.log`; on EC2 set the hop limit of the metadata to 1"
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ROOT: Rights = Rights { other_user: true, network: true };
    const ROOT_WITHOUT_NETWORK: Rights = Rights { other_user: true, network: false };
    const SAME_USER: Rights = Rights { other_user: false, network: false };

    fn server(address: &str, kind: Server, answers: Answers) -> Endpoint {
        Endpoint { address: format!("{address}:80").parse().unwrap(), kind, answers }
    }

    fn clue(place: &str, kind: Place, holds: &[&str]) -> Clue {
        Clue { place: place.into(), kind, holds: holds.iter().map(|&name| name.to_owned()).collect() }
    }

    fn container(answers: Answers) -> Endpoint {
        server("169.254.170.2", Server::Container, answers)
    }

    fn instance(answers: Answers) -> Endpoint {
        server("169.254.169.254", Server::Instance, answers)
    }

    #[test]
    fn a_way_needs_all_of_its_parts() {
        let path = || clue("/codebuild/output/tmp/env.sh", Place::File, &[CONTAINER_PATH]);
        let token = || clue("/run/token", Place::File, &["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"]);
        let pod = |answers| server("169.254.170.23", Server::PodIdentity, answers);
        use Answers::{No, WithoutCredentials, Yes};
        use Reachable as R;
        type Case = (Vec<Endpoint>, Vec<Clue>, R, &'static [&'static str]);
        let table: [Case; 11] = [
            (vec![], vec![], R::No, &[]),
            (vec![container(No), pod(No), instance(No)], vec![], R::No, &[]),
            (
                vec![container(Yes)],
                vec![],
                R::No,
                &["169.254.170.2 answers, but layer code cannot read the path"],
            ),
            (vec![container(No)], vec![path()], R::No, &[]),
            (
                vec![container(Yes)],
                vec![path()],
                R::Yes,
                &[
                    "169.254.170.2 gives the role of the build, and the path can be read: /codebuild/output/tmp/env.sh",
                ],
            ),
            (
                vec![pod(Yes)],
                vec![path()],
                R::No,
                &["169.254.170.23 answers, but layer code cannot read the token"],
            ),
            (
                vec![pod(Yes)],
                vec![token()],
                R::Yes,
                &["169.254.170.23 gives the role of the pod, and the token can be read: /run/token"],
            ),
            (
                vec![instance(Yes)],
                vec![],
                R::Yes,
                &["169.254.169.254 answers and gives the role of the machine"],
            ),
            (vec![instance(WithoutCredentials)], vec![], R::No, &[]),
            (
                vec![container(No)],
                vec![clue("/x/env.sh", Place::File, &[CONTAINER_PATH, "DB_PASSWORD", "GITHUB_TOKEN"])],
                R::Yes,
                &["/x/env.sh can be read (DB_PASSWORD, GITHUB_TOKEN)"],
            ),
            (
                vec![],
                vec![clue("the environment of sh (pid 1)", Place::Process, &["AWS_SESSION_TOKEN"])],
                R::Yes,
                &["the environment of sh (pid 1) can be read (AWS_SESSION_TOKEN)"],
            ),
        ];
        for (endpoints, clues, reachable, reasons) in table {
            let facts = Facts { endpoints, clues, sockets: Vec::new() };
            let access = judge(&facts, ROOT);
            assert_eq!(
                (access.reachable, access.reasons),
                (reachable, reasons.iter().map(|&r| r.to_owned()).collect()),
                "{facts:?}"
            );
            assert_eq!(access.hint.is_some(), reachable == R::Yes, "{facts:?}");
        }
    }

    #[test]
    fn the_hint_fits_the_cause_and_the_rights() {
        let file = clue("/root/.aws/credentials", Place::File, &["AWS credentials"]);
        let process = clue("the environment of sh (pid 1)", Place::Process, &["GITHUB_TOKEN"]);
        let git = clue("/src/.git/config", Place::GitConfig, &["a token of git"]);
        let own = clue("the environment of layer code", Place::Own, &["GITHUB_TOKEN"]);
        let of = |clue: &Clue| Facts { clues: vec![clue.clone()], ..Facts::default() };
        let address = Facts { endpoints: vec![instance(Answers::Yes)], ..Facts::default() };
        let mut local = address.clone();
        local.endpoints[0].kind = Server::Named;
        local.endpoints[0].address = std::net::SocketAddr::from(([127, 0, 0, 1], 1338));
        let socket = Facts { sockets: vec!["/var/run/docker.sock".into()], ..Facts::default() };
        for (facts, rights, words) in [
            (of(&file), ROOT, "chmod go-rwx"),
            (of(&file), SAME_USER, "start the agent as root"),
            (of(&git), ROOT, "persist-credentials: false"),
            (of(&git), SAME_USER, "persist-credentials: false"),
            (of(&process), ROOT, "stop that process"),
            (of(&process), SAME_USER, "start the agent as root"),
            (of(&own), SAME_USER, "out of the variables"),
            (address.clone(), ROOT_WITHOUT_NETWORK, "CAP_NET_ADMIN"),
            (address.clone(), ROOT, "hop limit"),
            (address, SAME_USER, "start the agent as root"),
            (local, ROOT, "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
            (socket, ROOT, "privileged mode off"),
        ] {
            let hint = judge(&facts, rights).hint.unwrap_or_default();
            assert!(hint.contains(words), "{facts:?} {rights:?}: {hint}");
            assert!(hint.contains("a role without rights") && hint.contains("docs/trust.md"), "{hint}");
        }
    }

    #[test]
    fn many_ways_are_counted() {
        let clues = (1..=8).map(|n| clue(&format!("/{n}"), Place::File, &["GITHUB_TOKEN"])).collect();
        let access = judge(&Facts { clues, ..Facts::default() }, SAME_USER);
        assert_eq!(
            (access.reasons.len(), access.reasons.last().map(String::as_str)),
            (6, Some("and 3 more"))
        );
    }
}
