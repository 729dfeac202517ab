//! The build directory of the job: what an earlier job left there goes on, or it is emptied.
//!
//! A developer looks into a failed build, and a second build reuses what the first one made. So the directory stays,
//! unless `--fresh` or CI asks for an empty one, or what is there is of no use to this job: it was made by a source
//! of another trust, by another BitBake, or for another user. The record of that lies beside the directory, where
//! layer code cannot write if the agent is root.

use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::{Deserialize, Serialize};

use agent_cache::signature_cache::WrittenConf;
use agent_fs::remove::{SetAside, clear, remove_file, remove_tree};
use agent_fs::untrusted;
use agent_process::User;
use agent_types::error::{Error, Result};
use agent_types::tiers::Trust;

/// What the directory was made by. It is reused by the same only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeBy {
    pub release: String,
    /// BitBake's version.
    pub bitbake: String,
    /// `OELAYOUT_ABI` of OE-Core: another one cannot use the same TMPDIR.
    pub layout: Option<String>,
    /// `trusted`, `pull request 7` or `untrusted`: what one leaves must not get into another's builds.
    pub trust: String,
    /// The build user; `None`: the agent's own.
    pub user: Option<u32>,
}

/// The record beside the directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    made_by: MadeBy,
    /// As the agent wrote them last.
    bblayers: String,
    local: String,
}

/// Whether changes that a person made to the configuration stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edits {
    /// As long as the agent would write what it wrote before.
    Keep,
    Overwrite,
}

/// The directory and what it is to become.
#[derive(Clone, Debug)]
pub struct BuildDir {
    pub dir: PathBuf,
    /// Holds the directory; the agent's own.
    pub work: PathBuf,
    pub made_by: MadeBy,
    pub conf: WrittenConf,
    pub user: Option<User>,
}

/// What there is to say about the directory.
#[derive(Debug, Default)]
pub struct Said {
    pub infos: Vec<String>,
    pub warnings: Vec<(String, String)>,
}

impl Said {
    fn aside(&mut self, aside: Option<SetAside>) {
        self.warnings.extend(aside.map(|aside| (aside.to_string(), aside.hint())));
    }
}

impl MadeBy {
    pub fn new(
        release: &str,
        bitbake: &str,
        layout: Option<String>,
        trust: &Trust,
        user: Option<&User>,
    ) -> MadeBy {
        let trust = match trust {
            Trust::Trusted { .. } => "trusted".to_owned(),
            Trust::Untrusted { pull_request: Some(number), .. } => format!("pull request {number}"),
            Trust::Untrusted { pull_request: None, .. } => "untrusted".to_owned(),
        };
        let (release, bitbake) = (release.to_owned(), bitbake.to_owned());
        MadeBy { release, bitbake, layout, trust, user: user.map(|user| user.uid) }
    }

    /// Why `self` cannot use what `earlier` made.
    fn differs(&self, earlier: &MadeBy) -> Option<String> {
        let layout = |one: &MadeBy| one.layout.clone().unwrap_or_else(|| "unknown".into());
        let user =
            |one: &MadeBy| one.user.map_or_else(|| "the agent's own".into(), |uid| format!("uid {uid}"));
        let pairs = [
            ("the release", earlier.release.clone(), self.release.clone()),
            ("BitBake's version", earlier.bitbake.clone(), self.bitbake.clone()),
            ("OE-Core's layout of TMPDIR (OELAYOUT_ABI)", layout(earlier), layout(self)),
            ("the trust in the source", earlier.trust.clone(), self.trust.clone()),
            ("the build user", user(earlier), user(self)),
        ];
        let (what, was, is) = pairs.into_iter().find(|(_, was, is)| was != is)?;
        Some(format!("{what} was {was} and is {is}"))
    }
}

