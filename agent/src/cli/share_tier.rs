//! `build-agent share-tier`: prints the part of the share that this build may write, for scripts that mount it.

use crate::config::{self, AgentEnvironment};
use agent_types::error::Result;
use agent_types::outcome::ExitStatus;
use agent_types::share::Share;
use agent_types::tiers::{Access, TierKind, Tiers};

use super::arguments;
use super::print;

pub fn command(args: arguments::ShareTier, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let mut environment = environment.clone();
    if let Some(version) = args.source_version {
        environment.codebuild.get_or_insert_default().source_version = Some(version);
    }
    // Paths below a share without a root are relative to any share.
    let tiers = Tiers::new(&Share::new(""), Access::ReadWrite, &config::source_trust(&environment)?);
    let tier = match tiers.write {
        None => "none".to_owned(),
        Some(tier) if tier.kind == TierKind::Shared => "shared".to_owned(),
        Some(tier) => tier.share.to_string(),
    };
    print::line(format_args!("{tier}"))?;
    Ok(ExitStatus::Passed)
}
