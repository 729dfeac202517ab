//! A request for the tests of this crate.

use std::time::SystemTime;

use agent_types::events::JobIdentity;

use crate::request::{DeviceRequest, DeviceTest, RequestTrust, SCHEMA};

/// A valid request without files.
pub fn request() -> DeviceRequest {
    DeviceRequest {
        schema: SCHEMA.into(),
        id: "20261130T020304-abcdef".into(),
        created: SystemTime::UNIX_EPOCH,
        job: JobIdentity { commit: Some("1234abcd".into()), ..JobIdentity::default() },
        trust: RequestTrust::Trusted,
        pool: "boards".into(),
        machine: "qemux86-64".into(),
        image: "core-image-minimal".into(),
        features: Vec::new(),
        tests: vec![DeviceTest::Runtime],
        suites: Vec::new(),
        commands: Vec::new(),
        files: Vec::new(),
        priority: 0,
        queue_limit: 60,
        run_limit: 60,
        required: true,
        task_token: None,
    }
}
