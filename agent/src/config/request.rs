//! The request of the command line.

use std::path::PathBuf;

use super::change::ChangeBase;
use super::definition::Translated;
use super::included_repo::IncludedRepo;
use super::lock::Lock;
use super::rules::Rules;

/// The options of the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// A path; `None`: `build-agent.toml` of the checkout under test.
    pub manifest: Option<String>,
    /// Name and text of a downloaded manifest.
    pub manifest_text: Option<(String, String)>,
    /// SHA-256 of the downloaded manifest, lower-case hexadecimal.
    pub manifest_sha256: Option<String>,
    /// `--cell`: the cell of the manifest's matrix.
    pub cell: Option<String>,
    /// `--set`, in order.
    pub set: Vec<String>,
    pub work_dir: Option<PathBuf>,
    pub out: Option<PathBuf>,
    pub build_user: Option<String>,
    pub keep_going: bool,
    /// Whether the build directory is emptied first; `None`: only in CI.
    pub fresh: Option<bool>,
    /// `--fetch-only`: the sources of the targets are fetched, and nothing is built.
    pub fetch_only: bool,
    /// `--no-signature-cache`
    pub no_signature_cache: bool,
    /// `--no-prefetch`
    pub no_prefetch: bool,
    /// `--machine-share`: how many jobs use this machine at the same time; 0 is 1.
    pub machine_share: usize,
    /// `--write-signatures`
    pub write_signatures: bool,
    /// The command `check`: yocto-check-layer runs, whatever the manifest says.
    pub check_layers: bool,
    /// The layers of the command line; `None`: those of the manifest.
    pub layers: Option<OnlyLayers>,
    /// Options of the command line that the command to reproduce the job needs, too.
    pub options: Vec<String>,
    /// `--trusted`: the user trusts the source.
    pub trusted: bool,
    /// `--base`: the revision that the change is based on.
    pub base: Option<String>,
    /// `--accept-manifest`: the user accepts the rules that the change brings.
    pub accept_manifest: bool,
    /// Where the manifest, its lock and its known failures are read from.
    pub rules: Rules,
    /// What the checkout is compared with, if the job needs to know what a change affects.
    pub change_base: ChangeBase,
    /// Notices about the download of the manifest.
    pub notices: Vec<String>,
    /// Whether the lock is ignored, because it is being replaced.
    pub ignore_lock: bool,
    /// The pins of a definition's locks that are being replaced; empty: all.
    pub lock_updates: Option<Vec<String>>,
    /// The pins that stay although the lock is being replaced.
    pub kept_pins: Lock,
    /// `--pins`: the commits of all repositories, instead of the lock.
    pub pins: Option<Pins>,
    /// The repositories that were fetched because the manifest includes files from them.
    pub included: Vec<IncludedRepo>,
    /// `--choose`: the configuration of a definition, and fragments.
    pub choice: Vec<String>,
    /// The manifest that was made of a definition in another format.
    pub definition: Option<Translated>,
}

impl Request {
    /// The files of a definition of another tool, if the request names one: `base.yml:board.yml`.
    pub fn definition_files(&self) -> Option<Vec<&str>> {
        let is_other = |file: &&str| [".yml", ".yaml", ".json", ".xml"].iter().any(|end| file.ends_with(end));
        let files: Vec<&str> = self.manifest.as_deref()?.split(':').collect();
        files.iter().all(is_other).then_some(files)
    }

    /// The file of the manifest, or the first of a definition.
    pub fn first_file(&self) -> Option<&str> {
        let first = self.definition_files().and_then(|files| files.first().copied());
        first.or(self.manifest.as_deref())
    }
}

/// A lock that was made for this call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    /// The file's name in messages.
    pub name: String,
    pub text: Vec<u8>,
}

/// A job that checks these layers and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OnlyLayers {
    /// Absolute and without links.
    pub layers: Vec<PathBuf>,
    /// The command that repeats the check, where the manifest is the built-in one.
    pub built_in: Option<Vec<String>>,
}
