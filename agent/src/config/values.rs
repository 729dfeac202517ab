//! Rules for single values: names, commit ids, durations, globs. Each function returns what is wrong with a
//! text and what to write instead; the caller adds the position.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use agent_types::bucket_share::BucketShare;
use agent_types::s3_address::S3Address;
use agent_types::share::Share;
use agent_yocto::path_rules::{self, PathUse};

use super::problem::Diagnostic;
use super::settings::{HashServer, ShareLocation};

type Result<T> = std::result::Result<T, Diagnostic>;

/// Validates a name that becomes a directory or a part of an object's key: of the job, of a repository.
///
/// BitBake rejects build paths with other characters (`sanity.bbclass`).
pub fn name(text: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if text.is_empty() {
        Err(Diagnostic::new("is empty"))
    } else if text.contains(['/', '\\']) || text == "." || text == ".." {
        Err(Diagnostic::new(format!("`{text}` is a path, not a name"))
            .hint("it becomes one directory: letters, digits, `.`, `_` and `-`"))
    } else if !text.chars().all(good) || text.starts_with(['.', '-']) {
        Err(Diagnostic::new(format!("`{text}` is not a valid name for a build directory"))
            .hint("use letters, digits, `.`, `_` and `-`, with a letter, a digit or `_` first"))
    } else if text.len() > 100 {
        Err(Diagnostic::new(format!("has {} characters, more than 100", text.len())))
    } else {
        Ok(())
    }
}

/// Validates a machine or a distro, which is written to configuration files.
pub fn conf_name(text: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
    if text.is_empty() {
        Err(Diagnostic::new("is empty"))
    } else if !text.chars().all(good) || text.starts_with(['-', '.', '+']) {
        Err(Diagnostic::new(format!("`{text}` cannot be the name of a machine or distro"))
            .hint("it is part of conf/machine/NAME.conf or conf/distro/NAME.conf: letters, digits, `.`, `_`, `+`, `-`"))
    } else {
        Ok(())
    }
}

/// Validates lines of a configuration file.
pub fn conf_lines(text: &str) -> Result<()> {
    match text.chars().find(|c| c.is_control() && !"\n\r\t".contains(*c)) {
        Some(c) => {
            Err(Diagnostic::new(format!("contains the control character {c:?}, which text must not have")))
        }
        None => Ok(()),
    }
}

/// Validates a full commit id, in lower case.
pub fn commit(text: &str) -> Result<String> {
    let hex = !text.is_empty() && text.chars().all(|c| c.is_ascii_hexdigit());
    match text.len() {
        40 if hex => Ok(text.to_ascii_lowercase()),
        4..40 if hex => Err(Diagnostic::new(format!("`{text}` is an abbreviated commit id"))
            .hint(format!("write all 40 digits, as `git rev-parse {text}` prints them in a clone"))),
        _ => Err(Diagnostic::new(format!("`{text}` is not a commit id of 40 hexadecimal digits"))
            .hint("for a name use `branch` or `tag`")),
    }
}

/// Validates a branch or tag name by the rules of `git check-ref-format`.
pub fn git_ref(text: &str) -> Result<()> {
    for prefix in ["refs/heads/", "refs/tags/", "origin/"] {
        if let Some(name) = text.strip_prefix(prefix) {
            return Err(
                Diagnostic::new(format!("`{text}` is not a plain name")).hint(format!("write `{name}`"))
            );
        }
    }
    let forbidden = |c: char| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c);
    let bad_part = |part: &str| part.is_empty() || part.starts_with('.') || part.ends_with(".lock");
    if text.is_empty() {
        Err(Diagnostic::new("is empty"))
    } else if text.starts_with('-')
        || text.ends_with('.')
        || text == "@"
        || text.contains("..")
        || text.contains("@{")
        || text.contains(forbidden)
        || text.split('/').any(bad_part)
    {
        Err(Diagnostic::new(format!("`{text}` is not a valid name of a branch or tag")))
    } else {
        Ok(())
    }
}

/// Maximum duration; a longer one is probably a typing error.
const LONGEST: Duration = Duration::from_secs(400 * 24 * 3600);

/// Parses a duration that is not zero, such as `4h`, `1h 30m`, `60d`.
pub fn duration(text: &str) -> Result<Duration> {
    let example = "write a number with a unit, such as 90s, 20m, 4h, 1h 30m or 60d";
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err(Diagnostic::new(format!("`{text}` must not be zero")).hint(example)),
        Ok(duration) if duration > LONGEST => {
            Err(Diagnostic::new(format!("`{text}` is longer than 400 days")))
        }
        Ok(duration) => Ok(duration),
        Err(error) => {
            Err(Diagnostic::new(format!("`{text}` is not a duration: {}", lower_first(&error.to_string())))
                .hint(example))
        }
    }
}

