//! `[check] parse_machines`: BitBake parses all recipes for each machine, in an empty build directory with the job's
//! configuration. It gets a parse cache of an earlier job.

use std::path::PathBuf;
use std::sync::Arc;

use tracing::Instrument;

use crate::config::Settings;
use crate::stages::check_layer::{close_queries, open_queries, place};
use crate::stages::cleanup::{ServerEnd, UnitEnd};
use crate::stages::configure::BuildEnvironment;
use crate::stages::layers::known_layers;
use agent_cache::signature_cache::{
    BitbakeRunner, CacheResult, Invocation, NotCacheable, ParseInputs, ParseRun, Place, TaskQueries,
};
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

/// The parses of one job, with the stored parse caches.
pub struct Parses<'a> {
    settings: &'a Settings,
    configured: &'a BuildEnvironment,
    runner: &'a Runner,
    /// The same for all machines.
    build: PathBuf,
    stores: CacheResult<Arc<TaskQueries>>,
}

impl Parses<'_> {
    pub async fn open<'a>(
        settings: &'a Settings,
        configured: &'a BuildEnvironment,
        runner: &'a Runner,
    ) -> Parses<'a> {
        let build = settings.paths.check_scratch("parse");
        let stores = match settings.check.signature_cache {
            true => open_queries(settings, configured, &place(settings, configured, &build), "parse").await,
            false => Err(NotCacheable("--no-signature-cache".into())),
        };
        Parses { settings, configured, runner, build, stores }
    }

    /// Publishes what was stored.
    pub async fn close(self) {
        if let Ok(stores) = &self.stores {
            close_queries(stores, self.runner).await;
        }
    }

    /// Parses for one machine.
    ///
    /// # Errors
    /// When BitBake cannot work on this machine, or a dependency does not parse.
    pub async fn run(&self, machine: &str) -> Result<Outcome> {
        let unit = unit(machine);
        let events = &self.runner.events;
        events.emit(EventKind::UnitStarted { unit: unit.clone() }).await;
        let mut server = ServerEnd::default();
        let parsed = self.parse(machine, &unit, &mut server).instrument(crate::stages::step(&unit)).await;
        let (output, finished) = match parsed {
            Ok(parsed) => parsed,
            Err(error) => {
                UnitEnd::error(unit, &error).report(server, events).await;
                return Err(error);
            }
        };
        let judged = judge(self.settings, self.configured, &output, &finished);
        let (outcome, findings) = match &judged {
            Ok((outcome, findings)) => (outcome.clone(), findings.clone()),
            Err(error) => (Outcome::NotRun(error.message.clone()), Vec::new()),
        };
        if outcome == Outcome::Passed {
            events.info(format!("{machine}: {}", sentence(&output))).await;
        }
        for finding in findings {
            events.emit(EventKind::Finding(Finding { unit: unit.clone(), ..finding })).await;
        }
        let log = Some(self.runner.relative_log(&finished.log));
        let excerpt = crate::stages::excerpt(&outcome, &finished);
        UnitEnd { unit, outcome, log, excerpt }.report(server, events).await;
        judged.map(|(outcome, _)| outcome)
    }

    async fn parse(
        &self,
        machine: &str,
        unit: &Unit,
        server: &mut ServerEnd,
    ) -> Result<(ParseOutput, CommandOutcome)> {
        let (settings, configured, runner) = (self.settings, self.configured, self.runner);
        let conf = configured.signatures_conf(settings, &self.build, &settings.layers)?;
        configured.empty_with(settings, &self.build, &conf, runner).await?;
        let program = configured.tools.bitbake.join("bin/bitbake");
        let mut command = Command::new(program, &self.build, format!("parse-{machine}")).args(["-p"]);
        command.environment = configured.environment(&self.build);
        command.environment.set("MACHINE", machine);
        command.user = configured.user.clone();
        command.status = Some(format!("BitBake parses for {machine}"));
        let run = self.parse_run(&command);
        let before = self.restore(&run, unit, machine).await;
        let mut output = UntilStopped::new(Lines::default(), &command.stopping);
        let ended = runner.run(command, &mut output).await;
        *server = ServerEnd::stop(&self.build, configured.user.as_ref(), runner).await;
        let (output, finished) = (output.lines.0, ended?);
        if finished.end == ExitReason::Exited(0) && output.read_recipes() {
            self.store(run, before, machine).await;
        }
        Ok((output, finished))
    }

    fn parse_run(&self, command: &Command) -> ParseRun {
        let environment = command.environment.iter();
        let invocation = Invocation {
            argv: vec!["-p".into()],
            cwd: fs_err::canonicalize(&self.build).unwrap_or_else(|_| self.build.clone()),
            umask: 0o022,
            joined: true,
            environment: environment.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        };
        ParseRun { place: self.place(), invocation }
    }

    fn place(&self) -> Place {
        place(self.settings, self.configured, &self.build)
    }

    /// Puts a stored parse cache into the build directory.
    async fn restore(&self, run: &ParseRun, unit: &Unit, machine: &str) -> CacheResult<ParseInputs> {
        let stores = self.stores.clone()?;
        let (settings, user) = (self.settings, self.configured.user.as_ref());
        let scratch = settings.paths.check_scratch("parse-scratch");
        let (work, most) = (&settings.paths.work, settings.check.max_parallel_bitbakes);
        let bitbake = BitbakeRunner::new(self.runner, &run.place, user, scratch, work, "", most);
        stores.before_parse(run, &bitbake.for_unit(unit, &format!("parse-{machine}"))).await
    }

    /// Stores the parse cache that BitBake left. Without it the next job parses again.
    async fn store(&self, run: ParseRun, before: CacheResult<ParseInputs>, machine: &str) {
        let stored = match (self.stores.clone(), before) {
            (Ok(stores), Ok(before)) => {
                let store = tokio::task::spawn_blocking(move || stores.after_parse(&run, &before));
                store.await.unwrap_or_else(|error| Err(NotCacheable(error.to_string())))
            }
            (Err(why), _) | (_, Err(why)) => Err(why),
        };
        if let Err(why) = stored
            && self.settings.check.signature_cache
        {
            let message = format!("{machine}: the parse cache is not stored for later jobs: {why}");
            self.runner.events.info(message).await;
        }
    }
}

/// What BitBake read, for people.
fn sentence(output: &ParseOutput) -> String {
    let Some(parsed) = output.parsed else {
        let entries = count(output.loaded.unwrap_or_default(), "recipe");
        return format!("{entries} taken from the parse cache, none had to be parsed");
    };
    let (files, skipped) = (count(parsed.files, "recipe file"), count(parsed.skipped, "recipe"));
    format!("{files} parsed ({} from the parse cache), {skipped} skipped", parsed.cached)
}

#[derive(Default)]
struct Lines(ParseOutput);

impl LineHandler for Lines {
    fn line(&mut self, line: &str) -> Vec<EventKind> {
        self.0.line(line);
        Vec::new()
    }
}

pub fn judge(
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
