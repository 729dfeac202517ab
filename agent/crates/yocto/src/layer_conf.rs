//! Parses `conf/layer.conf` without BitBake, and marks the parts that only BitBake can evaluate.
//!
//! BitBake's configuration language can include files and run Python. Values that such parts may change are
//! unknown, and nothing is concluded from them.

use std::path::Path;

use agent_fs::untrusted;

use super::conf_syntax::{Value, Variables, Word};
use super::dependency_versions::{self, VersionError};
use super::unreadable::Unreadable;

/// The declarations of a layer.
#[derive(Clone, Debug, Default)]
pub struct LayerConf {
    /// The certain collections of `BBFILE_COLLECTIONS`, in their order.
    pub collections: Vec<Collection>,
    /// Whether there are no other collections.
    pub knows_all_collections: bool,
    /// `LAYERSERIES_CORENAMES`: the series of an OE-Core layer.
    pub core_names: Option<Value>,
    /// Whether every statement was understood, so that none can change another variable.
    pub is_understood: bool,
    variables: Variables,
}

/// One collection of `BBFILE_COLLECTIONS`, and the variables with its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collection {
    pub name: String,
    /// The line that adds the name to `BBFILE_COLLECTIONS`; counts from 1.
    pub line: u32,
    /// `BBFILE_PATTERN`; `${LAYERDIR}` is not expanded.
    pub pattern: Option<Value>,
    pub priority: Option<Value>,
    /// `LAYERDEPENDS` as written; [`Collection::depends_on`] has the names.
    pub depends: Option<Value>,
    pub recommends: Option<Value>,
    /// `LAYERSERIES_COMPAT`
    pub compat: Option<Value>,
}

/// The variables whose names contain a collection.
const OF_COLLECTIONS: [&str; 5] =
    ["BBFILE_PATTERN_", "BBFILE_PRIORITY_", "LAYERDEPENDS_", "LAYERRECOMMENDS_", "LAYERSERIES_COMPAT_"];

/// A part of the file that only BitBake can evaluate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownPart {
    /// `None`: a statement that may change any variable.
    pub variable: Option<String>,
    pub line: u32,
}

impl Collection {
    /// The collections that it depends on, without version conditions. An uncertain name may be part of
    /// another one, or not needed.
    pub fn depends_on(&self) -> Vec<Word> {
        self.depends.as_ref().map(|value| dependency_versions::names(&value.words())).unwrap_or_default()
    }

    /// The series that it declares as compatible.
    pub fn series(&self) -> Vec<String> {
        self.compat.as_ref().map(certain_words).unwrap_or_default()
    }

    /// Version conditions of `LAYERDEPENDS` or `LAYERRECOMMENDS` that BitBake rejects.
    pub fn version_error(&self) -> Option<(String, u32, VersionError)> {
        let of = |variable: &str, value: &Option<Value>| {
            let value = value.as_ref().filter(|value| value.is_known())?;
            let error = dependency_versions::explode(&value.text).err()?;
            Some((format!("{variable}_{}", self.name), value.line, error))
        };
        of("LAYERDEPENDS", &self.depends).or_else(|| of("LAYERRECOMMENDS", &self.recommends))
    }
}

