//! Jobs with a share in a bucket: the real binary against S3 servers on loopback.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod endpoint;
mod fresh;
mod jobs;
mod keep;
mod kills;
mod results;
mod trust;