/// Minimum size of a limit; a smaller one could not store the messages of one failure.
const SMALLEST: u64 = 1 << 20;

/// Parses a size in bytes of at least 1 MiB, such as `500MiB`, `2GiB`.
pub fn size(text: &str) -> Result<u64> {
    let example = "write a whole number with a unit, such as 500MiB or 2GiB";
    let wrong = || Diagnostic::new(format!("`{text}` is not a size")).hint(example);
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim() {
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return Err(wrong()),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    match bytes.ok_or_else(wrong)? {
        bytes if bytes < SMALLEST => {
            Err(Diagnostic::new(format!("`{text}` is less than 1MiB")).hint(example))
        }
        bytes => Ok(bytes),
    }
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

/// Parses a relative path that stays below its base, without `.` parts; `.` itself is the empty path.
pub fn inner_path(text: &str, below: &str) -> Result<PathBuf> {
    if text.is_empty() {
        return Err(Diagnostic::new("is empty").hint("write \".\" for the top directory"));
    }
    let path = Path::new(text);
    if path.is_absolute() {
        return Err(Diagnostic::new(format!("`{text}` is an absolute path"))
            .hint(format!("write it relative to {below}")));
    }
    let mut inner = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => inner.push(part),
            Component::ParentDir if !inner.pop() => {
                return Err(Diagnostic::new(format!("`{text}` leads out of {below}")));
            }
            _ => {}
        }
    }
    Ok(inner)
}

/// Validates the path of a layer for BitBake.
pub fn layer_path(path: &Path) -> Result<()> {
    usable_path(path, PathUse::Layer)
}

/// Validates a path for BitBake, for this purpose.
pub fn usable_path(path: &Path, purpose: PathUse) -> Result<()> {
    match path_rules::fault(path, purpose) {
        None => Ok(()),
        Some(fault) => Err(Diagnostic::new(format!("{:?} {fault}", path.display().to_string()))
            .hint("move it to another path, or rename the directory")),
    }
}

/// Parses an absolute path without `.` and `..`; does not access the disk.
pub fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                normal.pop();
            }
            other => normal.push(other),
        }
    }
    normal
}

/// Parses `off`, `auto`, `host:port`, `ws://…` or `wss://…`.
pub fn hash_server(text: &str) -> Result<HashServer> {
    let mistake = || {
        Diagnostic::new(format!("`{text}` is not a hash server"))
            .hint("write off, auto, host:port, ws://… or wss://…")
    };
    let address = HashServer::Address(text.to_owned());
    if text == "off" {
        return Ok(HashServer::Off);
    } else if text == "auto" {
        return Ok(HashServer::Auto);
    } else if !text.chars().all(|c| c.is_ascii_alphanumeric() || ".:/_-[]".contains(c)) {
        // It is quoted in the configuration, where a user and password would be visible.
        return Err(mistake());
    } else if text.starts_with("ws://") || text.starts_with("wss://") {
        return url::Url::parse(text).map(|_| address).map_err(|_| mistake());
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(mistake)?;
    let port_is_good = port.parse::<u16>().is_ok_and(|port| port != 0);
    let host_is_good = url::Host::parse(host).is_ok() && !host.starts_with('-');
    if port_is_good && host_is_good { Ok(address) } else { Err(mistake()) }
}

/// Validates the directory of a share: absolute, and without characters that have a special meaning in
/// BitBake's configuration or in its mirror patterns.
pub fn share(text: &str) -> Result<ShareLocation> {
    if text.starts_with("s3://") {
        let address = S3Address::parse(text).map_err(|error| Diagnostic::new(error.message))?;
        return bucket_share(address).map(ShareLocation::Bucket);
    }
    directory_share(text).map(|path| ShareLocation::Directory(Share::new(path)))
}

/// Keys become parts of URLs: only letters, digits and some punctuation are the same there.
fn bucket_share(address: S3Address) -> Result<BucketShare> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let odd_part = |part: &str| part.is_empty() || part == "." || part == "..";
    let key = &address.key;
    if !key.chars().all(plain) || !key.is_empty() && key.split('/').any(odd_part) {
        return Err(Diagnostic::new(format!("`{address}` has a prefix that the share cannot use"))
            .hint("use letters, digits, `.`, `_`, `-` and single slashes"));
    }
    Ok(BucketShare::new(address))
}

