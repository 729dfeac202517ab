//! With whose rights the agent reads files that a source names.

use std::path::{Path, PathBuf};

use crate::config::{self, AgentEnvironment, Request};
use agent_fs::untrusted;
use agent_types::error::Result;

use super::current_dir::current_dir;
use super::servers::reader;

/// Makes the agent read files that the source names with the build user's rights, unless the source is
/// trusted.
pub fn limit_reading(request: &Request, environment: &AgentEnvironment) -> Result<()> {
    if !environment.root || config::is_trusted(request, environment) {
        return Ok(());
    }
    let here = current_dir()?;
    let checkout = environment.source_dir().map_or(here.as_path(), |(_, directory)| directory).to_owned();
    let user = reader(request.build_user.as_deref(), &checkout);
    let manifest = request.first_file().and_then(|path| Some(here.join(path).parent()?.to_owned()));
    let stores = config::layer_stores(request.work_dir.as_deref(), environment, &here).ok();
    let own = [Some(checkout), manifest, Some(config::work_tree(&here))].into_iter().flatten();
    let own = own.chain(stores.into_iter().flatten()).chain(request.rules.roots().map(Path::to_owned));
    let real = |path: PathBuf| fs_err::canonicalize(path).ok().filter(|path| path.parent().is_some());
    let own = own.filter_map(real).collect();
    untrusted::read_named_as(untrusted::Reader { uid: user.uid, gid: user.gid, own });
    Ok(())
}
