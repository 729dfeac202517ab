//! Starts the server from which BitBake reads a share in a bucket. It runs as long as the job's build environment.

use std::sync::Arc;

use crate::config::Settings;
use agent_cache::bucket::BucketTiers;
use agent_cache::bucket::endpoint::{self, Endpoint, PORTS};
use agent_types::events::Emitter;
use agent_yocto::mirrors::EndpointMirrors;

/// Starts the server; `None` without tiers to read. If that is impossible, the job goes on without the share.
pub async fn start(settings: &Settings, tiers: &BucketTiers, events: &Emitter) -> Option<Arc<Endpoint>> {
    if tiers.read.is_empty() {
        return None;
    }
    let wanted = settings.cache.endpoint_port;
    let hint =
        format!("`ss -ltnp` shows what uses port {wanted}; `[cache] endpoint_port` chooses another one");
    let (listener, port) = match endpoint::bind(wanted).await {
        Ok(bound) => bound,
        Err(error) => {
            let last = wanted + (PORTS - 1);
            let message = format!(
                "BitBake cannot read the share: ports {wanted} to {last} of 127.0.0.1 cannot be used ({error})"
            );
            events.warn(message, Some(hint)).await;
            return None;
        }
    };
    if port != wanted {
        let message =
            format!("port {wanted} of 127.0.0.1 is in use: BitBake reads the share from port {port}");
        events.info(message).await;
    }
    Some(Arc::new(Endpoint::start((listener, port), tiers, settings.release.name)))
}

/// How BitBake finds the server.
pub fn mirrors(endpoint: &Endpoint, tiers: &BucketTiers) -> EndpointMirrors {
    EndpointMirrors {
        port: endpoint.port(),
        tiers: tiers.read.iter().map(|tier| tier.kind).collect(),
        writes: tiers.write.is_some(),
    }
}
