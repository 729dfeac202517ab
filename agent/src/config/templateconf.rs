//! `[config] templateconf`: the templates of a layer for `local.conf` and `bblayers.conf`.

use std::path::PathBuf;

use super::manifest::UnvalidatedManifest;
use super::paths::ProjectRoot;
use super::problem::{Diagnostic, KeyPath};
use super::settings::TemplateConf;
use super::validator::Validator;
use super::values;

pub fn validate(
    check: &mut Validator,
    raw: &UnvalidatedManifest,
    project_root: &ProjectRoot,
    inside: impl Fn(&str, &ProjectRoot) -> Result<PathBuf, Diagnostic>,
) -> Option<TemplateConf> {
    let path = KeyPath::root().key("config").key("templateconf");
    let tree = check.tree;
    let template = check.one(&path, raw.config.templateconf.as_ref(), |text| {
        let Some((repo, inner)) = text.split_once(':') else {
            let directory = inside(text, project_root)?;
            return match directory.join(LOCAL).is_file() && directory.join(BBLAYERS).is_file() {
                true => Ok(TemplateConf { repo: None, path: directory }),
                false => Err(Diagnostic::new(format!("`{text}` has no {LOCAL} and {BBLAYERS}"))
                    .hint("name a directory such as meta-x/conf/templates/default")),
            };
        };
        if tree.get(&KeyPath::root().key("repos").key(repo)).is_none() {
            return Err(Diagnostic::new(format!("[repos] has no `{repo}`"))
                .hint("write REPO:path, or a path in the checkout under test"));
        }
        let inner = values::inner_path(inner, "the repository")?;
        Ok(TemplateConf { repo: Some(repo.to_owned()), path: inner })
    });
    if raw.check.templateconf == Some(true) && !check.has(&path) {
        let mistake = Diagnostic::new("has no effect without `templateconf` in [config]");
        check.value(&KeyPath::root().key("check").key("templateconf"), mistake);
    }
    template
}

const LOCAL: &str = "local.conf.sample";
const BBLAYERS: &str = "bblayers.conf.sample";
