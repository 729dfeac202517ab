//! `build-agent boot`: starts a built image in QEMU, with its console on the terminal.

use crate::config::{AgentEnvironment, Settings};
use crate::stages::configure::Reuse;
use agent_types::error::{Error, Result};
use agent_types::outcome::ExitStatus;
use agent_yocto::runqemu::{self, BootImage, ImageFilter};

use super::arguments;
use super::print;
use super::session::{self, Session};

pub async fn command(args: arguments::Boot, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let settings = session::settings(&args.manifest, &args.release, false, environment).await?;
    let image = image(&args, &settings)?;
    let session = Session::open(settings, Reuse::Required, environment).await?;
    let asks_for_kvm = args.options.iter().any(|word| word == "kvm" || word == "kvm-vhost");
    let kvm = if asks_for_kvm || !image.may_use_kvm(std::env::consts::ARCH) {
        false
    } else {
        let works = session.kvm().await;
        if let Err(why) = &works {
            print::diagnostic(format_args!("the guest runs without KVM, which is slow: {why}"));
        }
        works.is_ok()
    };
    print::diagnostic(format_args!(
        "starting {} for {}; Ctrl-A X ends QEMU{}",
        image.name,
        image.machine,
        if args.keep_changes { "" } else { ", and what the guest changed is lost" }
    ));
    let runqemu = session.configured.tools.oe_core.join("scripts/runqemu");
    session.run(runqemu.into(), image.arguments(kvm, args.keep_changes, &args.options)).await
}

/// Finds the image before anything is prepared.
fn image(args: &arguments::Boot, settings: &Settings) -> Result<BootImage> {
    let build = settings.paths.build();
    let images = match build.is_dir() {
        true => runqemu::images(&build).map_err(|error| {
            Error::machine(format!("cannot read the images in {}", build.display())).because(&error)
        })?,
        false => Vec::new(),
    };
    if images.is_empty() {
        let message = format!("{} has no image that QEMU can start", build.display());
        return Err(Error::usage(message).hint(
            "build one: `build-agent run`, with the same manifest and options, an image in [build] targets and a \
             machine for QEMU such as qemux86-64. If the manifest sets TMPDIR: `build-agent shell -- runqemu`",
        ));
    }
    let filter = ImageFilter {
        machine: args.machine.as_deref(),
        image: args.image.as_deref(),
        machines: &settings.config.machines,
        targets: &settings.build.targets,
    };
    let image = runqemu::choose(&images, filter).map_err(|why| {
        Error::usage(why).hint("--machine and --image choose one; `build-agent run` builds what is missing")
    })?;
    if let Some(directory) = image.missing_qemu() {
        let message = format!("the build's QEMU was deleted: {} does not exist", directory.display());
        return Err(Error::usage(message).hint(
            "make it again: `build-agent shell -- bitbake -c addto_recipe_sysroot qemu-helper-native`",
        ));
    }
    Ok(image.clone())
}
