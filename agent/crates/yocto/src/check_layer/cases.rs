//! Which tests yocto-check-layer has: read from the OE-Core at hand, not assumed.

use std::path::Path;

use agent_fs::untrusted;
use agent_types::error::{Error, Result};

use crate::unreadable::Unreadable;

/// A test that has to show up in the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedCase {
    /// Module and class, e.g. `common.CommonCheckLayer`.
    pub class: String,
    pub name: String,
    /// Marked `@unittest.expectedFailure`: failing is what it should do.
    pub expected_failure: bool,
}

/// Reads `scripts/lib/checklayer/cases/*.py` below the OE-Core checkout (the directory with
/// `oe-init-build-env`), in the order of module names and lines.
///
/// # Errors
/// When the directory cannot be read or holds no test.
pub fn expected(oe_core: &Path) -> Result<Vec<ExpectedCase>> {
    let dir = oe_core.join("scripts/lib/checklayer/cases");
    let of_dir = |error| Unreadable::new(&dir, error).of_dependency();
    let mut modules = Vec::new();
    for entry in fs_err::read_dir(&dir).map_err(of_dir)? {
        let path = entry.map_err(of_dir)?.path();
        if path.extension().is_some_and(|extension| extension == "py") {
            modules.push(path);
        }
    }
    modules.sort();
    let mut cases = Vec::new();
    for path in modules {
        let text = untrusted::read(&path, untrusted::PAGE)
            .map_err(|error| Unreadable::new(&path, error).of_dependency())?;
        let module = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        cases.extend(cases_of(&module, &String::from_utf8_lossy(&text)));
    }
    if cases.is_empty() {
        let message = format!("`{}` holds no tests of yocto-check-layer", dir.display());
        return Err(Error::usage(message).hint("check that the repo with OE-Core is complete"));
    }
    Ok(cases)
}

fn cases_of(module: &str, text: &str) -> Vec<ExpectedCase> {
    let mut cases = Vec::new();
    let mut class = None;
    let mut expected_failure = false;
    for line in text.lines() {
        let code = line.trim_start();
        let indented = code.len() < line.len();
        if code.starts_with('@') {
            expected_failure |= code.contains("expectedFailure");
        } else if let Some(rest) = code.strip_prefix("class ").filter(|_| !indented) {
            class = Some(format!("{module}.{}", identifier(rest)));
            expected_failure = false;
        } else if let Some(rest) = code.strip_prefix("def ") {
            let name = identifier(rest);
            // Deeper functions are helpers inside a test.
            let method = line.len() - code.len() == 4;
            if let (Some(class), true, true) = (&class, method, name.starts_with("test")) {
                cases.push(ExpectedCase { class: class.clone(), name: name.to_owned(), expected_failure });
            }
            expected_failure = false;
        }
    }
    cases
}

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn methods_of_classes_count_and_nothing_else() {
        let text = "
import unittest
def test_not_in_a_class():
    pass

class CommonCheckLayer(OECheckLayerTestCase):
    def find_file(self):
        def test_helper():
            pass
    def test_one(self):
        pass
    # def test_commented(self):
    @unittest.expectedFailure
    def test_two(self):
        '''
        def test_in_a_text
        '''
    def test_three(self):
        pass
";
        let cases = cases_of("common", text);
        let brief: Vec<_> = cases.iter().map(|case| (case.name.as_str(), case.expected_failure)).collect();
        assert_eq!(brief, [("test_one", false), ("test_two", true), ("test_three", false)]);
        assert!(cases.iter().all(|case| case.class == "common.CommonCheckLayer"));
    }

    #[test]
    fn modules_come_in_order_and_none_is_an_error() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("scripts/lib/checklayer/cases");
        fs_err::create_dir_all(&dir).unwrap();
        fs_err::write(dir.join("__init__.py"), "").unwrap();
        assert!(expected(top.path()).is_err());
        fs_err::write(dir.join("distro.py"), "class D(T):\n    def test_d(self):\n").unwrap();
        fs_err::write(dir.join("bsp.py"), "class B(T):\n    def test_b(self):\n").unwrap();
        let classes: Vec<_> = expected(top.path()).unwrap().into_iter().map(|case| case.class).collect();
        assert_eq!(classes, ["bsp.B", "distro.D"]);
        assert!(expected(&top.path().join("missing")).is_err());
    }
}
