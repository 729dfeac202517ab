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
    /// Whether the build directory is emptied first; `None`: in CI only.
    pub fresh: Option<bool>,
    /// `--no-memo`
    pub no_memo: bool,
    /// The command `check`: yocto-check-layer runs, whatever the manifest asks for.
    pub check_layers: bool,
    /// The layers of the command line; `None`: those of the manifest.
    pub layers: Option<OnlyLayers>,
    /// Options of the command line that the same job elsewhere needs, too.
    pub options: Vec<String>,
    /// `--trusted`: a person vouches for the source.
    pub trusted: bool,
    /// What there is to say about how the manifest was had.
    pub notices: Vec<String>,
    /// Whether the lock is left aside: while it is being made anew.
    pub ignore_lock: bool,
}

/// A job that checks these layers and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OnlyLayers {
    /// Absolute and without links.
    pub layers: Vec<PathBuf>,
    /// The command that repeats the check, where the manifest is the built-in one.
    pub built_in: Option<Vec<String>>,
}
