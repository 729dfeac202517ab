use std::time::SystemTime;

use agent_types::outcome::{ExitStatus, Outcome};

use super::*;
use crate::request::sample::request;

const ID: &str = "20260102T030405Z-0f5d7e0c91b2a3d4";

fn verdict(device: &str) -> Verdict {
    Verdict {
        attempt: Some(1),
        lab: Some("lab".into()),
        device: Some(device.into()),
        exit: ExitStatus::Passed,
        outcome: Outcome::Passed,
        result_sha256: None,
        time: SystemTime::UNIX_EPOCH,
    }
}

async fn queue(place: &tempfile::TempDir) -> Queue {
    Queue::open(&Destination::Directory(place.path().into()), None).await.unwrap()
}

#[test]
fn only_valid_requests_are_used() {
    type Change = fn(&mut DeviceRequest);
    let changes: [(Change, Option<&str>); 16] = [
        (|_| {}, None),
        (|request| request.schema = "build-agent/device-request/v2".into(), Some("schema")),
        (|request| request.id = "20260102T030405Z-other".into(), Some("its id is")),
        (|request| request.pool = " ".into(), Some("`pool`")),
        (|request| request.image = "a\nb".into(), Some("`image`")),
        (|request| request.machine = "m".repeat(500), Some("`machine`")),
        (|request| request.tests.clear(), Some("no tests")),
        (|request| request.features = vec![String::new()], Some("feature")),
        (|request| request.commands = vec![String::new()], Some("empty")),
        (|request| request.files[0].name = "../image".into(), Some("name of a file")),
        (|request| request.files[0].name = ".image".into(), Some("name of a file")),
        (|request| request.files.push(request.files[0].clone()), Some("twice")),
        (|request| request.files[0].sha256 = "0".repeat(63), Some("digest")),
        (|request| request.files[0].sha256 = format!("../{}", "0".repeat(61)), Some("digest")),
        (|request| request.run_limit = 0, Some("`run_limit`")),
        (|request| request.queue_limit = u64::MAX, Some("`queue_limit`")),
    ];
    for (number, (change, wanted)) in changes.into_iter().enumerate() {
        let mut changed = request();
        change(&mut changed);
        let parsed = parse_request(&to_json(&changed).unwrap(), ID);
        match (parsed, wanted) {
            (Ok(parsed), None) => assert_eq!(parsed, changed),
            (Err(error), Some(wanted)) => assert!(error.message.contains(wanted), "{number}: {error}"),
            (parsed, _) => panic!("{number}: {parsed:?}"),
        }
    }
    for content in ["", "[]", "{}", "{\"schema\":1}", &"[".repeat(100_000), &" ".repeat(300_000)] {
        assert!(parse_request(content.as_bytes(), ID).is_err());
    }
    for (id, wanted) in
        [(ID, true), ("../../../x", false), ("a/b/c/d/e", false), ("short", false), ("", false)]
    {
        assert_eq!(is_id(id), wanted, "{id}");
    }
}

#[tokio::test]
async fn a_request_waits_runs_and_ends_once() {
    let place = tempfile::tempdir().unwrap();
    let queue = queue(&place).await;
    assert_eq!(queue.status(ID).await.unwrap(), None);
    assert_eq!(queue.request("../x").await.unwrap(), None);
    queue.submit(&request()).await.unwrap();
    queue.submit(&request()).await.unwrap();
    assert!(queue.submit(&DeviceRequest { priority: 1, ..request() }).await.is_err());
    assert_eq!(queue.status(ID).await.unwrap(), Some(RequestStatus::Waiting));
    assert_eq!(queue.request(ID).await.unwrap(), Some(request()));
    let open = queue.open_requests().await.unwrap();
    assert_eq!(open.iter().map(|open| open.id.as_str()).collect::<Vec<_>>(), [ID]);

    let attempt = |nonce: &str| AttemptRecord {
        lab: "lab".into(),
        device: "pi".into(),
        lease: 1,
        nonce: nonce.into(),
        started: SystemTime::UNIX_EPOCH,
    };
    queue.store.create(&layout::lease("pi", 1), b"{}".to_vec()).await.unwrap();
    assert!(queue.claim(ID, 1, &attempt("a")).await.unwrap());
    assert!(queue.claim(ID, 1, &attempt("a")).await.unwrap(), "its answer was lost");
    assert!(!queue.claim(ID, 1, &attempt("b")).await.unwrap());
    let running = RequestStatus::Running { attempt: 1, lab: "lab".into(), device: "pi".into() };
    assert_eq!(queue.status(ID).await.unwrap(), Some(running));
    assert!(queue.cancel(ID, "me").await.unwrap());
    queue.store.create(&layout::released("pi", 1), Vec::new()).await.unwrap();
    assert_eq!(queue.status(ID).await.unwrap(), Some(RequestStatus::Cancelled));

    assert_eq!(queue.decide(ID, &verdict("pi")).await.unwrap(), verdict("pi"));
    assert_eq!(queue.decide(ID, &verdict("other")).await.unwrap(), verdict("pi"), "the first counts");
    assert_eq!(queue.status(ID).await.unwrap(), Some(RequestStatus::Ended(verdict("pi"))));
    queue.close(ID).await.unwrap();
    assert_eq!(queue.open_requests().await.unwrap(), []);
    assert!(!queue.cancel(ID, "me").await.unwrap());
}
