//! `slowfs`: shows a directory again elsewhere, as slow and as faulty as a share on a network.
//!
//! It passes every request through to the source, and lets each wait as the network would: requests
//! wait side by side, 64 at most, as many as Linux' NFS 4.1 client has under way. What NFS clients
//! remember, the kernel may remember here, with the same defaults (acregmin, acdirmin): the
//! attributes of a file for 3 s, names and attributes of directories for 30 s. But the *name* of a
//! file is looked up each time anew, and listings never bring attributes with them: so each file
//! that a program touches by name costs an operation, whichever program that is. Two things cost
//! one operation more than on NFS 4, whose OPEN has the lookup in it: opening a file, and making one.

#![cfg(target_os = "linux")]

mod facts;
mod handles;
mod nodes;
mod requests;
mod share;
mod weather;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use fuser::{Config, MountOption, Session, SessionACL};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use share::{Caching, Share};
use weather::{Delays, Fault, Forecast, Late, Operation, Weather};

/// Show a directory again as a slow and faulty share.
///
/// Prints `ready` when it is mounted. SIGUSR1 prints the operations so far, as one line of JSON;
/// SIGTERM and SIGINT unmount, also while it is in use, and print them, too.
#[derive(Parser)]
struct Arguments {
    /// The directory to show
    source: PathBuf,
    /// The directory to show it at
    mountpoint: PathBuf,
    /// How long each operation takes that is named nowhere else
    #[arg(long, value_name = "MS", default_value_t = 1)]
    metadata_ms: u64,
    /// How long it takes to make a file, directory or symbolic link
    #[arg(long, value_name = "MS", default_value_t = 3)]
    create_ms: u64,
    /// How long each read takes
    #[arg(long, value_name = "MS", default_value_t = 0)]
    read_ms: u64,
    /// How many operations may be under way at once
    #[arg(long, value_name = "COUNT", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    slots: u16,
    /// How long attributes of files are remembered
    #[arg(long, value_name = "MS", default_value_t = 3_000)]
    file_cache_ms: u64,
    /// How long names and attributes of directories are remembered
    #[arg(long, value_name = "MS", default_value_t = 30_000)]
    directory_cache_ms: u64,
    /// Refuse hard links with EPERM
    #[arg(long)]
    no_hard_links: bool,
    /// Answer with an error, without doing it: `rename:EIO`, `write:ENOSPC:after=100`,
    /// `lookup:ESTALE:every=7`, `create:EIO:first=2`
    #[arg(long, value_name = "OP:ERRNO[:WHEN]")]
    fault: Vec<Fault>,
    /// Never answer
    #[arg(long, value_name = "OP")]
    hang: Vec<Operation>,
    /// Do it, but answer late, with an error if one is given: `rename:50:ENOENT`
    #[arg(long, value_name = "OP:MS[:ERRNO]")]
    late: Vec<Late>,
    /// Let faults, hangs and late answers begin with SIGUSR2
    #[arg(long)]
    calm: bool,
    /// End when the standard input ends, as it does when the parent dies
    #[arg(long)]
    until_eof: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&mut std::io::stderr(), &format!("slowfs: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let source = arguments.source.canonicalize()?;
    let mountpoint = arguments.mountpoint.canonicalize()?;
    if mountpoint.starts_with(&source) || source.starts_with(&mountpoint) {
        return Err("one of the two directories lies in the other".into());
    }
    // Before the first thread, so that all inherit them.
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1, Signal::SIGUSR2]);
    signals.thread_block()?;
    nix::sys::prctl::set_timerslack(1_000)?;
    nix::sys::stat::umask(Mode::empty());

    let weather = Arc::new(arguments.weather());
    let share = Share::new(&source, Arc::clone(&weather), arguments.caching(), !arguments.no_hard_links);
    let session = Session::new(share, &mountpoint, &arguments.mount())?.spawn()?;
    std::thread::spawn(move || {
        // Also when somebody else unmounts it.
        let _ = session.join();
        end();
    });
    if arguments.until_eof {
        std::thread::spawn(|| {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            end();
        });
    }
    say(&mut std::io::stdout(), "ready");
    loop {
        match signals.wait()? {
            Signal::SIGUSR1 => say(&mut std::io::stdout(), &weather.to_string()),
            Signal::SIGUSR2 => weather.break_out(),
            _ => break,
        }
    }
    unmount(&mountpoint);
    say(&mut std::io::stdout(), &weather.to_string());
    Ok(())
}

impl Arguments {
    fn weather(&self) -> Weather {
        let forecast = Forecast {
            delays: Delays {
                metadata: Duration::from_millis(self.metadata_ms),
                create: Duration::from_millis(self.create_ms),
                read: Duration::from_millis(self.read_ms),
            },
            faults: self.fault.clone(),
            hangs: self.hang.clone(),
            late: self.late.clone(),
        };
        Weather::new(forecast, self.calm)
    }

    fn caching(&self) -> Caching {
        Caching {
            files: Duration::from_millis(self.file_cache_ms),
            directories: Duration::from_millis(self.directory_cache_ms),
        }
    }

    fn mount(&self) -> Config {
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("slowfs".into()), MountOption::DefaultPermissions];
        // Only root may let others in, unless /etc/fuse.conf says otherwise.
        let root = nix::unistd::geteuid().is_root();
        config.acl = if root { SessionACL::All } else { SessionACL::Owner };
        config.n_threads = Some(self.slots.into());
        config
    }
}

/// Lets the main thread go on to its end.
fn end() {
    let _ = kill(Pid::this(), Signal::SIGTERM);
}

/// At once, for new requests; those under way end with this process. An error is that of a mount
/// that is gone already.
fn unmount(mountpoint: &Path) {
    if umount2(mountpoint, MntFlags::MNT_DETACH).is_err() && !nix::unistd::geteuid().is_root() {
        let _ = std::process::Command::new("fusermount3").arg("-uz").arg(mountpoint).output();
    }
}

/// Whoever listened may be gone.
fn say(out: &mut impl Write, line: &str) {
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
