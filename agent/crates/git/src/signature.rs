//! Verifies signatures of commits and tags. Only the allowed keys count: each one has a separate keyring.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use fs_err as fs;

use agent_types::error::{Error, Result};

use super::failure::Failure;
use super::program::Git;

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    /// For messages.
    pub name: String,
    content: KeyContent,
    /// The fingerprint that the signature must have.
    fingerprint: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum KeyContent {
    /// OpenPGP, without armor.
    OpenPgp(Vec<u8>),
    /// Lines of type and key.
    Ssh(Vec<String>),
}

/// What is signed, in the repository of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignedObject<'a> {
    Commit(&'a str),
    /// A reference of a tag.
    Tag(&'a str),
}

/// The first key that signed the object. `home` is an empty directory that only the agent's user can read.
///
/// # Errors
/// Machine, if git or the program that verifies cannot run. Usage, if a tag's object has the name of another tag: a server
/// could show an old signed tag as a new one.
pub async fn signer<'k>(
    git: &Git<'_>,
    path: &Path,
    object: SignedObject<'_>,
    keys: &'k [PublicKey],
    home: &Path,
) -> Result<Option<&'k PublicKey>> {
    for (number, key) in keys.iter().enumerate() {
        let keyring = Keyring::of(key, home.join(number.to_string()))?;
        match keyring.verify(git, path, object).await {
            Ok(output) if key.has_signed(&output) => {
                if let SignedObject::Tag(tag) = object {
                    has_own_name(git, path, tag).await?;
                }
                return Ok(Some(key));
            }
            Ok(_) => {}
            Err(Failure::Error(error)) => return Err(error),
            Err(Failure::Git { said, .. }) => {
                if let Some(line) = said.iter().find(|line| line.contains("cannot run ")) {
                    return Err(Error::machine(format!("signatures cannot be verified: {line}"))
                        .hint("install gnupg and openssh-client"));
                }
            }
        }
    }
    Ok(None)
}

/// Verifies that the object of a tag has the tag's name: the name in the object is signed, that of the reference is not.
async fn has_own_name(git: &Git<'_>, path: &Path, tag: &str) -> Result<()> {
    let listed = git.local(path, ["for-each-ref", "--format=name %(tag)", tag]).await;
    let listed = listed.map_err(|failure| match failure {
        Failure::Error(error) => error,
        Failure::Git { .. } => Error::machine(format!("git cannot read `{tag}`")),
    })?;
    let name = listed.lines().find_map(|line| line.strip_prefix("name ")).unwrap_or_default();
    if tag.strip_prefix("refs/tags/") == Some(name) {
        return Ok(());
    }
    Err(Error::usage(format!("`{tag}` is the signed tag `{name}` under another name"))
        .hint("name the tag as its signer did"))
}

impl PublicKey {
    /// An OpenPGP key, with or without armor, or lines of ssh keys.
    ///
    /// # Errors
    /// Why it is not a key.
    pub fn parse(
        name: String,
        bytes: &[u8],
        fingerprint: Option<String>,
    ) -> std::result::Result<PublicKey, String> {
        let text = String::from_utf8_lossy(bytes);
        let content = if text.contains("PRIVATE KEY-----") {
            return Err("is a private key; a public one is needed".into());
        } else if text.contains("-----BEGIN PGP PUBLIC KEY BLOCK-----") {
            KeyContent::OpenPgp(without_armor(&text)?)
        // Each packet begins with the highest bit.
        } else if bytes.first().is_some_and(|byte| byte & 0x80 != 0) {
            KeyContent::OpenPgp(bytes.to_owned())
        } else {
            KeyContent::Ssh(ssh_keys(&text)?)
        };
        Ok(PublicKey { name, content, fingerprint })
    }

    /// Whether it is a key of ssh; else it is one of OpenPGP.
    pub fn is_ssh(&self) -> bool {
        matches!(self.content, KeyContent::Ssh(_))
    }

    /// Whether git's output about a good signature has the fingerprint, if one is required.
    fn has_signed(&self, output: &str) -> bool {
        let Some(wanted) = &self.fingerprint else { return true };
        let plain = |text: &str| text.replace(' ', "").trim_start_matches("0x").to_owned();
        let found = output.lines().flat_map(|line| match line.strip_prefix("[GNUPG:] VALIDSIG ") {
            // The key that signed, and the primary key that it belongs to.
            Some(fields) => {
                let fields: Vec<&str> = fields.split_whitespace().collect();
                [fields.first().copied(), fields.last().copied()]
            }
            None => [line.split_whitespace().last().filter(|word| word.starts_with("SHA256:")), None],
        });
        let is_openpgp = matches!(self.content, KeyContent::OpenPgp(_));
        found.flatten().any(|found| match is_openpgp {
            true => found.eq_ignore_ascii_case(&plain(wanted)),
            false => found == wanted,
        })
    }
}

