//! `slowfs`: mounts a directory elsewhere, as slow and as faulty as a network share.
//!
//! It passes every request to the source, and delays each as a network would. Requests wait in parallel, at
//! most 64, like Linux' NFS 4.1 client. The kernel may cache what NFS clients cache, with the same defaults
//! (acregmin, acdirmin): the attributes of a file for 3 s, names and attributes of directories for 30 s. But
//! the *name* of a file is looked up each time, and listings return no attributes: so each file that a
//! program accesses by name costs an operation. Opening or creating a file costs one operation more than on
//! NFS 4, whose OPEN includes the lookup.

#![cfg(target_os = "linux")]

mod attributes;
mod faults;
mod handles;
mod nodes;
mod requests;
mod share;

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

use faults::{Delays, Fault, FaultInjector, FaultPlan, Late, Operation};
use share::{Caching, Share};

/// Mount a directory as a slow and faulty share.
///
/// Prints `ready` when it is mounted. SIGUSR1 prints the operations so far as one line of JSON; SIGTERM and
/// SIGINT unmount, even while it is in use, and print them, too.
#[derive(Parser)]
struct Arguments {
    /// The source directory
    source: PathBuf,
    /// The mount point
    mountpoint: PathBuf,
    /// Delay of each operation without its own option
    #[arg(long, value_name = "MS", default_value_t = 1)]
    metadata_ms: u64,
    /// Delay to create a file, directory or symbolic link
    #[arg(long, value_name = "MS", default_value_t = 3)]
    create_ms: u64,
    /// Delay of each read
    #[arg(long, value_name = "MS", default_value_t = 0)]
    read_ms: u64,
    /// Maximum number of operations in flight
    #[arg(long, value_name = "COUNT", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    slots: u16,
    /// How long attributes of files are cached
    #[arg(long, value_name = "MS", default_value_t = 3_000)]
    file_cache_ms: u64,
    /// How long names and attributes of directories are cached
    #[arg(long, value_name = "MS", default_value_t = 30_000)]
    directory_cache_ms: u64,
    /// Reject hard links with EPERM
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
    /// Start without faults, hangs and late answers; SIGUSR2 enables them
    #[arg(long)]
    faults_off: bool,
    /// End at the end of standard input, which comes when the parent dies
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
        return Err("one of the two directories is in the other".into());
    }
    // Before the first thread, so that all threads inherit it.
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1, Signal::SIGUSR2]);
    signals.thread_block()?;
    nix::sys::prctl::set_timerslack(1_000)?;
    nix::sys::stat::umask(Mode::empty());

    let injector = Arc::new(arguments.injector());
    let share = Share::new(&source, Arc::clone(&injector), arguments.caching(), !arguments.no_hard_links);
    let session = Session::new(share, &mountpoint, &arguments.mount())?.spawn()?;
    std::thread::spawn(move || {
        // Ends as well if another process unmounts it.
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
            Signal::SIGUSR1 => say(&mut std::io::stdout(), &injector.to_string()),
            Signal::SIGUSR2 => injector.enable(),
            _ => break,
        }
    }
    unmount(&mountpoint);
    say(&mut std::io::stdout(), &injector.to_string());
    Ok(())
}

impl Arguments {
    fn injector(&self) -> FaultInjector {
        let plan = FaultPlan {
            delays: Delays {
                metadata: Duration::from_millis(self.metadata_ms),
                create: Duration::from_millis(self.create_ms),
                read: Duration::from_millis(self.read_ms),
            },
            faults: self.fault.clone(),
            hangs: self.hang.clone(),
            late: self.late.clone(),
        };
        FaultInjector::new(plan, self.faults_off)
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
        // Only root may let other users in, unless /etc/fuse.conf allows it.
        let root = nix::unistd::geteuid().is_root();
        config.acl = if root { SessionACL::All } else { SessionACL::Owner };
        config.n_threads = Some(self.slots.into());
        config
    }
}

/// Makes the main thread continue to its end.
fn end() {
    let _ = kill(Pid::this(), Signal::SIGTERM);
}

/// Unmounts at once for new requests; those in flight end with this process. An error means that it is not
/// mounted any more.
fn unmount(mountpoint: &Path) {
    if umount2(mountpoint, MntFlags::MNT_DETACH).is_err() && !nix::unistd::geteuid().is_root() {
        let _ = std::process::Command::new("fusermount3").arg("-uz").arg(mountpoint).output();
    }
}

/// Prints a line. The reader may be gone, so errors are ignored.
fn say(out: &mut impl Write, line: &str) {
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
