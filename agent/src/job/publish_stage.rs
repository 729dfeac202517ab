//! The publish stage: artifacts, and new objects of the local caches.

use crate::config::Settings;
use crate::stages::configure::BuildEnvironment;
use crate::stages::publish;
use crate::stages::share::{self, OpenShare};
use agent_cache::Usage;
use agent_process::{Interrupt, Runner};
use agent_types::error::Result;
use agent_types::events::JobIdentity;
use agent_types::outcome::Outcome;

use super::plan::uses_share;

pub struct PublishStage<'a> {
    pub settings: &'a Settings,
    pub configured: &'a BuildEnvironment,
    pub share: &'a OpenShare,
    /// Of the shared state, by the builds.
    pub usage: Usage,
    pub job: &'a JobIdentity,
    /// Why an earlier stage stopped the job, or did not pass.
    pub stopped: Option<&'a str>,
    pub runner: &'a Runner,
}

impl PublishStage<'_> {
    pub async fn run(&self) -> Result<Outcome> {
        // After a cancel or at the end of the time, what is done is still saved within the grace, whether the
        // stop comes before this stage or in the middle of it.
        let (interrupt, grace) = (&self.runner.interrupt, self.settings.limits.grace);
        let saving = interrupt.saving(grace);
        // At the same time: neither shall use up the other's part of the grace.
        let artifacts = async {
            match self.settings.artifacts.rules.is_empty() {
                true => Ok(Outcome::Skipped(self.settings.why_no_artifacts())),
                false => {
                    let (build, events) = (&self.configured.build, &self.runner.events);
                    let interrupts = (interrupt, &saving);
                    publish::run(self.settings, self.job, build, events, interrupts, self.stopped).await
                }
            }
        };
        let both = async { tokio::join!(artifacts, self.publish_caches(&saving)) };
        let end = async {
            interrupt.end_of_saving(&saving, grace).await;
            std::future::pending().await
        };
        let (artifacts, published) = tokio::select! {
            both = both => both,
            never = end => never,
        };
        match artifacts {
            Ok(Outcome::Skipped(_)) if published => Ok(Outcome::Passed),
            artifacts => artifacts,
        }
    }

    /// Whether there was a tier to publish to. Its result changes no verdict.
    async fn publish_caches(&self, interrupt: &Interrupt) -> bool {
        let (cache, share) = (&self.settings.cache, self.share);
        if share.is_empty() || !uses_share(self.settings) {
            return false;
        }
        let sources = publish::cache::Sources {
            sstate: cache.sstate.clone(),
            downloads: cache.downloads.clone(),
            release: self.settings.release.name.into(),
        };
        let (events, served) = (&self.runner.events, self.configured.served());
        publish::cache::run(sources, share, served, events, interrupt).await;
        share::notes::usage(self.settings, share, served, self.usage, events).await;
        share.writes().is_some()
    }
}
