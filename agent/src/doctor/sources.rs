//! Checks the checkout under test and the git servers of the manifest.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::join_all;
use url::Url;

use agent_process::{Environment, User};

use super::finding::Finding;
use super::workdir::judge_path;
use agent_process::{Answer, PROBE_LIMIT, Prober};
use agent_yocto::path_rules::PathUse;

/// Time limit for the answer of a git server.
const REMOTE: Duration = Duration::from_secs(20);

#[derive(Clone, Debug)]
pub struct SourceFacts {
    /// Lines `owner UID`, `git yes|no`, `head COMMIT`, and `unreadable PATH` for each layer that the build
    /// user cannot read.
    pub checkout: Answer,
    /// Name, URL, and the output of `git ls-remote`.
    pub remotes: Vec<(String, Url, Answer)>,
}

/// `$1` is the checkout; the other arguments are layers.
const CHECKOUT: &str = r#"
printf 'owner %s\n' "$(stat -c %u -- "$1" 2>/dev/null)"
if [ -e "$1/.git" ]; then echo 'git yes'; else echo 'git no'; fi
commit=$(git -C "$1" rev-parse --verify HEAD 2>&1) && echo "head $commit" || echo "refused $commit"
shift
for layer do
  [ -r "$layer" ] && [ -x "$layer" ] || echo "unreadable $layer"
done
"#;

pub async fn gather(
    prober: &Prober,
    user: Option<&User>,
    checkout: &Path,
    layers: &[PathBuf],
    sources: &[(String, Url)],
) -> SourceFacts {
    let words: Vec<String> = [checkout]
        .into_iter()
        .chain(layers.iter().map(PathBuf::as_path))
        .map(|p| p.to_string_lossy().into())
        .collect();
    let mut argv = vec!["sh", "-c", CHECKOUT, "sh"];
    argv.extend(words.iter().map(String::as_str));
    let mut trusting = prober.environment.clone();
    trust(&mut trusting, checkout);
    let remotes =
        join_all(sources.iter().map(|(name, url)| async move {
            (name.clone(), url.clone(), ls_remote(prober, name, url).await)
        }));
    let (checkout, remotes) =
        tokio::join!(prober.ask("checkout", &argv, user, &trusting, PROBE_LIMIT), remotes);
    SourceFacts { checkout, remotes }
}

/// Lets git accept this one path although another user owns it, as in the environment of a job.
fn trust(environment: &mut Environment, path: &Path) {
    environment
        .set("GIT_CONFIG_COUNT", "1")
        .set("GIT_CONFIG_KEY_0", "safe.directory")
        .set("GIT_CONFIG_VALUE_0", path);
}

async fn ls_remote(prober: &Prober, name: &str, url: &Url) -> Answer {
    let mut environment = prober.environment.clone();
    // A prompt would block until the time limit.
    environment
        .set("GIT_TERMINAL_PROMPT", "0")
        .set("GIT_ASKPASS", "true")
        .set("GIT_SSH_COMMAND", "ssh -oBatchMode=yes");
    let argv = ["git", "ls-remote", "--quiet", "--", url.as_str(), "HEAD"];
    prober.ask(&format!("remote-{name}"), &argv, None, &environment, REMOTE).await
}

pub fn judge(checkout: &Path, user: Option<&User>, facts: &SourceFacts) -> Vec<Finding> {
    let fix = "check it out to another directory";
    let mut findings = vec![judge_path("checkout", checkout, PathUse::Layer, fix)];
    findings.push(judge_git(checkout, user, &facts.checkout).about(checkout));
    findings.extend(judge_readable(user, &facts.checkout).map(|finding| finding.about(checkout)));
    findings.extend(facts.remotes.iter().map(|(name, url, answer)| judge_remote(name, url, answer)));
    findings
}

fn judge_git(checkout: &Path, user: Option<&User>, answer: &Answer) -> Finding {
    const NAME: &str = "git checkout";
    let checkout = checkout.display();
    if answer.lines().is_none() {
        let found = format!("cannot check {checkout}: {}", answer.complaint());
        return Finding::failed(NAME, found, "restore its file system, or use another checkout");
    }
    if let Some(why) = answer.value("refused") {
        if answer.value("git") == Some("yes") {
            let found = format!("git does not work in {checkout}: {why}");
            return Finding::warning(NAME, found, format!("git -C {checkout} rev-parse --verify HEAD"));
        }
        let found = format!(
            "{checkout} is not the top of a git work tree: without CodeBuild's resolved commit, reports name none"
        );
        return Finding::warning(
            NAME,
            found,
            "use a full clone as the source, if reports should name a commit",
        );
    }
    let owner = answer.value("owner").and_then(|uid| uid.parse::<u32>().ok());
    match (owner, user) {
        (Some(owner), Some(user)) if owner != user.uid => {
            let found = format!(
                "it belongs to uid {owner}, and layer code runs as {} (uid {}); the agent sets safe.directory \
                 for this path only",
                user.name, user.uid
            );
            Finding::ok(NAME, found)
        }
        _ => Finding::ok(NAME, format!("at {}", answer.value("head").unwrap_or("an unknown commit"))),
    }
}

