//! `{release}` and `{bitbake}` in the branches and tags of repositories, so that one line serves several releases.

use agent_types::release::Release;

use super::problem::{Diagnostic, KeyPath, Problems};
use super::tree::{Node, Value};

/// Replaces them in a manifest's tree. Reports other words in braces.
pub fn fill(tree: &mut Node, problems: &mut Problems) {
    let release = tree.child("release").and_then(Node::as_text).and_then(Release::find);
    let Some(Value::Table(repos)) = tree.child_mut("repos").map(|repos| &mut repos.value) else { return };
    for repo in repos {
        let path = KeyPath::root().key("repos").key(&repo.key);
        for key in ["branch", "tag"] {
            let Some(node) = repo.node.child_mut(key) else { continue };
            let Value::String(text) = &node.value else { continue };
            match filled(text, release) {
                Ok(None) => {}
                Ok(Some(new)) => node.value = Value::String(new),
                Err(mistake) => problems.add(node.place.clone(), Some(path.key(key).to_string()), mistake),
            }
        }
    }
}

/// `None`, if there is nothing to replace, or if the release is not known, which is reported elsewhere.
fn filled(text: &str, release: Option<&'static Release>) -> Result<Option<String>, Diagnostic> {
    let (mut new, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('{') {
        let Some((word, after)) = after.split_once('}') else { break };
        new.push_str(before);
        let value = match word {
            "release" => release.map(|release| release.name),
            "bitbake" => release.map(Release::bitbake_branch),
            _ => {
                return Err(Diagnostic::new(format!("`{{{word}}}` has no value"))
                    .hint("write {release}, or {bitbake} for the branch of BitBake's own repository"));
            }
        };
        let Some(value) = value else { return Ok(None) };
        new.push_str(value);
        rest = after;
    }
    new.push_str(rest);
    Ok((new != text).then_some(new))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::tree::parse;
    use super::*;

    #[test]
    fn a_branch_follows_the_release() {
        for (release, text, wanted) in [
            ("scarthgap", "{release}", "scarthgap"),
            ("scarthgap", "{bitbake}", "2.8"),
            ("kirkstone", "{bitbake}", "2.0"),
            ("wrynose", "{bitbake}", "2.18"),
            ("master", "{bitbake}", "master"),
            ("scarthgap", "feature/{release}-{bitbake}-next", "feature/scarthgap-2.8-next"),
            ("scarthgap", "plain", "plain"),
            ("scarthgap", "odd{", "odd{"),
            ("unknown", "{release}", "{release}"),
        ] {
            let mut problems = Problems::default();
            let toml = format!("release = '{release}'\n[repos.x]\nbranch = '{text}'\n");
            let mut tree = parse("f", &toml, &mut problems).unwrap();
            fill(&mut tree, &mut problems);
            assert!(problems.is_empty(), "{problems}");
            let path = KeyPath::root().key("repos").key("x").key("branch");
            assert_eq!(tree.get(&path).unwrap().as_text(), Some(wanted), "{release} {text}");
        }
    }

    #[test]
    fn an_unknown_word_in_braces_is_a_problem() {
        let mut problems = Problems::default();
        let toml = "release = 'scarthgap'\n[repos.x]\ntag = 'v{version}'\n";
        let mut tree = parse("f", toml, &mut problems).unwrap();
        fill(&mut tree, &mut problems);
        assert!(
            problems.to_string().starts_with("f:3:7: [repos.x] tag: `{version}` has no value"),
            "{problems}"
        );
    }
}
