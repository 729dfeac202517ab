//! The output directory of one job.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::CommandFactory;

use crate::config;
use crate::job::DirLock;
use crate::report::{self, EventsFile};
use agent_types::error::Result;

use super::arguments::Arguments;
use super::current_dir::current_dir;
use super::say;

/// The output directory: taken for one job, with what an earlier job said in it withdrawn.
pub struct Out {
    path: PathBuf,
    taken: Option<DirLock>,
}

impl Out {
    /// Withdraws the verdict of an earlier job, before anything of this one is even looked at: a
    /// manifest that cannot be read must not leave yesterday's `passed` behind. Where there is
    /// none, nothing is made.
    ///
    /// # Errors
    /// When another job works there, or the verdict cannot be withdrawn.
    pub fn withdraw(path: PathBuf) -> Result<Out> {
        let mut out = Out { path, taken: None };
        let reports = ["result.json", EventsFile::NAME];
        if reports.iter().any(|name| fs_err::symlink_metadata(out.path.join(name)).is_ok()) {
            out.begin()?;
        }
        Ok(out)
    }

    /// Makes it ready for this job's reports.
    ///
    /// # Errors
    /// When another job works there, or it cannot be written.
    pub fn begin(&mut self) -> Result<EventsFile> {
        report::prepare_out(&self.path)?;
        if self.taken.is_none() {
            self.taken = Some(DirLock::out(&self.path)?);
        }
        report::begin(&self.path)
    }
}

/// The output directory that `--out` asks for.
///
/// # Errors
/// When it is relative and the current directory is gone.
pub fn directory(asked: Option<&Path>) -> Result<PathBuf> {
    match asked {
        Some(path) if path.is_absolute() => config::out_dir(asked, Path::new("/")),
        _ => config::out_dir(asked, &current_dir()?),
    }
}

/// Withdraws the verdict of an earlier job when nobody can tell what the command line asks for: whoever wrote
/// it meant a new job, and must not find the old one's `passed`. `words` come after the program's name.
pub fn withdraw_after_mistake(words: &[OsString]) {
    let command = Arguments::command();
    let commands: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
    for path in meant(words, &commands) {
        if let Err(error) = directory(path.as_deref()).and_then(Out::withdraw) {
            say::complaint(format_args!("warning: the verdict of an earlier job is still there: {error}"));
        }
    }
}

/// The output directories of a job that the words may have meant; `None` is the default one.
fn meant(words: &[OsString], commands: &[&str]) -> Vec<Option<PathBuf>> {
    let (mut command, mut named) = (None, Vec::new());
    let mut words = words.iter().take_while(|word| *word != "--").peekable();
    while let Some(word) = words.next() {
        if let Some(path) = word.as_bytes().strip_prefix(b"--out=") {
            named.push(Some(PathBuf::from(OsStr::from_bytes(path))));
        } else if word == "--out" {
            named.extend(
                words.next_if(|path| !path.as_bytes().starts_with(b"-")).map(|path| Some(path.into())),
            );
        } else {
            command = command.or_else(|| commands.iter().find(|command| word == **command));
        }
    }
    match command {
        Some(&"run" | &"check") if named.is_empty() => vec![None],
        Some(&"run" | &"check") | None => named,
        // Other commands make no verdict.
        Some(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_wrong_command_line_may_have_meant() {
        let table: [(&str, &[&str]); 13] = [
            ("run --no-such-option", &["default"]),
            ("run --out a --no-such-option", &["a"]),
            ("check . --out=a --relaese x", &["a"]),
            ("run --out a --out b", &["a", "b"]),
            ("run --only chekout --out a", &["a"]),
            ("--out report run", &["report"]),
            ("rnu --out a", &["a"]),
            ("rnu", &[]),
            ("run --out", &["default"]),
            ("run --out --only", &["default"]),
            ("run -- --out a", &["default"]),
            ("plan --out a --no-such-option", &[]),
            ("report --out a", &[]),
        ];
        let commands = Arguments::command();
        let commands: Vec<&str> = commands.get_subcommands().map(clap::Command::get_name).collect();
        for (line, wanted) in table {
            let words: Vec<OsString> = line.split(' ').map(Into::into).collect();
            let found = meant(&words, &commands);
            let found: Vec<String> = found
                .iter()
                .map(|path| path.as_ref().map_or("default".into(), |path| path.display().to_string()))
                .collect();
            assert_eq!(found, wanted, "{line}");
        }
    }
}
