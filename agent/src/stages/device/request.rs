//! From the manifest and the job to a request.

use std::time::SystemTime;

use agent_devices::request::{DeviceRequest, RequestFile, RequestTrust, SCHEMA};
use agent_types::events::JobIdentity;

use crate::config::DeviceTests;

/// The request for these tests.
pub fn request(
    device: &DeviceTests,
    job: &JobIdentity,
    id: &str,
    trust: RequestTrust,
    files: Vec<RequestFile>,
    now: SystemTime,
) -> DeviceRequest {
    DeviceRequest {
        schema: SCHEMA.into(),
        id: id.to_owned(),
        created: now,
        // These words are for the machine of the job, and may contain what only its reports redact.
        job: JobIdentity { reproduce: Vec::new(), url: None, ..job.clone() },
        trust,
        pool: device.pool.clone(),
        machine: device.machine.clone(),
        image: device.image.clone(),
        features: device.features.clone(),
        tests: device.tests.clone(),
        suites: device.suites.clone(),
        commands: device.commands.clone(),
        files,
        priority: device.priority,
        queue_limit: device.queue_limit.as_secs().max(1),
        run_limit: device.run_limit.as_secs().max(1),
        required: device.required,
        task_token: None,
    }
}
