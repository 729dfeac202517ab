//! The arguments of `build-agent lab`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::lab_request::LabRequest;

#[derive(Debug, Args)]
pub struct Lab {
    #[command(subcommand)]
    pub command: LabCommand,
}

#[derive(Debug, Subcommand)]
pub enum LabCommand {
    /// Run a lab: take requests, and test them on its devices, until SIGTERM or SIGINT
    Serve(LabServe),
    /// Show the labs, their devices and the queue
    Status(LabShow),
    /// Show the devices of all labs
    Devices(LabShow),
    /// Show the requests without a verdict
    Requests(LabShow),
    /// Request tests of an image that another build published, from a trusted step
    Request(LabRequest),
    /// Cancel requests
    Cancel(LabCancel),
    /// Give a device no more requests; what runs on it goes on
    Drain(LabDrain),
    /// Bring a sick device back
    Clear(LabClear),
}

#[derive(Debug, Args)]
pub struct LabServe {
    /// The lab's file
    #[arg(default_value = "lab.toml")]
    pub file: PathBuf,
}

/// The store that a command is about.
#[derive(Debug, Args)]
pub struct StoreArgs {
    /// The store of the requests: s3://BUCKET/PREFIX or a directory
    #[arg(long, value_name = "STORE", conflicts_with = "lab")]
    pub store: Option<String>,
    /// A lab's file, which names the store [default: lab.toml]
    #[arg(long, value_name = "FILE")]
    pub lab: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct LabShow {
    #[command(flatten)]
    pub store: StoreArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct LabCancel {
    #[command(flatten)]
    pub store: StoreArgs,
    /// Ids of requests
    #[arg(required = true, value_name = "REQUEST")]
    pub requests: Vec<String>,
}

#[derive(Debug, Args)]
pub struct LabDrain {
    #[command(flatten)]
    pub store: StoreArgs,
    /// Names of devices, or `all`
    #[arg(required = true, value_name = "DEVICE")]
    pub devices: Vec<String>,
    /// Let the devices have requests again
    #[arg(long)]
    pub undo: bool,
}

#[derive(Debug, Args)]
pub struct LabClear {
    #[command(flatten)]
    pub store: StoreArgs,
    /// Names of devices
    #[arg(required = true, value_name = "DEVICE")]
    pub devices: Vec<String>,
}
