//! `build-agent reproduce`: prints, or runs, what repeats a job on this machine.

use std::io::{IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;

use crate::config::{self, AgentEnvironment};
use crate::report::{CELLS, Checkout, ReproducePlan, merged};
use agent_fs::dir::DirHandle;
use agent_process::{Command, ExitReason, interactive};
use agent_types::error::{Error, Result};
use agent_types::job_id::JobId;
use agent_types::outcome::ExitStatus;

use super::arguments::Reproduce;
use super::current_dir::current_dir;
use super::print;
use super::report::read_summary;

/// Characters of a job's id in the name of a directory; an id of the agent has 33.
const LONGEST_ID: usize = 64;

/// Container engines, best first.
const ENGINES: [&str; 2] = ["docker", "podman"];

pub async fn command(args: Reproduce, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let source = if args.result.is_dir() { args.result.join("result.json") } else { args.result.clone() };
    if args.result.join(merged::NAME).exists() {
        let message = format!("`{}` has the results of several jobs", args.result.display());
        let hint = format!("name one cell of the matrix: {}/CELL", args.result.join(CELLS).display());
        return Err(Error::usage(message).hint(hint));
    }
    if !source.exists() {
        return Err(Error::usage(format!("`{}` does not exist", source.display()))
            .hint("name the result.json of a job; its default directory is build-agent-out"));
    }
    let (summary, _) = read_summary(&source, None)?;
    let mut plan = ReproducePlan::of(&summary)?;
    if args.image.is_some() {
        plan.image = args.image.clone();
    }
    if args.no_container {
        plan.image = None;
    }
    if !args.run {
        print::text(&plan.script())?;
        return Ok(ExitStatus::Passed);
    }
    if plan.image.is_none() && !args.no_container {
        return Err(Error::usage("this result does not name the container image of its job")
            .hint("name one with --image, or use the agent of this machine with --no-container"));
    }
    for note in &plan.notes {
        print::diagnostic(format_args!("note: {note}"));
    }
    let top = current_dir()?.join(args.dir.clone().unwrap_or_else(|| directory_name(&summary.job.id)));
    carry_out(&plan, &top, environment).await
}

/// The name of the new directory. The id may be any text.
fn directory_name(id: &JobId) -> PathBuf {
    let plain = id.as_str().chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(LONGEST_ID);
    format!("reproduce-{}", plain.collect::<String>()).into()
}

/// Gets the sources into `top`, a new directory, and runs the job there.
async fn carry_out(plan: &ReproducePlan, top: &Path, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let Some(Checkout { url, fetch, commit }) = &plan.checkout else {
        return Err(Error::usage("this result does not say from which repository and commit it is").hint(
            "check the layer out yourself, and use what `build-agent reproduce` prints without --run",
        ));
    };
    fs_err::create_dir(top)?;
    let git = |words: &[&str]| run_in(top, "git".into(), words.iter().map(ToString::to_string).collect());
    succeed("git clone", git(&["clone", "--", url, "source"]).await?)?;
    if let Some(fetch) = fetch {
        succeed("git fetch", git(&["-C", "source", "fetch", "origin", fetch]).await?)?;
    }
    succeed("git checkout", git(&["-C", "source", "checkout", "--detach", commit]).await?)?;
    write_files(&top.join("source"), &plan.files)?;
    let ended = match &plan.image {
        Some(image) => {
            let engine = engine(environment)?;
            let shown = top.display().to_string();
            if shown.contains([',', '"']) {
                return Err(Error::usage(format!("no container engine can mount `{shown}`"))
                    .hint("choose another directory with --dir"));
            }
            let volume = format!("build-agent-work-{}", fs_err::metadata(top)?.uid());
            let with_terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
            run_in(top, engine, plan.container(image, &shown, &volume, with_terminal)).await?
        }
        None => {
            let agent = std::env::current_exe()
                .map_err(|error| Error::machine("the program of this agent is not known").because(&error))?;
            run_in(&top.join("source"), agent, plan.arguments.clone()).await?
        }
    };
    Ok(status(ended))
}

/// The job's own exit status.
fn status(ended: ExitReason) -> ExitStatus {
    let of_code = |code: i32| ExitStatus::ALL.into_iter().find(|status| i32::from(status.code()) == code);
    match ended {
        ExitReason::Exited(code) => of_code(code).unwrap_or(ExitStatus::Machine),
        _ => ExitStatus::Cancelled,
    }
}

fn succeed(what: &str, ended: ExitReason) -> Result<()> {
    match ended {
        ExitReason::Exited(0) => Ok(()),
        _ => Err(Error::upstream(format!("{what} failed")).hint("its own message is above")),
    }
}

/// Runs a program with this terminal and this environment.
async fn run_in(directory: &Path, program: PathBuf, words: Vec<String>) -> Result<ExitReason> {
    let mut command = Command::new(program, directory, "reproduce").args(words);
    for (name, value) in config::whole_environment() {
        command.environment.set(name, value);
    }
    interactive(&command).await
}

/// Writes the files into the checkout, in the place of those that are there. The checkout may have links in their way.
fn write_files(source: &Path, files: &[(PathBuf, String)]) -> Result<()> {
    for (path, text) in files {
        let written = || -> std::io::Result<()> {
            let name = path.file_name().unwrap_or_default();
            let parent = path.parent().unwrap_or(Path::new(""));
            let directory = DirHandle::open(source)?.create_dirs(parent, Mode::from_bits_retain(0o755))?;
            directory.remove_file(name)?;
            directory.create_file(name, Mode::from_bits_retain(0o644))?.write_all(text.as_bytes())
        };
        written().map_err(|error| {
            Error::machine(format!("cannot write `{}`", source.join(path).display())).because(&error)
        })?;
    }
    Ok(())
}

/// The container engine on the PATH.
fn engine(environment: &AgentEnvironment) -> Result<PathBuf> {
    let directories = || environment.path.iter().flat_map(std::env::split_paths);
    let found =
        ENGINES.iter().find_map(|engine| directories().map(|it| it.join(engine)).find(|it| it.is_file()));
    found.ok_or_else(|| {
        Error::machine("neither docker nor podman is installed")
            .hint("install one, or use the agent of this machine with --no-container")
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn files_replace_what_is_there_and_follow_no_link() {
        let (source, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let victim = outside.path().join("x.toml");
        fs_err::write(&victim, "precious").unwrap();
        symlink(&victim, source.path().join("x.toml")).unwrap();
        symlink(outside.path(), source.path().join("ci")).unwrap();
        fs_err::write(source.path().join("build-agent.lock"), "old").unwrap();
        let file = |path: &str| (PathBuf::from(path), "new".to_owned());
        write_files(source.path(), &[file("x.toml"), file("build-agent.lock"), file("a/b/c.toml")]).unwrap();
        for path in ["x.toml", "build-agent.lock", "a/b/c.toml"] {
            assert_eq!(fs_err::read_to_string(source.path().join(path)).unwrap(), "new");
        }
        let error = write_files(source.path(), &[file("ci/x.toml")]).unwrap_err();
        assert!(error.message.contains("cannot write"), "{error}");
        assert_eq!(fs_err::read_to_string(&victim).unwrap(), "precious");
    }

    #[test]
    fn the_directory_has_a_plain_name_whatever_the_id_is() {
        for (id, name) in [
            ("20260102T030405Z-0f5d7e0c91b2a3d4", "reproduce-20260102T030405Z-0f5d7e0c91b2a3d4"),
            ("../../x\n", "reproduce-x"),
            ("", "reproduce-"),
        ] {
            assert_eq!(directory_name(&id.into()), Path::new(name));
        }
        assert!(directory_name(&"x".repeat(1 << 20).as_str().into()).as_os_str().len() < 100);
    }

    #[test]
    fn the_exit_status_is_that_of_the_job() {
        for (ended, wanted) in [
            (ExitReason::Exited(0), ExitStatus::Passed),
            (ExitReason::Exited(1), ExitStatus::Failed),
            (ExitReason::Exited(5), ExitStatus::OutOfTime),
            (ExitReason::Exited(125), ExitStatus::Machine),
            (ExitReason::Signalled(2), ExitStatus::Cancelled),
        ] {
            assert_eq!(status(ended), wanted);
        }
    }
}
