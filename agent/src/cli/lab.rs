//! `build-agent lab`: runs a lab, and shows and changes what its store contains.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::json;

use crate::config::{self, AgentEnvironment};
use crate::lab::{self, LabStatus, QueueEntry};
use agent_devices::health;
use agent_devices::providers::provider_for;
use agent_devices::queue::{Queue, is_device};
use agent_process::Interrupt;
use agent_types::error::{Error, Result};
use agent_types::outcome::ExitStatus;

use super::arguments::{LabCommand, StoreArgs};
use super::job::listen_for_signals;
use super::lab_request;
use super::print;
use super::publish::destination;

/// The lab's file, if the command line names none.
const FILE: &str = "lab.toml";

pub async fn command(command: LabCommand, environment: &AgentEnvironment) -> Result<ExitStatus> {
    match command {
        LabCommand::Serve(serve) => return run(&serve.file).await,
        LabCommand::Request(request) => return lab_request::command(&request, environment).await,
        LabCommand::Status(show) => {
            let queue = open(&show.store).await?;
            let (labs, entries) = (lab::labs(&queue).await?, lab::queue_entries(&queue).await?);
            match show.json {
                true => print::json(json!({ "labs": labs_json(&labs), "requests": entries }))?,
                false => print::text(&format!("{}\n{}", devices_text(&labs), requests_text(&entries)))?,
            }
        }
        LabCommand::Devices(show) => {
            let labs = lab::labs(&open(&show.store).await?).await?;
            match show.json {
                true => print::json(json!({ "labs": labs_json(&labs) }))?,
                false => print::text(&devices_text(&labs))?,
            }
        }
        LabCommand::Requests(show) => {
            let entries = lab::queue_entries(&open(&show.store).await?).await?;
            match show.json {
                true => print::json(json!({ "requests": entries }))?,
                false => print::text(&requests_text(&entries))?,
            }
        }
        LabCommand::Cancel(cancel) => return cancel_requests(&cancel.store, &cancel.requests).await,
        LabCommand::Drain(drain) => {
            let queue = open(&drain.store).await?;
            for device in named(&queue, &drain.devices).await? {
                match drain.undo {
                    true => health::undo_drain(queue.store(), &device).await?,
                    false => health::set_drain(queue.store(), &device, &person()).await?,
                }
                let word = if drain.undo { "gets requests again" } else { "gets no more requests" };
                print::line(format_args!("the device {device} {word}"))?;
            }
        }
        LabCommand::Clear(clear) => {
            let queue = open(&clear.store).await?;
            for device in named(&queue, &clear.devices).await? {
                health::clear(queue.store(), &device).await?;
                print::line(format_args!("the failures of the device {device} are forgotten"))?;
            }
        }
    }
    Ok(ExitStatus::Passed)
}

async fn run(file: &Path) -> Result<ExitStatus> {
    let settings = config::load_lab(file)?;
    let interrupt = Interrupt::new(None);
    listen_for_signals(&interrupt)?;
    let say: lab::Say = Arc::new(|line| {
        let time = humantime::format_rfc3339_seconds(SystemTime::now());
        // A console that is gone does not stop the lab.
        drop(print::line(format_args!("{time} {}", line.replace('\n', " "))));
    });
    say(&format!("the lab {} serves {} devices", settings.name, settings.devices.len()));
    lab::serve(settings, provider_for, interrupt, say).await?;
    Ok(ExitStatus::Passed)
}

/// Opens the store that the arguments name.
async fn open(args: &StoreArgs) -> Result<Queue> {
    let root = match (&args.store, &args.lab) {
        (Some(store), _) => destination(store)?,
        (None, Some(file)) => config::load_lab(file)?.store,
        (None, None) if Path::new(FILE).exists() => config::load_lab(Path::new(FILE))?.store,
        (None, None) => {
            return Err(Error::usage("which store?")
                .hint("name it with --store s3://BUCKET/PREFIX, or name the lab's file with --lab"));
        }
    };
    Queue::open(&root, None).await
}

