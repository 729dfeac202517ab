//! The signers of repositories, as a definition of kas names them: each key has a name, and repositories allow names.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use agent_git::PublicKey;

use crate::config::{KeySource, Repo, Settings, Signer};

use super::export_yaml::quoted;

/// The keys of all repositories.
pub struct Keys<'a>(Vec<Key<'a>>);

struct Key<'a> {
    name: String,
    signer: &'a Signer,
    /// The repository that has the key's file.
    holder: &'a str,
    path: &'a Path,
    kind: Kind,
}

/// kas needs the kind of each key in the definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    OpenPgp,
    Ssh,
    /// Of a key that is not fetched yet: one of OpenPGP, as kas takes it.
    Unknown,
}

impl<'a> Keys<'a> {
    pub fn of(settings: &'a Settings) -> Keys<'a> {
        let mut keys: Vec<Key<'a>> = Vec::new();
        for signer in settings.repos.iter().flat_map(|repo| &repo.signers) {
            if keys.iter().any(|key| key.signer == signer) {
                continue;
            }
            let (holder, path) = match &signer.source {
                KeySource::Checkout { path, .. } => (settings.layer_order.checkout.as_str(), path),
                KeySource::Repo { repo, path } => (repo.as_str(), path),
            };
            let name = free_name(path, &keys);
            keys.push(Key { name, signer, holder, path, kind: kind(signer) });
        }
        Keys(keys)
    }

    fn of_signers(&self, repo: &Repo) -> Vec<&Key<'a>> {
        let key = |signer| self.0.iter().find(|key| key.signer == signer);
        repo.signers.iter().filter_map(key).collect()
    }

    /// Writes the keys of the repository.
    pub fn of_repo(&self, repo: &Repo, text: &mut String) {
        if repo.signers.is_empty() {
            return;
        }
        *text += "    signed: true\n    allowed_signers:\n";
        for key in self.of_signers(repo) {
            // Writing into a String cannot fail.
            let _ = writeln!(text, "      - {}", quoted(&key.name));
        }
    }

    /// Writes `signers`.
    pub fn write(&self, text: &mut String) {
        if self.0.is_empty() {
            return;
        }
        *text += "\nsigners:\n";
        for key in &self.0 {
            let kind = if key.kind == Kind::Ssh { "ssh" } else { "gpg" };
            let _ = writeln!(text, "  {}:\n    type: {kind}", quoted(&key.name));
            let _ = writeln!(text, "    repo: {}", quoted(key.holder));
            let _ = writeln!(text, "    path: {}", quoted(&key.path.display().to_string()));
            if let Some(fingerprint) = &key.signer.fingerprint {
                let _ = writeln!(text, "    fingerprint: {}", quoted(&as_kas_writes(fingerprint)));
            }
        }
    }

    /// What kas does in another way.
    pub fn notes(&self, settings: &Settings) -> Vec<String> {
        let mut found = Vec::new();
        for key in self.0.iter().filter(|key| key.kind == Kind::Unknown) {
            found.push(format!(
                "The key {} is not read here; if it is one of ssh, it needs `type: ssh`.",
                quoted(&key.signer.name)
            ));
        }
        for repo in &settings.repos {
            let kinds: BTreeSet<bool> =
                self.of_signers(repo).iter().map(|key| key.kind == Kind::Ssh).collect();
            if kinds.len() > 1 {
                found.push(format!(
                    "kas refuses signers of both kinds (OpenPGP and ssh), as `{}` has them.",
                    repo.name
                ));
            }
        }
        found
    }
}

/// The name of the key's file, with a number if another key has it.
fn free_name(path: &Path, keys: &[Key<'_>]) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let is_free = |name: &String| keys.iter().all(|key| key.name != *name);
    let numbered = (2..).map(|number| format!("{stem}-{number}"));
    std::iter::once(stem.clone()).chain(numbered).find(is_free).unwrap_or(stem)
}

fn kind(signer: &Signer) -> Kind {
    let of_bytes = |bytes: &[u8]| {
        let key = PublicKey::parse(signer.name.clone(), bytes, None);
        key.map_or(Kind::Unknown, |key| if key.is_ssh() { Kind::Ssh } else { Kind::OpenPgp })
    };
    match (&signer.source, &signer.fingerprint) {
        (KeySource::Checkout { bytes, .. }, _) => of_bytes(bytes),
        (KeySource::Repo { .. }, Some(fingerprint)) if fingerprint.starts_with("SHA256:") => Kind::Ssh,
        (KeySource::Repo { .. }, Some(_)) => Kind::OpenPgp,
        (KeySource::Repo { .. }, None) => Kind::Unknown,
    }
}

/// kas compares the characters: 40 upper-case digits without spaces.
fn as_kas_writes(fingerprint: &str) -> String {
    if fingerprint.starts_with("SHA256:") {
        return fingerprint.to_owned();
    }
    let plain = fingerprint.replace(' ', "");
    plain.trim_start_matches("0x").to_uppercase()
}
