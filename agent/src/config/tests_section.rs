//! Validates `[test]`: tests on a running system.

use agent_yocto::testimage::conf::SshServer;

use super::manifest::{PtestWord, SshServerWord, TestRunner, UnvalidatedManifest, UnvalidatedPtest};
use super::problem::{Diagnostic, KeyPath};
use super::settings::{Ptest, Test, TestTarget};
use super::validator::Validator;
use super::{requests, values};

/// Maximum number of reruns. More would only repeat a test until it passes.
const MAX_RERUNS: u32 = 5;

fn key(name: &str) -> KeyPath {
    KeyPath::root().key("test").key(name)
}

/// Validates the section. A default replaces an invalid value.
pub fn validate(check: &mut Validator, raw: &UnvalidatedManifest) -> Test {
    let raw = &raw.test;
    let standard = Test::default();
    let image = |text: &str| values::conf_name(text).map(|()| text.to_owned());
    let suite = |text: &str| suite(text).map(|()| text.to_owned());
    let test = Test {
        images: check.list(&key("images"), raw.images.as_ref(), image),
        suites: check.list(&key("suites"), raw.suites.as_ref(), suite),
        ptest: match &raw.ptest {
            None | Some(UnvalidatedPtest::Word(PtestWord::Off)) => Ptest::Off,
            Some(UnvalidatedPtest::Word(PtestWord::Changed)) => Ptest::Changed,
            Some(UnvalidatedPtest::Recipes(recipes)) => {
                check.not_empty(&key("ptest"), Some(recipes), "name recipes, or write \"off\"");
                Ptest::Recipes(check.list(&key("ptest"), Some(recipes), recipe))
            }
        },
        target: check.one(&key("target"), raw.target.as_ref(), target).unwrap_or_default(),
        runner: raw.runner.unwrap_or_default(),
        ssh_server: match raw.ssh_server {
            None | Some(SshServerWord::Dropbear) => SshServer::Dropbear,
            Some(SshServerWord::Openssh) => SshServer::OpenSsh,
            Some(SshServerWord::None) => SshServer::None,
        },
        timeout: check
            .one(&key("timeout"), raw.timeout.as_ref(), values::duration)
            .unwrap_or(standard.timeout),
        silence: check
            .one(&key("silence"), raw.silence.as_ref(), values::duration)
            .unwrap_or(standard.silence),
        reruns: reruns(check, raw.reruns),
        flaky: raw.flaky.unwrap_or_default(),
    };
    combinations(check, &test);
    test
}

fn reruns(check: &mut Validator, raw: Option<i64>) -> u32 {
    let Some(number) = raw else { return 0 };
    match u32::try_from(number).ok().filter(|reruns| *reruns <= MAX_RERUNS) {
        Some(reruns) => reruns,
        None => {
            let mistake = Diagnostic::new(format!("is {number}"));
            check.value(&key("reruns"), mistake.hint(format!("write a number from 0 to {MAX_RERUNS}")));
            0
        }
    }
}

/// Checks that involve several keys.
fn combinations(check: &mut Validator, test: &Test) {
    let is_ssh = matches!(test.target, TestTarget::Ssh { .. });
    if test.runner == TestRunner::OeTest && !is_ssh {
        let mistake = Diagnostic::new("`oe-test` needs a system that answers ssh");
        check.value(&key("runner"), mistake.hint("write `target = \"ssh://root@HOST:PORT\"`"));
    }
    if is_ssh && test.ptest != Ptest::Off && test.images.is_empty() {
        let mistake =
            Diagnostic::new("needs `images`: what runs on the system that answers ssh is one of them");
        check.value(&key("ptest"), mistake.hint("name the image of that system"));
    }
    if !test.is_wanted() && check.has(&key("suites")) {
        let mistake = Diagnostic::new("has no effect without `images`");
        check.value(&key("suites"), mistake.hint("name the images to be tested"));
    }
}