fn directory_share(text: &str) -> Result<PathBuf> {
    let path = normal(Path::new(text));
    if !path.is_absolute() {
        return Err(Diagnostic::new(format!("`{text}` is neither an absolute path nor an s3:// URL"))
            .hint("use a directory such as /efs, or s3://BUCKET/PREFIX"));
    }
    if path.parent().is_none() {
        return Err(
            Diagnostic::new(format!("`{text}` is the root directory")).hint("use a directory below it")
        );
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if !text.chars().all(plain) {
        return Err(Diagnostic::new(format!("{text:?} cannot be written into BitBake's list of mirrors"))
            .hint("use a path of letters, digits, `.`, `_` and `-`"));
    }
    // `build_mirroruris` of bitbake/lib/bb/fetch2 replaces these words anywhere.
    const REPLACED: [&str; 5] = ["TYPE", "HOST", "PATH", "BASENAME", "MIRRORNAME"];
    match REPLACED.into_iter().find(|word| text.contains(word)) {
        Some(word) => {
            Err(Diagnostic::new(format!("`{text}` contains {word}, which BitBake replaces in mirror URLs"))
                .hint("use a path without that word"))
        }
        None => Ok(path),
    }
}

/// Validates `owner/name` on GitHub.
pub fn github_repository(text: &str) -> Result<()> {
    let good = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    match text.split('/').collect::<Vec<_>>().as_slice() {
        [owner, name] if good(owner) && good(name) => Ok(()),
        _ => Err(Diagnostic::new(format!("`{text}` is not a repository on GitHub"))
            .hint("write owner/name, such as aws4embeddedlinux/meta-aws")),
    }
}

/// Validates the name of a job's results on GitHub. It is a part of contexts, check runs and hidden lines of comments.
pub fn result_name(text: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || " ._/+()-".contains(c);
    let starts = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    let ends = text.ends_with(|c: char| c.is_ascii_alphanumeric() || ".)".contains(c));
    match starts && ends && text.len() <= 100 && text.chars().all(good) {
        true => Ok(()),
        false => Err(Diagnostic::new(format!("`{text}` cannot be the name of results")).hint(
            "use at most 100 letters, digits, spaces and `._/+()-`, such as `meta-x scarthgap qemuarm64`",
        )),
    }
}

/// Validates the id of a GitHub App.
pub fn app_id(text: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    match !text.is_empty() && text.len() <= 100 && !text.starts_with('-') && text.chars().all(good) {
        true => Ok(()),
        false => Err(Diagnostic::new(format!("`{text}` is not the id of a GitHub App"))
            .hint("write the client id or the number on the App's page, such as Iv23liAbCdEf or 123456")),
    }
}

/// Validates the name of a secret. The message never repeats the text, which may be the secret itself.
pub fn secret_name(text: &str) -> Result<()> {
    let tokens = ["ghp_", "gho_", "ghs_", "ghu_", "github_pat_"];
    if tokens.iter().any(|prefix| text.starts_with(prefix)) {
        Err(Diagnostic::new("is a token, and must not be in a manifest")
            .hint("revoke it, store a new one in Secrets Manager, and write the secret's name here"))
    } else if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        Err(Diagnostic::new("is not the name of a secret").hint("write its name or ARN in Secrets Manager"))
    } else {
        Ok(())
    }
}

