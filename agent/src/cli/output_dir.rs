//! The output directory of a job.

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
use super::diagnostics;
use super::print;

/// The output directory: locked for one job, with the verdict of an earlier job removed.
pub struct OutputDir {
    path: PathBuf,
    lock: Option<DirLock>,
}

impl OutputDir {
    /// Removes the verdict of an earlier job before this job does anything: an unreadable manifest must not
    /// leave an old `passed` in place. Creates nothing if there is no verdict.
    ///
    /// # Errors
    /// If another job uses the directory, or the verdict cannot be removed.
    pub fn invalidate(path: PathBuf) -> Result<OutputDir> {
        let mut out = OutputDir { path, lock: None };
        let reports = ["result.json", report::merged::NAME, EventsFile::NAME];
        if reports.iter().any(|name| fs_err::symlink_metadata(out.path.join(name)).is_ok()) {
            out.begin()?;
        }
        Ok(out)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Locks and prepares the directory for this job's reports.
    ///
    /// # Errors
    /// If another job uses the directory, or it is not writable.
    pub fn begin(&mut self) -> Result<EventsFile> {
        self.take()?;
        report::begin(&self.path)
    }

    /// Locks and prepares the directory for the reports of a matrix or of a batch.
    ///
    /// # Errors
    /// As [`OutputDir::begin`].
    pub fn begin_merged(&mut self) -> Result<PathBuf> {
        self.take()?;
        report::begin_merged(&self.path)?;
        Ok(self.path.clone())
    }

    fn take(&mut self) -> Result<()> {
        report::prepare_out(&self.path)?;
        if self.lock.is_none() {
            self.lock = Some(DirLock::out(&self.path)?);
            match report::begin_log(&self.path) {
                Ok(file) => diagnostics::write_to(file),
                // The verdict stays the same without diagnostics.
                Err(error) => print::diagnostic(format_args!("warning: no diagnostics are written: {error}")),
            }
        }
        Ok(())
    }
}

/// The output directory that `--out` names.
///
/// # Errors
/// If it is relative and the current directory no longer exists.
pub fn directory(asked: Option<&Path>) -> Result<PathBuf> {
    match asked {
        Some(path) if path.is_absolute() => config::out_dir(asked, Path::new("/")),
        _ => config::out_dir(asked, &current_dir()?),
    }
}

/// Removes the verdict of an earlier job after a command line that cannot be parsed: the user meant to start
/// a new job, and must not find the old `passed`. `words` are the arguments after the program's name.
pub fn invalidate_after_usage_error(words: &[OsString]) {
    let command = Arguments::command();
    let commands: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
    for path in possible_dirs(words, &commands) {
        if let Err(error) = directory(path.as_deref()).and_then(OutputDir::invalidate) {
            print::diagnostic(format_args!("warning: cannot remove the verdict of an earlier job: {error}"));
        }
    }
}

/// The output directories that an invalid command line may mean; `None` is the default directory.
fn possible_dirs(words: &[OsString], commands: &[&str]) -> Vec<Option<PathBuf>> {
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
        Some(&"run" | &"check" | &"batch" | &"merge") if named.is_empty() => vec![None],
        Some(&"run" | &"check" | &"batch" | &"merge") | None => named,
        // Other commands have no verdict.
        Some(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_output_dirs_in_invalid_command_lines() {
        let table: [(&str, &[&str]); 16] = [
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
            ("batch --project x --no-such-option", &["default"]),
            ("batch cell --out a --no-such-option", &["a"]),
            ("merge --batch a/b --out a", &["a"]),
            ("plan --out a --no-such-option", &[]),
            ("report --out a", &[]),
        ];
        let commands = Arguments::command();
        let commands: Vec<&str> = commands.get_subcommands().map(clap::Command::get_name).collect();
        for (line, wanted) in table {
            let words: Vec<OsString> = line.split(' ').map(Into::into).collect();
            let found = possible_dirs(&words, &commands);
            let found: Vec<String> = found
                .iter()
                .map(|path| path.as_ref().map_or("default".into(), |path| path.display().to_string()))
                .collect();
            assert_eq!(found, wanted, "{line}");
        }
    }
}
