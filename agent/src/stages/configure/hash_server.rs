//! Which hash server the builds of this job use, after it was asked whether it is there.

use crate::config::{HashServer, Settings};
use agent_process::{PROBE_LIMIT, Prober, User};
use agent_types::events::Emitter;
use agent_yocto::hash_server::{self, LIMIT, Serve};

/// A server that cannot be used costs a warning, and the builds run without.
pub async fn choose(
    settings: &Settings,
    bitbake: &str,
    user: Option<&User>,
    prober: &Prober,
    events: &Emitter,
) -> Serve {
    let cache = &settings.cache;
    let (serve, why_not) =
        hash_server::plan(&cache.hash_server, cache.trust.is_trusted(), bitbake, &cache.hash_database);
    let trouble = match (why_not, serve.address()) {
        (Some(why), _) => Some(why),
        (None, None) => None,
        (None, Some(address)) => unusable(address, user, prober).await,
    };
    if let Some(trouble) = trouble {
        let hint = "`[cache] hash_server = \"off\"` says that there is none".to_owned();
        events.warn(format!("builds run without a hash server: {trouble}"), Some(hint)).await;
        return Serve::Nothing;
    }
    if cache.hash_server == HashServer::Auto && cache.share.is_some() {
        let hint = "use \"off\", or one server for all machines".to_owned();
        let message = "`hash_server = \"auto\"` gives each machine hashes of its own, so that little of the \
                       share's state will match";
        events.warn(message, Some(hint)).await;
    }
    serve
}

/// Why BitBake could not use the server.
async fn unusable(address: &str, user: Option<&User>, prober: &Prober) -> Option<String> {
    if hash_server::is_websocket(address) {
        // Without it BitBake stops (2.12 and later) or warns at each task.
        let argv = ["python3", "-c", "import websockets"];
        let answer = prober.ask("websockets", &argv, user, &prober.environment, PROBE_LIMIT).await;
        if answer.lines().is_none() {
            return Some(format!("{address} needs Python's module websockets ({})", answer.complaint()));
        }
    }
    hash_server::ask(address, LIMIT).await.err().map(|why| format!("{address}: {why}"))
}
