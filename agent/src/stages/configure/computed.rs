//! Dependencies of repo layers that only BitBake can evaluate: they decide which layers a check starts from.

use std::path::Path;

use agent_process::{Command, ExitReason, LineHandler, Runner};
use agent_types::error::Result;
use agent_types::events::EventKind;
use agent_yocto::base_layers::Candidate;
use agent_yocto::conf_syntax::Word;
use agent_yocto::dependency_versions;

use super::BuildEnvironment;
use crate::stages::cleanup::ServerEnd;

/// Asks BitBake in this build directory, and writes its answer into the candidates.
pub async fn add(
    configured: &BuildEnvironment,
    build: &Path,
    candidates: &mut [Candidate],
    runner: &Runner,
) -> Result<()> {
    let program = configured.tools.bitbake.join("bin/bitbake");
    let mut command = Command::new(program, build, "layer-dependencies").args(["-e"]);
    command.environment = configured.environment(build);
    command.user = configured.user.clone();
    let mut answer = LayerDepends::default();
    let ended = runner.run(command, &mut answer).await;
    ServerEnd::stop(build, configured.user.as_ref(), runner).await.report(&runner.events).await;
    if ended?.end != ExitReason::Exited(0) {
        let message = "BitBake could not tell the computed LAYERDEPENDS of the repos' layers; the check starts \
                       with what their text tells";
        runner.events.warn(message, Some("the log layer-dependencies says why".into())).await;
        return Ok(());
    }
    for (collection, depends) in answer.0 {
        let holder = candidates.iter_mut().find(|one| one.conf.collection(&collection).is_some());
        if let Some(holder) = holder.filter(|holder| holder.conf.may_depend_on_more()) {
            holder.computed.extend(depends);
        }
    }
    Ok(())
}

/// `LAYERDEPENDS_NAME="…"` of `bitbake -e`.
#[derive(Debug, Default)]
struct LayerDepends(Vec<(String, Vec<String>)>);

impl LineHandler for LayerDepends {
    fn line(&mut self, line: &str) -> Vec<EventKind> {
        let assignment = line.strip_prefix("LAYERDEPENDS_").and_then(|rest| rest.split_once("=\""));
        if let Some((collection, value)) = assignment
            && let Some(value) = value.strip_suffix('"')
        {
            let words: Vec<Word> = value
                .split_whitespace()
                .map(|text| Word { text: text.to_owned(), is_certain: true })
                .collect();
            let names = dependency_versions::names(&words).into_iter().map(|word| word.text).collect();
            self.0.push((collection.to_owned(), names));
        }
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bitbakes_environment_tells_the_dependencies() {
        let mut answer = LayerDepends::default();
        for line in [
            "# $LAYERDEPENDS_x [2 operations]",
            "#   :append /l/x/conf/layer.conf:9",
            "LAYERDEPENDS_x=\"core  networking-layer (>= 1) \"",
            "LAYERDEPENDS_y=\"\"",
            "export PATH=\"LAYERDEPENDS_z=\"",
        ] {
            assert!(answer.line(line).is_empty());
        }
        let wanted = [("x", vec!["core", "networking-layer"]), ("y", vec![])];
        let wanted: Vec<(String, Vec<String>)> = wanted
            .into_iter()
            .map(|(name, depends)| (name.to_owned(), depends.into_iter().map(str::to_owned).collect()))
            .collect();
        assert_eq!(answer.0, wanted);
    }
}
