use std::time::{Duration, SystemTime};

use agent_types::events::{Finding, Level};
use agent_types::reproduction::Reproduction;

use super::super::records::Attempt;
use super::*;
use crate::report::merged;
use crate::report::sample;

const COMMIT: &str = "c0ffee";

fn cells(number: usize) -> Vec<CellIdentity> {
    let cell = |number| CellIdentity {
        id: format!("scarthgap_m{number}"),
        name: "meta-x".into(),
        release: "scarthgap".into(),
        machines: vec![format!("m{number}")],
    };
    (0..number).map(cell).collect()
}

fn result(cell: &CellIdentity, passed: bool) -> Summary {
    let mut summary = if passed { sample::passed() } else { sample::reduce(&sample::failing_job()) };
    summary.job.name.clone_from(&cell.name);
    summary.job.release.clone_from(&cell.release);
    summary.job.machines.clone_from(&cell.machines);
    summary.job.cell = Some(cell.id.clone());
    summary.job.commit = Some(COMMIT.into());
    summary.job.dirty = false;
    summary
}

fn bytes(summary: &Summary) -> Vec<u8> {
    report::render_result(summary).unwrap().into_bytes()
}

/// What is in the store.
#[derive(Clone, Default)]
struct Found {
    cells: BTreeMap<String, (Attempts, Stored)>,
    unexpected: Vec<String>,
}

fn merge(
    cells: &[CellIdentity],
    commit: &str,
    found: &Found,
    builds: Option<&BTreeMap<String, CellBuild>>,
) -> Merged {
    let mut merge = Merger::new(cells, commit, builds);
    for cell in cells {
        let (attempts, stored) = found.cells.get(&cell.id).cloned().unzip();
        merge.add(cell, attempts.as_ref(), &stored.flatten());
    }
    merge.finish(&found.unexpected)
}

fn attempt(result: Option<Vec<u8>>) -> (Attempts, Stored) {
    let latest = Attempt::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000), "u-1");
    (Attempts { number: 1, latest }, result.map(Ok))
}

fn green(cells: &[CellIdentity]) -> Found {
    let found = |cell: &CellIdentity| (cell.id.clone(), attempt(Some(bytes(&result(cell, true)))));
    Found { cells: cells.iter().map(found).collect(), unexpected: Vec::new() }
}

fn builds(cells: &[CellIdentity], status: BuildStatus) -> BTreeMap<String, CellBuild> {
    let build =
        |cell: &CellIdentity| (cell.id.clone(), CellBuild { status, id: Some("u-1".into()), arn: None });
    cells.iter().map(build).collect()
}

fn exit(cells: &[CellIdentity], found: &Found) -> ExitStatus {
    let merged = merge(cells, COMMIT, found, None);
    assert_eq!(merged.jobs.len(), cells.len());
    merged::exit(&merged.jobs)
}

/// How a cell may be lost.
fn lose(found: &mut Found, cell: &CellIdentity, how: usize) {
    match how % 3 {
        0 => drop(found.cells.remove(&cell.id)),
        1 => drop(found.cells.insert(cell.id.clone(), attempt(None))),
        _ => drop(found.cells.insert(cell.id.clone(), attempt(Some(b"{".to_vec())))),
    }
}

#[test]
fn all_cells_passed_or_it_is_not_green() {
    let all = cells(3);
    let found = green(&all);
    let merged = merge(&all, COMMIT, &found, Some(&builds(&all, BuildStatus::Succeeded)));
    assert_eq!((merged::exit(&merged.jobs), merged.warnings.len()), (ExitStatus::Passed, 0));
    assert_eq!(exit(&all, &found), ExitStatus::Passed);
    let mut failed = found.clone();
    failed.cells.insert(all[1].id.clone(), attempt(Some(bytes(&result(&all[1], false)))));
    assert_ne!(exit(&all, &failed), ExitStatus::Passed);
}

/// Every subset of up to eight cells.
#[test]
fn no_subset_of_lost_cells_is_green() {
    for number in 1..=8 {
        let all = cells(number);
        let whole = green(&all);
        for lost in 1..(1usize << number) {
            let mut found = whole.clone();
            for (place, cell) in all.iter().enumerate().filter(|(place, _)| lost >> place & 1 == 1) {
                lose(&mut found, cell, place + lost);
            }
            assert_eq!(exit(&all, &found), ExitStatus::Machine, "{lost:b} of {number}");
        }
    }
}

/// Random subsets of the largest matrix.
#[test]
fn no_cell_of_many_may_be_lost() {
    let all = cells(256);
    let whole = green(&all);
    assert_eq!(exit(&all, &whole), ExitStatus::Passed);
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..12 {
        let mut found = whole.clone();
        for _ in 0..=(round % 4) * 40 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let place = usize::try_from(random % 256).unwrap();
            lose(&mut found, &all[place], place);
        }
        assert_eq!(exit(&all, &found), ExitStatus::Machine, "round {round}");
    }
}

