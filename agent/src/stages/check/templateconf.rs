//! The check `templateconf`: what a newcomer gets who calls oe-init-build-env with the templates of the layer.
//!
//! The templates name layers below or beside OE-Core (`##OEROOT##/meta-x`, `##OEROOT##/../meta-x`). So the check makes a
//! directory in which all sources are links with the names of their repositories, both ways, and there it calls the real
//! script and `bitbake -p`.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tracing::Instrument;

use crate::config::Settings;
use crate::stages::cleanup::{ServerEnd, UnitEnd};
use crate::stages::configure::{BuildEnvironment, Templates};
use agent_process::{Command, CommandOutcome, ExitReason, LineHandler, Runner, UntilStopped, blocking};
use agent_types::error::{Error, Result};
use agent_types::events::{EventKind, Finding, Level, Unit};
use agent_types::outcome::Outcome;
use agent_types::stage::Stage;
use agent_yocto::parse_output::ParseOutput;

use super::parse_machines;

pub fn unit() -> Unit {
    Unit::new(Stage::Check, "templateconf")
}

/// Printed between the two parts of the script.
const PREPARED: &str = "build-agent: oe-init-build-env passed";

/// `$1` is the build directory. Whether some web server answers is no property of the templates.
const SCRIPT: &str = "mkdir -p \"$1/conf\" && echo 'CONNECTIVITY_CHECK_URIS = \"\"' > \"$1/conf/site.conf\" || exit 1\n\
                      build=$1\n\
                      set -- \"$build\"\n\
                      . ./oe-init-build-env \"$build\" || exit 1\n\
                      echo \"build-agent: oe-init-build-env passed\"\n\
                      exec bitbake -p\n";

/// Runs the check.
///
/// # Errors
/// When BitBake cannot work on this machine, or a dependency does not parse.
pub async fn run(
    settings: &Settings,
    configured: &BuildEnvironment,
    templates: &Templates,
    runner: &Runner,
) -> Result<Outcome> {
    let (unit, events) = (unit(), &runner.events);
    events.emit(EventKind::UnitStarted { unit: unit.clone() }).await;
    if !templates.directory.join("conf-notes.txt").is_file() {
        let message =
            "the templates have no conf-notes.txt, so a newcomer reads the notes of OE-Core".to_owned();
        let file = templates
            .directory
            .strip_prefix(&settings.checkout)
            .ok()
            .map(|dir| dir.join("local.conf.sample"));
        let (level, rule) = (Level::Info, "templateconf-notes".to_owned());
        let finding = Finding { unit: unit.clone(), level, rule, message, file, line: None, hint: None };
        events.emit(EventKind::Finding(finding)).await;
    }
    let mut server = ServerEnd::default();
    let ran = newcomer(settings, configured, templates, runner, &mut server);
    let ran = ran.instrument(crate::stages::step(&unit)).await;
    let (lines, finished) = match ran {
        Ok(ran) => ran,
        Err(error) => {
            UnitEnd::error(unit, &error).report(server, events).await;
            return Err(error);
        }
    };
    let judged = judge(settings, configured, &lines, &finished);
    let (outcome, findings) = match &judged {
        Ok((outcome, findings)) => (outcome.clone(), findings.clone()),
        Err(error) => (Outcome::NotRun(error.message.clone()), Vec::new()),
    };
    for finding in findings {
        events.emit(EventKind::Finding(Finding { unit: unit.clone(), ..finding })).await;
    }
    let log = Some(runner.relative_log(&finished.log));
    let excerpt = crate::stages::excerpt(&outcome, &finished);
    UnitEnd { unit, outcome, log, excerpt }.report(server, events).await;
    judged.map(|(outcome, _)| outcome)
}

async fn newcomer(
    settings: &Settings,
    configured: &BuildEnvironment,
    templates: &Templates,
    runner: &Runner,
    server: &mut ServerEnd,
) -> Result<(Lines, CommandOutcome)> {
    let top = settings.paths.check_scratch("templateconf");
    configured.scratch_directory(settings, &top, None, runner).await?;
    let build = top.join("build");
    configured.scratch_directory(settings, &build, configured.user.as_ref(), runner).await?;
    let sources = Sources::of(settings, configured, &top.join("src"));
    let (core, template) = (sources.core(), sources.through(&templates.directory));
    blocking(move || sources.make()).await?;
    let mut command = Command::new("/bin/bash", &core, "templateconf").args(["-c", SCRIPT, "bash"]);
    command = command.arg(&build);
    command.environment = configured.environment(&build);
    command.environment.set("TEMPLATECONF", template).set("BITBAKEDIR", &configured.tools.bitbake);
    command.user = configured.user.clone();
    command.status = Some("BitBake parses with the templates".into());
    let mut output = UntilStopped::new(Lines::default(), &command.stopping);
    let ended = runner.run(command, &mut output).await;
    *server = ServerEnd::stop(&build, configured.user.as_ref(), runner).await;
    Ok((output.lines, ended?))
}

