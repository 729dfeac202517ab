//! Classifies failures of git by its messages. Transient failures are retried.

use std::path::PathBuf;
use std::sync::LazyLock;

use regex::{Regex, RegexSet};
use url::Url;

use agent_types::error::{Class, Error};

use super::display_url;

/// The cause of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A network or server problem that is probably temporary.
    Transient,
    /// No repository at that URL, or no access to it.
    NotFound,
    /// The server requires credentials, or rejects those that it got.
    Denied,
    /// The server's certificate or host key is not trusted.
    Untrusted,
    /// The repository has no such branch or tag.
    RefNotFound,
    /// The server does not serve commits by id, so it does not say whether it has this one.
    CommitRefused,
    /// The server serves commits by id and does not have this one.
    CommitMissing,
    /// This machine's disk is full.
    DiskFull,
    /// Git may not read or write files on this machine.
    Permission,
    /// The clone on this machine is corrupt.
    Corrupt,
    Other,
}

/// A failed git command.
#[derive(Clone, Debug)]
pub enum Failure {
    /// Git ended with an error.
    Git {
        kind: Kind,
        /// The sub-command.
        verb: String,
        /// Whether a server was involved.
        remote: bool,
        /// Git's messages, without control characters and credentials.
        said: Vec<String>,
        log: PathBuf,
    },
    /// Git could not start, was stopped, or gave an unexpected result.
    Error(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Error(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::Error(error.into())
    }
}

impl Failure {
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Failure::Git { kind, .. } => Some(*kind),
            Failure::Error(_) => None,
        }
    }

    /// Whether a new clone without the seed may succeed.
    pub fn may_succeed_with_new_clone(&self) -> bool {
        matches!(self.kind(), Some(Kind::Corrupt | Kind::Other))
    }

    /// The failure in one line, for a notice.
    pub fn brief(&self) -> String {
        match self {
            Failure::Git { said, verb, .. } => {
                said.first().cloned().unwrap_or_else(|| format!("git {verb} failed without a message"))
            }
            Failure::Error(error) => error.message.clone(),
        }
    }

    /// The error for the user. `key` is the table of the manifest, e.g. `repos.poky`.
    pub fn into_error(self, key: &str, url: Option<&Url>) -> Error {
        let (kind, verb, remote, said, log) = match self {
            Failure::Git { kind, verb, remote, said, log } => (kind, verb, remote, said, log),
            Failure::Error(error) => return error,
        };
        let what = match url {
            Some(url) => format!("`{}` of [{key}]", display_url(url)),
            None => format!("[{key}]"),
        };
        let log = log.display();
        let (class, message, hint) = match kind {
            Kind::Transient => (
                Class::Upstream,
                format!("cannot reach {what}"),
                "check the network and the proxy variables, or run the job again later".into(),
            ),
            Kind::NotFound => (
                Class::Upstream,
                format!("no repository at {what}, or no access to it"),
                format!("check `{key}.url`; servers also report \"not found\" if credentials are missing"),
            ),
            Kind::Denied => (
                Class::Upstream,
                format!("the server denies access to {what}"),
                format!("check `{key}.url` and the credentials for it (a token, an SSH key, its rights)"),
            ),
            Kind::Untrusted => (
                Class::Upstream,
                format!("the certificate or host key of {what} is not trusted"),
                "install the server's CA certificate, or add its host key to ~/.ssh/known_hosts".into(),
            ),
            Kind::RefNotFound | Kind::CommitRefused | Kind::CommitMissing => (
                Class::Usage,
                format!("{what} does not have this branch, tag or commit"),
                format!("check the branch, tag or commit of [{key}]"),
            ),
            Kind::DiskFull => (
                Class::Machine,
                format!("the disk became full during git {verb} of {what}"),
                "free space below --work-dir, or choose another --work-dir".into(),
            ),
            Kind::Permission => (
                Class::Machine,
                format!("git {verb} has no permission to read or write files of {what}"),
                "check the owner of the directory; each user needs its own --work-dir".into(),
            ),
            Kind::Corrupt | Kind::Other => (
                if remote { Class::Upstream } else { Class::Machine },
                format!("git {verb} failed for {what}"),
                format!("see {log}"),
            ),
        };
        let mut error = Error::new(class, message).hint(hint);
        error.causes = said;
        error
    }
}