fn judge_readable(user: Option<&User>, answer: &Answer) -> Option<Finding> {
    let lines = answer.lines()?;
    let unreadable: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("unreadable ")).collect();
    let first = unreadable.first()?;
    let who = user.map_or("the agent's user", |user| user.name.as_str());
    let found = format!("{who} cannot read {}", unreadable.join(", "));
    let fix = format!("chmod -R a+rX {first}, and a+x on the directories above (namei -l {first})");
    Some(Finding::failed("layers", found, fix))
}

fn judge_remote(name: &str, url: &Url, answer: &Answer) -> Finding {
    let title = format!("remote {name}");
    let shown = public(url);
    match answer {
        Answer::Said { ok: true, .. } => Finding::ok(title, format!("{shown} answers")),
        _ => {
            let found = format!("{shown}: {}", hide(&answer.complaint(), url));
            let fix = format!("git ls-remote {shown} HEAD (proxy, DNS, credentials of this machine)");
            Finding::failed(title, found, fix).upstream()
        }
    }
}

/// The URL without user and password.
fn public(url: &Url) -> String {
    let mut url = url.clone();
    // This fails only for URLs that cannot have credentials.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

/// Removes the URL's credentials from git's output.
fn hide(text: &str, url: &Url) -> String {
    let hidden = text.replace(url.as_str(), &public(url));
    let secrets =
        [url.password().unwrap_or_default(), if url.password().is_some() { "" } else { url.username() }];
    // `git` is the user of every ssh URL and not a secret.
    let secrets = secrets.into_iter().filter(|secret| !secret.is_empty() && *secret != "git");
    secrets.fold(hidden, |text, secret| text.replace(secret, "***"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::doctor::Findings;
    use crate::doctor::State::{Failed, Ok as Fine, Warning};
    use agent_types::error::Class;

    fn said(lines: &[&str]) -> Answer {
        Answer::Said { ok: true, lines: lines.iter().map(|&line| line.to_owned()).collect() }
    }

    fn builder() -> User {
        User { name: "builder".into(), uid: 1000, gid: 1000, home: "/home/builder".into() }
    }

    #[test]
    fn reports_a_checkout_of_another_owner_as_ok() {
        let table = [
            (said(&["owner 1000", "git yes", "head abc"]), Fine, "at abc"),
            (said(&["owner 0", "git yes", "head abc"]), Fine, "safe.directory"),
            (said(&["owner 0", "git no", "refused fatal: not a git repository"]), Warning, "reports name"),
            (said(&["owner 0", "git yes", "refused fatal: bad object"]), Warning, "bad object"),
            (Answer::Nothing("no answer".into()), Failed, "no answer"),
        ];
        for (answer, state, words) in table {
            let finding = judge_git(Path::new("/src"), Some(&builder()), &answer);
            assert_eq!(finding.state, state, "{answer:?}");
            assert!(finding.found.contains(words), "{finding:?}");
        }
    }

    #[test]
    fn rejects_layers_that_the_build_user_cannot_read() {
        assert_eq!(judge_readable(Some(&builder()), &said(&["git yes"])), None);
        let finding =
            judge_readable(Some(&builder()), &said(&["unreadable /root/a", "unreadable /root/b"])).unwrap();
        assert_eq!(finding.state, Failed);
        assert!(finding.found.contains("builder cannot read /root/a, /root/b"), "{finding:?}");
    }

    #[test]
    fn checkout_with_a_failure_has_no_ok_finding() {
        let (checkout, user) = (Path::new("/src/job@2"), builder());
        let facts = |answer| SourceFacts { checkout: answer, remotes: Vec::new() };
        let of = |answer| Findings::new(judge(checkout, Some(&user), &facts(answer))).0;
        let fine = of(said(&["owner 1000", "git yes", "head abc"]));
        assert!(fine.iter().all(|finding| finding.state == Fine) && fine.len() == 2, "{fine:?}");
        for answer in [
            said(&["owner 1000", "git yes", "head abc", "unreadable /src/job@2"]),
            Answer::Nothing("no answer".into()),
        ] {
            let found = of(answer);
            assert!(found.iter().all(|finding| finding.state != Fine), "{found:?}");
        }
        let facts = facts(said(&["owner 1000", "git yes", "head abc"]));
        let found = judge(Path::new("/src/a:b"), Some(&user), &facts);
        assert_eq!((found[0].state, found[0].found.contains("BBPATH")), (Failed, true), "{found:?}");
    }

    #[test]
    fn failed_remote_is_upstream_and_shows_no_credentials() {
        // (URL, output of git, secret)
        let table = [
            (
                "https://me:hunter2@example.org/x.git",
                "fatal: unable to access 'https://me:hunter2@example.org/x.git/': hunter2",
                "hunter2",
            ),
            ("https://tokentoken@example.org/x", "fatal: 'tokentoken' refused", "tokentoken"),
        ];
        for (url, words, secret) in table {
            let answer = Answer::Said { ok: false, lines: vec![words.to_owned(), "more".to_owned()] };
            let finding = judge_remote("x", &Url::parse(url).unwrap(), &answer);
            assert_eq!((finding.state, finding.class), (Failed, Class::Upstream));
            assert!(!format!("{finding:?}").contains(secret), "{finding:?}");
            assert!(finding.found.contains("fatal:") && !finding.found.contains("more"), "{finding:?}");
        }
    }

    #[test]
    fn user_of_ssh_urls_is_not_hidden() {
        let url = Url::parse("ssh://git@example.org/x").unwrap();
        assert_eq!(hide("git: cannot connect", &url), "git: cannot connect");
    }
}
