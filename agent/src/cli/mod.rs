//! The command line: parses it, runs the command, maps the result to an exit status.

mod arguments;
mod doctor;
mod job;
mod lock;
mod out;
mod plan;
mod publish;
mod quiet;
mod report;
mod shell;

use std::process::ExitCode;

use clap::Parser;

use crate::config::{self, AgentEnvironment};
use crate::error::{Error, Result};
use crate::exec;
use crate::outcome::ExitStatus;
use crate::report::{complain, print};

use arguments::{Arguments, Command};

/// The program.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = exec::prepare_process().and_then(|()| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|error| Error::machine("cannot start the runtime").because(&error))?;
        let status = runtime.block_on(dispatch(arguments));
        // What still blocks a thread (a name server, a file server) must not keep the program.
        runtime.shutdown_background();
        status
    });
    let status = result.unwrap_or_else(|error| {
        complain(&format!("error: {error}"));
        error.class.exit_status()
    });
    status.into()
}

async fn dispatch(arguments: Arguments) -> Result<ExitStatus> {
    let environment = AgentEnvironment::from_process();
    match arguments.command {
        Command::Run(run) => job::run(run, &environment).await,
        Command::Check(check) => job::check(check, &environment).await,
        Command::Plan(plan) => plan::command(plan, &environment).await,
        Command::Lock(lock) => lock::command(lock, &environment).await,
        Command::Shell(shell) => shell::command(shell, &environment).await,
        Command::Doctor(doctor) => doctor::command(doctor, &environment).await,
        Command::Publish(publish) => publish::command(publish, &environment).await,
        Command::Report(report) => report::command(&report, &environment),
        Command::Schema => {
            print(&format!("{:#}\n", config::schema()));
            Ok(ExitStatus::Passed)
        }
    }
}