/// Patterns by kind; the first match decides. So a server that states a reason before it closes the connection
/// is not asked again. `remote:` lines come from the server and do not describe this machine's disk.
static PATTERNS: [(Kind, &[&str]); 11] = [
    (Kind::DiskFull, &[r"(?m)^(?:error|fatal|warning): .*(?:No space left on device|Disk quota exceeded)"]),
    (
        Kind::RefNotFound,
        &[r"couldn't find remote ref", r"Remote branch .* not found in upstream", r"no matching remote head"],
    ),
    (
        Kind::CommitRefused,
        // Git prints this itself, without a request, if the server did not offer it.
        &[r"does not allow request for unadvertised object"],
    ),
    (Kind::CommitMissing, &[r"not our ref"]),
    (
        Kind::Denied,
        &[
            r"Authentication failed",
            r"could not read (?:Username|Password)",
            r"Permission denied \(",
            r"returned error: (?:401|403|407)\b",
            r"HTTP code 407",
            r"(?i)access denied",
            r"not authorized",
        ],
    ),
    (
        Kind::Untrusted,
        &[
            r"(?i)server certificate verification failed",
            r"(?i)SSL certificate (?:problem|verification)",
            r"(?i)unable to get local issuer",
            r"Host key verification failed",
        ],
    ),
    (
        Kind::NotFound,
        &[
            r"(?i)repository .*not found",
            r"does not appear to be a git repository",
            r"returned error: (?:404|410)\b",
            r"(?i)repository .* does not exist",
            r"not valid: is this a git repository",
            r"(?i)access denied or repository not exported",
        ],
    ),
    (
        Kind::Corrupt,
        &[
            r"(?m)^(?:error|fatal): .*(?:is corrupt|bad (?:object|signature|tree|config)|unable to (?:read|parse))",
            r"(?m)^(?:error|fatal): .*(?:missing (?:blob|tree|commit)|invalid object|is empty|not a valid object)",
            r"(?m)^(?:error|fatal): .*(?:packfile .* (?:cannot|is|does|claims)|index file|inflate|bad (?:index|zlib))",
            r"did not send all necessary objects",
            r"not a git repository",
            r"(?m)^fatal: (?:could not parse|failed to (?:read|resolve|traverse)|invalid shallow|shallow file)",
        ],
    ),
    // The server's repository is corrupt; the next lines look like a lost connection.
    (Kind::Other, &[r"corruption on the remote side"]),
    (
        Kind::Transient,
        &[
            r"(?i)could not resolve",
            r"(?i)temporary failure in name resolution",
            r"(?i)timed? ?out\b",
            r"(?i)connection (?:reset|refused|closed|aborted|timeout)",
            r"(?i)(?:failed|couldn't) (?:to )?connect",
            r"(?i)no route to host|network is unreachable",
            r"(?i)early EOF",
            r"hung up",
            r"unexpected disconnect",
            r"RPC failed",
            r"returned error: (?:429|5\d\d)\b",
            r"HTTP (?:code )?(?:429|5\d\d)\b",
            r"(?i)empty reply from server|transfer closed|operation too slow",
            r"(?i)gnutls_handshake|SSL_ERROR_SYSCALL|SSL_read|TLS connect error",
            r"HTTP/2 stream|(?i)bad pack header",
            r"(?i)unable to look up|kex_exchange_identification",
        ],
    ),
    (
        Kind::Permission,
        &[
            r"(?m)^(?:error|fatal|warning): .*(?:Permission denied|insufficient permission)",
            r"dubious ownership",
        ],
    ),
];

static MATCHERS: LazyLock<Vec<(Kind, RegexSet)>> = LazyLock::new(|| {
    PATTERNS.iter().filter_map(|(kind, patterns)| Some((*kind, RegexSet::new(*patterns).ok()?))).collect()
});