/// A name in TEST_SUITES: a module, with a class and a test if wanted.
pub fn suite(text: &str) -> Result<(), Diagnostic> {
    let part =
        |part: &str| !part.is_empty() && part.chars().all(|char| char.is_ascii_alphanumeric() || char == '_');
    let module = text.split('.').next().unwrap_or_default();
    let is_good = text.split('.').all(part) && !module.contains(|char: char| char.is_ascii_uppercase());
    match is_good {
        true => Ok(()),
        false => Err(Diagnostic::new(format!("`{text}` is not a suite of tests"))
            .hint("write the name of a module of oeqa/runtime/cases, such as ssh or parselogs")),
    }
}

/// A recipe, without a task.
fn recipe(text: &str) -> Result<String, Diagnostic> {
    requests::target(text)?;
    match text.contains([':', '/']) {
        true => Err(Diagnostic::new(format!("`{text}` is not the name of a recipe"))
            .hint("write the name without a version and without a task, such as zlib")),
        false => Ok(text.to_owned()),
    }
}

/// `qemu`, or `ssh://root@host:port`.
fn target(text: &str) -> Result<TestTarget, Diagnostic> {
    if text == "qemu" {
        return Ok(TestTarget::Qemu);
    }
    let mistake =
        |why: &str| Diagnostic::new(format!("`{text}` {why}")).hint("write qemu, or ssh://root@HOST:PORT");
    let Some(rest) = text.strip_prefix("ssh://") else {
        return Err(mistake("is not a target of tests"));
    };
    let (user, address) = rest.split_once('@').unwrap_or(("root", rest));
    if user.contains(':') {
        // The message must not contain the password.
        return Err(
            Diagnostic::new("has a password").hint("write ssh://root@HOST:PORT, and let ssh use a key")
        );
    }
    if user != "root" {
        return Err(mistake("does not log in as root, as the tests of OE-Core do"));
    }
    if address.contains('[') || address.matches(':').count() > 1 {
        return Err(mistake("is an IPv6 address, which OE-Core's tests do not support"));
    }
    let (host, port) = address.split_once(':').unwrap_or((address, "22"));
    let is_host = !host.is_empty()
        && !host.starts_with(['-', '.'])
        && host.chars().all(|char| char.is_ascii_alphanumeric() || ".-".contains(char));
    match port.parse::<u16>() {
        Ok(port) if port != 0 && is_host => Ok(TestTarget::Ssh { host: host.to_owned(), port }),
        _ => Err(mistake("is not the address of a system that answers ssh")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::config::values::tests::accepts;

    #[test]
    fn targets_are_qemu_or_root_by_ssh() {
        let ssh = |host: &str, port| TestTarget::Ssh { host: host.into(), port };
        for (text, wanted) in [
            ("qemu", TestTarget::Qemu),
            ("ssh://root@127.0.0.1:2222", ssh("127.0.0.1", 2222)),
            ("ssh://board.lab", ssh("board.lab", 22)),
            ("ssh://root@board-1", ssh("board-1", 22)),
        ] {
            assert_eq!(target(text).unwrap(), wanted, "{text}");
        }
        accepts(
            target,
            &[],
            &[
                "",
                "Qemu",
                "board",
                "ssh://",
                "ssh://root@",
                "ssh://root@:22",
                "ssh://root@h:0",
                "ssh://root@h:65536",
                "ssh://root@h:x",
                "ssh://root@h:22/",
                "ssh://-x",
                "ssh://h;id",
                "ssh://h\n",
                "ssh://${X}",
                "ssh://root@[::1]:22",
                "ssh://::1",
                "ssh://admin@h",
                "http://h",
            ],
        );
        let mistake = target("ssh://root:hunter2@h").unwrap_err();
        assert!(!format!("{mistake:?}").contains("hunter2"), "{mistake:?}");
    }

    #[test]
    fn suites_and_recipes_are_names() {
        let good = ["ping", "ssh.SSHTest", "ssh.SSHTest.test_ssh", "auto", "oe_syslog"];
        accepts(suite, &good, &["", "Ping", "a b", "a;b", "a..b", ".a", "a.", "-a", "${X}", "a\"b", "ä"]);
        accepts(
            recipe,
            &["zlib", "gtk+3", "python3-x"],
            &["", "zlib:do_x", "virtual/x", "mc:a:b", "-k", "a b"],
        );
    }
}
