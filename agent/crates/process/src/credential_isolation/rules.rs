//! Routing rules of the kernel that refuse the addresses of credentials to the build user.
//!
//! A rule matches the user id that the kernel knows, so it also holds inside of user namespaces. In a network
//! namespace of its own a process has no route to these addresses.
//!
//! Where a service runs the agent, and in a container, the rules stay: the machine is there for builds, and a process
//! that outlives the job runs as the same user. On a person's machine the user may have another purpose, so the rules end
//! with the job. There each job has rules of its own, so that the end of one job opens nothing to another.

use std::net::IpAddr;
use std::path::Path;

use crate::capabilities::may_administer_network;
use crate::{Interrupt, Prober, Runner, User};

/// The priorities of rules that stay, and of a job's own. They are before the kernel's own rules for the main table
/// (32766), and after the one for local addresses (0).
const STAYS: [&str; 2] = ["100", "100"];
const OF_JOB: [&str; 2] = ["101", "199"];

/// Where users have ranges of more ids, which they can use in user namespaces.
const SUBORDINATE_IDS: &str = "/etc/subuid";

/// `$1` and `$2` are the first and the last priority, each further word is `-4|-6 ADDRESS FIRST-LAST`. The kernel refuses
/// an equal rule with the same priority. Prints `added PRIORITY RULE` and `failed ADDRESS: WHY`.
const ADD: &str = r#"
first=$1 last=$2
shift 2
for rule in "$@"; do
  set -- $rule
  priority=$first
  while :; do
    if message=$(ip "$1" rule add priority "$priority" to "$2" uidrange "$3" prohibit 2>&1); then
      echo "added $priority $rule"
      break
    fi
    case $message in
      *'File exists'*) ;;
      *) echo "failed $2:" $message; break ;;
    esac
    [ "$priority" -lt "$last" ] || break
    priority=$((priority + 1))
  done
done
"#;

/// Each word is `PRIORITY -4|-6 ADDRESS FIRST-LAST`.
const REMOVE: &str = r#"
for rule in "$@"; do
  set -- $rule
  ip "$2" rule del priority "$1" to "$3" uidrange "$4" prohibit
done
"#;

/// The rules that end with the job.
#[derive(Debug, Default)]
#[must_use = "remove them at the end of the job"]
pub struct JobRules(Vec<String>);

impl JobRules {
    /// Removes the rules, also in a job that is being stopped.
    pub async fn remove(self, prober: &Prober) {
        if self.0.is_empty() {
            return;
        }
        let words: Vec<&str> = self.0.iter().map(String::as_str).collect();
        let answer = to_the_end(prober).script("credential-rules", REMOVE, &words, None).await;
        if answer.lines().is_none_or(|lines| !lines.is_empty()) {
            tracing::warn!("rules of `ip` are left until the next boot: {}", answer.complaint());
        }
    }
}

/// Whether this is a container of docker or podman.
pub fn in_container() -> bool {
    ["/.dockerenv", "/run/.containerenv"].iter().any(|file| Path::new(file).exists())
}

/// Adds the rules, and returns those that do not stay. Adds none if the right to administer the network is missing,
/// because the finding about the credentials says so if it matters.
pub async fn add(prober: &Prober, user: &User, addresses: &[IpAddr], stay: bool) -> JobRules {
    if !may_administer_network() {
        return JobRules::default();
    }
    let subordinate = std::fs::read_to_string(SUBORDINATE_IDS).unwrap_or_default();
    let rules = rules(addresses, &ranges(user, &subordinate));
    let priorities = if stay { STAYS } else { OF_JOB };
    let words: Vec<&str> = priorities.into_iter().chain(rules.iter().map(String::as_str)).collect();
    let answer = to_the_end(prober).script("credential-rules", ADD, &words, None).await;
    let Some(lines) = answer.lines() else {
        tracing::warn!("`ip rule` failed: {}", answer.complaint());
        return JobRules::default();
    };
    for line in lines.iter().filter_map(|line| line.strip_prefix("failed ")) {
        tracing::warn!("no rule of `ip` for {line}");
    }
    let added = lines.iter().filter_map(|line| line.strip_prefix("added ")).map(str::to_owned);
    JobRules(if stay { Vec::new() } else { added.collect() })
}

/// The same, also in a job that is being stopped: rules that are half added or half removed help nobody.
fn to_the_end(prober: &Prober) -> Prober {
    let runner = Runner { interrupt: Interrupt::new(None), ..prober.runner.clone() };
    Prober { runner, ..prober.clone() }
}

/// One word of the script for each address and range.
fn rules(addresses: &[IpAddr], ranges: &[(u32, u32)]) -> Vec<String> {
    let of = |address: &IpAddr| {
        let family = if address.is_ipv4() { "-4" } else { "-6" };
        let address = address.to_string();
        ranges.iter().map(move |(first, last)| format!("{family} {address} {first}-{last}"))
    };
    addresses.iter().flat_map(of).collect()
}

/// The user's id, and the ranges of `/etc/subuid` (`name-or-uid:first:count`).
fn ranges(user: &User, subordinate: &str) -> Vec<(u32, u32)> {
    let uid = user.uid.to_string();
    let range = |line: &str| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let (first, count) = (fields.next()?.parse::<u32>().ok()?, fields.next()?.parse::<u32>().ok()?);
        let last = first.checked_add(count.checked_sub(1)?)?;
        // A range with root would close the addresses to the agent.
        (first > 0 && (owner == user.name || owner == uid)).then_some((first, last))
    };
    [(user.uid, user.uid)].into_iter().chain(subordinate.lines().filter_map(range)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_id_that_the_user_can_become_has_a_range() {
        let user = User { name: "builder".into(), uid: 1000, gid: 1000, home: "/".into() };
        for (subordinate, wanted) in [
            ("", &[][..]),
            ("builder:100000:65536\nother:200000:65536\n", &[(100_000, 165_535)]),
            ("1000:300000:1\n\n# x\n", &[(300_000, 300_000)]),
            ("builder:1:2\nbuilder:5:5", &[(1, 2), (5, 9)]),
            ("builder:0:10\nbuilder:5\nbuilder:x:1\nbuilder:9:0\nbuilder:4294967295:2\nbuilder2:1:1", &[]),
        ] {
            let all = ranges(&user, subordinate);
            assert_eq!((all[0], &all[1..]), ((1000, 1000), wanted), "{subordinate:?}");
        }
    }

    #[test]
    fn a_rule_names_the_family_the_address_and_the_range() {
        let addresses = ["169.254.170.2", "fd00:ec2::23"].map(|text| text.parse().unwrap());
        assert_eq!(
            rules(&addresses, &[(7, 7), (100, 199)]),
            [
                "-4 169.254.170.2 7-7",
                "-4 169.254.170.2 100-199",
                "-6 fd00:ec2::23 7-7",
                "-6 fd00:ec2::23 100-199"
            ]
        );
    }
}
