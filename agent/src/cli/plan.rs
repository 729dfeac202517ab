//! `build-agent plan`: prints what `run` would do, and changes nothing.

use std::time::Duration;

use serde_json::json;

use crate::batch::warm::{self, WarmStep, Work};
use crate::config::{
    self, AgentEnvironment, Cache, Cell, CheckScope, Destination, DeviceRoute, DeviceTests, DeviceWait,
    Matrix, Ptest, Repo, RepoSource, Request, Settings, Wanted,
};
use crate::job;
use agent_types::error::{Error, Result};
use agent_types::outcome::ExitStatus;
use agent_types::stage::Stage;
use agent_types::tiers::{TierKind, Trust};
use agent_types::words::count;

use super::arguments;
use super::base_rules::with_rules;
use super::batch_cells::warm_cell;
use super::cells::{load_cells, matrix, of_cell};
use super::current_dir::current_dir;
use super::included_repos::with_included_repos;
use super::job::{load_request, request_with_rules};
use super::limited_reading::limit_reading;
use super::plan_settings;
use super::print;

pub async fn command(args: arguments::Plan, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let request = request_with_rules(&args.manifest, &args.release, &args.rules).await?;
    let ruled = with_rules(request, &[], environment).await?;
    if let Some(key) = &args.explain {
        limit_reading(&ruled.request, environment)?;
        let here = current_dir()?;
        let explain = |request: &Request| config::explain(request, environment, &here, key);
        let explanation = with_included_repos(&ruled.request, environment, explain).await?;
        match args.json {
            true => print::json(explanation.json())?,
            false => print::text(&explanation.text())?,
        }
        return Ok(ExitStatus::Passed);
    }
    let selection = job::Selection::from(&args.selection);
    if let Some(Matrix { cells, limit }) = matrix(&ruled.request, environment).await? {
        let mut planned = Vec::new();
        for (cell, settings) in load_cells(cells, &ruled.request, environment).await? {
            let plan = job::Plan::new(&settings, &selection).map_err(|error| of_cell(error, &cell))?;
            planned.push((cell, settings, plan));
        }
        match (args.cells, args.json) {
            (true, _) => print::raw(&format!("{}\n", for_workflow(&planned)))?,
            (false, true) => print::json(cells_json(&planned, limit))?,
            (false, false) => print::text(&cells_text(&planned, limit))?,
        }
        return Ok(ExitStatus::Passed);
    }
    let settings = load_request(&ruled.request, environment).await?;
    let plan = job::Plan::new(&settings, &selection)?;
    if args.cells {
        let hint = "docs/matrix.md shows one";
        return Err(Error::usage("plan --cells: the manifest has no [matrix]").hint(hint));
    }
    if args.json {
        print::json(as_json(&settings, &plan))?;
    } else {
        print::text(&as_text(&settings, &plan))?;
    }
    Ok(ExitStatus::Passed)
}

/// The list of all cells.
fn cells_text(planned: &[(Cell, Settings, job::Plan)], limit: Option<Duration>) -> String {
    let limit = limit.map(|limit| format!(", {} for all of them", humantime::format_duration(limit)));
    let mut text = format!("{}{}\n", count(planned.len() as u64, "cell"), limit.unwrap_or_default());
    for (cell, ..) in planned {
        text += &format!("  {:<28} {}\n", cell.id, cell.shown());
    }
    let warm = warm_steps(planned);
    if warm.iter().any(|step| matches!(step.work, Work::Fetch(_))) {
        text += "\nin a batch, `warm` does this first\n";
        text.extend(warm.iter().map(|step| format!("  {step}\n")));
    }
    text + "\nbuild-agent plan --cell ID prints what a cell does\n"
}

/// What the first build of a batch of these cells does.
fn warm_steps(planned: &[(Cell, Settings, job::Plan)]) -> Vec<WarmStep> {
    let cells: Vec<_> = planned.iter().map(|(cell, settings, _)| warm_cell(cell, settings)).collect();
    warm::steps(&cells, &[], true)
}

fn cells_json(planned: &[(Cell, Settings, job::Plan)], limit: Option<Duration>) -> serde_json::Value {
    let cell = |(cell, settings, plan): &(Cell, Settings, job::Plan)| json!({ "id": cell.id, "values": cell.values(), "plan": as_json(settings, plan) });
    json!({
        "schema": "build-agent/matrix-plan/v1",
        "warm": warm_steps(planned),
        "limit_seconds": limit.map(|limit| limit.as_secs()),
        "cells": planned.iter().map(cell).collect::<Vec<_>>(),
    })
}

