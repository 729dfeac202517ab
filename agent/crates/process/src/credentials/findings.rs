//! The findings of the child, without any value of a secret.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeFindings {
    pub endpoints: Vec<Endpoint>,
    pub secrets: Vec<ExposedSecret>,
    /// Sockets and addresses of container engines that can be used: a user of one is root on the machine.
    pub sockets: Vec<PathBuf>,
}

/// A secret that layer code can read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExposedSecret {
    /// A path, or `the environment of sh (pid 12)`.
    pub location: String,
    pub kind: LocationKind,
    /// Names of variables, or what the file is.
    pub holds: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LocationKind {
    File,
    /// The configuration of git in a work tree.
    GitConfig,
    Process,
    /// The environment of layer code itself.
    Own,
}

/// A server that provides credentials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub address: SocketAddr,
    pub kind: Server,
    pub answers: Answers,
}

/// What a server requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Server {
    /// A random path (`AWS_CONTAINER_CREDENTIALS_RELATIVE_URI`): CodeBuild and ECS.
    Container,
    /// A token (`AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE`): EKS.
    PodIdentity,
    /// Nothing: the metadata of an EC2 instance.
    Instance,
    /// Not known: the agent's environment names it (`AWS_CONTAINER_CREDENTIALS_FULL_URI`).
    Named,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answers {
    Yes,
    No,
    /// It answers that it has no credentials.
    WithoutCredentials,
}
