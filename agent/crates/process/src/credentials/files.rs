//! Secrets in files that this user can read.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use agent_fs::untrusted;
use nix::unistd::{AccessFlags, access};

use super::facts::{Clue, Place};
use super::variables::Wanted;

/// Bytes: the state of a shell is smaller.
const LIMIT: u64 = 1 << 20;

/// CodeBuild's own files are less deep, and its checkouts deeper.
const DEPTH: usize = 4;

/// Entries of CodeBuild's directories that are looked at.
const MOST: usize = 10_000;

fn file(path: &Path, holds: Vec<String>) -> Clue {
    Clue { place: path.display().to_string(), kind: Place::File, holds }
}

/// What is directly below a directory.
pub fn below(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// The text of a file; `None` if this user cannot read it, or if it is empty.
pub fn text(path: &Path) -> Option<String> {
    let bytes = untrusted::read(path, LIMIT).ok().filter(|bytes| !bytes.is_empty())?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The files below the directory that set one of the variables.
pub fn in_directory(directory: &Path, wanted: &Wanted<'_>) -> Vec<Clue> {
    let mut clues = Vec::new();
    let mut left = vec![(directory.to_owned(), DEPTH)];
    let mut seen = 0;
    while let Some((directory, depth)) = left.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            seen += 1;
            let path = entry.path();
            match entry.file_type() {
                _ if seen > MOST => return clues,
                Ok(kind) if kind.is_dir() && depth > 1 => left.push((path, depth - 1)),
                Ok(kind) if kind.is_file() => {
                    let holds = text(&path).map(|text| wanted.of_text(&text)).unwrap_or_default();
                    if !holds.is_empty() {
                        clues.push(file(&path, holds));
                    }
                }
                _ => {}
            }
        }
    }
    clues.sort_by(|one, other| one.place.cmp(&other.place));
    clues
}

/// Whether the text of a file contains credentials.
type Recognize = fn(&str) -> bool;

/// Files of the home directories in which usual programs keep credentials.
pub fn in_homes(homes: &[PathBuf]) -> Vec<Clue> {
    const AWS: &str = "AWS credentials";
    let always = |_: &str| true;
    let has_key = |text: &str| text.contains("aws_secret_access_key") || text.contains("credential_process");
    let kinds: [(&str, &str, Recognize); 15] = [
        (".aws/credentials", AWS, always),
        (".aws/config", AWS, has_key),
        (".git-credentials", "git credentials", always),
        (".config/git/credentials", "git credentials", always),
        (".config/gh/hosts.yml", "a GitHub token", |text| text.contains("oauth_token")),
        (".netrc", "passwords of servers", |text| text.contains("password")),
        (".docker/config.json", "passwords of registries", |text| {
            text.contains("\"auth\"") || text.contains("\"identitytoken\"")
        }),
        (".config/containers/auth.json", "passwords of registries", |text| text.contains("\"auth\"")),
        (".kube/config", "Kubernetes credentials", |text| {
            ["token:", "client-key-data:", "password:"].iter().any(|key| text.contains(key))
        }),
        (".azure/msal_token_cache.json", "Azure credentials", always),
        (".azure/accessTokens.json", "Azure credentials", always),
        (".config/gcloud/application_default_credentials.json", "Google credentials", always),
        (".npmrc", "a token of npm", |text| text.contains("_authToken=")),
        (".cargo/credentials.toml", "a token of a Cargo registry", |text| text.contains("token")),
        (".pypirc", "a password of PyPI", |text| text.contains("password")),
    ];
    let mut clues = Vec::new();
    for home in homes {
        for (name, what, is_it) in kinds {
            let path = home.join(name);
            if text(&path).is_some_and(|text| is_it(&text)) {
                clues.push(file(&path, vec![what.into()]));
            }
        }
        let mut keys: Vec<PathBuf> = below(&home.join(".ssh"));
        keys.retain(|path| text(path).is_some_and(|text| text.contains("PRIVATE KEY-----")));
        keys.sort();
        clues.extend(keys.iter().map(|path| file(path, vec!["a private key of ssh".into()])));
        for cache in [".aws/sso/cache", ".aws/cli/cache"].map(|name| home.join(name)) {
            let files = std::fs::read_dir(&cache).into_iter().flatten().flatten().map(|entry| entry.path());
            let mut files: Vec<PathBuf> = files.filter(|path| text(path).is_some()).collect();
            files.sort();
            clues.extend(files.iter().map(|path| file(path, vec!["AWS credentials of a session".into()])));
        }
    }
    clues.dedup();
    clues
}

