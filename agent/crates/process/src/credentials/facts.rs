//! What the child found; without any value of a secret.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    pub endpoints: Vec<Endpoint>,
    pub clues: Vec<Clue>,
    /// Sockets and addresses of container engines that can be used: who uses one is root on the machine.
    pub sockets: Vec<PathBuf>,
}

/// A place where layer code can read a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clue {
    /// A path, or `the environment of sh (pid 12)`.
    pub place: String,
    pub kind: Place,
    /// Names of variables, or what the file is.
    pub holds: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    File,
    /// The configuration of git in a work tree.
    GitConfig,
    Process,
    /// The environment that layer code itself gets.
    Own,
}

/// A server of credentials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub address: SocketAddr,
    pub kind: Server,
    pub answers: Answers,
}

/// What a server asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Server {
    /// A path that nobody can guess (`AWS_CONTAINER_CREDENTIALS_RELATIVE_URI`): CodeBuild and ECS.
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
    /// It answers, and says that it has no credentials.
    WithoutCredentials,
}