async fn cancel_requests(args: &StoreArgs, requests: &[String]) -> Result<ExitStatus> {
    let queue = open(args).await?;
    let mut exit = ExitStatus::Passed;
    for id in requests {
        if queue.request(id).await?.is_none() {
            print::diagnostic(format_args!("error: there is no request `{id}`"));
            exit = ExitStatus::Usage;
        } else if queue.cancel(id, &person()).await? {
            print::line(format_args!("{id}: cancelled; its lab ends it"))?;
        } else {
            print::line(format_args!("{id}: it has a verdict already"))?;
        }
    }
    Ok(exit)
}

/// The devices that the arguments name.
async fn named(queue: &Queue, names: &[String]) -> Result<BTreeSet<String>> {
    let labs = lab::labs(queue).await?;
    let known: BTreeSet<String> =
        labs.iter().flat_map(|(lab, _)| lab.devices.iter().map(|device| device.name.clone())).collect();
    if names == ["all"] {
        return match known.is_empty() {
            true => Err(Error::usage("no lab of this store has a device").hint("start one: lab serve")),
            false => Ok(known),
        };
    }
    let unknown = names.iter().find(|name| !known.contains(*name) || !is_device(name));
    match unknown {
        None => Ok(names.iter().cloned().collect()),
        Some(name) => {
            let known: Vec<String> = known.into_iter().collect();
            Err(Error::usage(format!("no lab of this store has the device `{name}`"))
                .hint(format!("the devices are: {}", known.join(", "))))
        }
    }
}

/// Who runs this command.
fn person() -> String {
    let user = agent_process::agent_user().map_or_else(|_| "somebody".into(), |user| user.name);
    let host = nix::unistd::gethostname().unwrap_or_default();
    format!("{user}@{}", host.to_string_lossy())
}

fn labs_json(labs: &[(LabStatus, SystemTime)]) -> serde_json::Value {
    let lab = |(lab, seen): &(LabStatus, SystemTime)| {
        let mut value = json!(lab);
        value["seen"] = json!(humantime::format_rfc3339_seconds(*seen).to_string());
        value
    };
    labs.iter().map(lab).collect()
}

fn devices_text(labs: &[(LabStatus, SystemTime)]) -> String {
    if labs.is_empty() {
        return "no lab has written its status yet\n".into();
    }
    let mut text = String::new();
    for (lab, seen) in labs {
        let seen = humantime::format_rfc3339_seconds(*seen);
        let end = if lab.stopped { "stopped" } else { "seen" };
        text += &format!("lab {} ({end} {seen})\n", lab.lab);
        if let Some(problem) = &lab.problem {
            text += &format!("  problem: {}\n", problem.replace('\n', " "));
        }
        for device in &lab.devices {
            let what = match (&device.request, device.attempt) {
                (Some(id), Some(attempt)) => format!("{id}, attempt {attempt}"),
                _ => device.why.clone().unwrap_or_default().replace('\n', " "),
            };
            let state = device.state.word();
            let line = format!("  {:<20} {:<16} {state:<9} {what}", device.name, device.pool);
            text += line.trim_end();
            text.push('\n');
        }
    }
    text
}

fn requests_text(entries: &[QueueEntry]) -> String {
    if entries.is_empty() {
        return "no request waits or runs\n".into();
    }
    let mut text = String::new();
    for entry in entries {
        let submitted = humantime::format_rfc3339_seconds(entry.submitted);
        let about = entry.request.as_ref().map_or_else(String::new, |request| {
            format!(" {} for {} (pool {})", request.image, request.machine, request.pool)
        });
        let detail = entry.detail.as_ref().map_or_else(String::new, |detail| format!(": {detail}"));
        text += &format!("{} {submitted}{about} {}{detail}\n", entry.id, entry.state);
    }
    text
}
