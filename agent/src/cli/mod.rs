//! The command line: parses it, runs the command, and maps the result to an exit status.

mod arguments;
mod base_rules;
mod batch;
mod batch_cells;
mod batch_node;
mod boot;
mod cache;
mod cache_publish;
mod cache_selection;
mod cache_text;
mod cache_work_dirs;
mod cells;
mod completion;
mod current_dir;
mod definition;
mod devtool;
mod diagnostics;
mod diff;
mod doctor;
mod dump;
mod expected_cells;
mod export;
mod export_signers;
mod export_yaml;
mod github;
mod head;
mod import;
mod included_repos;
mod job;
mod lab;
mod lab_request;
mod layer_store;
mod limited_reading;
mod lock;
mod lock_definition;
mod matrix;
mod matrix_posts;
mod matrix_results;
mod merge;
mod origin;
mod output_dir;
mod plan;
mod plan_settings;
mod print;
mod publish;
mod report;
mod report_device;
mod report_post;
mod reproduce;
mod result_file;
mod run;
mod servers;
mod session;
mod share_tier;
mod shell;
mod unrecorded;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::Parser;

use crate::config::{self, AgentEnvironment};
use crate::shim;
use agent_process::credentials;
use agent_types::error::{Error, Result};
use agent_types::outcome::ExitStatus;

use arguments::{Arguments, Command, ReportCommand};

/// Runs the program and returns its exit status.
pub fn main() -> ExitCode {
    shim::become_program(config::whole_environment());
    let argv: Vec<_> = std::env::args_os().collect();
    let words: Vec<_> = argv.iter().map(|word| word.to_string_lossy()).collect();
    std::panic::set_hook(Box::new(print_panic));
    let environment = match AgentEnvironment::from_process() {
        Ok(environment) => environment.with_command_line(words.iter().map(AsRef::as_ref)),
        Err(error) => {
            output_dir::invalidate_after_usage_error(argv.get(1..).unwrap_or_default());
            print::diagnostic(format_args!("error: {error}"));
            return error.class.exit_status().into();
        }
    };
    print::hide(environment.secrets());
    if let Some(keys) = &environment.aws_keys {
        agent_artifacts::aws::use_keys(
            &keys.access_key_id,
            &keys.secret_access_key,
            keys.session_token.as_deref(),
        );
    }
    let arguments = match Arguments::try_parse_from(&argv) {
        Ok(arguments) => arguments,
        Err(error) => {
            // For clap, help and version are errors as well.
            if error.use_stderr() {
                output_dir::invalidate_after_usage_error(argv.get(1..).unwrap_or_default());
            }
            return not_parsed(&error);
        }
    };
    if arguments.command.runs_layer_code() {
        // Before the agent opens files of its own.
        agent_process::close_inherited_descriptors();
    }
    let diagnostics = diagnostics::start(
        arguments.log_level.as_deref(),
        environment.log.as_deref(),
        arguments.command.has_log(),
    );
    if let Err(error) = diagnostics {
        output_dir::invalidate_after_usage_error(argv.get(1..).unwrap_or_default());
        print::diagnostic(format_args!("error: {error}"));
        return error.class.exit_status().into();
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), argv = ?words, root = environment.root, "started");
    let output = arguments.command.job_output();
    let annotate = |error: &Error| {
        if let Some(output) = output {
            job::annotate_early_error(error, output, &environment);
        }
    };
    run_and_flush(|| command(arguments, &environment).inspect_err(annotate)).into()
}

/// Runs a command, also when it panics, until all that it recorded is written.
fn run_and_flush(command: impl FnOnce() -> Result<ExitStatus>) -> ExitStatus {
    // The panic hook printed the location; this sets the documented exit status.
    let result = catch_unwind(AssertUnwindSafe(command)).unwrap_or_else(|_| {
        Err(Error::internal("the agent panicked").hint("please report this with the text above"))
    });
    let status = result.unwrap_or_else(|error| {
        print::diagnostic(format_args!("error: {error}"));
        tracing::error!("{error}");
        error.class.exit_status()
    });
    tracing::info!(exit_code = status.code(), "ended");
    diagnostics::finish();
    status
}

/// Prints clap's error message, or help and version.
fn not_parsed(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        print::to_stderr(&error.render().to_string());
    } else {
        // An error here cannot be reported: standard output is not writable.
        let _ = error.print();
    }
    u8::try_from(error.exit_code()).unwrap_or(ExitStatus::Usage.code()).into()
}

/// Prints a panic as Rust does, but redacted: its message may quote secrets.
fn print_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let text = panic.payload_as_str().unwrap_or("no message");
    let mut message = format!("thread '{}' panicked at {place}:\n{text}", thread.name().unwrap_or("unnamed"));
    let trace = std::backtrace::Backtrace::capture();
    if trace.status() == std::backtrace::BacktraceStatus::Captured {
        message += &format!("\n{trace}");
    }
    print::to_stderr(&message);
    tracing::error!("{message}");
}

