//! `build-agent doctor`: checks whether this machine can build, or serve the devices of a lab.

use std::collections::BTreeSet;
use std::path::Path;

use crate::config::AgentEnvironment;
use crate::doctor::{self, DoctorInput, Findings, LabDoctor, Subject};
use agent_process::{Environment, Interrupt, Redactor, Runner};
use agent_types::error::{Error, Result};
use agent_types::outcome::ExitStatus;
use agent_yocto::environment::HOST_PATH;

use super::arguments;
use super::cells::{load_cells, matrix_cells};
use super::current_dir::current_dir;
use super::definition::with_definition;
use super::job::{listen_for_signals, load_request, request};
use super::print;

pub async fn command(args: arguments::Doctor, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let logs = tempfile::Builder::new()
        .prefix("build-agent-doctor-")
        .tempdir()
        .map_err(|error| Error::machine("cannot create a temporary directory").because(&error))?;
    let interrupt = Interrupt::new(None);
    listen_for_signals(&interrupt)?;
    let runner =
        doctor::runner(logs.path().to_path_buf(), interrupt.clone(), Redactor::new(environment.secrets()));
    if let Some(file) = &args.lab {
        let lab = crate::config::load_lab(file)?;
        let build_user = agent_process::build_user(lab.build_user.as_deref(), &lab.state);
        let input = LabDoctor { lab, agent_is_root: environment.root, build_user, runner };
        return print_findings(&[("", doctor::check_lab(&input).await)], &interrupt, args.json);
    }
    let mut checked = Vec::new();
    for (subject, asked) in subjects(&args, environment).await? {
        let release = subject.release.name;
        checked.push((release, check(subject, asked, &runner, environment).await));
        if interrupt.state().is_some() {
            break;
        }
    }
    print_findings(&checked, &interrupt, args.json)
}

/// Checks for one job.
async fn check(
    subject: Subject,
    asked: Option<String>,
    runner: &Runner,
    environment: &AgentEnvironment,
) -> Findings {
    let checkout = subject.checkout.as_ref().map_or(Path::new("/"), |(checkout, _)| checkout).to_path_buf();
    let build_user = match agent_process::build_user(asked.as_deref(), &checkout) {
        Ok(Some(user)) => Ok(user),
        Ok(None) => agent_process::agent_user(),
        Err(error) => Err(error),
    };
    let input = DoctorInput {
        subject,
        agent_is_root: environment.root,
        environment: probe_environment(environment, build_user.as_ref().ok()),
        build_user,
        home_variable: environment.home.clone(),
        credentials: environment.credential_sources.clone(),
        runner: runner.clone(),
    };
    doctor::run_checks(&input).await
}

/// Prints the findings of each release, and returns the exit status for all.
fn print_findings(checked: &[(&str, Findings)], interrupt: &Interrupt, json: bool) -> Result<ExitStatus> {
    if interrupt.state().is_some() {
        return Ok(ExitStatus::Cancelled);
    }
    if json {
        print::json(Findings::json_of_releases(checked))?;
    } else {
        for (number, (release, findings)) in checked.iter().enumerate() {
            if checked.len() > 1 {
                let blank = if number > 0 { "\n" } else { "" };
                print::text(&format!("{blank}{release}:\n"))?;
            }
            print::text(&findings.to_string())?;
        }
    }
    let all = checked.iter().flat_map(|(_, findings)| findings.0.clone());
    Ok(Findings(all.collect()).exit_status())
}

/// What to check for, each with its build user: the manifest's job, or one cell of each release of its matrix; without a
/// manifest, the given or the newest stable release.
async fn subjects(
    args: &arguments::Doctor,
    environment: &AgentEnvironment,
) -> Result<Vec<(Subject, Option<String>)>> {
    let named = args.manifest.manifest.is_some();
    let here = current_dir()?.join(crate::config::FILE_NAME);
    if args.release.is_none() && (named || here.exists()) {
        let request = with_definition(request(&args.manifest).await?, environment).await?;
        let mut jobs = match matrix_cells(&request, environment).await? {
            Some(cells) => {
                let cells = load_cells(cells, &request, environment).await?;
                cells.into_iter().map(|(_, settings)| settings).collect()
            }
            None => vec![load_request(&request, environment).await?],
        };
        let mut releases = BTreeSet::new();
        jobs.retain(|job| releases.insert(job.release.name));
        return Ok(jobs.iter().map(|job| (Subject::from(job), job.build_user.clone())).collect());
    }
    let common = &args.manifest.common;
    let work = crate::config::work_dir(common.work_dir.as_deref(), environment, &current_dir()?)?;
    let release = match &args.release {
        Some(name) => crate::config::known_release(name)?,
        None => agent_types::release::Release::newest_stable(),
    };
    Ok(vec![(Subject::of_release(release, work), common.build_user.clone())])
}

fn probe_environment(environment: &AgentEnvironment, user: Option<&agent_process::User>) -> Environment {
    let mut probes = Environment::default();
    probes.set("PATH", HOST_PATH).set("LANG", "en_US.UTF-8").set("LC_ALL", "en_US.UTF-8");
    if let Some(user) = user {
        probes.set("HOME", &user.home).set("USER", &user.name);
    }
    for (name, value) in &environment.network {
        probes.set(name, value);
    }
    probes
}
