//! The prepared database: its age, and a copy on local disk. A database on NFS is read with stale pages
//! (YOCTO #16086), and the build user must not reach the original.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use agent_fs::read;
use agent_process::Command;
use agent_types::error::Result;
use agent_types::words::count;
use agent_yocto::cve::{self, Method};
use agent_yocto::environment::host_environment;

use super::CveCheck;
use crate::stages::blocking;

/// The copy, in a directory of its own: cve-check makes a lock file beside it.
pub fn copy_in(scratch: &Path) -> PathBuf {
    scratch.join("database/cve.db")
}

/// An older one misses what was published since then.
const OLD: Duration = Duration::from_secs(7 * 24 * 3600);

/// The files of a git clone that change when it is updated.
const MARKS: [&str; 4] =
    ["nvd-fkie/.git/FETCH_HEAD", "nvd-fkie/.git/HEAD", "cvelist/.git/FETCH_HEAD", "cvelist/.git/HEAD"];

impl CveCheck<'_> {
    /// Copies the database of [`Method::CveCheck`]; that of [`Method::Vex`] is only read. The inner error is the reason
    /// why it cannot be used.
    pub async fn prepare_database(
        &self,
        method: Method,
        source: &Path,
        scratch: &Path,
    ) -> Result<std::result::Result<(), String>> {
        let path = source.to_owned();
        let looked =
            blocking(&self.runner.interrupt, "the CVE database was checked", move || Ok(look(method, &path)));
        let age = match looked.await? {
            Ok(age) => age,
            Err(why) => return Ok(Err(why)),
        };
        let said = format!("the CVE database {} is {} old", source.display(), in_words(age));
        match age > OLD {
            true => {
                let hint = "the scheduled job that updates it may have failed";
                self.runner.events.warn(said, Some(hint.into())).await;
            }
            false => self.runner.events.info(said).await,
        }
        if method == Method::Vex {
            return Ok(Ok(()));
        }
        // By the build user: a path of the manifest must not make root read for it.
        let copy = copy_in(scratch);
        let directory = scratch.join("database");
        let user = self.configured.user.as_ref();
        self.configured.scratch_directory(self.settings, &directory, user, self.runner).await?;
        let mut command = Command::new("/bin/cp", &directory, "cve-database")
            .args(["--no-preserve=all", "--reflink=auto", "--"])
            .arg(source)
            .arg(&copy)
            .status("copies the CVE database");
        command.environment = host_environment(&self.configured.whoami, &[]);
        command.user = self.configured.user.clone();
        let finished = self.runner.run(command, &mut ()).await?;
        if !finished.success() {
            let said = finished.tail.last().cloned().unwrap_or_else(|| finished.end.to_string());
            return Ok(Err(format!("the CVE database cannot be copied: {said}")));
        }
        Ok(check_copy(&copy).map_err(|why| format!("{}: {why}", source.display())))
    }
}

/// The age of the database.
fn look(method: Method, source: &Path) -> std::result::Result<Duration, String> {
    let metadata =
        fs_err::metadata(source).map_err(|error| format!("the CVE database cannot be used: {error}"))?;
    let shown = source.display();
    let time = match (method, metadata.is_dir()) {
        (Method::CveCheck, false) => metadata.modified().ok(),
        (Method::Vex, true) => {
            let marks = MARKS.iter().map(|mark| source.join(mark));
            marks.filter_map(|mark: PathBuf| mark.metadata().ok()?.modified().ok()).max()
        }
        (Method::CveCheck, true) => {
            return Err(format!("`{shown}` is a directory, and cve-check needs the file of its database"));
        }
        (Method::Vex, false) => {
            return Err(format!(
                "`{shown}` is a file, and sbom-cve-check needs a directory with its databases"
            ));
        }
    };
    let age = time.and_then(|time| SystemTime::now().duration_since(time).ok());
    Ok(age.unwrap_or_default())
}

/// A damaged or half-written file would make every recipe fail.
fn check_copy(copy: &Path) -> std::result::Result<(), String> {
    use std::io::Read;
    let mut head = [0; 16];
    let mut read_head = || -> std::io::Result<()> { read::open(copy)?.0.read_exact(&mut head) };
    match read_head() {
        Ok(()) if cve::is_database(&head) => Ok(()),
        Ok(()) => Err("it is not an SQLite database".into()),
        Err(error) => Err(format!("it is not an SQLite database ({error})")),
    }
}

fn in_words(age: Duration) -> String {
    let hours = age.as_secs() / 3600;
    if hours < 48 { count(hours, "hour") } else { count(hours / 24, "day") }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_database_of_the_wrong_kind_is_rejected() {
        let top = tempfile::tempdir().unwrap();
        let file = top.path().join("x.db");
        fs_err::write(&file, "SQLite format 3\0rest").unwrap();
        assert!(look(Method::CveCheck, &file).is_ok() && look(Method::Vex, top.path()).is_ok());
        assert!(look(Method::CveCheck, top.path()).unwrap_err().contains("is a directory"));
        assert!(look(Method::Vex, &file).unwrap_err().contains("is a file"));
        assert!(look(Method::CveCheck, &top.path().join("gone")).unwrap_err().contains("cannot be used"));
        assert_eq!(check_copy(&file), Ok(()));
        for text in ["", "<html>a longer text that is no database</html>"] {
            fs_err::write(&file, text).unwrap();
            assert!(check_copy(&file).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_age_is_in_hours_and_then_in_days() {
        for (hours, wanted) in
            [(0, "0 hours"), (1, "1 hour"), (47, "47 hours"), (48, "2 days"), (250, "10 days")]
        {
            assert_eq!(in_words(Duration::from_secs(hours * 3600)), wanted);
        }
    }
}
