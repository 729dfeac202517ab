//! The environment that the tools need: their script is run in that of layer code.

use std::path::Path;

use agent_fs::read;
use agent_fs::untrusted::PAGE;
use agent_process::{Command, Runner};
use agent_types::error::{Error, Result};
use agent_yocto::environment::{HostTools, host_environment};

use super::installation::{Installation, Users, stopped};
use super::variables;

/// Prints the environment, and prints it again after the script.
const SCRIPT: &str = "/usr/bin/env -0 >before || exit 3\n. \"$1\" >&2 || true\n/usr/bin/env -0 >after\n";

/// Names of variables in one message.
const MOST_NAMES: usize = 20;

/// What the script of the buildtools changes in the environment of layer code.
///
/// # Errors
/// Usage, if it has none that can be used.
pub async fn environment(
    installation: &Installation<'_>,
    scratch: &Path,
    users: Users<'_>,
    network: &[(String, String)],
    runner: &Runner,
) -> Result<HostTools> {
    let (script, url) = (installation.script()?, installation.url());
    let mut command = Command::new("/bin/bash", scratch, "buildtools-environment");
    command = command.args(["-c", SCRIPT, "bash"]).arg(&script).status("environment of the buildtools");
    command.environment = host_environment(users.whoami, network);
    command.environment.set("HOME", scratch);
    command.user = users.user.cloned();
    let ended = runner.run(command, &mut ()).await?;
    let failed = |why: String| {
        Error::usage(format!("the buildtools {url}: {why}"))
            .hint(format!("the log is {}", runner.relative_log(&ended.log).display()))
    };
    if !ended.success() {
        stopped(&ended)?;
        return Err(failed(format!("{} ended with {}", script.display(), ended.end)));
    }
    // The script can put a link there, and root must not read for it.
    let read = |name: &str| read::whole(&scratch.join(name), PAGE);
    let (before, after) = (read("before"), read("after"));
    let (Ok(before), Ok(after)) = (before, after) else {
        return Err(failed(format!("{} left no environment", script.display())));
    };
    let changed = variables::changed(&before, &after).map_err(failed)?;
    if !changed.ignored.is_empty() {
        let names = changed.ignored.iter().take(MOST_NAMES).cloned().collect::<Vec<_>>().join(", ");
        let more = if changed.ignored.len() > MOST_NAMES { ", …" } else { "" };
        let message = format!("the buildtools set variables that do not reach BitBake: {names}{more}");
        let hint = "the agent sets them itself, or their names are those of credentials: docs/trust.md";
        runner.events.warn(message, Some(hint.into())).await;
    }
    Ok(changed.tools)
}