/// Finds the kind of a failure by git's messages.
pub fn classify(said: &[String]) -> Kind {
    let text = said.join("\n");
    MATCHERS.iter().find(|(_, patterns)| patterns.is_match(&text)).map_or(Kind::Other, |(kind, _)| *kind)
}

/// Maximum number of git's lines that are shown.
const MAX_LINES: usize = 12;

/// Selects the lines of git's output that explain a failure: without progress, control characters and
/// credentials (a site's `insteadOf` may add some).
pub fn relevant_output<'a>(lines: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    static CREDENTIALS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"(https?://)[^/\s'@]+@").ok());
    let clean = |line: &str| {
        let line: String = line.chars().filter(|c| !c.is_control()).collect();
        match CREDENTIALS.as_ref() {
            Some(credentials) => credentials.replace_all(&line, "$1").into_owned(),
            None => line,
        }
    };
    let all: Vec<String> = lines
        .into_iter()
        .map(clean)
        .map(|line| line.trim_end().to_string())
        .filter(|line| !line.is_empty())
        .collect();
    let is_relevant = |line: &&String| {
        ["fatal:", "error:", "remote: ", "ssh:"].iter().any(|start| line.starts_with(start))
            && !is_progress(line)
    };
    let mut said: Vec<String> = all.iter().filter(is_relevant).cloned().collect();
    if !said.iter().any(|line| !line.starts_with("remote:")) {
        // SSH and helpers print no prefix.
        said = all.into_iter().filter(|line| !is_progress(line)).collect();
    }
    let surplus = said.len().saturating_sub(MAX_LINES);
    said.split_off(surplus)
}