/// The sources of a newcomer: links to the checkouts.
struct Sources {
    top: PathBuf,
    /// OE-Core's directory and name.
    oe_core: (PathBuf, String),
    /// The others.
    others: Vec<(PathBuf, String)>,
}

impl Sources {
    fn of(settings: &Settings, configured: &BuildEnvironment, top: &Path) -> Sources {
        let name_of = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut all: Vec<(PathBuf, String)> = configured.repos.clone();
        all.push((settings.checkout.clone(), name_of(&settings.checkout)));
        // In a build service, the directory of the checkout may have any name.
        all.push((settings.checkout.clone(), settings.job.name.clone()));
        let oe_core = &configured.tools.oe_core;
        let is_core = |path: &Path| path == oe_core;
        let core = all.iter().find(|(path, _)| is_core(path)).map(|(_, name)| name.clone());
        let oe_core = (oe_core.clone(), core.unwrap_or_else(|| name_of(oe_core)));
        let mut others: Vec<(PathBuf, String)> = Vec::new();
        for (path, name) in all.into_iter().filter(|(path, _)| *path != oe_core.0) {
            if name != oe_core.1 && !others.iter().any(|(_, other)| *other == name) {
                others.push((path, name));
            }
        }
        Sources { top: top.to_owned(), oe_core, others }
    }

    /// The directory in which the newcomer calls the script.
    fn core(&self) -> PathBuf {
        self.top.join(&self.oe_core.1)
    }

    /// The path that a newcomer writes.
    fn through(&self, path: &Path) -> PathBuf {
        let all = self.others.iter().chain([&self.oe_core]);
        let linked =
            all.filter_map(|(real, name)| Some(self.top.join(name).join(path.strip_prefix(real).ok()?)));
        linked.min_by_key(|path| path.as_os_str().len()).unwrap_or_else(|| path.to_owned())
    }

    fn make(&self) -> Result<()> {
        let core = self.core();
        fs_err::create_dir_all(&core)?;
        let link = |to: &Path, link: &Path| {
            symlink(to, link).map_err(|error| {
                Error::machine(format!("cannot make the link {}", link.display())).because(&error)
            })
        };
        for entry in fs_err::read_dir(&self.oe_core.0)? {
            let entry = entry?;
            link(&entry.path(), &core.join(entry.file_name()))?;
        }
        for (path, name) in &self.others {
            link(path, &self.top.join(name))?;
            if fs_err::symlink_metadata(core.join(name)).is_err() {
                link(path, &core.join(name))?;
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Lines {
    is_prepared: bool,
    /// The last line before BitBake.
    last: String,
    parse: ParseOutput,
}

impl LineHandler for Lines {
    fn line(&mut self, line: &str) -> Vec<EventKind> {
        if self.is_prepared {
            self.parse.line(line);
        } else if line == PREPARED {
            self.is_prepared = true;
        } else if !line.trim().is_empty() {
            line.trim().clone_into(&mut self.last);
        }
        Vec::new()
    }
}

fn judge(
    settings: &Settings,
    configured: &BuildEnvironment,
    lines: &Lines,
    finished: &CommandOutcome,
) -> Result<(Outcome, Vec<Finding>)> {
    match finished.end {
        ExitReason::Exited(0) if !lines.is_prepared => {
            Err(Error::internal("oe-init-build-env ended the shell with exit status 0")
                .hint(format!("read `{}`", finished.log.display())))
        }
        ExitReason::Exited(_) if !lines.is_prepared => {
            let said = if lines.last.is_empty() { finished.end.to_string() } else { lines.last.clone() };
            Ok((Outcome::Failed(format!("oe-init-build-env: {said}")), Vec::new()))
        }
        _ => parse_machines::judge(settings, configured, &lines.parse, finished),
    }
}
