//! Routing rules of the kernel that refuse the addresses of credentials to the build user.
//!
//! A rule matches the user id that the kernel knows, so it also holds inside of user namespaces. In a network
//! namespace of its own a process has no route to these addresses.

use std::net::IpAddr;

use crate::capabilities::may_administer_network;
use crate::{Prober, User};

/// Before the kernel's own rules for the main table (32766), after the one for local addresses (0).
const PRIORITY: &str = "100";

/// Where users have ranges of more ids, which they can use in user namespaces.
const SUBORDINATE_IDS: &str = "/etc/subuid";

/// `$1` is the priority, each further word is `-4|-6 ADDRESS FIRST-LAST`. Each rule is added once: the kernel refuses
/// an equal one.
const ADD: &str = r#"
priority=$1
shift
for rule in "$@"; do
  set -- $rule
  message=$(ip "$1" rule add priority "$priority" to "$2" uidrange "$3" prohibit 2>&1) && continue
  case $message in *'File exists'*) ;; *) echo "$2: $message" | tr '\n' ' '; echo ;; esac
done
"#;

/// Adds the rules. Returns what could not be closed; nothing if the right to administer the network is missing,
/// because the finding about the credentials says so if it matters.
pub async fn add(prober: &Prober, user: &User, addresses: &[IpAddr]) -> Vec<String> {
    if !may_administer_network() {
        return Vec::new();
    }
    let subordinate = std::fs::read_to_string(SUBORDINATE_IDS).unwrap_or_default();
    let rules = rules(addresses, &ranges(user, &subordinate));
    let words: Vec<&str> = [PRIORITY].into_iter().chain(rules.iter().map(String::as_str)).collect();
    let answer = prober.script("fence", ADD, &words, None).await;
    match answer.lines() {
        Some(lines) => lines.iter().map(|line| format!("no rule of `ip` for {}", line.trim())).collect(),
        None => vec![format!("`ip rule` failed: {}", answer.complaint())],
    }
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
