//! What a job says about the source of its rules, and whether a change edits its own.

use std::path::Path;

use agent_fs::untrusted;

use super::lock;
use super::paths::ProjectRoot;
use super::rules::{BaseFiles, Rules};

/// What the source of the rules means for the job.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RulesReport {
    pub notices: Vec<String>,
    /// Each with what to do.
    pub warnings: Vec<(String, String)>,
    /// Why no artifacts may be published.
    pub closed: Option<String>,
}

/// Compares the rules of the base with those of the change. `known_failures`: the file that the rules name.
pub fn report(project_root: &ProjectRoot, known_failures: Option<&Path>) -> RulesReport {
    match &project_root.rules {
        Rules::OfCheckout => RulesReport::default(),
        Rules::NoBase { why, hint } => RulesReport {
            warnings: vec![(
                format!("the rules are the change's own, because {why}; so no artifacts are published"),
                hint.clone(),
            )],
            closed: Some(format!("the rules of the base are not known: {why}")),
            ..RulesReport::default()
        },
        Rules::OfBase(base) => of_base(base, project_root, known_failures),
    }
}

fn of_base(base: &BaseFiles, project_root: &ProjectRoot, known_failures: Option<&Path>) -> RulesReport {
    // A manifest from elsewhere, or the agent's own, has no lock.
    let manifest = project_root.manifest.as_deref().and_then(Path::file_name);
    let [manifest, lock] = [manifest, manifest.map(|_| lock::FILE_NAME.as_ref())]
        .map(|name| Some(project_root.base.join(name?)));
    let files = [manifest.as_deref(), lock.as_deref(), known_failures];
    let edited: Vec<String> = files
        .into_iter()
        .flatten()
        .filter(|path| {
            let now = content(path);
            now != content(&base.before(path)) && now != content(&project_root.rules_file(path))
        })
        .map(|path| path.strip_prefix(&base.checkout).unwrap_or(path).display().to_string())
        .collect();
    let shown = base.shown();
    if edited.is_empty() {
        let has_rules = files.iter().any(Option::is_some);
        let differs = |path: &&Path| content(path) != content(&project_root.rules_file(path));
        let older = match files.iter().flatten().any(differs) {
            true => ", which has other rules than the commit in which this change began",
            false => "",
        };
        let notice = has_rules.then(|| format!("the rules are those of the base {shown}{older}"));
        return RulesReport { notices: notice.into_iter().collect(), ..RulesReport::default() };
    }
    let warning = format!(
        "this change edits its own rules: {}; it is judged by those of the base {shown}",
        edited.join(", ")
    );
    let hint = "merge the change of the rules first, or start a build of it by hand with --accept-manifest";
    RulesReport { warnings: vec![(warning, hint.to_owned())], ..RulesReport::default() }
}

/// The text of a file; what cannot be read is something else than what can.
fn content(path: &Path) -> Option<Result<Vec<u8>, std::io::ErrorKind>> {
    match untrusted::read_named(path, untrusted::PAGE) {
        Ok(bytes) => Some(Ok(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => Some(Err(error.kind())),
    }
}
