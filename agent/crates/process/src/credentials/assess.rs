//! Assesses the findings of the child: whether layer code can reach credentials, with reasons and a hint.

use agent_types::credentials::{CredentialAccess, Reachable};

use super::findings::{Answers, Endpoint, ExposedSecret, LocationKind, ProbeFindings, Server};
use super::variables::CONTAINER_PATH;

/// Maximum number of reasons that are shown.
const MAX_REASONS: usize = 5;

/// What the agent can do to isolate credentials.
#[derive(Clone, Copy, Debug)]
pub struct Rights {
    /// Whether layer code runs as another user than the agent.
    pub other_user: bool,
    /// Whether the agent may administer its network.
    pub network: bool,
}

/// What a secret gives access to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SecretUse {
    /// Something, without a further condition.
    Direct,
    /// Only this server, if it answers.
    Server(Server),
}

fn secret_use(name: &str) -> SecretUse {
    match name {
        CONTAINER_PATH => SecretUse::Server(Server::Container),
        "AWS_CONTAINER_AUTHORIZATION_TOKEN" | "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE" => {
            SecretUse::Server(Server::PodIdentity)
        }
        _ => SecretUse::Direct,
    }
}

/// Whether, and how, layer code can reach credentials.
pub fn assess(findings: &ProbeFindings, rights: Rights) -> CredentialAccess {
    let mut reasons = Reasons::default();
    for secret in &findings.secrets {
        let names: Vec<&str> = secret
            .holds
            .iter()
            .map(String::as_str)
            .filter(|name| secret_use(name) == SecretUse::Direct)
            .collect();
        if !names.is_empty() {
            reasons
                .add(format!("{} can be read ({})", secret.location, names.join(", ")), cause(secret.kind));
        }
    }
    for endpoint in findings.endpoints.iter().filter(|endpoint| endpoint.answers == Answers::Yes) {
        reasons.endpoint(endpoint, &findings.secrets);
    }
    for socket in &findings.sockets {
        let reason = format!("{} can be used, and its users are root", socket.display());
        reasons.add(reason, Cause::Engine);
    }
    reasons.into_access(rights)
}

/// What makes a credential reachable; each cause has its own fix.
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

fn cause(location: LocationKind) -> Cause {
    match location {
        LocationKind::File => Cause::File,
        LocationKind::GitConfig => Cause::GitConfig,
        LocationKind::Process => Cause::Process,
        LocationKind::Own => Cause::OwnEnvironment,
    }
}

#[derive(Default)]
struct Reasons {
    reachable: Vec<String>,
    causes: Vec<Cause>,
    /// Servers that answer, but require what layer code does not have.
    protected: Vec<String>,
}

impl Reasons {
    fn add(&mut self, reason: String, cause: Cause) {
        self.reachable.push(reason);
        self.causes.push(cause);
    }

    fn endpoint(&mut self, endpoint: &Endpoint, secrets: &[ExposedSecret]) {
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
        let has_key = |secret: &&ExposedSecret| {
            secret.holds.iter().any(|name| secret_use(name) == SecretUse::Server(endpoint.kind))
        };
        match secrets.iter().find(has_key) {
            Some(secret) => {
                self.add(
                    format!("{address} {gives}, and the {needs} can be read: {}", secret.location),
                    closes,
                );
                self.causes.push(cause(secret.kind));
            }
            None => self.protected.push(format!("{address} answers, but layer code cannot read the {needs}")),
        }
    }

