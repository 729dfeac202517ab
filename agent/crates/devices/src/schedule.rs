//! Which device runs which request. Pure: no store, no clock.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agent_types::outcome::Outcome;

use crate::lab::Device;
use crate::request::{DeviceRequest, RequestTrust};

/// A request without a verdict that no device runs.
#[derive(Clone, Debug)]
pub struct WaitingRequest {
    pub request: Arc<DeviceRequest>,
    /// By the store's clock.
    pub submitted: SystemTime,
    /// Attempts that ended without a verdict.
    pub attempts: u32,
}

/// Why a device must not run a request; `None`, if it may.
pub fn obstacle(device: &Device, request: &DeviceRequest) -> Option<String> {
    if device.pool != request.pool {
        return Some(format!("it is in the pool {}", device.pool));
    }
    if request.trust == RequestTrust::Untrusted && !device.untrusted {
        return Some("it is for trusted sources only".into());
    }
    let missing = request.features.iter().find(|feature| !device.features.contains(feature));
    missing.map(|feature| format!("it does not have the feature {feature}"))
}

/// Sorts requests in the order in which devices take them: by priority, then by age.
pub fn sort(waiting: &mut [WaitingRequest]) {
    let order = |one: &WaitingRequest| (-i64::from(one.request.priority), one.submitted);
    waiting.sort_by(|one, other| {
        order(one).cmp(&order(other)).then_with(|| one.request.id.cmp(&other.request.id))
    });
}

/// How a request ends that nothing runs. `None`: it waits. `most` is the limit of attempts.
pub fn end_without_device(waiting: &WaitingRequest, now: SystemTime, most: u32) -> Option<Outcome> {
    if waiting.attempts >= most {
        let attempts = match waiting.attempts {
            1 => "1 attempt".to_owned(),
            attempts => format!("{attempts} attempts"),
        };
        return Some(Outcome::NotRun(format!("{attempts} ended without a verdict: see the reports of each")));
    }
    // A device that broke used some of the time.
    let run = waiting.request.run_limit().saturating_mul(waiting.attempts);
    let limit = waiting.request.queue_limit().saturating_add(run);
    let age = now.duration_since(waiting.submitted).unwrap_or(Duration::ZERO);
    (age > limit).then(|| {
        let limit = humantime::format_duration(waiting.request.queue_limit());
        Outcome::TimedOut(format!("no device of the pool {} took it within {limit}", waiting.request.pool))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::lab::{Control, QemuDevice};
    use crate::request::sample;

    fn device() -> Device {
        Device {
            name: "pi-1".into(),
            pool: sample::request().pool,
            features: vec!["wifi".into(), "tpm".into()],
            untrusted: false,
            control: Control::Qemu(QemuDevice::default()),
            image: None,
            known_good: None,
        }
    }

    #[test]
    fn a_device_runs_what_it_may_and_can() {
        type Change = fn(&mut Device, &mut DeviceRequest);
        let table: [(Change, Option<&str>); 7] = [
            (|_, _| {}, None),
            (|_, request| request.pool = "other".into(), Some("pool")),
            (|_, request| request.features = vec!["tpm".into(), "wifi".into()], None),
            (|_, request| request.features = vec!["tpm".into(), "can".into()], Some("feature can")),
            (|_, request| request.trust = RequestTrust::Untrusted, Some("trusted sources only")),
            (
                |device, request| {
                    request.trust = RequestTrust::Untrusted;
                    device.untrusted = true;
                },
                None,
            ),
            (|device, _| device.untrusted = true, None),
        ];
        for (number, (change, wanted)) in table.into_iter().enumerate() {
            let (mut device, mut request) = (device(), sample::request());
            change(&mut device, &mut request);
            let found = obstacle(&device, &request);
            assert_eq!(found.is_some(), wanted.is_some(), "{number}: {found:?}");
            assert!(found.unwrap_or_default().contains(wanted.unwrap_or_default()), "{number}");
        }
    }

    #[test]
    fn priority_comes_before_age() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let request = |id: &str, priority| DeviceRequest { id: id.into(), priority, ..sample::request() };
        let all = [
            (request("young", 0), at(20)),
            (request("old", 0), at(10)),
            (request("low", i32::MIN), at(1)),
            (request("high", i32::MAX), at(30)),
            (request("equal", 0), at(10)),
        ];
        let mut waiting: Vec<WaitingRequest> = all
            .iter()
            .map(|(request, submitted)| WaitingRequest {
                request: Arc::new(request.clone()),
                submitted: *submitted,
                attempts: 0,
            })
            .collect();
        sort(&mut waiting);
        let ids: Vec<&str> = waiting.iter().map(|waiting| waiting.request.id.as_str()).collect();
        assert_eq!(ids, ["high", "equal", "old", "young", "low"]);
    }

    #[test]
    fn a_request_does_not_wait_forever() {
        let request = Arc::new(DeviceRequest { queue_limit: 100, run_limit: 50, ..sample::request() });
        let submitted = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        for (attempts, age, wanted) in [
            (0, 100, None),
            (0, 101, Some("timed-out")),
            (1, 101, None),
            (2, 201, Some("timed-out")),
            (3, 0, Some("not-run")),
        ] {
            let waiting = WaitingRequest { request: Arc::clone(&request), submitted, attempts };
            let end = end_without_device(&waiting, submitted + Duration::from_secs(age), 3);
            assert_eq!(end.as_ref().map(Outcome::word), wanted, "{attempts} {age}");
        }
        // A submission in the future of the store's clock waits as well.
        let waiting = WaitingRequest { request, submitted, attempts: 0 };
        assert_eq!(end_without_device(&waiting, SystemTime::UNIX_EPOCH, 3), None);
    }
}
