use super::*;
use crate::lab::status::SCHEMA;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045 + seconds)
}

fn device(name: &str, state: DeviceState, why: Option<&str>) -> DeviceStatus {
    DeviceStatus {
        name: name.into(),
        pool: "raspberrypi4".into(),
        control: "labgrid".into(),
        features: vec!["wifi".into(), "tpm".into()],
        untrusted: name == "pi-2",
        state,
        why: why.map(Into::into),
        request: (state == DeviceState::Running).then(|| "20260102T030405Z-0f5d7e0c91b2a3d4".into()),
        attempt: (state == DeviceState::Running).then_some(2),
        since: at(0),
    }
}

fn entry(outcome: Outcome, decided: bool, seconds: u64) -> HistoryEntry {
    HistoryEntry {
        request: "20260102T030405Z-0f5d7e0c91b2a3d4".into(),
        attempt: Some(1),
        device: "pi-1".into(),
        image: "core-image-minimal".into(),
        job: "meta-x".into(),
        commit: Some("0123456789abcdef0123456789abcdef01234567".into()),
        outcome,
        decided,
        time: at(seconds),
    }
}

fn lab(devices: Vec<DeviceStatus>, history: Vec<HistoryEntry>) -> (LabStatus, SystemTime) {
    let status = LabStatus {
        schema: SCHEMA.into(),
        lab: "desk".into(),
        version: "0.1.0".into(),
        started: at(0),
        stopped: false,
        problem: None,
        devices,
        history,
    };
    (status, at(9))
}

#[test]
fn the_newest_end_comes_first_and_links_to_its_report() {
    let history = vec![entry(Outcome::Passed, true, 1), entry(Outcome::NotRun("it broke".into()), false, 2)];
    let devices = vec![
        device("pi-1", DeviceState::Running, None),
        device("pi-2", DeviceState::Sick, Some("it does not boot")),
    ];
    let page = render(&[lab(devices, history)], &[], at(10));
    let place = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text} is not in {page}"));
    assert!(place("no verdict") < place(">passed<"), "{page}");
    assert!(page.contains("href=\"requests/20260102T030405Z-0f5d7e0c91b2a3d4/reports/1/report.html\""));
    for text in [
        "1 sick",
        "it does not boot",
        "attempt 2",
        "0123456789ab<",
        "The queue is empty",
        "untrusted sources",
    ] {
        place(text);
    }
    assert!(!page.contains("<script"), "{page}");
}

#[test]
fn nothing_in_the_store_becomes_markup() {
    let evil = "<script>alert(1)</script>\u{202e}\u{1b}[31m";
    let mut hostile = device(evil, DeviceState::Waiting, Some(evil));
    hostile.request = Some(evil.into());
    let mut ended = entry(Outcome::Failed(evil.into()), true, u64::MAX / 4);
    (ended.request, ended.image, ended.job) = ("../../..\"><b>".into(), evil.into(), evil.into());
    let mut labs = [lab(vec![hostile], vec![ended])];
    labs[0].0.problem = Some(evil.into());
    let queue = [QueueEntry {
        id: evil.into(),
        submitted: SystemTime::UNIX_EPOCH,
        state: "invalid",
        detail: Some(evil.into()),
        request: None,
    }];
    let page = render(&labs, &queue, at(10));
    assert!(!page.contains("<script") && !page.contains("<b>") && !page.contains('\u{1b}'), "{page}");
    assert!(!page.contains("href=\"requests/../"), "{page}");
}

#[test]
fn an_empty_store_has_a_page() {
    let page = render(&[], &[], at(10));
    assert!(page.contains("No lab has written its status yet") && page.contains("Nothing has ended yet"));
}

#[test]
fn a_silent_lab_is_named() {
    for (seconds, silent) in [(10, false), (3600, true)] {
        let page = render(&[lab(Vec::new(), Vec::new())], &[], at(seconds));
        assert_eq!(page.contains("was last seen at"), silent, "{seconds}");
    }
}
