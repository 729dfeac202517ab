//! The command line: parses it, runs the command, maps the result to an exit status.

mod arguments;
mod cache;
mod cache_publish;
mod doctor;
mod job;
mod lock;
mod out;
mod plan;
mod publish;
mod quiet;
mod report;
mod say;
mod shell;

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::Parser;

use crate::config::{self, AgentEnvironment};
use crate::error::{Error, Result};
use crate::exec;
use crate::memo::stand_in;
use crate::outcome::ExitStatus;

use arguments::{Arguments, Command};

/// The program.
pub fn main() -> ExitCode {
    let argv: Vec<_> = std::env::args_os().collect();
    if stand_in::is_called(argv.first().map(OsString::as_os_str)) {
        stand_in::main(argv, config::whole_environment());
    }
    if argv.first().is_some_and(|name| name == exec::APART) {
        exec::apart(argv, config::whole_environment());
    }
    let arguments = Arguments::try_parse_from(&argv).unwrap_or_else(|error| {
        // Help and version are errors of this kind, too.
        if error.use_stderr() {
            out::withdraw_after_mistake(argv.get(1..).unwrap_or_default());
        }
        error.exit()
    });
    // The panic itself has told where; here it gets the exit status that the documentation promises.
    let result = catch_unwind(AssertUnwindSafe(|| command(arguments))).unwrap_or_else(|_| {
        Err(Error::internal("the agent broke").hint("please report it with the text above"))
    });
    let status = result.unwrap_or_else(|error| {
        say::complaint(format_args!("error: {error}"));
        error.class.exit_status()
    });
    status.into()
}

fn command(arguments: Arguments) -> Result<ExitStatus> {
    exec::prepare_process()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Error::machine("cannot start the runtime").because(&error))?;
    let status = runtime.block_on(dispatch(arguments));
    // What still blocks a thread (a name server, a file server) must not keep the program.
    runtime.shutdown_background();
    status
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
        Command::Cache(cache) => cache::command(cache.command, &environment).await,
        Command::Publish(publish) => publish::command(publish, &environment).await,
        Command::Report(report) => report::command(&report, &environment),
        Command::ProbeShare(probe) => {
            let look = crate::cache::probe::look(&probe.root, &probe.part, probe.write);
            say::line(format_args!("{}", serde_json::json!(look)))?;
            Ok(ExitStatus::Passed)
        }
        Command::Schema => {
            say::line(format_args!("{:#}", config::schema()))?;
            Ok(ExitStatus::Passed)
        }
    }
}
