use std::sync::Arc;
use std::time::Duration;

use agent_types::artifact::Destination;

use super::*;
use crate::request::layout;

async fn store(place: &tempfile::TempDir) -> Arc<RecordStore> {
    let root = Destination::Directory(place.path().to_owned());
    Arc::new(RecordStore::open(&root, false, None, "request.json").await.unwrap())
}

fn record(nonce: &str, term: Duration) -> LeaseRecord {
    LeaseRecord { lab: "lab".into(), nonce: nonce.into(), term: term.as_millis() as u64 }
}

const LONG: Duration = Duration::from_secs(3000);
const SHORT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn one_lab_gets_a_lease_and_the_next_one_after_it() {
    let place = tempfile::tempdir().unwrap();
    let store = store(&place).await;
    let mut observer = LeaseObserver::new(LONG);
    assert_eq!(observer.look(&store, "pi", None).await.unwrap(), LeaseState::Free { newest: 0 });
    let lease = acquire(&store, "pi", 0, &record("a", LONG)).await.unwrap().unwrap();
    assert_eq!(lease.fence().name().number, 1);
    assert!(acquire(&store, "pi", 0, &record("b", LONG)).await.unwrap().is_none());
    assert!(acquire(&store, "pi", u64::MAX, &record("b", LONG)).await.unwrap().is_none());
    let held = LeaseState::Held { number: 1, lab: "lab".into() };
    assert_eq!(observer.look(&store, "pi", None).await.unwrap(), held);
    assert_eq!(observer.look(&store, "pi", Some("b")).await.unwrap(), held);
    assert!(is_current(&store, "pi", 1).await.unwrap());
    let fence = lease.fence().clone();
    assert!(fence.check().is_ok());
    lease.release().await;
    assert!(fence.check().is_err(), "nothing touches the device after the release");
    assert!(!is_current(&store, "pi", 1).await.unwrap());
    assert_eq!(observer.look(&store, "pi", None).await.unwrap(), LeaseState::Free { newest: 1 });
}

#[tokio::test]
async fn a_lease_holds_while_it_is_renewed_and_ends_when_it_is_not() {
    let place = tempfile::tempdir().unwrap();
    let store = store(&place).await;
    let term = Duration::from_secs(4);
    let mut observer = LeaseObserver::new(LONG);
    let lease = acquire(&store, "pi", 0, &record("a", term)).await.unwrap().unwrap();
    let fence = lease.fence().clone();
    let until = crate::fence::uptime() + term.mul_f64(1.3);
    while crate::fence::uptime() < until {
        assert!(observer.look(&store, "pi", None).await.unwrap().holds(1));
        assert!(fence.check().is_ok());
        tokio::time::sleep(term / 10).await;
    }
    // Its process ends.
    drop(lease);
    assert!(fence.check().is_err());
    let ended = crate::fence::uptime();
    while observer.look(&store, "pi", None).await.unwrap().holds(1) {
        tokio::time::sleep(term / 20).await;
    }
    let waited = crate::fence::uptime() - ended;
    assert!(waited + term / 3 >= term + margin(term), "{waited:?}: the last renewal was at most a third ago");
    assert!(acquire(&store, "pi", 1, &record("b", term)).await.unwrap().is_some());
}

#[tokio::test]
async fn a_holder_that_cannot_renew_stops_before_an_observer_takes_over() {
    let place = tempfile::tempdir().unwrap();
    let store = store(&place).await;
    let lease = acquire(&store, "pi", 0, &record("a", SHORT)).await.unwrap().unwrap();
    let mut observer = LeaseObserver::new(LONG);
    assert!(observer.look(&store, "pi", None).await.unwrap().holds(1));
    // A directory has the name of the file: renewals fail.
    fs_err::create_dir(place.path().join(layout::renewed("pi", 1))).unwrap();
    lease.fence().lost().await;
    assert!(lease.fence().check().is_err());
}

#[tokio::test]
async fn a_newer_number_ends_a_lease_and_damaged_files_are_waited_for() {
    let place = tempfile::tempdir().unwrap();
    let store = store(&place).await;
    let lease = acquire(&store, "pi", 0, &record("a", Duration::from_secs(3))).await.unwrap().unwrap();
    store.create(&layout::lease("pi", 7), b"damaged".to_vec()).await.unwrap();
    lease.fence().lost().await;
    let mut observer = LeaseObserver::new(SHORT);
    assert_eq!(
        observer.look(&store, "pi", None).await.unwrap(),
        LeaseState::Held { number: 7, lab: String::new() }
    );
    while observer.look(&store, "pi", None).await.unwrap().holds(7) {
        tokio::time::sleep(SHORT / 10).await;
    }
}

#[tokio::test]
async fn the_lease_of_a_dead_process_of_this_host_is_free_at_once_and_old_ones_are_removed() {
    let place = tempfile::tempdir().unwrap();
    let store = store(&place).await;
    for number in 0..25 {
        let lease = acquire(&store, "pi", number, &record("a", LONG)).await.unwrap().unwrap();
        lease.release().await;
    }
    let numbers: Vec<u64> = Leases::list(&store, "pi").await.unwrap().numbers().collect();
    assert_eq!((numbers.first(), numbers.last()), (Some(&9), Some(&25)));
    // A late request creates one that was removed.
    assert!(acquire(&store, "pi", 3, &record("b", LONG)).await.unwrap().is_none());
    drop(acquire(&store, "pi", 25, &record("dead", LONG)).await.unwrap().unwrap());
    let mut observer = LeaseObserver::new(LONG);
    assert!(observer.look(&store, "pi", Some("other")).await.unwrap().holds(26));
    let mut observer = LeaseObserver::new(LONG);
    assert_eq!(observer.look(&store, "pi", Some("dead")).await.unwrap(), LeaseState::Free { newest: 26 });
}
