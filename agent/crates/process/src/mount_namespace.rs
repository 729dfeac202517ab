//! A command that sees another directory at a path than everybody else: a bind mount in a mount
//! namespace of its own.
//!
//! It takes several calls of the kernel between the fork and the program, so the agent's shim
//! under another name makes them and becomes the program. What it gets may come from layer code: while
//! it may still have the agent's rights, the command's variables have other names, so that none of them
//! (`LD_PRELOAD`) means anything, and no program below it can gain rights.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, getegid, geteuid, setgroups, setresgid, setresuid};

use agent_types::error::{Error, Result};

use super::running::MARKER;
use super::shim::shim;
use super::{ExecSpec, User};

/// The name under which it runs.
pub const NAME: &str = "build-agent-sandbox";

/// Before the name of each variable of the command.
const PREFIX: &str = "BUILD_AGENT_APART_";

/// Which directory is seen where, in the order of the mounts. All of them exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountNamespace {
    pub mounts: Vec<Mount>,
}

/// The directory, with what is mounted in it, takes the place of another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub directory: PathBuf,
    pub over: PathBuf,
}

impl MountNamespace {
    /// The agent's shim with all that it needs to become the command.
    pub(super) fn prepare<'a>(
        &self,
        argv: &[OsString],
        cwd: &Path,
        user: Option<&User>,
        environment: impl Iterator<Item = (&'a OsStr, &'a OsStr)>,
    ) -> Result<tokio::process::Command> {
        let own = shim()
            .map_err(|error| Error::machine("the agent's own binary is not to be found").because(&error))?;
        let mut child = tokio::process::Command::new(own);
        child.arg0(NAME).arg(self.mounts.len().to_string());
        child.args(self.mounts.iter().flat_map(|mount| [&mount.directory, &mount.over])).arg(cwd);
        let ids = user.map_or((geteuid().as_raw(), getegid().as_raw()), |user| (user.uid, user.gid));
        child.arg(ids.0.to_string()).arg(ids.1.to_string()).args(argv);
        child.env_clear().envs(environment.map(|(name, value)| {
            let mut prefixed = OsString::from(PREFIX);
            prefixed.push(name);
            (prefixed, value)
        }));
        Ok(child)
    }
}

/// Becomes the program of the command line that [`MountNamespace`] prepared.
pub fn main(argv: Vec<OsString>, environment: Vec<(OsString, OsString)>) -> ! {
    let failed = become_program(&argv, environment).err().unwrap_or_default();
    let _ = writeln!(io::stderr(), "{NAME}: {failed}");
    std::process::exit(126);
}

/// Comes back only with the reason why it could not.
fn become_program(argv: &[OsString], environment: Vec<(OsString, OsString)>) -> Result<(), String> {
    let number = |word: &OsStr| word.to_str().and_then(|word| word.parse().ok()).ok_or("no number");
    let nothing = || String::from("this name is for the agent itself");
    let [_, count, rest @ ..] = argv else { return Err(nothing()) };
    let count = number(count)? as usize;
    let (mounts, rest) =
        count.checked_mul(2).and_then(|words| rest.split_at_checked(words)).ok_or_else(nothing)?;
    let [cwd, uid, gid, argv @ ..] = rest else { return Err(nothing()) };
    let program = argv.first().ok_or_else(nothing)?;
    let (uid, gid) = (Uid::from_raw(number(uid)?), Gid::from_raw(number(gid)?));
    own_namespace(uid, gid)?;
    let no_type: Option<&str> = None;
    let failed = |what: &str, errno: nix::errno::Errno| format!("{what}: {errno}");
    // Nothing of this comes back to the namespace of everybody else.
    mount(no_type, "/", no_type, MsFlags::MS_REC | MsFlags::MS_PRIVATE, no_type)
        .map_err(|errno| failed("cannot make the mounts private", errno))?;
    for pair in mounts.chunks_exact(2) {
        let (directory, over) = (Path::new(&pair[0]), Path::new(&pair[1]));
        mount(Some(directory), over, no_type, MsFlags::MS_BIND | MsFlags::MS_REC, no_type)
            .map_err(|errno| failed("cannot mount the directory", errno))?;
    }
    drop_rights(uid, gid)?;
    prctl::set_no_new_privs().map_err(|errno| failed("cannot keep programs from gaining rights", errno))?;
    // Whatever it was before, it may lie below the mount.
    std::env::set_current_dir(cwd).map_err(|error| format!("{}: {error}", Path::new(cwd).display()))?;
    let real = ExecSpec { program: program.into(), argv: argv.to_vec(), environment: own(environment) };
    Err(format!("{}: {}", Path::new(program).display(), real.replace()))
}

/// As root a mount namespace; where that is not allowed, and for everybody else, one that belongs to a
/// user namespace in which user and group are the same as outside.
fn own_namespace(uid: Uid, gid: Gid) -> Result<(), String> {
    if geteuid().is_root() && unshare(CloneFlags::CLONE_NEWNS).is_ok() {
        return Ok(());
    }
    drop_rights(uid, gid)?;
    // Without this, /proc/self belongs to root after a change of user.
    let _ = prctl::set_dumpable(true);
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
        .map_err(|errno| format!("the kernel refuses namespaces: {errno}"))?;
    let files = [("setgroups", "deny".into()), ("uid_map", one_to_one(uid)), ("gid_map", one_to_one(gid))];
    for (file, text) in files {
        let written = std::fs::write(Path::new("/proc/self").join(file), text);
        written.map_err(|error| format!("the kernel refuses a user namespace ({file}): {error}"))?;
    }
    Ok(())
}

fn one_to_one(id: impl std::fmt::Display) -> String {
    format!("{id} {id} 1")
}

/// Once and for all. Whoever is that user already has nothing to drop.
fn drop_rights(uid: Uid, gid: Gid) -> Result<(), String> {
    if geteuid() == uid {
        return Ok(());
    }
    setgroups(&[])
        .and_then(|()| setresgid(gid, gid, gid))
        .and_then(|()| setresuid(uid, uid, uid))
        .map_err(|errno| format!("cannot become user {uid}: {errno}"))
}

/// The command's variables, and the marker by which the agent knows its children.
fn own(environment: Vec<(OsString, OsString)>) -> Vec<(OsString, OsString)> {
    let own = environment.into_iter().filter_map(|(name, value)| {
        let bytes = name.as_bytes();
        match bytes.strip_prefix(PREFIX.as_bytes()) {
            Some(rest) => Some((OsString::from_vec(rest.to_vec()), value)),
            None => (name == MARKER).then_some((name, value)),
        }
    });
    own.collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_program_gets_its_own_variables_and_the_marker() {
        let named = |names: &[&str]| -> Vec<(OsString, OsString)> {
            names.iter().map(|name| (name.into(), "x".into())).collect()
        };
        let seen = own(named(&["BUILD_AGENT_APART_LD_PRELOAD", "PATH", MARKER, "BUILD_AGENT_APART_"]));
        assert_eq!(seen, named(&["LD_PRELOAD", MARKER, ""]));
    }

    #[test]
    fn words_that_make_no_sense_are_refused() {
        for words in [
            "",
            "sandbox",
            "sandbox 0",
            "sandbox 1 /a /b /c 1 2",
            "sandbox 1 /a /b /c x 2 true",
            "sandbox 2 /a /b /c 1 2 true",
            "sandbox 4294967295 /a /b /c 1 2 true",
        ] {
            let argv: Vec<OsString> = words.split_whitespace().map(Into::into).collect();
            assert!(become_program(&argv, Vec::new()).is_err(), "{words}");
        }
    }
}
