//! `build-agent devtool`: OE-Core's devtool in the build directory of the job.

use crate::config::AgentEnvironment;
use crate::stages::configure::Reuse;
use agent_fs::access::{Credentials, Permission};
use agent_types::error::Result;
use agent_types::outcome::ExitStatus;

use super::arguments;
use super::print;
use super::session::{self, Session};

pub async fn command(args: arguments::Devtool, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let settings = session::settings(&args.manifest, &args.release, false, environment).await?;
    let session = Session::open(settings, Reuse::WithEdits, environment).await?;
    warn_of_unwritable_layers(&session);
    let devtool = session.configured.tools.oe_core.join("scripts/devtool");
    session.run(devtool.into(), args.args).await
}

/// `devtool finish` and `update-recipe` write to layers.
fn warn_of_unwritable_layers(session: &Session) {
    let configured = &session.configured;
    let user = &configured.whoami;
    let rights = match &configured.user {
        Some(user) => Credentials::of(user.uid, user.gid),
        None => Credentials::own(),
    };
    for layer in &session.settings.layers {
        if rights.barrier(layer, Permission::CHANGE).is_some() {
            print::diagnostic(format_args!(
                "warning: the build user {user} cannot write to {layer}, so devtool cannot put changes there\n  hint: \
                 `chown -R {user} {layer}`, or run the agent as the owner of the layer",
                user = user.name,
                layer = layer.display(),
            ));
        }
    }
}
