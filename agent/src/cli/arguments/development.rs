//! Arguments of the commands for work on recipes and images: boot, devtool, completion, man.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::{ManifestArgs, ReleaseArgs};

#[derive(Debug, Args)]
pub struct Boot {
    #[command(flatten)]
    pub manifest: ManifestArgs,
    #[command(flatten)]
    pub release: ReleaseArgs,
    /// The image, such as core-image-minimal [default: the one that was built, or that of the targets]
    #[arg(long, value_name = "NAME")]
    pub image: Option<String>,
    /// The machine of the image [default: the first of the manifest that has images]
    #[arg(long, value_name = "NAME")]
    pub machine: Option<String>,
    /// Write the guest's changes to the files of the image, which a later run may publish
    #[arg(long)]
    pub keep_changes: bool,
    /// Arguments of runqemu, such as qemuparams="-m 1024" or gtk
    #[arg(last = true, value_name = "OPTIONS")]
    pub options: Vec<OsString>,
}

#[derive(Debug, Args)]
pub struct Devtool {
    #[command(flatten)]
    pub manifest: ManifestArgs,
    #[command(flatten)]
    pub release: ReleaseArgs,
    /// Arguments of devtool, such as modify RECIPE
    #[arg(last = true, required = true, value_name = "ARGS")]
    pub args: Vec<OsString>,
}

#[derive(Debug, Args)]
pub struct Completion {
    pub shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub struct Man {
    /// The directory for the pages, such as /usr/local/share/man/man1
    pub dir: PathBuf,
}
