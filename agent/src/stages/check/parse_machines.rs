//! `[check] parse_machines`: BitBake parses all recipes for each machine, in the job's build directory. A build of the
//! same machine finds what was parsed.

use tracing::Instrument;

use crate::config::Settings;
use crate::stages::cleanup::{ServerEnd, UnitEnd};
use crate::stages::configure::BuildEnvironment;
use crate::stages::layers::known_layers;
use agent_process::{Command, CommandOutcome, ExitReason, LineHandler, Runner, UntilStopped};
use agent_types::error::{Error, Result};
use agent_types::events::{EventKind, Finding, Level, Unit};
use agent_types::outcome::Outcome;
use agent_types::stage::Stage;
use agent_types::words::count;
use agent_yocto::check_layer::crash;
use agent_yocto::host;
use agent_yocto::layer_fault::LayerFault;
use agent_yocto::parse_output::ParseOutput;

use super::ended_badly;

pub fn unit(machine: &str) -> Unit {
    Unit::new(Stage::Check, format!("parse for {machine}"))
}

/// Parses for one machine.
///
/// # Errors
/// When BitBake cannot work on this machine, or a dependency does not parse.
pub async fn run(
    settings: &Settings,
    configured: &BuildEnvironment,
    machine: &str,
    runner: &Runner,
) -> Result<Outcome> {
    let unit = unit(machine);
    runner.events.emit(EventKind::UnitStarted { unit: unit.clone() }).await;
    let build = &configured.build;
    let program = configured.tools.bitbake.join("bin/bitbake");
    let mut command = Command::new(program, build, format!("parse-{machine}")).args(["-p"]);
    command.environment = configured.environment(build);
    command.environment.set("MACHINE", machine);
    command.user = configured.user.clone();
    command.status = Some(format!("BitBake parses for {machine}"));
    let mut output = UntilStopped::new(Lines::default(), &command.stopping);
    let ended = runner.run(command, &mut output).instrument(crate::stages::step(&unit)).await;
    let server = ServerEnd::stop(build, configured.user.as_ref(), runner).await;
    let finished = match ended {
        Ok(finished) => finished,
        Err(error) => {
            UnitEnd::error(unit, &error).report(server, &runner.events).await;
            return Err(error);
        }
    };
    let output = output.lines.0;
    let judged = judge(settings, configured, &output, &finished);
    let (outcome, findings) = match &judged {
        Ok((outcome, findings)) => (outcome.clone(), findings.clone()),
        Err(error) => (Outcome::NotRun(error.message.clone()), Vec::new()),
    };
    if let (Outcome::Passed, Some(parsed)) = (&outcome, output.parsed) {
        let files = count(parsed.files, "recipe file");
        let message = format!(
            "{machine}: {files} parsed ({} from the cache), {} recipes skipped",
            parsed.cached, parsed.skipped
        );
        runner.events.info(message).await;
    }
    for finding in findings {
        runner.events.emit(EventKind::Finding(Finding { unit: unit.clone(), ..finding })).await;
    }
    let log = Some(runner.relative_log(&finished.log));
    let excerpt = crate::stages::excerpt(&outcome, &finished);
    UnitEnd { unit, outcome, log, excerpt }.report(server, &runner.events).await;
    judged.map(|(outcome, _)| outcome)
}

#[derive(Default)]
struct Lines(ParseOutput);

impl LineHandler for Lines {
    fn line(&mut self, line: &str) -> Vec<EventKind> {
        self.0.line(line);
        Vec::new()
    }
}

fn judge(
    settings: &Settings,
    configured: &BuildEnvironment,
    output: &ParseOutput,
    finished: &CommandOutcome,
) -> Result<(Outcome, Vec<Finding>)> {
    match finished.end {
        ExitReason::Exited(0) if output.read_recipes() => return Ok((Outcome::Passed, Vec::new())),
        ExitReason::Exited(0) => {
            return Err(Error::internal("bitbake -p ended with exit status 0 and read no recipe")
                .hint(format!("read `{}`", finished.log.display())));
        }
        ExitReason::Exited(_) => {}
        _ => return Ok((ended_badly("bitbake", finished), Vec::new())),
    }
    let tail = finished.tail.join("\n");
    if let Some(trouble) = host::trouble(&tail) {
        return Err(trouble);
    }
    let layers = known_layers(settings, configured);
    let mut faults: Vec<LayerFault> = layers.fault_of_conf(&tail).into_iter().collect();
    for error in &output.errors {
        let known = error.file.as_deref().and_then(|file| layers.fault_in(file, error.line, &error.message));
        faults.extend(known.filter(|fault| !faults.contains(fault)));
    }
    let own: Vec<&LayerFault> = faults.iter().filter(|fault| fault.is_under_test).collect();
    let findings = own.iter().map(|fault| crash::finding(fault, &unit(""), &settings.checkout)).collect();
    match (own.first(), faults.first()) {
        (Some(fault), _) => {
            let why = fault.why.lines().next().unwrap_or_default();
            Ok((Outcome::Failed(format!("{}: {why}", fault.place(&settings.checkout))), findings))
        }
        (None, Some(fault)) => Err(crash::dependency_error(fault, &settings.checkout)),
        // Such as a machine that no layer has.
        (None, None) => {
            let error = output.errors.first().map(|error| error.message.trim());
            let first = error.map(|text| text.lines().next().unwrap_or_default().to_owned());
            let outcome = first.unwrap_or_else(|| format!("bitbake {}", finished.end));
            Ok((Outcome::Failed(outcome.clone()), vec![unplaced(outcome)]))
        }
    }
}

fn unplaced(message: String) -> Finding {
    Finding {
        unit: unit(""),
        level: Level::Error,
        rule: "parse-error".into(),
        message,
        file: None,
        line: None,
        hint: None,
    }
}