impl LayerConf {
    /// Reads the `conf/layer.conf` of the layer directory.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read(layer: &Path) -> Result<LayerConf, Unreadable> {
        let file = layer.join("conf/layer.conf");
        let bytes =
            untrusted::read_named(&file, untrusted::PAGE).map_err(|error| Unreadable::new(&file, error))?;
        let mut conf = LayerConf::parse(&String::from_utf8_lossy(&bytes));
        // Python decodes strictly, so BitBake cannot read such a file.
        conf.is_understood &= std::str::from_utf8(&bytes).is_ok();
        Ok(conf)
    }

    pub fn parse(text: &str) -> LayerConf {
        let variables = Variables::parse(text);
        let names = variables.value("BBFILE_COLLECTIONS").unwrap_or_default();
        let added = variables.statements("BBFILE_COLLECTIONS");
        let line_of = |name: &str| {
            let adds = |(_, value): &&(u32, String)| value.split_whitespace().any(|word| word == name);
            added.iter().find(adds).map_or(names.line, |(line, _)| *line)
        };
        let collections = certain_words(&names)
            .into_iter()
            .map(|name| Collection {
                line: line_of(&name),
                pattern: variables.value(&format!("BBFILE_PATTERN_{name}")),
                priority: variables.value(&format!("BBFILE_PRIORITY_{name}")),
                depends: variables.value(&format!("LAYERDEPENDS_{name}")),
                recommends: variables.value(&format!("LAYERRECOMMENDS_{name}")),
                compat: variables.value(&format!("LAYERSERIES_COMPAT_{name}")),
                name,
            })
            .collect();
        let is_understood = variables.opaque.is_empty();
        LayerConf {
            collections,
            knows_all_collections: is_understood && names.is_known(),
            core_names: variables.value("LAYERSERIES_CORENAMES"),
            is_understood,
            variables,
        }
    }

    /// The names of the collections.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.collections.iter().map(|collection| collection.name.as_str())
    }

    /// The dependencies of all collections, without version conditions.
    pub fn depends_on(&self) -> impl Iterator<Item = Word> {
        self.collections.iter().flat_map(Collection::depends_on)
    }

    /// The compatible series of all collections.
    pub fn series(&self) -> impl Iterator<Item = String> {
        self.collections.iter().flat_map(Collection::series)
    }

    pub fn collection(&self, name: &str) -> Option<&Collection> {
        self.collections.iter().find(|collection| collection.name == name)
    }

    /// Whether there may be more dependencies than [`LayerConf::depends_on`] returns.
    pub fn may_depend_on_more(&self) -> bool {
        let is_unknown =
            |collection: &Collection| collection.depends.as_ref().is_some_and(|value| !value.is_known());
        !self.knows_all_collections || self.collections.iter().any(is_unknown)
    }

    /// The lines that assign the variable, with the values as written.
    pub fn statements(&self, variable: &str) -> &[(u32, String)] {
        self.variables.statements(variable)
    }

    /// The first assignment with the override syntax that is an error from honister on: line and variable.
    pub fn old_syntax(&self) -> Option<&(u32, String)> {
        self.variables.old_syntax.first()
    }

    /// The parts of these variables that only BitBake can evaluate.
    pub fn unknown_parts(&self) -> Vec<UnknownPart> {
        let opaque = self.variables.opaque.iter().map(|line| UnknownPart { variable: None, line: *line });
        let is_read = |name: &&str| {
            matches!(*name, "BBFILE_COLLECTIONS" | "LAYERSERIES_CORENAMES")
                || OF_COLLECTIONS.iter().any(|prefix| name.starts_with(prefix))
        };
        let unknown = |name: &str| {
            let value = self.variables.value(name).filter(|value| !value.is_known())?;
            // The line of the unknown part, if it is known.
            let statements = self.variables.statements(name);
            let line = statements.iter().find(|(_, value)| value.contains("${")).map(|(line, _)| *line);
            Some(UnknownPart { variable: Some(name.to_owned()), line: line.unwrap_or(value.line) })
        };
        opaque.chain(self.variables.names().filter(is_read).filter_map(unknown)).collect()
    }

    /// One sentence that lists the parts that only BitBake can evaluate; `None`, if there are none.
    pub fn unknown_notice(&self, file: &str) -> Option<String> {
        let parts = self.unknown_parts();
        if parts.is_empty() {
            return None;
        }
        let name = |part: &UnknownPart| match &part.variable {
            Some(variable) => format!("{variable} (line {})", part.line),
            None => format!("the statement on line {}", part.line),
        };
        let mut names: Vec<String> = parts.iter().take(MOST_NAMED).map(name).collect();
        if parts.len() > MOST_NAMED {
            names.push(format!("{} more", parts.len() - MOST_NAMED));
        }
        Some(format!("{file}: only BitBake can evaluate {}; the preflight skips it", names.join(", ")))
    }
}

/// Maximum number of unknown parts in a notice.
const MOST_NAMED: usize = 8;