fn command(arguments: Arguments, environment: &AgentEnvironment) -> Result<ExitStatus> {
    agent_process::prepare_process()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Error::machine("cannot start the runtime").because(&error))?;
    let status = runtime.block_on(dispatch(arguments, environment));
    // A thread that still blocks (name server, file server) must not delay the exit.
    runtime.shutdown_background();
    status
}

async fn dispatch(arguments: Arguments, environment: &AgentEnvironment) -> Result<ExitStatus> {
    agent_process::survive_signals();
    let environment = &head::with_commit(environment).await;
    match arguments.command {
        // On the heap: the state of a job would fill the stack.
        Command::Run(run) => Box::pin(run::run(run, environment)).await,
        Command::Check(check) => Box::pin(run::check(check, environment)).await,
        Command::Plan(plan) => plan::command(plan, environment).await,
        Command::Dump(dump) => dump::command(dump, environment).await,
        Command::Lock(lock) => lock_definition::command(lock, environment).await,
        Command::Diff(diff) => diff::command(diff, environment).await,
        Command::Import(import) => import::command(import, environment).await,
        Command::Export(export) => export::command(export, environment).await,
        Command::Shell(shell) => shell::command(shell, environment).await,
        Command::Boot(boot) => boot::command(boot, environment).await,
        Command::Devtool(devtool) => devtool::command(devtool, environment).await,
        Command::Completion(shell) => completion::completion(&shell),
        Command::Man(man) => completion::man(&man),
        Command::Doctor(doctor) => doctor::command(doctor, environment).await,
        Command::Cache(cache) => cache::command(cache.command, environment).await,
        Command::Publish(publish) => publish::command(publish, environment).await,
        Command::Report(report) => match &report.command {
            Some(ReportCommand::Post(post)) => report_post::command(post, environment).await,
            None => report::command(&report, environment),
        },
        Command::Lab(lab) => lab::command(lab.command, environment).await,
        Command::Batch(batch) => Box::pin(batch::command(*batch, environment)).await,
        Command::Merge(merge) => merge::command(merge, environment).await,
        Command::Reproduce(reproduce) => reproduce::command(reproduce, environment).await,
        Command::ProbeShare(probe) => {
            let look = agent_cache::probe::look(&probe.root, &probe.part, probe.write);
            print::raw(&format!("{}\n", serde_json::json!(look)))?;
            Ok(ExitStatus::Passed)
        }
        Command::ProbeCredentials(probe) => {
            let sources: credentials::CredentialSources = probe.sources.iter().map(String::as_str).collect();
            let search = move || credentials::probe(&sources, &config::whole_environment());
            let findings = agent_process::blocking(search).await;
            print::raw(&format!("{}\n", serde_json::json!(findings)))?;
            Ok(ExitStatus::Passed)
        }
        Command::ShareTier(tier) => share_tier::command(tier, environment),
        Command::Schema(schema) => {
            let schema = if schema.lab { config::lab_schema() } else { config::schema() };
            print::raw(&format!("{schema:#}\n"))?;
            Ok(ExitStatus::Passed)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::config::Secret;

    /// In a process of its own, because hooks and subscribers are the whole process's.
    #[test]
    fn what_was_recorded_before_a_panic_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let mut broken = Command::new(std::env::current_exe().unwrap());
        broken.args(["--exact", "cli::tests::a_command_that_panics", "--ignored", "--nocapture"]);
        let output = broken.current_dir(directory.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = fs_err::read_to_string(directory.path().join("agent.log")).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let said: Vec<&str> = lines.iter().map(|line| line["message"].as_str().unwrap()).collect();
        assert_eq!(said[0], "before");
        let is_panic = |line: &&str| line.contains("panicked at") && line.contains("cli/mod.rs");
        assert!(said.iter().any(is_panic), "{said:?}");
        assert!(!text.contains("hunter22") && text.contains("[redacted] broke"), "{text}");
        assert_eq!(lines.last().unwrap()["fields"]["exit_code"], 70);
    }

    #[test]
    #[ignore = "the test above runs it in a process of its own"]
    fn a_command_that_panics() {
        print::hide(&[Secret { origin: "test".into(), value: "hunter22".into() }]);
        std::panic::set_hook(Box::new(print_panic));
        diagnostics::start(None, None, true).unwrap();
        diagnostics::write_to(fs_err::File::create("agent.log").unwrap());
        let status = run_and_flush(|| {
            tracing::info!("before");
            panic!("hunter22 broke")
        });
        assert_eq!(status, ExitStatus::Internal);
    }
}
