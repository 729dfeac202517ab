//! The build directory of the job: what an earlier job left there goes on, or it is emptied.
//!
//! A developer looks into a failed build, and a second build reuses what the first one made. So the directory stays,
//! unless `--fresh` or CI asks for an empty one, or what is there is of no use to this job: it was made by a source
//! of another trust, by another BitBake, or for another user. The record of that lies beside the directory, where
//! layer code cannot write if the agent is root.

use std::fmt;
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::devtool::Workspace;
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

/// How a directory is used that an earlier job left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// For a job: the configuration is that of the manifest.
    AsConfigured,
    /// For a person: with devtool's workspace. A person's changes to the configuration stay as long as the agent would
    /// write what it wrote before.
    WithEdits,
    /// The same, and it is an error if the directory is not there or has to be emptied.
    Required,
}

/// Why a job begins with an empty directory.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Emptied {
    IsMissing,
    /// `--fresh`, or the default in CI.
    IsAsked,
    /// What is there is of no use to this job.
    Unusable(String),
}

impl fmt::Display for Emptied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Emptied::IsMissing => f.write_str("it does not exist"),
            Emptied::IsAsked => f.write_str("it is to be emptied"),
            Emptied::Unusable(why) => f.write_str(why),
        }
    }
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
    /// Whether devtool's workspace outlives an emptied directory.
    pub keeps_workspace: bool,
}

/// What a person is to know about the directory.
#[derive(Debug, Default)]
pub struct Notices {
    pub infos: Vec<String>,
    pub warnings: Vec<(String, String)>,
}