    fn into_access(mut self, rights: Rights) -> CredentialAccess {
        if self.reachable.is_empty() {
            return CredentialAccess { reachable: Reachable::No, reasons: self.protected, hint: None };
        }
        self.causes.sort();
        self.causes.dedup();
        let mut hints: Vec<&str> = self.causes.iter().map(|&cause| hint(cause, rights)).collect();
        hints.dedup();
        hints.push("for untrusted sources give the build a role without rights, or use the runner mode (docs/trust.md)");
        let more = self.reachable.len().saturating_sub(MAX_REASONS);
        self.reachable.truncate(MAX_REASONS);
        if more > 0 {
            self.reachable.push(format!("and {more} more"));
        }
        CredentialAccess { reachable: Reachable::Yes, reasons: self.reachable, hint: Some(hints.join("; ")) }
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
        (Cause::OwnEnvironment, _) => "remove the secret from the variables that layer code gets",
        (Cause::LocalAddress, _) => {
            "remove AWS_CONTAINER_CREDENTIALS_FULL_URI: this server cannot be closed to one user"
        }
        (_, Rights { other_user: false, .. }) => BE_ROOT,
        (Cause::Process, _) => "stop that process, or start it as another user than the build user",
        (Cause::File, _) => {
            "make the file unreadable for the build user: `chmod go-rwx`, and an owner other than the build user"
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

    fn secret(location: &str, kind: LocationKind, holds: &[&str]) -> ExposedSecret {
        ExposedSecret {
            location: location.into(),
            kind,
            holds: holds.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    fn container(answers: Answers) -> Endpoint {
        server("169.254.170.2", Server::Container, answers)
    }

    fn instance(answers: Answers) -> Endpoint {
        server("169.254.169.254", Server::Instance, answers)
    }

    #[test]
    fn a_server_is_reachable_only_with_its_path_or_token() {
        let path = || secret("/codebuild/output/tmp/env.sh", LocationKind::File, &[CONTAINER_PATH]);
        let token = || secret("/run/token", LocationKind::File, &["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"]);
        let pod = |answers| server("169.254.170.23", Server::PodIdentity, answers);
        use Answers::{No, WithoutCredentials, Yes};
        use Reachable as R;
        type Case = (Vec<Endpoint>, Vec<ExposedSecret>, R, &'static [&'static str]);
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
                vec![secret(
                    "/x/env.sh",
                    LocationKind::File,
                    &[CONTAINER_PATH, "DB_PASSWORD", "GITHUB_TOKEN"],
                )],
                R::Yes,
                &["/x/env.sh can be read (DB_PASSWORD, GITHUB_TOKEN)"],
            ),
            (
                vec![],
                vec![secret("the environment of sh (pid 1)", LocationKind::Process, &["AWS_SESSION_TOKEN"])],
                R::Yes,
                &["the environment of sh (pid 1) can be read (AWS_SESSION_TOKEN)"],
            ),
        ];
        for (endpoints, secrets, reachable, reasons) in table {
            let findings = ProbeFindings { endpoints, secrets, sockets: Vec::new() };
            let access = assess(&findings, ROOT);
            assert_eq!(
                (access.reachable, access.reasons),
                (reachable, reasons.iter().map(|&r| r.to_owned()).collect()),
                "{findings:?}"
            );
            assert_eq!(access.hint.is_some(), reachable == R::Yes, "{findings:?}");
        }
    }

    #[test]
    fn the_hint_fits_the_cause_and_the_rights() {
        let file = secret("/root/.aws/credentials", LocationKind::File, &["AWS credentials"]);
        let process = secret("the environment of sh (pid 1)", LocationKind::Process, &["GITHUB_TOKEN"]);
        let git = secret("/src/.git/config", LocationKind::GitConfig, &["a token of git"]);
        let own = secret("the environment of layer code", LocationKind::Own, &["GITHUB_TOKEN"]);
        let of = |secret: &ExposedSecret| ProbeFindings {
            secrets: vec![secret.clone()],
            ..ProbeFindings::default()
        };
        let address = ProbeFindings { endpoints: vec![instance(Answers::Yes)], ..ProbeFindings::default() };
        let mut local = address.clone();
        local.endpoints[0].kind = Server::Named;
        local.endpoints[0].address = std::net::SocketAddr::from(([127, 0, 0, 1], 1338));
        let socket =
            ProbeFindings { sockets: vec!["/var/run/docker.sock".into()], ..ProbeFindings::default() };
        for (findings, rights, words) in [
            (of(&file), ROOT, "chmod go-rwx"),
            (of(&file), SAME_USER, "start the agent as root"),
            (of(&git), ROOT, "persist-credentials: false"),
            (of(&git), SAME_USER, "persist-credentials: false"),
            (of(&process), ROOT, "stop that process"),
            (of(&process), SAME_USER, "start the agent as root"),
            (of(&own), SAME_USER, "remove the secret from the variables"),
            (address.clone(), ROOT_WITHOUT_NETWORK, "CAP_NET_ADMIN"),
            (address.clone(), ROOT, "hop limit"),
            (address, SAME_USER, "start the agent as root"),
            (local, ROOT, "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
            (socket, ROOT, "privileged mode off"),
        ] {
            let hint = assess(&findings, rights).hint.unwrap_or_default();
            assert!(hint.contains(words), "{findings:?} {rights:?}: {hint}");
            assert!(hint.contains("a role without rights") && hint.contains("docs/trust.md"), "{hint}");
        }
    }

    #[test]
    fn further_reasons_are_counted() {
        let secrets =
            (1..=8).map(|n| secret(&format!("/{n}"), LocationKind::File, &["GITHUB_TOKEN"])).collect();
        let access = assess(&ProbeFindings { secrets, ..ProbeFindings::default() }, SAME_USER);
        assert_eq!(
            (access.reasons.len(), access.reasons.last().map(String::as_str)),
            (6, Some("and 3 more"))
        );
    }
}
