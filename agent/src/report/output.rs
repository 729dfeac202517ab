//! The output directory and the files of reports in it.

use std::path::Path;

use agent_types::error::{Error, Result};

use agent_fs::remove::{remove_file, remove_tree};

use super::events_file::EventsFile;
use super::output_file::{create, replace};
use super::summary::Summary;
use super::{junit, merged, page, result, sarif};

/// Makes the output directory.
///
/// It gets a `.gitignore`, so that the checkout in which it may lie does not become dirty.
///
/// # Errors
/// When it cannot be written. Also when it, or a file in it, is a symbolic link: a layer could
/// contain one that leads out of the checkout, and the agent may run as root.
pub fn prepare_out(out: &Path) -> Result<()> {
    real_directory(out)?;
    real_directory(&out.join("logs"))?;
    let ignore = out.join(".gitignore");
    if fs_err::symlink_metadata(&ignore).is_err() {
        replace(&ignore, b"# Written by build-agent: nothing in here belongs into git.\n*\n")?;
    }
    Ok(())
}

/// Begins a new job's reports: they say that it has not ended, and what an earlier job left is gone.
/// So a job that is killed leaves no verdict of an earlier job.
///
/// # Errors
/// When the directory cannot be written, with nothing of the old verdict left where it could be
/// deleted.
pub fn begin(out: &Path) -> Result<EventsFile> {
    // Deleting takes microseconds and no disk space; writing may take longer or fail.
    for name in ["result.json", "results.json", EventsFile::NAME] {
        remove_file(&out.join(name), out)?;
    }
    let events = EventsFile::create(out)?;
    write_all(&Summary::default(), out)?;
    Ok(events)
}

/// The directory with the reports of the cells of a matrix, below the output directory.
pub const CELLS: &str = "cells";

/// The commits of all cells of a matrix, in the output directory.
pub const CELL_PINS: &str = "cells/build-agent.lock";

/// Begins the reports of a matrix or of a batch: removes those of an earlier run, and writes a result that has not ended.
/// So a matrix that is killed leaves no verdict of the cells that have ended.
///
/// # Errors
/// When something of the old verdict could not be deleted, or the directory cannot be written.
pub fn begin_merged(out: &Path) -> Result<()> {
    for name in REPORTS {
        remove_file(&out.join(name), out)?;
    }
    remove_tree(&out.join(CELLS), out)?;
    result::write(&Summary::default(), out)
}

/// The files with a verdict.
const REPORTS: [&str; 6] =
    ["result.json", merged::NAME, EventsFile::NAME, "junit.xml", "report.html", sarif::NAME];

/// The diagnostics of a job.
pub const AGENT_LOG: &str = "agent.log";

/// Begins a new job's `agent.log`, empty; that of an earlier job is gone then.
///
/// # Errors
/// When it cannot be written.
pub fn begin_log(out: &Path) -> Result<fs_err::File> {
    let path = out.join(AGENT_LOG);
    remove_file(&path, out)?;
    create(&path)
}

/// Writes all reports of the summary.
///
/// # Errors
/// When one cannot be written; the others are there then.
pub fn write_all(summary: &Summary, out: &Path) -> Result<()> {
    let json = result::write(summary, out);
    let junit = junit::write(summary, out);
    let page = page::write(summary, out);
    json.and(junit).and(page)
}

fn real_directory(path: &Path) -> Result<()> {
    fs_err::create_dir_all(path)?;
    if fs_err::symlink_metadata(path)?.is_symlink() {
        return Err(Error::machine(format!("the output directory `{}` is a symbolic link", path.display()))
            .hint("name the directory that it leads to with --out, or remove the link"));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::report::result;
    use crate::report::sample::{passing_job, reduce};

    #[test]
    fn a_new_job_hides_the_verdict_of_the_last_one() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("a/out");
        prepare_out(&out).unwrap();
        write_all(&reduce(&passing_job()), &out).unwrap();
        fs_err::write(out.join(EventsFile::NAME), "the last job's").unwrap();
        // The directory is also made for commands that are no job.
        prepare_out(&out).unwrap();
        assert_eq!(result::read(&out.join("result.json")).unwrap(), reduce(&passing_job()));
        begin(&out).unwrap();
        assert_eq!(fs_err::read(out.join(EventsFile::NAME)).unwrap(), b"");
        assert_eq!(result::read(&out.join("result.json")).unwrap(), Summary::default());
        let junit = fs_err::read_to_string(out.join("junit.xml")).unwrap();
        assert!(junit.contains("errors=\"1\"") && junit.contains("the job has not ended"), "{junit}");
        let ignore = fs_err::read_to_string(out.join(".gitignore")).unwrap();
        assert_eq!(ignore.lines().last(), Some("*"));
        let leftovers = fs_err::read_dir(&out)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(".new"));
        assert_eq!(leftovers.count(), 0);
    }

    #[test]
    fn a_new_matrix_has_not_ended() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path();
        let cell = out.join(CELLS).join("a");
        fs_err::create_dir_all(&cell).unwrap();
        write_all(&reduce(&passing_job()), &cell).unwrap();
        fs_err::write(out.join(merged::NAME), "the last one's").unwrap();
        begin_merged(out).unwrap();
        assert!(!out.join(merged::NAME).exists() && !cell.exists());
        assert_eq!(result::read(&out.join("result.json")).unwrap(), Summary::default());
    }

    #[test]
    fn links_that_a_layer_planted_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let victim = directory.path().join("victim");
        fs_err::write(&victim, "precious").unwrap();
        let out = directory.path().join("out");
        fs_err::create_dir(&out).unwrap();

        symlink(&victim, out.join("result.json.new")).unwrap();
        let error = begin(&out).unwrap_err();
        assert!(error.message.ends_with("result.json.new` is a symbolic link"), "{error}");

        // Nor are pipes waited for.
        let out = directory.path().join("with-pipes");
        prepare_out(&out).unwrap();
        let pipe = |name: &str| {
            nix::unistd::mkfifo(&out.join(name), nix::sys::stat::Mode::S_IRWXU).unwrap();
        };
        ["events.jsonl", "result.json"].into_iter().for_each(pipe);
        begin(&out).unwrap();
        assert!(out.join("events.jsonl").is_file() && out.join("result.json").is_file());
        pipe("result.json.new");
        let error = begin(&out).unwrap_err();
        assert!(error.message.ends_with("result.json.new` is not a regular file"), "{error}");

        // A link in the place of the report itself is replaced.
        let out = directory.path().join("out2");
        fs_err::create_dir(&out).unwrap();
        for name in ["result.json", "junit.xml", EventsFile::NAME, AGENT_LOG] {
            symlink(&victim, out.join(name)).unwrap();
        }
        begin(&out).unwrap();
        begin_log(&out).unwrap().write_all(b"x").unwrap();
        for name in ["result.json", "junit.xml", EventsFile::NAME, AGENT_LOG] {
            assert!(!fs_err::symlink_metadata(out.join(name)).unwrap().is_symlink(), "{name}");
        }

        for name in ["linked", "out3/logs"] {
            let out = directory.path().join(name);
            fs_err::create_dir_all(out.parent().unwrap()).unwrap();
            symlink(directory.path(), &out).unwrap();
            let out = if name == "linked" { out } else { directory.path().join("out3") };
            assert!(prepare_out(&out).unwrap_err().message.contains("is a symbolic link"));
        }
        assert_eq!(fs_err::read_to_string(&victim).unwrap(), "precious");
    }
}