impl BuildDir {
    /// Makes the directory ready. Blocks for as long as it takes to delete what is there.
    ///
    /// # Errors
    /// Machine, when it cannot be deleted or written.
    pub fn prepare(&self, fresh: bool, edits: Edits) -> Result<Said> {
        let mut said = Said::default();
        let Some(record) = self.reusable(fresh, &mut said) else {
            self.make(&mut said)?;
            return Ok(said);
        };
        said.infos.push(format!(
            "the build directory goes on from where an earlier job left it: {}; --fresh empties it",
            self.dir.display()
        ));
        let wanted = [self.conf.bblayers.as_str(), self.conf.local.as_str()];
        let recorded = [record.bblayers.as_str(), record.local.as_str()];
        let found = self.conf_on_disk();
        let is_as = |conf: [&str; 2]| found.as_ref().is_some_and(|found| found.iter().eq(conf.iter()));
        // Written only if it differs: BitBake parses everything again after a change.
        let is_fine = is_as(wanted) || edits == Edits::Keep && recorded == wanted && found.is_some();
        if !is_fine {
            self.replace_conf(!is_as(recorded) && found.is_some(), &mut said)?;
        }
        self.write_record()?;
        Ok(said)
    }

    /// The record of what is there, if it can be reused.
    fn reusable(&self, fresh: bool, said: &mut Said) -> Option<Record> {
        if fresh || !fs::symlink_metadata(&self.dir).is_ok_and(|meta| meta.is_dir()) {
            return None;
        }
        let text = untrusted::read_text(&self.record_path(), untrusted::SOURCE).ok();
        let record = text.and_then(|text| serde_json::from_str::<Record>(&text).ok());
        let why = match &record {
            None => Some("nothing says which job made it".to_owned()),
            Some(record) => self.made_by.differs(&record.made_by),
        };
        if let Some(why) = why {
            said.infos.push(format!("the build directory {} is emptied: {why}", self.dir.display()));
            return None;
        }
        record
    }

    /// An empty directory with the configuration.
    fn make(&self, said: &mut Said) -> Result<()> {
        remove_file(&self.record_path(), &self.work)?;
        said.aside(clear(&self.dir, &self.work)?);
        fs::create_dir_all(&self.dir)?;
        write_conf(&self.dir.join("conf"), &self.conf, self.user.as_ref())?;
        hand_over(&self.dir, self.user.as_ref())?;
        self.write_record()
    }

    /// The build user owns the directory, and may have put a link anywhere. So the configuration is written beside
    /// it, and then moved to its place.
    fn replace_conf(&self, keep_edited: bool, said: &mut Said) -> Result<()> {
        let (conf, new) = (self.dir.join("conf"), self.work.join("build-conf-new"));
        remove_tree(&new, &self.work)?;
        write_conf(&new, &self.conf, self.user.as_ref())?;
        if keep_edited {
            let old = self.dir.join("conf.old");
            said.aside(clear(&old, &self.work)?);
            fs::rename(&conf, &old)?;
            said.warnings.push((
                format!(
                    "the configuration in {} was changed since the agent wrote it; it is now in {}, and the \
                     manifest's is in its place",
                    conf.display(),
                    old.display()
                ),
                "put what a build needs into `[config] local_conf` of the manifest".into(),
            ));
        } else {
            said.aside(clear(&conf, &self.work)?);
        }
        Ok(fs::rename(&new, &conf)?)
    }

    /// `bblayers.conf` and `local.conf`, if they are all that configures the build.
    fn conf_on_disk(&self) -> Option<[String; 2]> {
        let conf = self.dir.join("conf");
        let read = |name: &str| untrusted::read_text(&conf.join(name), untrusted::SOURCE).ok();
        let found = [read("bblayers.conf"), read("local.conf")];
        let ours = |name: &std::ffi::OsStr| {
            ["bblayers.conf", "local.conf", "sanity_info", "templateconf.cfg"]
                .iter()
                .any(|ours| name == *ours)
        };
        let more = fs::read_dir(&conf).ok()?.flatten().find(|entry| !ours(&entry.file_name()));
        let [bblayers, local] = found.map(Option::unwrap_or_default);
        // Something that the agent has not put there is a change like another text.
        Some(match more {
            Some(more) => [bblayers, format!("{local}\n# and {}", more.file_name().display())],
            None => [bblayers, local],
        })
    }

    fn record_path(&self) -> PathBuf {
        self.dir.with_extension("json")
    }

