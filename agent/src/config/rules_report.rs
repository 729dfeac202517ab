//! What a job reports about the source of its rules, and whether a change edits its own rules.

use std::path::Path;

use agent_fs::untrusted;

use super::lock;
use super::paths::ProjectRoot;
use super::rules::{BaseFiles, Rules};

/// The consequences of the rules' source for the job.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RulesReport {
    pub notices: Vec<String>,
    /// Each with a hint.
    pub warnings: Vec<(String, String)>,
    /// Why no artifacts may be published.
    pub closed: Option<String>,
}

/// Compares the rules of the base with those of the change. `named`: the files that the manifest names: included files and
/// known failures.
pub fn report(project_root: &ProjectRoot, named: &[&Path]) -> RulesReport {
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
        Rules::OfBase(base) => of_base(base, project_root, named),
    }
}

fn of_base(base: &BaseFiles, project_root: &ProjectRoot, named: &[&Path]) -> RulesReport {
    // A manifest from elsewhere, or the agent's own, has no lock.
    let manifest = project_root.manifest.as_deref().and_then(Path::file_name);
    let [manifest, lock] = [manifest, manifest.map(|_| lock::FILE_NAME.as_ref())]
        .map(|name| Some(project_root.base.join(name?)));
    let files: Vec<&Path> =
        [manifest.as_deref(), lock.as_deref()].into_iter().flatten().chain(named.iter().copied()).collect();
    let edited: Vec<String> = files
        .iter()
        .filter(|path| {
            let now = content(path);
            now != content(&base.before(path)) && now != content(&project_root.rules_file(path))
        })
        .map(|path| path.strip_prefix(&base.checkout).unwrap_or(path).display().to_string())
        .collect();
    let shown = base.shown();
    if edited.is_empty() {
        let has_rules = !files.is_empty();
        let differs = |path: &&Path| content(path) != content(&project_root.rules_file(path));
        let older = match files.iter().any(differs) {
            true => ", which has other rules than the commit in which this change began",
            false => "",
        };
        let notice = has_rules.then(|| format!("the rules are those of the base {shown}{older}"));
        return RulesReport { notices: notice.into_iter().collect(), ..RulesReport::default() };
    }
    let warning = format!(
        "this change edits its own rules: {}; the rules of the base {shown} apply",
        edited.join(", ")
    );
    let hint = "merge the change of the rules first, or start a build of it by hand with --accept-manifest";
    RulesReport { warnings: vec![(warning, hint.to_owned())], ..RulesReport::default() }
}

/// The content of a file, or the kind of error for one that cannot be read; `None` without a file.
fn content(path: &Path) -> Option<Result<Vec<u8>, std::io::ErrorKind>> {
    match untrusted::read_named(path, untrusted::PAGE) {
        Ok(bytes) => Some(Ok(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => Some(Err(error.kind())),
    }
}
