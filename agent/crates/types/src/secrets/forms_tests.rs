use super::*;

#[test]
fn all_patterns_compile() {
    for one in [&SCHEME, &SHORT, &SHORT_WORD, &PARAMETER, &ASSIGNMENT, &HEADER, &CREDENTIAL, &TOKEN, &WEBHOOK]
    {
        assert!(one.is_some());
    }
}

#[test]
fn hides_passwords_in_urls() {
    let table = [
        ("https://user:hunter22@host/x", "https://user:[redacted]@host/x"),
        (
            "`https://user:hunter22@host:port/x` is no address",
            "`https://user:[redacted]@host:port/x` is no address",
        ),
        (
            "--set repos.poky.url=https://u:hunter22@ho st/x",
            "--set repos.poky.url=https://u:[redacted]@ho st/x",
        ),
        ("https://hunter22token@host/x", "https://[redacted]@host/x"),
        ("https://hunter22:x-oauth-basic@host/x", "https://[redacted]:x-oauth-basic@host/x"),
        ("https://hunter22:@host/x", "https://[redacted]:@host/x"),
        ("ssh://git:hunter22@host/x", "ssh://git:[redacted]@host/x"),
        ("s3://key:hunter22@bucket/x", "s3://key:[redacted]@bucket/x"),
        ("s3://hunter22@bucket/x", "s3://[redacted]@bucket/x"),
        ("ftp://user:hunter22@host", "ftp://user:[redacted]@host"),
        ("HTTPS://User:hunter22@HOST/", "HTTPS://User:[redacted]@HOST/"),
        ("git+https://user:hunter22@host", "git+https://user:[redacted]@host"),
        ("postgres://user:hunter22@db/x", "postgres://user:[redacted]@db/x"),
        // A character that should have been encoded.
        ("https://user:hun/ter22@host/x", "https://user:[redacted]@host/x"),
        ("https://user:hun#ter22@host/x", "https://user:[redacted]@host/x"),
        ("https://user:hun?ter22@host/x", "https://user:[redacted]@host/x"),
        ("https://user:hun@ter22@host.example/x", "https://user:[redacted]@host.example/x"),
        ("https://user:hun@ter/22@host.example/x", "https://user:[redacted]@host.example/x"),
        ("https://user:hun:ter22@host/x", "https://user:[redacted]@host/x"),
        ("https://user:hunter'22@host/x", "https://user:[redacted]@host/x"),
        // Forms that programs accept as well.
        ("https:/user:hunter22@host/x", "https:/user:[redacted]@host/x"),
        ("https:user:hunter22@host/x", "https:user:[redacted]@host/x"),
        ("https:///user:hunter22@host/x", "https:///user:[redacted]@host/x"),
        (r"https:\\user:hunter22@host\x", r"https:\\user:[redacted]@host\x"),
        (r#"{"url":"https:\/\/user:hunter22@host\/x"}"#, r#"{"url":"https:\/\/user:[redacted]@host\/x"}"#),
        // Encoded.
        ("https://user:hunter%3222@host/x", "https://user:[redacted]@host/x"),
        ("https://user%3Ahunter22@host/x", "https://user%3A[redacted]@host/x"),
        ("https%3A%2F%2Fuser%3Ahunter22%40host%2Fx", "https%3A%2F%2Fuser%3A[redacted]%40host%2Fx"),
        ("https%3a%2f%2fuser:hunter22@host", "https%3a%2f%2fuser:[redacted]@host"),
        (
            "https%253A%252F%252Fuser%253Ahunter22%2540host",
            "https%253A%252F%252Fuser%253A[redacted]%2540host",
        ),
        // Without a scheme.
        ("user:hunter22@host:path/x", "user:[redacted]@host:path/x"),
        ("cannot publish to /srv/user:hunter22@host", "cannot publish to /srv/user:[redacted]@host"),
        ("//user:hunter22@host/x", "//user:[redacted]@host/x"),
        ("url=user:hunter22@host.example/x", "url=user:[redacted]@host.example/x"),
        ("user%3Ahunter22%40host", "user%3A[redacted]%40host"),
        // Two in one text.
        ("https://a:hunter22@h https://b:hunter33@h", "https://a:[redacted]@h https://b:[redacted]@h"),
    ];
    for (text, wanted) in table {
        assert_eq!(redact(text), wanted, "{text}");
        assert_eq!(redact(wanted), wanted, "already hidden");
    }
}

#[test]
fn hides_parameters_headers_and_assignments() {
    let table = [
        ("https://h/m?token=hunter22", "https://h/m?token=[redacted]"),
        ("https://h/m?a=b&private_token=hunter22&c=d", "https://h/m?a=b&private_token=[redacted]&c=d"),
        (
            "https://b.s3.amazonaws.com/k?X-Amz-Signature=hunter22",
            "https://b.s3.amazonaws.com/k?X-Amz-Signature=[redacted]",
        ),
        ("https://h/?x-amz-security-token=hunter22%2F&x", "https://h/?x-amz-security-token=[redacted]&x"),
        ("https://a.blob/x?sv=1&sig=hunter22%3D", "https://a.blob/x?sv=1&sig=[redacted]"),
        (
            "u=https%3A%2F%2Fh%2F%3Ftoken%3Dhunter22%26a%3Db",
            "u=https%3A%2F%2Fh%2F%3Ftoken%3D[redacted]%26a%3Db",
        ),
        ("git://h/x;user=me:hunter22;protocol=https", "git://h/x;user=me:[redacted];protocol=https"),
        ("svn://h/x;module=m;pswd=hunter22", "svn://h/x;module=m;pswd=[redacted]"),
        ("https://h/x#access_token=hunter22", "https://h/x#access_token=[redacted]"),
        ("Authorization: Basic aHVudGVyMjI=", "Authorization: [redacted]"),
        ("> authorization: token hunter22", "> authorization: [redacted]"),
        ("-H 'PRIVATE-TOKEN: hunter22' https://h", "-H 'PRIVATE-TOKEN: [redacted]' https://h"),
        ("Cookie: a=b; session=hunter22", "Cookie: [redacted]"),
        ("X-Api-Key: hunter22", "X-Api-Key: [redacted]"),
        (
            "http.extraHeader=Authorization%3A%20Basic%20aHVudGVyMjI",
            "http.extraHeader=Authorization%3A%20[redacted]",
        ),
        ("with Bearer hunter22hunter", "with Bearer [redacted]"),
        ("--set github.token=hunter22", "--set github.token=[redacted]"),
        ("--set 'github.password = \"hunter 22\"'", "--set 'github.password = \"[redacted]\"'"),
        ("--set a.url=GITHUB_TOKEN=hunter22: x", "--set a.url=GITHUB_TOKEN=[redacted] x"),
        ("API_KEY=hunter22=hunter22== x", "API_KEY=[redacted] x"),
        ("GITHUB_TOKEN=hunter22 make", "GITHUB_TOKEN=[redacted] make"),
        ("{\"user\":\"x\",\"password\":\"hunter22\"}", "{\"user\":\"x\",\"password\":\"[redacted]\"}"),
        ("{'api_key': 'hunter22'}", "{'api_key': '[redacted]'}"),
        ("token_secret={\"token\":\"hunter22\"}", "token_secret={\"token\":\"[redacted]\"}"),
        ("x ghp_0123456789abcdefghij y", "x [redacted] y"),
        ("https://hooks.slack.com/services/T0/B0/XX", "https://hooks.slack.com/services/[redacted]"),
    ];
    for (text, wanted) in table {
        assert_eq!(redact(text), wanted, "{text}");
        assert_eq!(redact(wanted), wanted, "already hidden");
    }
}

#[test]
fn keeps_text_without_secrets() {
    let texts = [
        "https://git.yoctoproject.org/poky?x=y",
        "https://host:8080/path@v2",
        "https://[::1]:8080/x@y",
        "ssh://git@github.com/a/b",
        "git@github.com:a/b.git",
        "github.com:org/repo@v1",
        "mailto:joe@example.org",
        "Signed-off-by: Joe <joe@example.org>",
        "docker://debian@sha256:0123456789abcdef",
        "debian:bookworm@sha256:0123456789abcdef",
        "/usr/lib/systemd/system:/lib/getty@tty1.service",
        "token_secret = \"build-agent/github\"",
        "--set github.token_secret=build-agent/github#token",
        "[github] token_secret: there is no secret `build-agent/github`",
        "PWD=/srv/build OLDPWD=/root",
        "SIGNING_KEY=keys/module.pem USE_TOKEN=1",
        "basic authentication is refused; Basic Authentication too",
        "build-agent.toml:12:3: [repos.poky] branch: two",
        "NOTE: recipe a-1.0-r0: task do_compile: Started",
        "PASSWORD=${@d.getVar('X')}",
        "a@b",
        "plain",
        "",
    ];
    for text in texts {
        assert_eq!(redact(text), text);
        assert!(values(text).is_empty(), "{text}: {:?}", values(text));
    }
}

#[test]
fn returns_values_as_written_and_decoded() {
    let table: [(&str, &[&str]); 5] = [
        ("http://user:p%40ss@proxy:3128", &["p@ss", "p%40ss"]),
        ("https://tokentoken@host/x", &["tokentoken"]),
        ("https://oauth2:tokentoken@host/x", &["tokentoken"]),
        ("ssh://git@host/x", &[]),
        ("a=https://u:one-one@h b=https://u:two-two@h", &["one-one", "two-two"]),
    ];
    for (text, wanted) in table {
        assert_eq!(values(text), wanted, "{text}");
    }
    assert_eq!(values_of_word("repos.poky.url=https://user:pass word@host/x"), ["pass word"]);
    assert_eq!(values_of_word("user:pass word@host"), ["pass word"]);
}

/// The time is linear in the length of a hostile line. If parts were read again, this would not end.
#[test]
fn reads_long_lines_once() {
    for piece in ["a=", "http:", "a:", "https://a:", "a@", "x_token=", "a=\"", "?a=", "basic "] {
        let text = piece.repeat(64 * 1024 / piece.len());
        let _ = redact(&text);
    }
}
