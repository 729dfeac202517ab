//! Signers of repositories: the public keys that must have signed the commit or the tag. Keys beside the manifest are read
//! where the manifest comes from.

use agent_fs::untrusted;
use agent_git::PublicKey;

use super::manifest::UnvalidatedSigner;
use super::problem::{Diagnostic, KeyPath};
use super::repo_files::{RepoFile, RepoFiles};
use super::settings::{KeySource, Signer};
use super::validator::Validator;

/// The largest file of keys, in bytes.
pub const LARGEST: u64 = 1 << 20;

/// The signers of the repository `own`.
pub fn signers(
    check: &mut Validator,
    path: &KeyPath,
    raw: Option<&Vec<UnvalidatedSigner>>,
    own: &str,
    files: &RepoFiles,
) -> Vec<Signer> {
    let mut signers = Vec::new();
    for (place, raw) in check.elements(path).into_iter().zip(raw.into_iter().flatten()) {
        let (place, text, fingerprint) = match raw {
            UnvalidatedSigner::Key(text) => (place, Some(text), None),
            UnvalidatedSigner::Table(table) => {
                (place.key("key"), table.key.as_ref(), table.fingerprint.clone())
            }
        };
        let Some(text) = text else { continue };
        match source(text, files) {
            Ok(KeySource::Repo { repo, .. }) if repo == own && fingerprint.is_none() => {
                let mistake = Diagnostic::new(format!("`{text}` is a key of the repository that it signs"));
                let hint =
                    "name a key of another repository or beside the manifest, or give its `fingerprint`";
                check.value(&place, mistake.hint(hint));
            }
            Ok(source) => signers.push(Signer { name: text.to_owned(), source, fingerprint }),
            Err(mistake) => check.value(&place, mistake),
        }
    }
    signers
}

fn source(text: &str, files: &RepoFiles) -> Result<KeySource, Diagnostic> {
    let root = files.project_root;
    let path = match files.find(text)? {
        RepoFile::Repo { repo, path } => return Ok(KeySource::Repo { repo, path }),
        RepoFile::Checkout(path) => root.rules_file(&path),
    };
    let bytes = untrusted::read_named(&path, LARGEST)
        .map_err(|error| Diagnostic::new(format!("cannot read the key `{text}`: {error}")))?;
    match PublicKey::parse(text.to_owned(), &bytes, None) {
        Ok(_) => Ok(KeySource::Checkout { path: root.in_checkout(&path), bytes }),
        Err(why) => Err(Diagnostic::new(format!("`{text}` {why}"))
            .hint("export it with `gpg --armor --export ID`, or name the .pub file of an ssh key")),
    }
}