    fn write_record(&self) -> Result<()> {
        let WrittenConf { bblayers, local } = self.conf.clone();
        let record = Record { made_by: self.made_by.clone(), bblayers, local };
        let text = serde_json::to_string_pretty(&record).map_err(|error| {
            Error::internal("cannot write down what the build directory is").because(&error)
        })?;
        // Renamed into its place: a half record would empty the directory.
        let new = self.record_path().with_extension("json.new");
        remove_file(&new, &self.work)?;
        fs::write(&new, text)?;
        Ok(fs::rename(&new, self.record_path())?)
    }
}

/// An empty directory with this configuration, in place of what is there.
///
/// # Errors
/// Machine, when that cannot be deleted, or it cannot be written.
pub fn empty(dir: &Path, work: &Path, conf: &WrittenConf, user: Option<&User>) -> Result<Option<SetAside>> {
    let aside = clear(dir, work)?;
    fs::create_dir_all(dir)?;
    write_conf(&dir.join("conf"), conf, user)?;
    hand_over(dir, user)?;
    Ok(aside)
}

fn write_conf(dir: &Path, conf: &WrittenConf, user: Option<&User>) -> Result<()> {
    fs::create_dir_all(dir)?;
    let files = [dir.join("bblayers.conf"), dir.join("local.conf")];
    fs::write(&files[0], &conf.bblayers)?;
    fs::write(&files[1], &conf.local)?;
    // From the inside out: what lies in a directory of the build user can be replaced by a link.
    [files[0].as_path(), &files[1], dir].into_iter().try_for_each(|path| hand_over(path, user))
}

