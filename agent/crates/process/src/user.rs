//! Users of this machine, and which of them runs layer code.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, geteuid};

use agent_types::error::{Error, Result};

/// The user that runs layer code when the agent is root and nobody is named.
const DEFAULT: &str = "builder";

/// A user of this machine, from the passwd database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: PathBuf,
}

impl User {
    /// # Errors
    /// When the passwd database cannot be read.
    pub fn find(name: &str) -> Result<Option<User>> {
        let found = nix::unistd::User::from_name(name);
        found.map(|user| user.map(User::from)).map_err(|errno| unreadable(name, errno))
    }

    /// # Errors
    /// When the passwd database cannot be read.
    pub fn by_uid(uid: u32) -> Result<Option<User>> {
        let found = nix::unistd::User::from_uid(Uid::from_raw(uid));
        found.map(|user| user.map(User::from)).map_err(|errno| unreadable(&uid.to_string(), errno))
    }
}

impl From<nix::unistd::User> for User {
    fn from(user: nix::unistd::User) -> User {
        User { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw(), home: user.dir }
    }
}

fn unreadable(user: &str, errno: nix::errno::Errno) -> Error {
    Error::machine(format!("cannot look up user {user} in the passwd database")).because(&errno)
}

/// The user that the agent itself runs as. Its home is the HOME of the agent's own children,
/// because the variable may lie: CodeBuild leaves it at `/root` also with `run-as`.
///
/// # Errors
/// When the passwd database has no entry.
pub fn agent_user() -> Result<User> {
    let uid = geteuid().as_raw();
    User::by_uid(uid)?.ok_or_else(|| {
        Error::machine(format!("the agent runs as uid {uid}, which has no entry in the passwd database"))
            .hint(format!(
                "git, ssh and Python need one: `useradd -m -u {uid} {DEFAULT}`, or run as a user that exists"
            ))
    })
}

/// The first owner of the paths who is not root, when the agent is root: what these paths may make a
/// program do, it has to do as that user. A uid without passwd entry serves as well.
///
/// # Errors
/// When the passwd database cannot be read.
pub fn lesser_owner<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<Option<User>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let owners = paths.into_iter().filter_map(|path| std::fs::metadata(path).ok());
    let Some(owner) = owners.into_iter().find(|metadata| metadata.uid() != 0) else { return Ok(None) };
    let (uid, gid) = (owner.uid(), owner.gid());
    let nameless = || User { name: format!("uid {uid}"), uid, gid, home: "/".into() };
    Ok(Some(User::by_uid(uid)?.unwrap_or_else(nameless)))
}

/// The user that runs layer code. BitBake refuses root, so as root the agent drops to `asked`
/// (`--build-user`), else to `builder`, else to the owner of the checkout. `None`: as the agent
/// itself, which is not root.
///
/// # Errors
/// Usage, when `asked` is root or cannot be served; machine, when there is no fit user.
pub fn build_user(asked: Option<&str>, checkout: &Path) -> Result<Option<User>> {
    let found = match asked {
        Some(name) => User::find(name)?,
        None => None,
    };
    if !geteuid().is_root() {
        return unprivileged(asked, found.as_ref()).map(|()| None);
    }
    match (asked, found) {
        (Some(name), None) => Err(Error::machine(format!("--build-user: this machine has no user `{name}`"))
            .hint(format!("make it: `useradd -m {name}`"))),
        (_, Some(user)) => not_root(user).map(Some),
        (None, None) => match User::find(DEFAULT)? {
            Some(user) => not_root(user).map(Some),
            None => owner(checkout).map(Some),
        },
    }
}

/// Only root can become somebody else.
fn unprivileged(asked: Option<&str>, found: Option<&User>) -> Result<()> {
    let uid = geteuid().as_raw();
    match (asked, found) {
        (None, _) => Ok(()),
        (Some(_), Some(user)) if user.uid == uid => Ok(()),
        (Some(name), _) => Err(Error::usage(format!(
            "--build-user {name}: the agent runs as uid {uid} and cannot become another user"
        ))
        .hint("leave --build-user out, or start the agent as root or as that user")),
    }
}

fn not_root(user: User) -> Result<User> {
    if user.uid != 0 {
        return Ok(user);
    }
    Err(Error::usage(format!("build user `{}` has uid 0, and BitBake refuses root", user.name))
        .hint(format!("name another user with --build-user, e.g. after `useradd -m {DEFAULT}`")))
}

fn owner(checkout: &Path) -> Result<User> {
    let fix = format!("make a user for builds: `useradd -m {DEFAULT}`, or name one with --build-user");
    let uid = fs_err::metadata(checkout)?.uid();
    if uid == 0 {
        let message = format!(
            "the agent runs as root, there is no user `{DEFAULT}`, and {} belongs to root",
            checkout.display()
        );
        return Err(Error::machine(message).hint(format!("BitBake refuses root; {fix}")));
    }
    User::by_uid(uid)?.ok_or_else(|| {
        let message =
            format!("{} belongs to uid {uid}, which has no entry in the passwd database", checkout.display());
        Error::machine(message).hint(format!("`useradd -m -u {uid} {DEFAULT}`, or {fix}"))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use agent_types::error::Class;

    #[test]
    fn users_come_from_the_passwd_database() {
        let root = User::find("root").unwrap().unwrap();
        assert_eq!(root.uid, 0);
        assert_eq!(User::by_uid(0).unwrap().unwrap(), root);
        assert_eq!(User::find("no-such-user-here").unwrap(), None);
        assert_eq!(agent_user().unwrap().uid, geteuid().as_raw());
    }

    #[test]
    fn layer_code_never_runs_as_root() {
        let checkout = tempfile::tempdir().unwrap();
        if !geteuid().is_root() {
            assert_eq!(build_user(None, checkout.path()).unwrap(), None);
            assert_eq!(build_user(Some("root"), checkout.path()).unwrap_err().class, Class::Usage);
            return;
        }
        assert_eq!(build_user(Some("root"), checkout.path()).unwrap_err().class, Class::Usage);
        let missing = build_user(Some("no-such-user-here"), checkout.path()).unwrap_err();
        assert_eq!(missing.class, Class::Machine);
        assert!(missing.hint.unwrap().contains("useradd -m no-such-user-here"));

        let Some(nobody) = User::find("nobody").unwrap() else { return };
        assert_eq!(build_user(Some("nobody"), checkout.path()).unwrap(), Some(nobody.clone()));
        if User::find(DEFAULT).unwrap().is_none() {
            let error = build_user(None, checkout.path()).unwrap_err();
            assert!(error.class == Class::Machine && error.hint.unwrap().contains("useradd -m builder"));
            std::os::unix::fs::chown(checkout.path(), Some(nobody.uid), None).unwrap();
            assert_eq!(build_user(None, checkout.path()).unwrap(), Some(nobody));
            std::os::unix::fs::chown(checkout.path(), Some(987_654), None).unwrap();
            assert!(build_user(None, checkout.path()).unwrap_err().message.contains("987654"));
        }
    }
}