pub fn certain_words(value: &Value) -> Vec<String> {
    value.words().into_iter().filter(|word| word.is_certain).map(|word| word.text).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    const USUAL: &str = r#"
# We have a conf and classes directory
BBPATH .= ":${LAYERDIR}"
BBFILES += "${LAYERDIR}/recipes-*/*/*.bb \
            ${LAYERDIR}/recipes-*/*/*.bbappend"
BBFILE_COLLECTIONS += "one"
BBFILE_COLLECTIONS += "two"
BBFILE_PATTERN_one = "^${LAYERDIR}/one/"
BBFILE_PRIORITY_one = '6'
LAYERDEPENDS_one = "core (>= 12), networking-layer"
LAYERDEPENDS_one += "\
    meta-python \
    "
LAYERRECOMMENDS_one = "extra"
LAYERSERIES_COMPAT_one = "kirkstone scarthgap"
LICENSE_PATH += "${LAYERDIR}/licenses"
COREBASE = '${@os.path.normpath("${LAYERDIR}/../")}'
addpylib ${LAYERDIR}/lib x
"#;

    fn certain(text: &str) -> Vec<(String, bool)> {
        LayerConf::parse(text).depends_on().map(|word| (word.text, word.is_certain)).collect()
    }

    #[test]
    fn parses_a_usual_file_with_lines() {
        let conf = LayerConf::parse(USUAL);
        assert!(conf.is_understood && conf.knows_all_collections && !conf.may_depend_on_more());
        assert_eq!(conf.unknown_parts(), []);
        let names: Vec<_> = conf.collections.iter().map(|c| (c.name.as_str(), c.line)).collect();
        assert_eq!(names, [("one", 6), ("two", 7)]);
        let one = conf.collection("one").unwrap();
        let depends: Vec<_> = one.depends_on().into_iter().map(|word| word.text).collect();
        assert_eq!(depends, ["core", "networking-layer", "meta-python"]);
        assert_eq!(one.depends.as_ref().unwrap().line, 11);
        assert_eq!(one.series(), ["kirkstone", "scarthgap"]);
        let compat = one.compat.as_ref().unwrap();
        assert_eq!((compat.text.as_str(), compat.line), ("kirkstone scarthgap", 15));
        assert_eq!(one.priority.as_ref().unwrap().text, "6");
        assert_eq!(one.pattern.as_ref().unwrap().text, "^${LAYERDIR}/one/");
        assert_eq!(conf.collection("two").unwrap().compat, None);
    }

    #[test]
    fn python_is_unknown_but_plain_words_are_certain() {
        let head = "BBFILE_COLLECTIONS += \"x\"\nLAYERDEPENDS_x = \"core oe\"\n";
        let python = "${@bb.utils.contains('BBFILE_COLLECTIONS', 'y', ' y', '', d)}";
        let table: [(String, &[(&str, bool)]); 3] = [
            (format!("LAYERDEPENDS_x:append = \"{python}\""), &[("core", true), ("oe", false)]),
            (format!("LAYERDEPENDS_x:append = \" {python}\""), &[("core", true), ("oe", true)]),
            (format!("LAYERDEPENDS_x += \"{python}\""), &[("core", true), ("oe", true)]),
        ];
        for (text, wanted) in table {
            let text = format!("{head}{text}\n");
            let wanted: Vec<_> =
                wanted.iter().map(|(name, certain)| ((*name).to_owned(), *certain)).collect();
            assert_eq!(certain(&text), wanted, "{text}");
            let conf = LayerConf::parse(&text);
            assert!(conf.may_depend_on_more());
            let part = UnknownPart { variable: Some("LAYERDEPENDS_x".into()), line: 3 };
            assert_eq!(conf.unknown_parts(), [part]);
            assert_eq!(
                conf.unknown_notice("meta-x/conf/layer.conf").unwrap(),
                "meta-x/conf/layer.conf: only BitBake can evaluate LAYERDEPENDS_x (line 3); the preflight skips it"
            );
        }
    }

    #[test]
    fn each_variable_can_be_unknown() {
        let x = "BBFILE_COLLECTIONS = \"x\"\n";
        for (line, variable) in [
            ("BBFILE_COLLECTIONS += \"${@y()}\"", "BBFILE_COLLECTIONS"),
            ("BBFILE_PATTERN_x = \"${@y()}\"", "BBFILE_PATTERN_x"),
            ("BBFILE_PRIORITY_x = \"${Y}\"", "BBFILE_PRIORITY_x"),
            ("LAYERDEPENDS_x = \"${@y()}\"", "LAYERDEPENDS_x"),
            ("LAYERRECOMMENDS_x = \"${@y()}\"", "LAYERRECOMMENDS_x"),
            ("LAYERSERIES_COMPAT_x = \"${LAYERSERIES_COMPAT_core}\"", "LAYERSERIES_COMPAT_x"),
            ("LAYERSERIES_CORENAMES = \"${@y()}\"", "LAYERSERIES_CORENAMES"),
        ] {
            let conf = LayerConf::parse(&format!("{x}{line}\n"));
            let part = UnknownPart { variable: Some(variable.to_owned()), line: 2 };
            assert_eq!(conf.unknown_parts(), [part], "{line}");
        }
        let conf = LayerConf::parse(&format!("{x}require conf/x.inc\nBBFILES += \"${{@y()}}\"\n"));
        assert_eq!(conf.unknown_parts(), [UnknownPart { variable: None, line: 2 }]);
        assert!(!conf.is_understood && !conf.knows_all_collections);
    }

    #[test]
    fn reports_the_line_of_invalid_version_conditions() {
        let text = "BBFILE_COLLECTIONS = \"x\"\nLAYERDEPENDS_x = \"core (~12)\"\n";
        let conf = LayerConf::parse(text);
        let (variable, line, error) = conf.collection("x").unwrap().version_error().unwrap();
        assert_eq!((variable.as_str(), line), ("LAYERDEPENDS_x", 2));
        assert!(error.0.contains("(~12)"), "{error:?}");
        for fine in ["core (>= 12)", "core ${@y(\" (~12)\")}"] {
            let conf = LayerConf::parse(&text.replace("core (~12)", fine));
            assert_eq!(conf.collection("x").unwrap().version_error(), None, "{fine}");
        }
    }

    #[test]
    fn file_that_is_not_utf8_is_uncertain() {
        let top = tempfile::tempdir().unwrap();
        fs_err::create_dir_all(top.path().join("conf")).unwrap();
        fs_err::write(top.path().join("conf/layer.conf"), b"BBFILE_COLLECTIONS = \"x\" # \xff\n").unwrap();
        assert!(!LayerConf::read(top.path()).unwrap().is_understood);
    }
}