/// Gives the path to the user that runs layer code.
pub fn hand_over(path: &Path, user: Option<&User>) -> Result<()> {
    let Some(user) = user else { return Ok(()) };
    std::os::unix::fs::lchown(path, Some(user.uid), Some(user.gid)).map_err(|error| {
        Error::machine(format!("cannot give `{}` to the build user {}", path.display(), user.name))
            .because(&error)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn untrusted() -> Trust {
        Trust::Untrusted { why: "x".into(), pull_request: None }
    }

    fn build_dir(work: &Path) -> BuildDir {
        BuildDir {
            dir: work.join("build"),
            work: work.to_owned(),
            made_by: MadeBy::new("scarthgap", "2.8.1", Some("15".into()), &untrusted(), None),
            conf: WrittenConf { bblayers: "layers 1".into(), local: "local 1".into() },
            user: None,
        }
    }

    fn local(dir: &BuildDir) -> String {
        fs::read_to_string(dir.dir.join("conf/local.conf")).unwrap()
    }

    /// What an earlier job left in TMPDIR is there after the next one.
    #[test]
    fn only_the_same_goes_on_with_what_is_there() {
        let same = |_: &mut BuildDir| {};
        type Change = fn(&mut BuildDir);
        let table: [(Change, bool, bool, &str); 9] = [
            (same, false, true, "goes on"),
            (same, true, false, ""),
            (|dir| dir.conf.local = "local 2".into(), false, true, "goes on"),
            (
                |dir| dir.made_by.release = "styhead".into(),
                false,
                false,
                "the release was scarthgap and is styhead",
            ),
            (|dir| dir.made_by.bitbake = "2.8.2".into(), false, false, "BitBake's version"),
            (|dir| dir.made_by.layout = Some("16".into()), false, false, "OELAYOUT_ABI"),
            (|dir| dir.made_by.trust = "trusted".into(), false, false, "the trust in the source"),
            (|dir| dir.made_by.trust = "pull request 7".into(), false, false, "pull request 7"),
            (
                |dir| dir.made_by.user = Some(1),
                false,
                false,
                "the build user was the agent's own and is uid 1",
            ),
        ];
        for (change, fresh, stays, said) in table {
            let work = tempfile::tempdir().unwrap();
            let mut dir = build_dir(work.path());
            dir.prepare(false, Edits::Overwrite).unwrap();
            fs::create_dir_all(dir.dir.join("tmp/work")).unwrap();
            change(&mut dir);
            let found = dir.prepare(fresh, Edits::Overwrite).unwrap();
            assert_eq!(dir.dir.join("tmp/work").exists(), stays, "{said}");
            assert_eq!(local(&dir), dir.conf.local, "{said}");
            assert!(found.warnings.is_empty(), "{found:?}");
            assert!(said.is_empty() == found.infos.is_empty(), "{found:?}");
            assert!(found.infos.iter().all(|info| info.contains(said)), "{found:?}");
        }
    }

    #[test]
    fn a_directory_of_an_unknown_job_is_emptied() {
        for record in [None, Some("{"), Some("{}")] {
            let work = tempfile::tempdir().unwrap();
            let dir = build_dir(work.path());
            fs::create_dir_all(dir.dir.join("tmp")).unwrap();
            if let Some(record) = record {
                fs::write(work.path().join("build.json"), record).unwrap();
            }
            let said = dir.prepare(false, Edits::Keep).unwrap();
            assert!(!dir.dir.join("tmp").exists());
            assert!(said.infos[0].contains("nothing says which job made it"), "{said:?}");
        }
    }

    /// A person's changes stay in a shell until the manifest asks for something else; a job never runs with them.
    #[test]
    fn edits_stay_for_a_shell_and_are_put_aside_by_a_job() {
        for (edits, changed, wanted, put_aside) in [
            (Edits::Keep, false, "edited", false),
            (Edits::Keep, true, "local 2", true),
            (Edits::Overwrite, false, "local 1", true),
            (Edits::Overwrite, true, "local 2", true),
        ] {
            let work = tempfile::tempdir().unwrap();
            let mut dir = build_dir(work.path());
            dir.prepare(false, Edits::Overwrite).unwrap();
            fs::write(dir.dir.join("conf/local.conf"), "edited").unwrap();
            if changed {
                dir.conf.local = "local 2".into();
            }
            let said = dir.prepare(false, edits).unwrap();
            assert_eq!(local(&dir), wanted);
            let old = fs::read_to_string(dir.dir.join("conf.old/local.conf")).ok();
            assert_eq!(old.as_deref(), put_aside.then_some("edited"));
            assert_eq!(said.warnings.len(), usize::from(put_aside), "{said:?}");
        }
        let work = tempfile::tempdir().unwrap();
        let dir = build_dir(work.path());
        dir.prepare(false, Edits::Overwrite).unwrap();
        fs::write(dir.dir.join("conf/auto.conf"), "more").unwrap();
        dir.prepare(false, Edits::Overwrite).unwrap();
        assert!(!dir.dir.join("conf/auto.conf").exists() && dir.dir.join("conf.old/auto.conf").exists());
    }

    /// BitBake's parse caches are valid as long as the configuration's files are not written.
    #[test]
    fn the_same_configuration_is_not_written_again() {
        let work = tempfile::tempdir().unwrap();
        let dir = build_dir(work.path());
        dir.prepare(false, Edits::Overwrite).unwrap();
        let old = std::time::SystemTime::UNIX_EPOCH;
        let file = fs::File::options().write(true).open(dir.dir.join("conf/local.conf")).unwrap();
        file.set_modified(old).unwrap();
        dir.prepare(false, Edits::Overwrite).unwrap();
        assert_eq!(fs::metadata(dir.dir.join("conf/local.conf")).unwrap().modified().unwrap(), old);
    }

    /// Layer code owns the directory: the agent, which may be root, writes through no link in it.
    #[test]
    fn links_in_the_place_of_the_configuration_are_replaced_and_not_followed() {
        for name in ["conf", "conf/local.conf"] {
            let work = tempfile::tempdir().unwrap();
            let elsewhere = tempfile::tempdir().unwrap();
            let victim = elsewhere.path().join("local.conf");
            fs::write(&victim, "precious").unwrap();
            let dir = build_dir(work.path());
            dir.prepare(false, Edits::Overwrite).unwrap();
            let link = dir.dir.join(name);
            let to = if name == "conf" { elsewhere.path() } else { &victim };
            remove_tree(&link, work.path()).unwrap();
            std::os::unix::fs::symlink(to, &link).unwrap();
            dir.prepare(false, Edits::Overwrite).unwrap();
            assert_eq!(fs::read_to_string(&victim).unwrap(), "precious", "{name}");
            assert_eq!(local(&dir), "local 1", "{name}");
            assert!(!fs::symlink_metadata(&link).unwrap().is_symlink(), "{name}");
        }
    }
}
