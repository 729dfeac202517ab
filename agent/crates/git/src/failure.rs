//! Why git failed, by what it said: some failures are worth another try, most are not.

use std::path::PathBuf;
use std::sync::LazyLock;

use regex::{Regex, RegexSet};
use url::Url;

use agent_types::error::{Class, Error};

use super::display_url;

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The network or the server, and probably not for long.
    Transient,
    /// No repository at that address, or none for us.
    NotFound,
    /// The server wants a login, or refuses the one it got.
    Denied,
    /// The server's certificate or host key is not trusted.
    Untrusted,
    /// The repository has no such branch or tag.
    RefNotFound,
    /// The server gives out no bare commits, so that it does not say whether it has this one.
    CommitRefused,
    /// The server gives out bare commits and does not have this one.
    CommitMissing,
    /// This machine's disk is full.
    DiskFull,
    /// This machine's files may not be read or written.
    Permission,
    /// The clone on this machine is broken.
    Corrupt,
    Other,
}

/// A git that did not do what it was asked.
#[derive(Clone, Debug)]
pub enum Failure {
    /// Git says no.
    Git {
        kind: Kind,
        /// The sub-command.
        verb: String,
        /// Whether a server was involved.
        remote: bool,
        /// Git's own words, fit to be shown.
        said: Vec<String>,
        log: PathBuf,
    },
    /// It could not be run to its end, or what it did contradicts what was asked.
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

    /// Whether a new clone may mend it.
    pub fn mended_by_new_clone(&self) -> bool {
        matches!(self.kind(), Some(Kind::Corrupt | Kind::Other))
    }

    /// One line for a notice.
    pub fn brief(&self) -> String {
        match self {
            Failure::Git { said, verb, .. } => {
                said.first().cloned().unwrap_or_else(|| format!("git {verb} failed without a word"))
            }
            Failure::Error(error) => error.message.clone(),
        }
    }

    /// The error for people. `key` is the manifest's table, e.g. `repos.poky`.
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
                format!("there is no repository at {what}, or none for this user"),
                format!("check `{key}.url`; servers say \"not found\" also when a login is missing"),
            ),
            Kind::Denied => (
                Class::Upstream,
                format!("the server refuses {what}"),
                format!("check `{key}.url` and the credentials for it (a token, an SSH key, its rights)"),
            ),
            Kind::Untrusted => (
                Class::Upstream,
                format!("the server of {what} cannot be trusted"),
                "install the server's CA certificate, or add its host key to ~/.ssh/known_hosts".into(),
            ),
            Kind::RefNotFound | Kind::CommitRefused | Kind::CommitMissing => (
                Class::Usage,
                format!("{what} does not have what is wanted"),
                format!("check the branch, tag or commit of [{key}]"),
            ),
            Kind::DiskFull => (
                Class::Machine,
                format!("the disk is full while git {verb} works on {what}"),
                "free space below --work-dir, or choose another one".into(),
            ),
            Kind::Permission => (
                Class::Machine,
                format!("git {verb} may not read or write files of {what}"),
                "check the owner of the directory; runs of different users need different --work-dir".into(),
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

/// Patterns in the order in which they decide: a server that hangs up after it has said why is not
/// asked again. `remote:` lines are the server's and say nothing about this machine's disk.
static PATTERNS: [(Kind, &[&str]); 11] = [
    (Kind::DiskFull, &[r"(?m)^(?:error|fatal|warning): .*(?:No space left on device|Disk quota exceeded)"]),
    (
        Kind::RefNotFound,
        &[r"couldn't find remote ref", r"Remote branch .* not found in upstream", r"no matching remote head"],
    ),
    (
        Kind::CommitRefused,
        // Git itself says this, before it asks a server that did not offer it.
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
    // The server's own repository is broken; what follows sounds like a broken connection.
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

/// Tells the kind of a failure by git's words.
pub fn classify(said: &[String]) -> Kind {
    let text = said.join("\n");
    MATCHERS.iter().find(|(_, patterns)| patterns.is_match(&text)).map_or(Kind::Other, |(kind, _)| *kind)
}

/// How many lines of git's words are kept for people.
const WORDS: usize = 12;

/// The lines of output that say why, fit to be shown: git's own, without progress, control
/// characters and credentials (a site's `insteadOf` may bring some in).
pub fn words<'a>(lines: impl IntoIterator<Item = &'a str>) -> Vec<String> {
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
    let telling = |line: &&String| {
        ["fatal:", "error:", "remote: ", "ssh:"].iter().any(|start| line.starts_with(start))
            && !is_progress(line)
    };
    let mut said: Vec<String> = all.iter().filter(telling).cloned().collect();
    if !said.iter().any(|line| !line.starts_with("remote:")) {
        // SSH and helpers have no prefix of their own.
        said = all.into_iter().filter(|line| !is_progress(line)).collect();
    }
    let surplus = said.len().saturating_sub(WORDS);
    said.split_off(surplus)
}

/// `Receiving objects:  42% (…)`, also with `remote: ` before it.
fn is_progress(line: &str) -> bool {
    line.contains("% (") || line.starts_with("remote: Enumerating") || line.starts_with("remote: Total")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    /// What git 2.34 to 2.47, OpenSSH and common servers print.
    #[test]
    fn failures_are_told_apart_by_what_git_says() {
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
    fn only_what_matters_is_shown_and_nothing_that_harms() {
        let lines = [
            "remote: Enumerating objects: 3, done.",
            "Receiving objects:  42% (1/2)",
            "remote: \u{1b}[31mgo away\u{1b}[0m",
            "fatal: unable to access 'https://me:tok@h.example/r/': The requested URL returned error: 403",
        ];
        assert_eq!(
            words(lines),
            [
                "remote: [31mgo away[0m",
                "fatal: unable to access 'https://h.example/r/': The requested URL returned error: 403",
            ]
        );
        assert_eq!(
            words(["git@h: Permission denied (publickey)."]),
            ["git@h: Permission denied (publickey)."]
        );
        let flood: Vec<String> = (0..100).map(|n| format!("error: {n}")).collect();
        let kept = words(flood.iter().map(String::as_str));
        assert_eq!((kept.len(), kept.last().unwrap().as_str()), (WORDS, "error: 99"));
    }

    #[test]
    fn the_class_decides_the_exit_status() {
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