/// Whether the line is progress: `Receiving objects:  42% (…)`, with or without `remote: `.
fn is_progress(line: &str) -> bool {
    line.contains("% (") || line.starts_with("remote: Enumerating") || line.starts_with("remote: Total")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    /// What git 2.34 to 2.47, OpenSSH and common servers print.
    #[test]
    fn classifies_failures_by_messages() {
        use Kind::*;
        let table = [
            (Transient, "fatal: unable to access 'https://h/r/': Could not resolve host: h"),
            (
                Transient,
                "ssh: Could not resolve hostname h: Temporary failure in name resolution\nfatal: Could not read from remote repository.",
            ),
            (
                Transient,
                "fatal: unable to access 'https://h/r/': Failed to connect to h port 443 after 3 ms: Couldn't connect to server",
            ),
            (Transient, "fatal: unable to access 'https://h/r/': Connection timed out"),
            (Transient, "fatal: unable to access 'https://h/r/': Operation timed out after 300 seconds"),
            (
                Transient,
                "ssh: connect to host h port 22: Connection refused\nfatal: Could not read from remote repository.",
            ),
            (
                Transient,
                "error: RPC failed; curl 56 GnuTLS recv error (-54): Error in the pull function.\nfatal: early EOF\nfatal: fetch-pack: invalid index-pack output",
            ),
            (Transient, "fatal: read error: Connection reset by peer"),
            (Transient, "fatal: unable to access 'https://h/r/': The requested URL returned error: 503"),
            (Transient, "fatal: unable to access 'https://h/r/': The requested URL returned error: 429"),
            (
                Transient,
                "fatal: unable to access 'https://h/r/': Received HTTP code 502 from proxy after CONNECT",
            ),
            (Transient, "fatal: the remote end hung up unexpectedly"),
            (Transient, "fetch-pack: unexpected disconnect while reading sideband packet"),
            (Transient, "remote: fatal: write error: No space left on device\nfatal: early EOF"),
            (
                NotFound,
                "remote: Repository not found.\nfatal: repository 'https://github.com/a/b/' not found",
            ),
            (
                NotFound,
                "fatal: '/srv/r' does not appear to be a git repository\nfatal: Could not read from remote repository.",
            ),
            (NotFound, "ERROR: Repository not found.\nfatal: Could not read from remote repository."),
            (NotFound, "fatal: unable to access 'https://h/r/': The requested URL returned error: 404"),
            (Denied, "fatal: could not read Username for 'https://github.com': terminal prompts disabled"),
            (Denied, "fatal: Authentication failed for 'https://h/r/'"),
            (
                Denied,
                "git@github.com: Permission denied (publickey).\nfatal: Could not read from remote repository.",
            ),
            (Denied, "fatal: unable to access 'https://h/r/': The requested URL returned error: 403"),
            (
                Untrusted,
                "fatal: unable to access 'https://h/r/': server certificate verification failed. CAfile: none CRLfile: none",
            ),
            (
                Untrusted,
                "fatal: unable to access 'https://h/r/': SSL certificate problem: self-signed certificate",
            ),
            (Untrusted, "Host key verification failed.\nfatal: Could not read from remote repository."),
            (RefNotFound, "fatal: couldn't find remote ref refs/heads/nope"),
            (RefNotFound, "fatal: couldn't find remote ref refs/heads/mend-connection-timed-out"),
            (
                CommitMissing,
                "fatal: remote error: upload-pack: not our ref 1111111111111111111111111111111111111111",
            ),
            (
                CommitRefused,
                "error: Server does not allow request for unadvertised object 1111111111111111111111111111111111111111",
            ),
            (DiskFull, "error: unable to write file meta/x: No space left on device\nfatal: cannot store"),
            (DiskFull, "fatal: write error: Disk quota exceeded"),
            (Permission, "error: cannot open '.git/FETCH_HEAD': Permission denied"),
            (Permission, "fatal: detected dubious ownership in repository at '/x'"),
            (
                Corrupt,
                "error: object file .git/objects/aa/bb is empty\nfatal: loose object aabb is corrupt\nfatal: the remote end hung up unexpectedly",
            ),
            (Corrupt, "fatal: not a git repository (or any of the parent directories): .git"),
            (Corrupt, "fatal: bad object HEAD"),
            (Corrupt, "fatal: unable to read tree (0123)"),
            (
                Other,
                "remote: aborting due to possible repository corruption on the remote side.\nfatal: early EOF",
            ),
            (Other, "fatal: something new"),
            (Other, ""),
        ];
        for (wanted, text) in table {
            let said: Vec<String> = text.lines().map(String::from).collect();
            assert_eq!(classify(&said), wanted, "{text}");
        }
        assert_eq!(MATCHERS.len(), PATTERNS.len(), "every pattern compiles");
    }

    #[test]
    fn relevant_output_has_no_progress_credentials_or_control_characters() {
        let lines = [
            "remote: Enumerating objects: 3, done.",
            "Receiving objects:  42% (1/2)",
            "remote: \u{1b}[31mgo away\u{1b}[0m",
            "fatal: unable to access 'https://me:tok@h.example/r/': The requested URL returned error: 403",
        ];
        assert_eq!(
            relevant_output(lines),
            [
                "remote: [31mgo away[0m",
                "fatal: unable to access 'https://h.example/r/': The requested URL returned error: 403",
            ]
        );
        assert_eq!(
            relevant_output(["git@h: Permission denied (publickey)."]),
            ["git@h: Permission denied (publickey)."]
        );
        let flood: Vec<String> = (0..100).map(|n| format!("error: {n}")).collect();
        let kept = relevant_output(flood.iter().map(String::as_str));
        assert_eq!((kept.len(), kept.last().unwrap().as_str()), (MAX_LINES, "error: 99"));
    }

    #[test]
    fn kind_sets_the_class_of_the_error() {
        for (kind, class) in [
            (Kind::Transient, Class::Upstream),
            (Kind::NotFound, Class::Upstream),
            (Kind::RefNotFound, Class::Usage),
            (Kind::DiskFull, Class::Machine),
        ] {
            let failure = Failure::Git {
                kind,
                verb: "fetch".into(),
                remote: true,
                said: vec!["fatal: x".into()],
                log: "/l".into(),
            };
            let url = Url::parse("https://u:p@h.example/r").unwrap();
            let error = failure.into_error("repos.x", Some(&url));
            assert_eq!(error.class, class);
            assert!(error.to_string().contains("`https://h.example/r` of [repos.x]"), "{error}");
        }
    }
}
