//! Tests of probes on this machine, and of the judgement.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use agent_types::share::Share;

fn share() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn probe_of_a_good_share_leaves_no_files() {
    let share = share();
    let found = look(share.path(), Path::new("."), true);
    assert_eq!(found.writing, Writing::Works, "{found:?}");
    assert!(found.unreadable.is_none() && found.empty && !found.missing);
    assert!(found.file_system.is_some(), "a mount of {:?}", share.path());
    assert_eq!(fs::read_dir(share.path()).unwrap().count(), 0, "the probe left something");
    fs::write(share.path().join("x"), "").unwrap();
    let found = look(share.path(), Path::new("."), false);
    assert!(!found.empty && found.writing == Writing::NotTried);
}

#[test]
fn creates_the_tier_of_a_pull_request_only_to_write_it() {
    let share = share();
    let part = Path::new("pr/12");
    let found = look(share.path(), part, false);
    assert!(found.missing && found.unreadable.is_some());
    assert!(!share.path().join("pr").exists(), "a look that does not write made something");
    let found = look(share.path(), part, true);
    assert_eq!((found.missing, found.writing), (false, Writing::Works));
    assert!(share.path().join(part).is_dir());
}

#[test]
fn does_not_follow_links_of_other_users() {
    let (share, elsewhere) = (share(), share());
    std::os::unix::fs::symlink(elsewhere.path(), share.path().join("pr")).unwrap();
    let found = look(share.path(), Path::new("pr/12"), true);
    assert!(found.unreadable.as_ref().unwrap().contains("is not a directory"), "{found:?}");
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0, "it was written through a link");
}

#[test]
fn reports_a_path_that_is_not_a_directory() {
    let share = share();
    let file = share.path().join("file");
    fs::write(&file, "").unwrap();
    let found = look(&file, Path::new("."), true);
    assert!(found.unreadable.unwrap().contains("is not a directory"));
    let found = look(&share.path().join("gone"), Path::new("."), true);
    assert!(found.missing && found.unreadable.is_some());
}

fn tier(kind: TierKind) -> Tier {
    Tier { kind, share: Share::new("/efs") }
}

/// A probe without any problem.
fn well() -> Look {
    Look { writing: Writing::Works, file_system: Some("nfs4".into()), ..Look::default() }
}

/// The state, and whether there is a fix.
fn judged(
    kind: TierKind,
    wanted: bool,
    agent: &Result<Look, String>,
    builder: &Result<Look, String>,
) -> (State, bool) {
    let judgement = judge(&tier(kind), wanted, agent, builder);
    assert!(judgement.reason.is_some() || judgement.fix.is_none(), "{judgement:?}");
    (judgement.state, judgement.fix.is_some())
}

#[test]
fn judges_tiers() {
    use State::{ReadOnly, ReadWrite, Unusable};
    use TierKind::{PullRequest, Shared};
    let good = Ok(well());
    let silent = Err("no answer within 10s".to_owned());
    let with = |change: fn(&mut Look)| {
        let mut look = well();
        change(&mut look);
        Ok(look)
    };
    let fails = with(|look| look.writing = Writing::Fails("Read-only file system".into()));
    let linkless = with(|look| look.writing = Writing::NoHardLinks("Operation not permitted".into()));
    let not_tried = with(|look| look.writing = Writing::NotTried);
    let closed = with(|look| look.unreadable = Some("Permission denied".into()));
    let missing = with(|look| {
        look.missing = true;
        look.unreadable = Some("No such file or directory".into());
    });
    let unmounted = with(|look| (look.empty, look.on_root_disk) = (true, true));
    let empty_mount = with(|look| look.empty = true);
    let table = [
        ("good, to write", Shared, true, &good, &good, ReadWrite, false),
        ("good, to read", Shared, false, &not_tried, &not_tried, ReadOnly, false),
        ("silent", Shared, true, &silent, &silent, Unusable, true),
        ("silent for BitBake's user", Shared, true, &good, &silent, Unusable, true),
        ("silent for the agent", Shared, true, &silent, &good, ReadOnly, true),
        ("read-only mount", Shared, true, &fails, &good, ReadOnly, true),
        ("no hard links", Shared, true, &linkless, &good, ReadOnly, true),
        ("never tried", Shared, true, &not_tried, &good, ReadOnly, true),
        ("closed to BitBake's user", Shared, true, &good, &closed, Unusable, true),
        ("closed to the agent", Shared, false, &closed, &good, ReadOnly, false),
        ("missing", Shared, true, &missing, &missing, Unusable, true),
        ("missing, to read", Shared, false, &missing, &missing, Unusable, true),
        (
            "first build of a pull request that may not write",
            PullRequest,
            false,
            &missing,
            &missing,
            Unusable,
            false,
        ),
        ("a part that could not be made", PullRequest, true, &missing, &missing, Unusable, true),
        ("an empty part", PullRequest, true, &unmounted, &unmounted, ReadWrite, false),
        ("not mounted", Shared, true, &unmounted, &unmounted, ReadWrite, true),
        ("a new mount", Shared, true, &empty_mount, &empty_mount, ReadWrite, false),
    ];
    for (what, kind, wanted, agent, builder, state, warned) in table {
        assert_eq!(judged(kind, wanted, agent, builder), (state, warned), "{what}");
    }
}

#[test]
fn look_round_trips_through_json() {
    for look in [well(), Look { writing: Writing::Fails("a\nb".into()), ..Look::default() }] {
        let line = serde_json::to_string(&look).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Look>(&line).unwrap(), look);
    }
}
