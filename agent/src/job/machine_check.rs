//! The doctor's checks that come before each job.

use crate::config::Settings;
use crate::doctor::{self, Subject};
use agent_process::{Environment, Prober, Runner};
use agent_types::error::Result;
use agent_yocto::environment::HOST_PATH;

/// Checks whether BitBake can work on this machine, before anything is cloned. `checks`: the check stage runs.
///
/// # Errors
/// Machine: what is wrong, with its fix.
pub async fn check_machine(settings: &Settings, checks: bool, runner: &Runner) -> Result<()> {
    // Where there is no build user, configure says what is wrong.
    let user = agent_process::build_user(settings.build_user.as_deref(), &settings.checkout).ok().flatten();
    let mut environment = Environment::default();
    environment.set("PATH", HOST_PATH).set("LC_ALL", "C");
    // The probes are no events of the job.
    let quiet = doctor::runner(settings.paths.logs(), runner.interrupt.clone(), runner.redactor.clone());
    let prober = Prober { runner: quiet, environment, log: "probe" };
    let mut subject = Subject::from(settings);
    subject.check_programs.retain(|_| checks);
    match doctor::before_job(&subject, &prober, user.as_ref()).await {
        Err(_) if runner.interrupt.state().is_some() => Ok(()),
        checked => checked,
    }
}