fn without_armor(text: &str) -> std::result::Result<Vec<u8>, String> {
    let mut all = Vec::new();
    for block in text.split("-----BEGIN PGP PUBLIC KEY BLOCK-----").skip(1) {
        let Some((block, _)) = block.split_once("-----END PGP PUBLIC KEY BLOCK-----") else {
            return Err("has no end".into());
        };
        // Headers end with an empty line; a checksum begins with `=`.
        let lines: Vec<&str> = block.lines().map(str::trim).collect();
        let start = lines.iter().skip(1).position(|line| line.is_empty()).map_or(0, |at| at + 2);
        let body: String = lines.into_iter().skip(start).filter(|line| !line.starts_with('=')).collect();
        let decoded = base64::engine::general_purpose::STANDARD.decode(body);
        all.extend(decoded.map_err(|error| format!("is damaged: {error}"))?);
    }
    Ok(all)
}

fn ssh_keys(text: &str) -> std::result::Result<Vec<String>, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let key = |line: &str| {
        let mut words = line.split_whitespace();
        let (kind, key) = (words.next()?, words.next()?);
        let is_kind =
            ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"].iter().any(|start| kind.starts_with(start));
        let is_plain = kind.chars().all(|c| c.is_ascii_alphanumeric() || "-@.".contains(c));
        let is_key = base64::engine::general_purpose::STANDARD.decode(key).is_ok();
        (is_kind && is_plain && is_key).then(|| format!("{kind} {key}"))
    };
    let keys: Option<Vec<String>> = lines.map(key).collect();
    keys.filter(|keys| !keys.is_empty())
        .ok_or_else(|| "is neither an OpenPGP public key nor a public key of ssh".to_owned())
}

/// One key, as gpg and ssh-keygen read it.
struct Keyring(PathBuf);

impl Keyring {
    fn of(key: &PublicKey, home: PathBuf) -> Result<Keyring> {
        let (mut pgp, mut ssh) = (Vec::new(), String::new());
        match &key.content {
            KeyContent::OpenPgp(bytes) => pgp.clone_from(bytes),
            KeyContent::Ssh(keys) => {
                ssh = keys.iter().map(|key| format!("signer namespaces=\"git\" {key}\n")).collect();
            }
        }
        // gpg warns about a directory that others can read.
        std::fs::DirBuilder::new().mode(0o700).create(&home)?;
        let options = "trust-model always\nno-autostart\nno-auto-key-retrieve\nno-auto-check-trustdb\n";
        // With `common.conf`, gpg does not start a server for its keys.
        for (name, content) in
            [("pubring.gpg", &pgp[..]), ("gpg.conf", options.as_bytes()), ("common.conf", b"")]
        {
            fs::write(home.join(name), content)?;
        }
        fs::write(home.join("allowed_signers"), ssh)?;
        Ok(Keyring(home))
    }

    /// Git's output about a good signature.
    async fn verify(&self, git: &Git<'_>, path: &Path, object: SignedObject<'_>) -> Result<String, Failure> {
        let signers = format!("gpg.ssh.allowedSignersFile={}", self.0.join("allowed_signers").display());
        // Programs and keys of other git configuration are not used.
        let mut args: Vec<&str> = Vec::new();
        for pair in [
            "gpg.program=gpg",
            "gpg.openpgp.program=gpg",
            "gpg.ssh.program=ssh-keygen",
            "gpg.x509.program=false",
            "gpg.minTrustLevel=undefined",
            "gpg.ssh.revocationFile=",
            &signers,
        ] {
            args.extend(["-c", pair]);
        }
        args.extend(match object {
            SignedObject::Commit(commit) => ["verify-commit", "--raw", commit],
            SignedObject::Tag(tag) => ["verify-tag", "--raw", tag],
        });
        git.with_variable("GNUPGHOME", &self.0).local(path, args).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_openpgp_or_ssh() {
        let armor = |body: &str| {
            format!(
                "x\n-----BEGIN PGP PUBLIC KEY BLOCK-----\nComment: x\n\n{body}\n=abcd\n-----END PGP PUBLIC KEY BLOCK-----\n"
            )
        };
        let ssh = "# bob\nssh-ed25519 AAAAC3NzaC1lZDI1NTE5 bob@example.invalid\n\n";
        for (bytes, wanted) in [
            (armor("mDMEYWxpY2U=").into_bytes(), Ok(KeyContent::OpenPgp(b"\x98\x33\x04alice".to_vec()))),
            (armor("mDMEYWxpY2U").into_bytes(), Err("is damaged: ")),
            (b"\x98\x33\x04alice".to_vec(), Ok(KeyContent::OpenPgp(b"\x98\x33\x04alice".to_vec()))),
            (b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDM".to_vec(), Err("has no end")),
            (b"-----BEGIN OPENSSH PRIVATE KEY-----\n".to_vec(), Err("is a private key")),
            (ssh.into(), Ok(KeyContent::Ssh(vec!["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5".into()]))),
            (b"ssh-ed25519 *** x".to_vec(), Err("is neither")),
            (b"command=\"x\" ssh-ed25519 AAAA".to_vec(), Err("is neither")),
            (Vec::new(), Err("is neither")),
        ] {
            let parsed = PublicKey::parse("x".into(), &bytes, None).map(|key| key.content);
            match (parsed, wanted) {
                (Ok(content), Ok(wanted)) => assert_eq!(content, wanted),
                (Err(why), Err(words)) => assert!(why.starts_with(words), "{why}"),
                (parsed, wanted) => panic!("{parsed:?} and not {wanted:?}"),
            }
        }
    }
}
