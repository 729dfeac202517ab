//! Downloads the installer, and verifies its checksum.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{fchown, getegid, geteuid};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use url::Url;

use crate::config::Buildtools;
use agent_fs::read::NO_FOLLOW;
use agent_types::error::{Error, Result};
use agent_types::words::{bytes, hexadecimal};

/// The largest installer, in bytes. Those of the Yocto Project have about 100 MB.
const LARGEST: u64 = 2 << 30;

/// A server that sends nothing for this long is gone.
const SILENCE: Duration = Duration::from_secs(60);

/// Downloads the installer into a file that only the agent can read.
///
/// # Errors
/// Upstream, if there is no answer; usage, if the address or the checksum is wrong.
pub async fn download(buildtools: &Buildtools, into: &Path) -> Result<()> {
    let digest = fetch(&buildtools.url, into).await?;
    if digest == buildtools.sha256 {
        return Ok(());
    }
    let Buildtools { url, sha256 } = buildtools;
    let message =
        format!("{url} is not the installer of `[buildtools] sha256`: expected {sha256}, got {digest}");
    Err(Error::usage(message).hint("check what changed; if the change is correct, use the new checksum"))
}

/// Whether the file is the installer with this checksum. If the agent is root, it belongs to root afterwards: the build user
/// reads it, and cannot change it. Blocks.
pub fn is_installer(file: &Path, sha256: &str) -> bool {
    let digest = || -> std::io::Result<String> {
        let (mut file, _) =
            fs::OpenOptions::new().read(true).custom_flags(NO_FOLLOW).open(file)?.into_parts();
        if geteuid().is_root() {
            fchown(&file, Some(geteuid()), Some(getegid()))?;
            fchmod(&file, Mode::from_bits_truncate(0o644))?;
        }
        let (mut hash, mut part) = (Sha256::new(), vec![0; 1 << 16]);
        loop {
            match file.read(&mut part)? {
                0 => return Ok(hexadecimal(&hash.finalize())),
                count => hash.update(&part[..count]),
            }
        }
    };
    digest().is_ok_and(|digest| digest == sha256)
}

/// Writes what is at the address into the file; its checksum.
async fn fetch(url: &Url, into: &Path) -> Result<String> {
    let failed = |error: reqwest::Error| {
        Error::upstream(format!("the installer of the buildtools cannot be downloaded from {url}"))
            .because(&error.without_url())
            .hint("check the address and the network (HTTPS_PROXY)")
    };
    let client = reqwest::Client::builder()
        .read_timeout(SILENCE)
        .connect_timeout(SILENCE)
        .user_agent(concat!("build-agent/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(failed)?;
    let mut response = client.get(url.clone()).send().await.map_err(failed)?;
    let status = response.status();
    if !status.is_success() {
        let message = format!("{url} answered {status}");
        return Err(match status.as_u16() {
            404 | 410 => Error::usage(message).hint("check `[buildtools] url`"),
            401 | 403 => Error::usage(message).hint("use an address that needs no credentials"),
            _ => Error::upstream(message).hint("try again later"),
        });
    }
    let mut options = std::fs::OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::mode(options.write(true).create_new(true), 0o600);
    let mut file = fs::tokio::OpenOptions::from(options).open(into).await?;
    let (mut hash, mut size) = (Sha256::new(), 0);
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        size += chunk.len() as u64;
        if size > LARGEST {
            let message = format!("{url} is larger than {}", bytes(LARGEST));
            return Err(Error::usage(message).hint("it is probably not an installer of buildtools"));
        }
        hash.update(&chunk);
        file.write_all(&chunk).await?;
    }
    file.sync_all().await?;
    Ok(hexadecimal(&hash.finalize()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_used_only_with_its_checksum() {
        let top = tempfile::tempdir().unwrap();
        let (file, link) = (top.path().join("file"), top.path().join("link"));
        fs::write(&file, "version = 1\n").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        // `printf 'version = 1\n' | sha256sum`
        let sha256 = "dbab12665d98aef021ba64953c61b0ed8a908cfb56a1c01e2fcb4b052b71a2a1";
        assert!(is_installer(&file, sha256));
        assert!(!is_installer(&file, &"0".repeat(64)));
        assert!(!is_installer(&link, sha256), "a link");
        assert!(!is_installer(&top.path().join("none"), sha256));
    }
}
