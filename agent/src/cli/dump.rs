//! `build-agent dump`: prints the whole resolved manifest: with its included files, the flags and the pins.

use crate::config::{self, AgentEnvironment, Request};
use agent_types::error::Result;
use agent_types::outcome::ExitStatus;

use super::arguments;
use super::base_rules::with_rules;
use super::current_dir::current_dir;
use super::included_repos::with_included_repos;
use super::job::{load_request, request, with_rules_args};
use super::print;

pub async fn command(args: arguments::Dump, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let request = with_rules_args(request(&args.manifest).await?, &args.rules);
    let ruled = with_rules(request, &[], environment).await?;
    // All problems first.
    let settings = load_request(&ruled.request, environment).await?;
    let here = current_dir()?;
    let resolve = |request: &Request| config::resolved(request, environment, &here, &settings.repos);
    let resolved = with_included_repos(&ruled.request, environment, resolve).await?;
    match args.json {
        true => print::json(resolved.json())?,
        false => print::text(&resolved.toml())?,
    }
    Ok(ExitStatus::Passed)
}
