//! What the command line asks of a job.

use std::path::PathBuf;

/// What the command line asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// A path; `None`: `build-agent.toml` of the checkout under test.
    pub manifest: Option<String>,
    /// Name and text of a manifest that was fetched from elsewhere.
    pub manifest_text: Option<(String, String)>,
    /// Its digest, lower-case hexadecimal.
    pub manifest_sha256: Option<String>,
    /// `--set`, in their order.
    pub set: Vec<String>,
    pub work_dir: Option<PathBuf>,
    pub out: Option<PathBuf>,
    pub build_user: Option<String>,
    pub keep_going: bool,
    /// `--trusted`: a person vouches for the source.
    pub trusted: bool,
    /// What there is to say about how the manifest was had.
    pub notices: Vec<String>,
    /// Whether the lock is left aside: while it is being made anew.
    pub ignore_lock: bool,
}