/// `strategy.matrix` of a GitHub workflow: each job has the name of its cell, its release and its machines.
fn for_workflow(planned: &[(Cell, Settings, job::Plan)]) -> serde_json::Value {
    let job = |(cell, settings, _): &(Cell, Settings, job::Plan)| {
        json!({
            "cell": cell.id,
            "release": settings.release.name,
            "machine": settings.config.machines.join(" "),
        })
    };
    json!({ "include": planned.iter().map(job).collect::<Vec<_>>() })
}

fn as_text(settings: &Settings, plan: &job::Plan) -> String {
    let mut text = format!(
        "{} on {} ({})\n\nlayers under test\n",
        settings.job.name, settings.release.name, settings.release.version
    );
    for layer in &settings.layers {
        text += &format!("  {}\n", layer.display());
    }
    text += "\nrepos\n";
    for repo in &settings.repos {
        text += &format!("  {:<20} {}\n", repo.name, source(repo));
    }
    if let Some(buildtools) = &settings.buildtools {
        text += &format!("\nbuildtools\n  {}\n", buildtools.url);
    }
    text += "\nstages\n";
    for planned in &plan.stages {
        match &planned.skip {
            None => {
                text += &format!("  {:<10} run   {}\n", planned.stage, details(settings, planned.stage));
                let hooks = settings.hooks.iter().filter(|hook| hook.moment.stage() == planned.stage);
                for hook in hooks {
                    let closed = if settings.hooks_closed.is_some() { " (does not run)" } else { "" };
                    text +=
                        &format!("    hook {} {}: {}{closed}\n", hook.name, hook.moment, hook.argv.join(" "));
                }
            }
            Some(why) => text += &format!("  {:<10} skip  {why}\n", planned.stage),
        }
    }
    text += &cache(&settings.cache);
    text += &format!(
        "\npaths\n  work       {}\n  out        {}\n",
        settings.paths.work.display(),
        settings.paths.out.display()
    );
    let warnings = settings.warnings.iter().map(|(warning, _)| warning);
    for notice in settings.notices.iter().chain(warnings) {
        text += &format!("\nnote: {notice}\n");
    }
    // Remove the trailing spaces of empty details.
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// How the job would use the share. Only a run checks whether the share is mounted.
fn cache(cache: &Cache) -> String {
    let Some(shared) = &cache.share else { return String::new() };
    let (Trust::Trusted { why } | Trust::Untrusted { why, .. }) = &cache.trust;
    let trust = if cache.trust.is_trusted() { "trusted" } else { "not trusted" };
    let mut text = format!("\ncache\n  {:<12} {trust}: {why}\n", "source");
    let written = shared.writes();
    for tier in shared.reads() {
        let how = if written.as_ref() == Some(&tier) { "read and write" } else { "read only" };
        text += &format!("  {:<12} {} ({how})\n", tier.0.word(), tier.1);
    }
    text
}

fn cache_json(cache: &Cache) -> serde_json::Value {
    let tiers = cache.share.iter().flat_map(|shared| {
        let written = shared.writes();
        let tier = |tier: (TierKind, String)| {
            let write = written.as_ref() == Some(&tier);
            json!({ "tier": tier.0, "path": tier.1, "write": write })
        };
        shared.reads().into_iter().map(tier).collect::<Vec<_>>()
    });
    let (Trust::Trusted { why } | Trust::Untrusted { why, .. }) = &cache.trust;
    json!({ "trusted": cache.trust.is_trusted(), "why": why, "tiers": tiers.collect::<Vec<_>>() })
}

fn source(repo: &Repo) -> String {
    match &repo.source {
        RepoSource::Path(path) => format!("{} (used as it is)", path.display()),
        RepoSource::Git(git) => {
            let wanted = match &git.wanted {
                Wanted::Branch(branch) => format!("branch {branch}"),
                Wanted::Tag(tag) => format!("tag {tag}"),
                Wanted::Commit(commit) => format!("commit {commit}"),
                Wanted::CommitOfTag { commit, tag } => format!("commit {commit} of tag {tag}"),
                Wanted::CommitOnBranch { commit, branch } => format!("commit {commit} on branch {branch}"),
            };
            let locked =
                git.locked.as_ref().map(|commit| format!(", locked to {commit}")).unwrap_or_default();
            format!("{} {wanted}{locked}", agent_git::display_url(&git.url))
        }
    }
}

/// A short description of what a stage would do.
fn details(settings: &Settings, stage: Stage) -> String {
    match stage {
        Stage::Check => {
            let mut words: Vec<String> = settings
                .check
                .bitbake_layers
                .iter()
                .map(|words| format!("bitbake-layers {}", words.join(" ")))
                .collect();
            if settings.check.yocto_check_layer {
                words.push("yocto-check-layer".into());
            }
            let check = &settings.check;
            words.extend(check.parse_machines.iter().map(|machine| format!("parse for {machine}")));
            words.extend(check.templateconf.then(|| "templateconf".to_owned()));
            let scopes = [("patches", check.patches), ("oelint", check.oelint), ("cve", check.cve)];
            words.extend(scopes.into_iter().filter_map(|(name, scope)| match scope {
                CheckScope::Off => None,
                CheckScope::Changed => Some(format!("{name} (changed)")),
                CheckScope::All => Some(format!("{name} (all)")),
            }));
            words.join(", ")
        }
        Stage::Build => {
            let build = if settings.build.fetch_only { "fetch the sources of " } else { "" };
            let changed = settings.build.changed.then_some("what the change affects");
            let what: Vec<&str> = settings.build.targets.iter().map(String::as_str).chain(changed).collect();
            format!("{build}{} for {}", what.join(" "), settings.config.machines.join(", "))
        }
        Stage::Publish => match &settings.artifacts.destination {
            Destination::Directory(dir) => format!("to {}", dir.display()),
            Destination::S3 { bucket, prefix } => format!("to s3://{bucket}/{prefix}"),
        },
        Stage::Test => tests(settings),
        _ => String::new(),
    }
}

fn tests(settings: &Settings) -> String {
    let images = settings.test.images.iter().cloned();
    let ptests = (settings.test.ptest != Ptest::Off).then(|| "ptests".to_owned());
    let device = settings.device.as_ref().map(|device| {
        let tests: Vec<String> = device.tests.iter().map(ToString::to_string).collect();
        let what = format!("{} of {} on {}", tests.join(" "), device.image, device.pool);
        match &device.route {
            DeviceRoute::Guest => format!("{what}, a guest of this job"),
            DeviceRoute::Submit => match device.wait {
                DeviceWait::No => format!("request {what}, without waiting"),
                DeviceWait::AtMost(limit) => {
                    format!("request {what}, and wait up to {}", humantime::format_duration(limit))
                }
            },
            DeviceRoute::Publish => format!("publish the files for {what}"),
            DeviceRoute::Closed(why) => format!("not {what}: {why}"),
        }
    });
    images.chain(ptests).chain(device).collect::<Vec<_>>().join(", ")
}

fn device_json(device: &DeviceTests) -> serde_json::Value {
    let tests: Vec<String> = device.tests.iter().map(ToString::to_string).collect();
    let (how, why) = match &device.route {
        DeviceRoute::Guest => ("guest", None),
        DeviceRoute::Submit => ("submit", None),
        DeviceRoute::Publish => ("publish", None),
        DeviceRoute::Closed(why) => ("none", Some(why)),
    };
    json!({
        "pool": device.pool,
        "image": device.image,
        "machine": device.machine,
        "tests": tests,
        "how": how,
        "why": why,
    })
}

fn as_json(settings: &Settings, plan: &job::Plan) -> serde_json::Value {
    let repos: Vec<_> = settings
        .repos
        .iter()
        .map(|repo| json!({ "name": repo.name, "source": source(repo), "layers": repo.layers }))
        .collect();
    let hooks = settings
        .hooks
        .iter()
        .map(|hook| json!({ "name": hook.name, "when": hook.moment.to_string(), "argv": hook.argv }));
    json!({
        "schema": "build-agent/plan/v1",
        "job": settings.job,
        "release": settings.release.name,
        "layers": settings.layers,
        "repos": repos,
        "settings": plan_settings::as_json(settings),
        "cache": cache_json(&settings.cache),
        "stages": plan.stages,
        "hooks": hooks.collect::<Vec<_>>(),
        "device": settings.device.as_ref().map(device_json),
        "places": { "work": settings.paths.work, "out": settings.paths.out },
        "notices": settings.notices,
    })
}
