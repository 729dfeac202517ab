//! Whether guests run with KVM on this machine.

use super::configure::BuildEnvironment;
use crate::config::Settings;
use agent_process::{PROBE_LIMIT, Prober, Runner};
use agent_yocto::testimage::kvm;

/// Runs a guest of one instruction with KVM, as the build user.
///
/// # Errors
/// Why KVM cannot be used.
pub async fn probe(
    settings: &Settings,
    configured: &BuildEnvironment,
    runner: &Runner,
) -> Result<(), String> {
    let environment = configured.environment(&settings.paths.build());
    let prober = Prober { runner: runner.clone(), environment, log: "probe" };
    let argv = ["python3", "-c", kvm::SCRIPT];
    let user = configured.user.as_ref();
    let answer = prober.ask("kvm", &argv, user, &prober.environment, PROBE_LIMIT).await;
    match answer.lines() {
        Some(lines) => kvm::judge(lines),
        None => Err(answer.complaint()),
    }
}
