//! Checks user namespaces, with which BitBake disables the network for tasks.
//!
//! From kirkstone on, a task without `[network]` runs after `unshare(CLONE_NEWNET | CLONE_NEWUSER)`.
//! When that call fails, BitBake keeps the network on and reports nothing. When it works but the user map
//! is not writable (AppArmor on newer Ubuntu hosts), BitBake stops.

use agent_process::User;
use agent_types::release::Release;

use super::finding::Finding;
use agent_process::{Answer, PROBE_LIMIT, Prober};

#[derive(Clone, Debug)]
pub struct NamespaceFacts {
    /// `unshare --user --net --map-root-user true` as the build user: the namespaces of BitBake, and a
    /// user map.
    pub attempt: Answer,
    /// `kernel.apparmor_restrict_unprivileged_userns` (Ubuntu).
    pub apparmor: Option<u64>,
    /// `kernel.unprivileged_userns_clone` (Debian).
    pub clone: Option<u64>,
    /// `user.max_user_namespaces`.
    pub most: Option<u64>,
}

pub async fn gather(prober: &Prober, user: Option<&User>) -> NamespaceFacts {
    let number = |path: &str| fs_err::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let argv = ["unshare", "--user", "--net", "--map-root-user", "true"];
    NamespaceFacts {
        attempt: prober.ask("namespaces", &argv, user, &prober.environment, PROBE_LIMIT).await,
        apparmor: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
        clone: number("/proc/sys/kernel/unprivileged_userns_clone"),
        most: number("/proc/sys/user/max_user_namespaces"),
    }
}

pub fn judge(release: &Release, facts: &NamespaceFacts) -> Finding {
    const NAME: &str = "user namespaces";
    // BitBake 1.x never disables the network.
    if release.bitbake.starts_with("1.") {
        return Finding::ok(NAME, format!("not used by {}", release.name));
    }
    let complaint = facts.attempt.complaint();
    match &facts.attempt {
        Answer::Said { ok: true, .. } => Finding::ok(NAME, "they work: tasks have no network"),
        Answer::Nothing(_) => {
            Finding::warning(NAME, format!("cannot be checked: {complaint}"), "apt-get install -y util-linux")
        }
        Answer::Said { ok: false, .. } => judge_refusal(NAME, &complaint, facts),
    }
}

fn judge_refusal(name: &str, complaint: &str, facts: &NamespaceFacts) -> Finding {
    if facts.apparmor == Some(1) || complaint.contains("uid_map") {
        let found = format!("the host's AppArmor blocks them, so BitBake stops: {complaint}");
        let fix = "on the host: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0 \
                    (cannot be set from inside a container)";
        return Finding::failed(name, found, fix);
    }
    let found =
        format!("they do not work, so every task has network access, and BitBake does not warn: {complaint}");
    let fix = if facts.clone == Some(0) {
        "on the host: sysctl -w kernel.unprivileged_userns_clone=1 (cannot be set from inside a container)"
    } else if facts.most == Some(0) {
        "on the host: sysctl -w user.max_user_namespaces=15000 (cannot be set from inside a container)"
    } else {
        "let the container's seccomp profile allow `unshare`: docker run --security-opt seccomp=unconfined"
    };
    Finding::warning(name, found, fix)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::doctor::State::{Failed, Ok as Fine, Warning};

    #[test]
    fn user_map_failure_fails_and_unshare_failure_warns() {
        let works = Answer::Said { ok: true, lines: vec![] };
        let no = |line: &str| Answer::Said { ok: false, lines: vec![line.to_owned()] };
        let seccomp = "unshare: unshare failed: Operation not permitted";
        let map = "unshare: write failed /proc/self/uid_map: Operation not permitted";
        let table = [
            ("scarthgap", works, None, None, None, Fine, None),
            ("dunfell", no(seccomp), None, None, None, Fine, None),
            ("scarthgap", no(map), None, None, None, Failed, Some("apparmor_restrict")),
            ("scarthgap", no(seccomp), Some(1), None, None, Failed, Some("apparmor_restrict")),
            ("scarthgap", no(seccomp), Some(0), Some(0), None, Warning, Some("unprivileged_userns_clone=1")),
            ("scarthgap", no(seccomp), None, None, Some(0), Warning, Some("max_user_namespaces")),
            ("scarthgap", no(seccomp), None, Some(1), Some(9), Warning, Some("seccomp")),
            ("kirkstone", Answer::Nothing("not found".into()), None, None, None, Warning, Some("util-linux")),
        ];
        for (name, attempt, apparmor, clone, most, state, fix) in table {
            let facts = NamespaceFacts { attempt, apparmor, clone, most };
            let finding = judge(Release::find(name).unwrap(), &facts);
            assert_eq!(finding.state, state, "{facts:?}");
            match fix {
                Some(words) => assert!(finding.fix.as_deref().unwrap().contains(words), "{finding:?}"),
                None => assert_eq!(finding.fix, None),
            }
        }
    }
}
