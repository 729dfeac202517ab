//! The directory that stands first on the PATH of one yocto-check-layer run: the agent's shim as
//! `bitbake`, and the socket of its cache server.

use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use fs_err as fs;
use tokio::net::UnixListener;

use agent_fs::access::{Barrier, Credentials, Permission};
use agent_fs::remove;
use agent_process::User;

use super::bitbake_shim::{NAME, SOCKET, STOPPING};
use super::{CacheResult, NotCacheable};

/// `sun_path` of unix(7) with its final zero.
const LONGEST_SOCKET: usize = 107;

/// Gone with the run.
#[derive(Debug)]
pub struct ShimDir {
    directory: PathBuf,
    work: PathBuf,
}

impl ShimDir {
    /// Makes it in the agent's `work` directory for layer code that runs as `user`; `None`: as the
    /// agent itself.
    ///
    /// # Errors
    /// When the user could not use it.
    pub fn make(work: &Path, user: Option<&User>) -> CacheResult<(ShimDir, UnixListener)> {
        let own = agent_process::shim()
            .map_err(|error| NotCacheable(format!("the agent's own binary is not to be found: {error}")))?;
        if let Some(user) = user
            && let Some(closed) = barrier(&own, user)
        {
            return Err(NotCacheable(format!(
                "the build user {} cannot run {}: {} is closed to it",
                user.name,
                own.display(),
                closed.path.display()
            )));
        }
        let directory = work.join("shim");
        let socket = directory.join(SOCKET);
        if socket.as_os_str().len() > LONGEST_SOCKET
            || directory.as_os_str().as_encoded_bytes().contains(&b':')
        {
            return Err(NotCacheable(format!(
                "the path {} is too long or odd for a socket",
                socket.display()
            )));
        }
        let failed = |error: agent_types::error::Error| NotCacheable(error.message);
        remove::remove_tree(&directory, work).map_err(failed)?;
        fs::create_dir(&directory)?;
        fs::set_permissions(&directory, PermissionsExt::from_mode(0o755))?;
        symlink(&own, directory.join(NAME))?;
        let shim_dir = ShimDir { directory, work: work.to_owned() };
        let listener = UnixListener::bind(&socket)?;
        fs::set_permissions(&socket, PermissionsExt::from_mode(0o600))?;
        if let Some(user) = user {
            chown(&socket, Some(user.uid), Some(user.gid))?;
        }
        Ok((shim_dir, listener))
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// From now on the shim starts no BitBake: the job has to stop.
    pub fn start_nothing(&self) {
        // Should it fail, what is started now is ended with its process group a moment later.
        let _ = fs::write(self.directory.join(STOPPING), "");
    }
}

impl Drop for ShimDir {
    fn drop(&mut self) {
        // The next run replaces it in any case.
        let _ = remove::remove_tree(&self.directory, &self.work);
    }
}

/// What keeps the user from running the program.
fn barrier(program: &Path, user: &User) -> Option<Barrier> {
    Credentials::of(user.uid, user.gid).barrier(program, Permission::RUN)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_made_and_gone_again() {
        let work = tempfile::tempdir().unwrap();
        let left = work.path().join("shim/left");
        std::fs::create_dir_all(&left).unwrap();
        let (shim_dir, _listener) = ShimDir::make(work.path(), None).unwrap();
        assert!(!left.exists() && shim_dir.directory().join(NAME).is_file());
        let path = shim_dir.directory().to_owned();
        drop(shim_dir);
        assert!(!path.exists());
        let deep = work.path().join("d".repeat(100));
        std::fs::create_dir(&deep).unwrap();
        assert!(ShimDir::make(&deep, None).is_err());
    }
}
