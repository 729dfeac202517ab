//! `build-agent completion` and `build-agent man`: texts that are made from the definition of the command line.

use clap::{Command, CommandFactory};

use agent_types::error::{Error, Result};
use agent_types::outcome::ExitStatus;

use super::arguments::{Arguments, Completion, Man};
use super::print;

/// The name of the program, as people call it.
const NAME: &str = "build-agent";

/// Prints the script for a shell.
pub fn completion(args: &Completion) -> Result<ExitStatus> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut visible(&Arguments::command()), NAME, &mut script);
    print::raw(&String::from_utf8_lossy(&script))?;
    Ok(ExitStatus::Passed)
}

/// The commands for people. The library also completes hidden ones.
fn visible(all: &Command) -> Command {
    let commands = all.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    Command::new(NAME)
        .version(env!("CARGO_PKG_VERSION"))
        .args(all.get_arguments().cloned())
        .subcommands(commands)
}

/// Writes a page for each command.
pub fn man(args: &Man) -> Result<ExitStatus> {
    fs_err::create_dir_all(&args.dir)?;
    clap_mangen::generate_to(Arguments::command(), &args.dir).map_err(|error| {
        Error::machine(format!("cannot write the man pages to {}", args.dir.display())).because(&error)
    })?;
    Ok(ExitStatus::Passed)
}
