//! A device of the lab, as the loop sees it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use agent_devices::fence::uptime;
use agent_devices::lab::Control;

use super::attempt::Place;
use super::status::{DeviceState, DeviceStatus};

/// Characters of what a device's status says.
const LONGEST_WHY: usize = 500;

/// The pause of a device after its lab could not use it; doubles up to the second one.
const PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(15 * 60);

/// A device, and what the lab does with it.
pub struct Served {
    pub place: Place,
    pub status: Arc<Mutex<DeviceStatus>>,
    pub in_use: bool,
    /// It must pass a health check before it gets a request.
    pub suspect: bool,
    /// The next pause, and the [`uptime`] at which the present one ends.
    pause: Duration,
    pub until: Duration,
}

impl Served {
    pub fn new(place: Place) -> Served {
        let device = &place.device;
        let control = match &device.control {
            Control::Labgrid(_) => "labgrid",
            Control::Lava(_) => "lava",
            Control::Ssh(_) => "ssh",
            Control::Qemu(_) => "qemu",
        };
        let status = DeviceStatus {
            name: device.name.clone(),
            pool: device.pool.clone(),
            control: control.into(),
            features: device.features.clone(),
            untrusted: device.untrusted,
            state: DeviceState::Idle,
            why: None,
            request: None,
            attempt: None,
            since: SystemTime::now(),
        };
        let status = Arc::new(Mutex::new(status));
        Served { place, status, in_use: false, suspect: false, pause: PAUSE, until: Duration::ZERO }
    }

    pub fn status(&self) -> DeviceStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// False, if it was in this state.
    pub fn set(&self, state: DeviceState, why: Option<String>) -> bool {
        set_status(&self.status, state, why, None)
    }

    /// Waits before the next use, longer each time.
    pub fn back_off(&mut self) {
        self.until = uptime() + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// It was used without a fault.
    pub fn end_pauses(&mut self) {
        self.pause = PAUSE;
    }
}

/// False, if it was in this state.
pub fn set_status(
    status: &Mutex<DeviceStatus>,
    state: DeviceState,
    why: Option<String>,
    request: Option<(String, u32)>,
) -> bool {
    let mut status = status.lock().unwrap_or_else(PoisonError::into_inner);
    let why = why.map(|why| why.chars().take(LONGEST_WHY).collect());
    let (id, attempt) = request.unzip();
    let is_new = (status.state, &status.why, &status.request) != (state, &why, &id);
    if is_new {
        status.since = SystemTime::now();
    }
    (status.state, status.why, status.request, status.attempt) = (state, why, id, attempt);
    is_new
}