/// The files that variables of the agent name.
pub fn named(files: &[(String, PathBuf)]) -> Vec<Clue> {
    let readable = files.iter().filter(|(_, path)| text(path).is_some());
    readable.map(|(variable, path)| file(path, vec![variable.clone()])).collect()
}

/// The sockets of container engines that this user can write.
pub fn engine_sockets() -> Vec<PathBuf> {
    const SOCKETS: [&str; 6] = [
        "/var/run/docker.sock",
        "/run/containerd/containerd.sock",
        "/run/podman/podman.sock",
        "/run/crio/crio.sock",
        "/run/buildkit/buildkitd.sock",
        "/var/lib/incus/unix.socket",
    ];
    let usable = |path: &PathBuf| {
        std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
            && access(path.as_path(), AccessFlags::W_OK).is_ok()
    };
    SOCKETS.iter().map(PathBuf::from).filter(usable).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn files_with_credentials_are_found_by_their_place() {
        let home = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = home.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let found = || -> Vec<String> {
            let clues = in_homes(&[home.path().to_owned()]);
            clues.iter().map(|clue| clue.place.rsplit('/').next().unwrap().to_owned()).collect()
        };
        assert_eq!(found(), [""; 0]);
        write(".aws/config", "[default]\nregion = eu-west-1\n");
        write(".aws/credentials", "");
        write(".config/gh/hosts.yml", "github.com:\n    user: me\n");
        assert_eq!(found(), [""; 0], "no secret in these");
        write(".aws/config", "[default]\naws_secret_access_key = hunter22\n");
        write(".aws/credentials", "[default]\n");
        write(".aws/sso/cache/x.json", "{}");
        write(".git-credentials", "https://me:hunter22@host\n");
        assert_eq!(found(), ["credentials", "config", ".git-credentials", "x.json"]);
        write(".netrc", "machine host login me\n");
        write(".docker/config.json", "{\"auths\":{},\"credsStore\":\"desktop\"}");
        write(".ssh/id_ed25519.pub", "ssh-ed25519 AAAA me\n");
        assert_eq!(found().len(), 4, "no secret in these");
        write(".netrc", "machine host login me password hunter22\n");
        write(".docker/config.json", "{\"auths\":{\"host\":{\"auth\":\"eA==\"}}}");
        write(".ssh/id_ed25519", "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n");
        let all = found();
        assert_eq!(all[3..6], [".netrc", "config.json", "id_ed25519"], "{all:?}");
    }

    #[test]
    fn files_that_variables_name_count_if_they_can_be_read() {
        let place = tempfile::tempdir().unwrap();
        let token = place.path().join("token");
        let files = [("AWS_WEB_IDENTITY_TOKEN_FILE".to_owned(), token.clone())];
        assert!(named(&files).is_empty());
        fs::write(&token, "hunter22").unwrap();
        assert_eq!(named(&files)[0].holds, ["AWS_WEB_IDENTITY_TOKEN_FILE"]);
    }

    #[test]
    fn the_walk_is_limited_in_depth() {
        let top = tempfile::tempdir().unwrap();
        let deep = top.path().join("1/2/3/4");
        fs::create_dir_all(&deep).unwrap();
        for directory in [deep.as_path(), deep.parent().unwrap()] {
            fs::write(directory.join("env.sh"), "GITHUB_TOKEN=hunter22").unwrap();
        }
        let places: Vec<String> =
            in_directory(top.path(), &Wanted::new(&[])).into_iter().map(|clue| clue.place).collect();
        assert_eq!(places, [deep.with_file_name("env.sh").display().to_string()]);
    }
}