/// Validates a date, `YYYY-MM-DD`.
pub fn day(text: &str) -> Result<()> {
    let parts: Vec<usize> = text.split('-').map(str::len).collect();
    let exists = humantime::parse_rfc3339(&format!("{text}T00:00:00Z")).is_ok();
    if parts == [4, 2, 2] && exists {
        Ok(())
    } else {
        Err(Diagnostic::new(format!("`{text}` is not a day of the calendar")).hint("write YYYY-MM-DD"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
pub mod tests {
    use super::*;

    /// Checks which texts a rule accepts.
    pub fn accepts<T>(rule: impl Fn(&str) -> Result<T>, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(rule(text).is_ok(), "{text:?} is fine");
        }
        for text in bad {
            assert!(rule(text).is_err(), "{text:?} is not");
        }
    }

    #[test]
    fn validates_names() {
        let bad = ["", ".", "..", "a/b", "../x", "-x", ".git", "a b", "a+b", "ü", "a\nb", "a@b", "~"];
        accepts(name, &["poky", "meta-aws", "_x", "1.0"], &bad);
        let bad = ["", "-x", "a b", "a\"b", "${@x}", "a/b", "..", "a\nMACHINE = \"x\"", "ä"];
        accepts(conf_name, &["qemux86-64", "poky+x", "beaglebone-yocto"], &bad);
    }

    #[test]
    fn validates_configuration_text() {
        accepts(conf_lines, &["", "A = \"1\"\r\n\tB = \"ü\"\n"], &["\0", "A = \"\u{1b}[31m\"", "\u{85}"]);
    }

    #[test]
    fn validates_commits_and_refs() {
        let whole = "0123456789abcdefABCDEF0123456789abcdef01";
        assert_eq!(commit(whole).unwrap(), whole.to_lowercase());
        let short = commit("0123abc").unwrap_err();
        assert!(short.message.contains("abbreviated") && short.hint.unwrap().contains("rev-parse 0123abc"));
        accepts(commit, &[], &["", "master", &whole[1..], &format!("{whole}0"), &whole.replace('0', "g")]);
        let bad = [
            "",
            "-x",
            "--upload-pack=x",
            "a..b",
            "a b",
            "a~1",
            "a^",
            "a:b",
            "a?",
            "a*",
            "a[",
            "a\\",
            "x.",
            "@",
            "a@{1}",
            "/a",
            "a/",
            "a//b",
            ".a",
            "a/.b",
            "a.lock",
            "a\u{7f}",
        ];
        accepts(git_ref, &["master", "2.8", "feature/x", "yocto-5.0.1", "ü"], &bad);
        assert_eq!(git_ref("refs/heads/x/y").unwrap_err().hint.unwrap(), "write `x/y`");
    }

    #[test]
    fn validates_durations() {
        assert_eq!(duration("1h 30m").unwrap(), Duration::from_secs(5400));
        assert_eq!(duration("60d").unwrap(), Duration::from_secs(60 * 86400));
        accepts(duration, &["1s"], &["", "4", "0s", "-4h", "4 hours and more", "forever", "9999999y"]);
    }

    #[test]
    fn validates_sizes() {
        for (text, wanted) in [("1MiB", 1 << 20), ("2GiB", 2 << 30), ("3 TiB", 3 << 40), ("2048KiB", 2 << 20)]
        {
            assert_eq!(size(text).unwrap(), wanted, "{text}");
        }
        let bad = ["", "2", "GiB", "0GiB", "1023KiB", "-1GiB", "1.5GiB", "2GB", "2gib", "99999999999TiB"];
        accepts(size, &[], &bad);
    }

    #[test]
    fn rejects_paths_that_leave_the_base() {
        for (text, wanted) in [(".", ""), ("meta", "meta"), ("./a/../b/", "b"), ("a//b", "a/b")] {
            assert_eq!(inner_path(text, "it").unwrap(), Path::new(wanted), "{text}");
        }
        accepts(|text| inner_path(text, "it"), &[], &["", "..", "/", "/etc", "a/../../b", "../a"]);
    }

    #[test]
    fn validates_hash_servers() {
        let good =
            ["off", "auto", "hash.example.org:8686", "10.0.0.1:1", "[::1]:8686", "wss://h/ws", "ws://h:1"];
        accepts(
            hash_server,
            &good,
            &["", "on", "host", "host:", "host:0", "host:99999", ":1", "http://h", "-x:1"],
        );
        accepts(
            hash_server,
            &[],
            &["ws://h/\"\nX=1", "wss://user:password@h/ws", "ws://h/${X}", "ws://h/a b"],
        );
        assert_eq!(hash_server("h:1").unwrap(), HashServer::Address("h:1".into()));
    }

    #[test]
    fn validates_shares() {
        accepts(
            share,
            &["/efs", "/mnt/build-cache_1.0/", "/efs/paths"],
            &[
                "", "efs", "../efs", "/", "/..", "/a b", "/a;b=c", "/a\n/b", "/a\\1", "/a(b)", "/ä", "/a$x",
                "/x/PATHS",
            ],
        );
        assert_eq!(share("/a/../efs/.").unwrap(), ShareLocation::Directory(Share::new("/efs")));
    }

    #[test]
    fn validates_github_repositories() {
        accepts(
            github_repository,
            &["a/b", "aws4embeddedlinux/meta-aws"],
            &["", "a", "a/b/c", "https://github.com/a/b", "a/"],
        );
        let mistake = secret_name("ghp_abcdefghijklmnop").unwrap_err();
        assert!(!format!("{mistake:?}").contains("abcdefgh"), "it repeats the token");
        accepts(
            secret_name,
            &["build-agent/github", "arn:aws:secretsmanager:eu-west-1:1:secret:x"],
            &["", "a b"],
        );
    }

    #[test]
    fn validates_days() {
        accepts(
            day,
            &["2026-02-28", "2028-02-29"],
            &["", "2026-02-30", "2026-2-3", "28.2.2026", "2026-02-28T00:00:00Z"],
        );
    }
}
