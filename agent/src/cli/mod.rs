//! The command line: parses it, runs the command, maps the result to an exit status.

mod arguments;
mod cache;
mod cache_publish;
mod current_dir;
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

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::Parser;

use crate::config::{self, AgentEnvironment};
use crate::shim;
use agent_types::error::{Error, Result};
use agent_types::outcome::ExitStatus;

use arguments::{Arguments, Command};

/// The program.
pub fn main() -> ExitCode {
    shim::become_program();
    let argv: Vec<_> = std::env::args_os().collect();
    let words: Vec<_> = argv.iter().map(|word| word.to_string_lossy()).collect();
    let environment = AgentEnvironment::from_process().with_command_line(words.iter().map(AsRef::as_ref));
    say::hide(environment.secrets());
    std::panic::set_hook(Box::new(tell_panic));
    let arguments = match Arguments::try_parse_from(&argv) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are errors of this kind, too.
            if error.use_stderr() {
                out::withdraw_after_mistake(argv.get(1..).unwrap_or_default());
            }
            return not_parsed(&error);
        }
    };
    // The panic itself has told where; here it gets the exit status that the documentation promises.
    let result = catch_unwind(AssertUnwindSafe(|| command(arguments, &environment))).unwrap_or_else(|_| {
        Err(Error::internal("the agent broke").hint("please report it with the text above"))
    });
    let status = result.unwrap_or_else(|error| {
        say::complaint(format_args!("error: {error}"));
        error.class.exit_status()
    });
    status.into()
}

/// What is wrong with the command line, in clap's words; or help and version.
fn not_parsed(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        say::words(&error.render().to_string());
    } else {
        // Nobody can be told when it cannot be written.
        let _ = error.print();
    }
    u8::try_from(error.exit_code()).unwrap_or(ExitStatus::Usage.code()).into()
}

/// As Rust tells a panic, but without secrets: its text may quote what the agent was given.
fn tell_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let text = panic.payload_as_str().unwrap_or("it gives no reason");
    let mut told = format!("thread '{}' panicked at {place}:\n{text}", thread.name().unwrap_or("unnamed"));
    let trace = std::backtrace::Backtrace::capture();
    if trace.status() == std::backtrace::BacktraceStatus::Captured {
        told += &format!("\n{trace}");
    }
    say::words(&told);
}

fn command(arguments: Arguments, environment: &AgentEnvironment) -> Result<ExitStatus> {
    agent_process::prepare_process()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Error::machine("cannot start the runtime").because(&error))?;
    let status = runtime.block_on(dispatch(arguments, environment));
    // What still blocks a thread (a name server, a file server) must not keep the program.
    runtime.shutdown_background();
    status
}

async fn dispatch(arguments: Arguments, environment: &AgentEnvironment) -> Result<ExitStatus> {
    agent_process::survive_signals();
    match arguments.command {
        Command::Run(run) => job::run(run, environment).await,
        Command::Check(check) => job::check(check, environment).await,
        Command::Plan(plan) => plan::command(plan, environment).await,
        Command::Lock(lock) => lock::command(lock, environment).await,
        Command::Shell(shell) => shell::command(shell, environment).await,
        Command::Doctor(doctor) => doctor::command(doctor, environment).await,
        Command::Cache(cache) => cache::command(cache.command, environment).await,
        Command::Publish(publish) => publish::command(publish, environment).await,
        Command::Report(report) => report::command(&report, environment),
        Command::ProbeShare(probe) => {
            let look = agent_cache::probe::look(&probe.root, &probe.part, probe.write);
            // For the agent that asked.
            say::raw(&format!("{}\n", serde_json::json!(look)))?;
            Ok(ExitStatus::Passed)
        }
        Command::Schema => {
            say::raw(&format!("{:#}\n", config::schema()))?;
            Ok(ExitStatus::Passed)
        }
    }
}
