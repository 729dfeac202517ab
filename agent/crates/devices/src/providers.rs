//! Which provider runs requests on a device.

use crate::board_run::BoardProvider;
use crate::lab::{Control, Device};
use crate::lava::LavaProvider;
use crate::provider::Provider;

/// The provider of the device.
pub fn provider_for(device: &Device) -> Box<dyn Provider> {
    match &device.control {
        Control::Labgrid(_) | Control::Ssh(_) | Control::Qemu(_) => Box::new(BoardProvider),
        Control::Lava(_) => Box::new(LavaProvider),
    }
}