impl Notices {
    fn add_set_aside(&mut self, aside: Option<SetAside>) {
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
    /// Machine, when it cannot be deleted or written; usage, when it is required and not there.
    pub fn prepare(&self, fresh: bool, reuse: Reuse) -> Result<Notices> {
        let mut notices = Notices::default();
        let workspace = self.workspace();
        let record = match self.reusable(fresh) {
            Ok(record) => record,
            Err(why) if reuse == Reuse::Required => {
                return Err(Error::usage(format!("nothing is built in {}: {why}", self.dir.display()))
                    .hint("build first: `build-agent run`, with the same manifest and options"));
            }
            Err(why) => {
                self.make(&why, reuse, &mut notices)?;
                return Ok(notices);
            }
        };
        notices.infos.push(format!(
            "the build directory goes on from where an earlier job left it: {}; --fresh empties it",
            self.dir.display()
        ));
        let wanted = [self.conf.bblayers.as_str(), self.conf.local.as_str()];
        let recorded = [record.bblayers.as_str(), record.local.as_str()];
        let (found, has_workspace) = self.conf_on_disk();
        let is_as = |conf: [&str; 2]| found.as_ref().is_some_and(|found| found.iter().eq(conf.iter()));
        let is_edited = found.is_some() && !is_as(wanted) && !is_as(recorded);
        let keeps_edits = is_edited && reuse != Reuse::AsConfigured && recorded == wanted;
        let is_wanted = is_as(wanted) && has_workspace == self.uses_workspace(reuse);
        // Written only if it differs: BitBake parses everything again after a change.
        if !is_wanted && !keeps_edits {
            self.replace_conf(reuse, is_edited, &mut notices)?;
        }
        if reuse == Reuse::AsConfigured && workspace.has_recipes() {
            notices.infos.push(workspace.unused_notice());
        }
        self.write_record()?;
        Ok(notices)
    }

    fn workspace(&self) -> Workspace {
        Workspace::new(&self.dir, &self.work, &self.made_by.trust)
    }

    fn uses_workspace(&self, reuse: Reuse) -> bool {
        reuse != Reuse::AsConfigured && self.workspace().is_layer()
    }

    /// The record of what is there, or why this job begins with an empty directory.
    fn reusable(&self, fresh: bool) -> std::result::Result<Record, Emptied> {
        if !fs::symlink_metadata(&self.dir).is_ok_and(|meta| meta.is_dir()) {
            return Err(Emptied::IsMissing);
        }
        let text = untrusted::read_text(&self.record_path(), untrusted::SOURCE).ok();
        let record = text.and_then(|text| serde_json::from_str::<Record>(&text).ok());
        let record = record.ok_or_else(|| Emptied::Unusable("nothing says which job made it".into()))?;
        match self.made_by.differs(&record.made_by) {
            Some(why) => Err(Emptied::Unusable(why)),
            None if fresh => Err(Emptied::IsAsked),
            None => Ok(record),
        }
    }

    /// An empty directory with the configuration.
    fn make(&self, why: &Emptied, reuse: Reuse, notices: &mut Notices) -> Result<()> {
        let why_unusable = match why {
            Emptied::Unusable(why) => Some(why.as_str()),
            Emptied::IsMissing | Emptied::IsAsked => None,
        };
        if let Some(why) = why_unusable {
            notices.infos.push(format!("the build directory {} is emptied: {why}", self.dir.display()));
        }
        let workspace = self.workspace();
        if self.keeps_workspace {
            workspace.save(why_unusable)?;
        }
        remove_file(&self.record_path(), &self.work)?;
        notices.add_set_aside(clear(&self.dir, &self.work)?);
        fs::create_dir_all(&self.dir)?;
        if self.keeps_workspace && workspace.restore()? {
            notices.infos.push(workspace.kept_notice());
        }
        write_conf(&self.dir.join("conf"), &self.conf_for(reuse), self.user.as_ref())?;
        hand_over(&self.dir, self.user.as_ref())?;
        self.write_record()
    }

    /// What is written for this use.
    fn conf_for(&self, reuse: Reuse) -> WrittenConf {
        let mut conf = self.conf.clone();
        if self.uses_workspace(reuse) {
            conf.bblayers = self.workspace().with_layer(&conf.bblayers);
        }
        conf
    }

    /// The build user owns the directory, and may have put a link anywhere. So the configuration is written beside
    /// it, and then moved to its place.
    fn replace_conf(&self, reuse: Reuse, keep_edited: bool, notices: &mut Notices) -> Result<()> {
        let (conf, new) = (self.dir.join("conf"), self.work.join("build-conf-new"));
        remove_tree(&new, &self.work)?;
        write_conf(&new, &self.conf_for(reuse), self.user.as_ref())?;
        if keep_edited {
            let old = self.dir.join("conf.old");
            notices.add_set_aside(clear(&old, &self.work)?);
            fs::rename(&conf, &old)?;
            notices.warnings.push((
                format!(
                    "the configuration in {} was changed since the agent wrote it; it is now in {}, and the \
                     manifest's is in its place",
                    conf.display(),
                    old.display()
                ),
                "put what a build needs into `[config] local_conf` of the manifest".into(),
            ));
        } else {
            notices.add_set_aside(clear(&conf, &self.work)?);
        }
        Ok(fs::rename(&new, &conf)?)
    }

    /// `bblayers.conf` and `local.conf`, if they are there, and whether devtool's workspace is in them. They are returned
    /// without it.
    fn conf_on_disk(&self) -> (Option<[String; 2]>, bool) {
        let conf = self.dir.join("conf");
        let read = |name: &str| untrusted::read_text(&conf.join(name), untrusted::SOURCE).ok();
        let ours = |name: &std::ffi::OsStr| {
            ["bblayers.conf", "local.conf", "sanity_info", "templateconf.cfg"]
                .iter()
                .any(|ours| name == *ours)
        };
        let Ok(mut entries) = fs::read_dir(&conf) else { return (None, false) };
        let more = entries.find_map(|entry| entry.ok().filter(|entry| !ours(&entry.file_name())));
        let [bblayers, mut local] =
            ["bblayers.conf", "local.conf"].map(|name| read(name).unwrap_or_default());
        if let Some(more) = more {
            // Something that the agent has not put there is a change like another text.
            local += &format!("\n# and {}", more.file_name().display());
        }
        match self.workspace().without_layer(&bblayers) {
            Some(without) => (Some([without, local]), true),
            None => (Some([bblayers, local]), false),
        }
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
#[path = "build_dir_tests.rs"]
mod tests;
