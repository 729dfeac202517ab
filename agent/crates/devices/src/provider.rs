//! Runs a request on a leased device.

use std::path::Path;

use futures_util::future::BoxFuture;

use agent_process::Runner;
use agent_types::error::Result;
use agent_types::outcome::Outcome;

use crate::fence::Fence;
use crate::lab::{Device, Lab};
use crate::request::DeviceRequest;

/// One attempt to run a request.
#[derive(Clone, Copy)]
pub struct Attempt<'a> {
    pub lab: &'a Lab,
    pub device: &'a Device,
    pub request: &'a DeviceRequest,
    /// Counts up from 1.
    pub number: u32,
    pub fence: &'a Fence,
    /// The files of the request, by their names.
    pub files: &'a Path,
    /// An empty directory of the attempt.
    pub work: &'a Path,
    /// Emits events of the stage `test`. Its interrupt comes when the lease is lost, when the request is cancelled, and
    /// at the end of the request's time.
    pub runner: &'a Runner,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptEnd {
    /// The image was tested. The units and cases are events.
    Tested(Outcome),
    /// The device does not work. The request can run on another one.
    DeviceFault(String),
}

/// Runs requests on one kind of device.
pub trait Provider: Send + Sync {
    /// Flashes, boots and tests. It always leaves the device powered off and released, if it still has the lease.
    ///
    /// # Errors
    /// The lab host could not do its part.
    fn run<'a>(&'a self, attempt: Attempt<'a>) -> BoxFuture<'a, Result<AttemptEnd>>;

    /// Whether the device works, without a request. `work`: an empty directory.
    ///
    /// # Errors
    /// It does not; the message says why.
    fn check_health<'a>(
        &'a self,
        lab: &'a Lab,
        device: &'a Device,
        fence: &'a Fence,
        work: &'a Path,
        runner: &'a Runner,
    ) -> BoxFuture<'a, Result<()>>;
}