#[test]
fn a_result_of_something_else_is_none() {
    let all = cells(2);
    type Change = fn(&mut Summary);
    let table: [(Change, &str); 9] = [
        (|it| it.job.cell = Some("scarthgap_m0".into()), "another job"),
        (|it| it.job.cell = None, "another job"),
        (|it| it.job.commit = Some("beef".into()), "not that of this commit"),
        (|it| it.job.commit = None, "not that of this commit"),
        (|it| it.job.dirty = true, "not that of this commit"),
        (|it| it.job.machines = vec!["m0".into()], "another job"),
        (|it| it.job.release = "kirkstone".into(), "another job"),
        (|it| it.job.name = "meta-y".into(), "another job"),
        (|it| it.complete = false, "contradicts itself"),
    ];
    for (change, wanted) in table {
        let mut found = green(&all);
        let mut summary = result(&all[1], true);
        change(&mut summary);
        found.cells.insert(all[1].id.clone(), attempt(Some(bytes(&summary))));
        let merged = merge(&all, COMMIT, &found, None);
        assert_eq!(merged::exit(&merged.jobs), ExitStatus::Machine, "{wanted}");
        assert!(merged.warnings[0].contains(wanted), "{wanted}: {:?}", merged.warnings);
        assert_eq!(merged.jobs[1].job.machines, all[1].machines);
    }
}

/// Cells that were judged by different base commits are not one result.
#[test]
fn cells_with_different_sources_do_not_pass() {
    let all = cells(2);
    let mut found = green(&all);
    let on_base = |cell: &CellIdentity, base: &str| {
        let mut summary = result(cell, true);
        summary.reproduction = Some(Reproduction { base: Some(base.into()), ..Reproduction::default() });
        attempt(Some(bytes(&summary)))
    };
    for (bases, wanted) in [(["a", "a"], ExitStatus::Passed), (["a", "b"], ExitStatus::Machine)] {
        for (cell, base) in all.iter().zip(bases) {
            found.cells.insert(cell.id.clone(), on_base(cell, base));
        }
        let merged = merge(&all, COMMIT, &found, Some(&builds(&all, BuildStatus::Succeeded)));
        assert_eq!(merged::exit(&merged.jobs), wanted, "{bases:?}");
        assert!(merged.jobs.iter().all(|job| job.exit == wanted), "{bases:?}");
    }
}

/// A cell cannot forge the status of its build.
#[test]
fn codebuild_has_to_agree_with_a_pass() {
    let all = cells(2);
    let found = green(&all);
    for status in [
        BuildStatus::Failed,
        BuildStatus::Fault,
        BuildStatus::TimedOut,
        BuildStatus::Stopped,
        BuildStatus::InProgress,
    ] {
        let merged = merge(&all, COMMIT, &found, Some(&builds(&all, status)));
        let stopped = status == BuildStatus::Stopped;
        let wanted = if stopped { ExitStatus::Cancelled } else { ExitStatus::Machine };
        assert_eq!(merged::exit(&merged.jobs), wanted, "{status:?}");
    }
    // CodeBuild knows no build of the cell, or a later one than the store.
    assert_ne!(merged::exit(&merge(&all, COMMIT, &found, Some(&BTreeMap::new())).jobs), ExitStatus::Passed);
    let mut later = builds(&all, BuildStatus::Succeeded);
    later.get_mut(&all[0].id).unwrap().id = Some("u-2".into());
    let merged = merge(&all, COMMIT, &found, Some(&later));
    assert_ne!(merged::exit(&merged.jobs), ExitStatus::Passed);
    assert!(merged.warnings[0].contains("its last build has no result"), "{:?}", merged.warnings);
}

#[test]
fn hostile_results_are_escaped_and_bounded() {
    let all = cells(1);
    for text in ["\u{1b}[31m", "{\"schema\": \"\u{1b}[31m\\n::error::\"}", ""] {
        let mut found = green(&all);
        found.cells.insert(all[0].id.clone(), attempt(Some(text.as_bytes().to_vec())));
        found.unexpected = vec!["a".into(); 4];
        let merged = merge(&all, COMMIT, &found, None);
        assert_eq!(merged::exit(&merged.jobs), ExitStatus::Machine);
        assert!(merged.warnings.iter().all(|line| !line.contains(['\n', '\u{1b}'])), "{:?}", merged.warnings);
        assert!(merged.warnings[1].contains("4 files"), "{:?}", merged.warnings);
    }
}

/// Many large results are shortened, and keep their verdict. What cannot be shortened is red.
#[test]
fn large_results_are_shortened() {
    let all = cells(64);
    let mut found = green(&all);
    let mut large = result(&all[0], true);
    let finding = Finding {
        unit: sample::preflight(),
        level: Level::Warning,
        rule: "rule".into(),
        message: "x".repeat(1000),
        file: None,
        line: None,
        hint: None,
    };
    large.findings = vec![finding; 2000];
    found.cells.insert(all[0].id.clone(), attempt(Some(bytes(&large))));
    let merged = merge(&all, COMMIT, &found, None);
    assert_eq!(merged::exit(&merged.jobs), ExitStatus::Passed);
    assert!(merged.jobs[0].findings.len() < 2000 && merged.warnings.is_empty(), "{:?}", merged.warnings);
    large.job.manifest = "x".repeat(2 << 20);
    found.cells.insert(all[0].id.clone(), attempt(Some(bytes(&large))));
    let merged = merge(&all, COMMIT, &found, None);
    assert_eq!(merged::exit(&merged.jobs), ExitStatus::Machine);
    assert!(merged.warnings[0].contains("too large"), "{:?}", merged.warnings);
}
