//! Reads `conf/layer.conf` without BitBake, and says when that is not enough.
//!
//! BitBake's configuration language can include files and run Python, so a reader of the text can be
//! wrong. [`LayerConf::certain`] is true only when nothing in the file could change the meaning of
//! what is read here. Statement forms and their order of effect follow `parse_py/ConfHandler.py` and
//! `ast.py` of BitBake.

use std::collections::BTreeMap;
use std::path::Path;

use agent_fs::untrusted;
use agent_types::error::Result;

/// What a layer says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerConf {
    /// In the order of `BBFILE_COLLECTIONS`.
    pub collections: Vec<Collection>,
    /// `LAYERSERIES_CORENAMES`: the series that an OE-Core layer stands for.
    pub core_names: Vec<String>,
    /// Whether the text alone decides what the fields above are.
    pub certain: bool,
}

/// One entry of `BBFILE_COLLECTIONS` and the variables that carry its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collection {
    pub name: String,
    /// Where the name was added to `BBFILE_COLLECTIONS`; counts from 1.
    pub line: u32,
    /// `BBFILE_PATTERN`, as written: `${LAYERDIR}` stays.
    pub pattern: Option<Value>,
    pub priority: Option<Value>,
    /// `LAYERDEPENDS` as written; [`Collection::depends_on`] has the names.
    pub depends: Option<Value>,
    pub recommends: Option<Value>,
    /// `LAYERSERIES_COMPAT`
    pub compat: Option<Value>,
}

/// The value of a variable and the line that last touched it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Value {
    pub text: String,
    pub line: u32,
}

impl Collection {
    /// The collections that it needs, without their version conditions.
    pub fn depends_on(&self) -> Vec<String> {
        self.depends.as_ref().map(|value| without_versions(&value.text)).unwrap_or_default()
    }

    /// The series that it declares itself compatible with.
    pub fn series(&self) -> Vec<&str> {
        self.compat.as_ref().map(|value| value.text.split_whitespace().collect()).unwrap_or_default()
    }
}

impl LayerConf {
    /// Reads the `conf/layer.conf` of the layer directory.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(layer: &Path) -> Result<LayerConf> {
        let bytes = untrusted::read_named(&layer.join("conf/layer.conf"), untrusted::PAGE)?;
        let mut conf = LayerConf::parse(&String::from_utf8_lossy(&bytes));
        // Python decodes strictly: BitBake would not get past such a file.
        conf.certain &= std::str::from_utf8(&bytes).is_ok();
        Ok(conf)
    }

    pub fn parse(text: &str) -> LayerConf {
        // Python reads files with all three kinds of line ends.
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let mut variables = Variables { certain: true, ..Variables::default() };
        for (line, statement) in statements(&text) {
            match statement {
                Some(statement) => variables.evaluate(line, &statement),
                None => variables.certain = false,
            }
        }
        variables.into_conf()
    }

    /// The names of the collections.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.collections.iter().map(|collection| collection.name.as_str())
    }

    /// What any of the collections depends on, without version conditions.
    pub fn depends_on(&self) -> impl Iterator<Item = String> {
        self.collections.iter().flat_map(Collection::depends_on)
    }

    /// The series that any of the collections declares.
    pub fn series(&self) -> impl Iterator<Item = &str> {
        self.collections.iter().flat_map(Collection::series)
    }

    pub fn collection(&self, name: &str) -> Option<&Collection> {
        self.collections.iter().find(|collection| collection.name == name)
    }
}

/// Joins continued lines and leaves out comments and empty lines. `None` where BitBake itself
/// stops: a comment that is continued by something else.
fn statements(text: &str) -> Vec<(u32, Option<String>)> {
    let mut found = Vec::new();
    let mut lines = text.lines().zip(1u32..);
    while let Some((first, number)) = lines.next() {
        if first.trim().is_empty() {
            continue;
        }
        let mut whole = first.trim_end().to_owned();
        let mut confusing = false;
        while whole.ends_with('\\') {
            let Some((next, _)) = lines.next() else {
                confusing = true;
                break;
            };
            let next = next.trim_end();
            confusing |= whole.starts_with('#') && !next.starts_with('#');
            whole.pop();
            whole.push_str(next);
        }
        if confusing {
            found.push((number, None));
        } else if !whole.starts_with('#') {
            found.push((number, Some(whole)));
        }
    }
    found
}

/// An assignment, taken apart.
struct Assignment<'a> {
    variable: &'a str,
    flag: bool,
    operator: &'a str,
    value: &'a str,
}

/// Longer operators first: `??=` ends like `?=`, and all end like `=`.
const OPERATORS: [&str; 8] = ["??=", "?=", ":=", "+=", "=+", "=.", ".=", "="];

impl<'a> Assignment<'a> {
    fn parse(statement: &'a str) -> Option<Assignment<'a>> {
        let rest = match statement.strip_prefix("export") {
            Some(after) if after.starts_with(char::is_whitespace) => after.trim_start(),
            _ => statement,
        };
        let equals = rest.find('=')?;
        // The operator's sign stands before or after the `=`; a name may end in `.`, `+` or `:`
        // only as part of an operator, because BitBake's pattern takes the shortest name.
        let name_end = rest[..equals].trim_end_matches(['?', ':', '+', '.']).len();
        let (left, right) = (&rest[..name_end], &rest[name_end..]);
        let operator = OPERATORS.into_iter().find(|operator| right.starts_with(operator))?;
        let left = left.trim_end();
        let (variable, flag) = match left.split_once('[') {
            Some((variable, flag)) if flag.ends_with(']') => (variable, true),
            Some(_) => return None,
            None => (left, false),
        };
        let well_named = !variable.is_empty()
            && variable.chars().all(|c| c.is_ascii_alphanumeric() || "-_+.${}/~:".contains(c));
        let quoted = right[operator.len()..].trim_start();
        let quote = quoted.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        let value = quoted[1..].strip_suffix(quote)?;
        (well_named && !value.contains(quote)).then_some(Assignment { variable, flag, operator, value })
    }
}

/// Variables whose values end up in [`LayerConf`].
fn matters(variable: &str) -> bool {
    variable == "BBFILE_COLLECTIONS"
        || variable == "LAYERSERIES_CORENAMES"
        || ["BBFILE_PATTERN_", "BBFILE_PRIORITY_", "LAYERDEPENDS_", "LAYERRECOMMENDS_", "LAYERSERIES_COMPAT_"]
            .iter()
            .any(|prefix| variable.starts_with(prefix))
}

#[derive(Default)]
struct Variable {
    set: Option<Value>,
    weak: Option<Value>,
    /// What `:append` and `:prepend` add when the value is asked for.
    before: String,
    after: String,
    /// Words and the line that brought each, for lists.
    words: Vec<(String, u32)>,
}

#[derive(Default)]
struct Variables {
    by_name: BTreeMap<String, Variable>,
    certain: bool,
}

impl Variables {
    fn evaluate(&mut self, line: u32, statement: &str) {
        let Some(assignment) = Assignment::parse(statement) else {
            // Without effect on what matters here: exports, a Python path for the build's code.
            let harmless = ["addpylib ", "export "].iter().any(|word| statement.starts_with(word));
            self.certain &= harmless;
            return;
        };
        let Assignment { variable, flag, operator, value } = assignment;
        if variable.contains("${") || python_that_sets(value) {
            self.certain = false;
        }
        let (name, operation, plain) = split_operation(variable);
        if flag || !matters(name) {
            return;
        }
        // Releases differ in what `:append` means, and other overrides depend on the build.
        self.certain &= plain && !expands_more_than_the_layer_directory(value);
        let entry = self.by_name.entry(name.to_owned()).or_default();
        entry.words.extend(value.split_whitespace().map(|word| (word.to_owned(), line)));
        match operation {
            Operation::Append => entry.after.push_str(value),
            Operation::Prepend => entry.before.insert_str(0, value),
            Operation::Other => {}
            Operation::Assign => entry.assign(operator, value, line),
        }
    }

    fn value(&self, name: &str) -> Option<Value> {
        let variable = self.by_name.get(name)?;
        let base = variable.set.as_ref().or(variable.weak.as_ref());
        if base.is_none() && variable.before.is_empty() && variable.after.is_empty() {
            return None;
        }
        let base = base.cloned().unwrap_or_default();
        Some(Value {
            text: format!("{}{}{}", variable.before, base.text, variable.after),
            line: base.line.max(1),
        })
    }

    fn into_conf(self) -> LayerConf {
        let names = self.value("BBFILE_COLLECTIONS").unwrap_or_default();
        let added: &[(String, u32)] =
            self.by_name.get("BBFILE_COLLECTIONS").map_or(&[], |variable| &variable.words);
        let collections = names
            .text
            .split_whitespace()
            .map(|name| Collection {
                name: name.to_owned(),
                line: added.iter().find(|(word, _)| word == name).map_or(names.line, |(_, line)| *line),
                pattern: self.value(&format!("BBFILE_PATTERN_{name}")),
                priority: self.value(&format!("BBFILE_PRIORITY_{name}")),
                depends: self.value(&format!("LAYERDEPENDS_{name}")),
                recommends: self.value(&format!("LAYERRECOMMENDS_{name}")),
                compat: self.value(&format!("LAYERSERIES_COMPAT_{name}")),
            })
            .collect();
        let core = self.value("LAYERSERIES_CORENAMES").unwrap_or_default();
        LayerConf {
            collections,
            core_names: core.text.split_whitespace().map(str::to_owned).collect(),
            certain: self.certain,
        }
    }
}

impl Variable {
    fn assign(&mut self, operator: &str, value: &str, line: u32) {
        let old = self.set.as_ref().map_or("", |set| set.text.as_str());
        let text = match operator {
            "??=" => {
                self.weak = Some(Value { text: value.to_owned(), line });
                return;
            }
            "?=" if self.set.is_some() => return,
            "+=" => format!("{old} {value}"),
            "=+" => format!("{value} {old}"),
            ".=" => format!("{old}{value}"),
            "=." => format!("{value}{old}"),
            _ => value.to_owned(),
        };
        self.set = Some(Value { text, line });
    }
}

enum Operation {
    Assign,
    Append,
    Prepend,
    /// `:remove`, or an override that may or may not apply.
    Other,
}

/// The variable's own name, what its suffix does, and whether that is the same in all releases.
fn split_operation(variable: &str) -> (&str, Operation, bool) {
    for (suffix, operation) in [("_append", Operation::Append), ("_prepend", Operation::Prepend)] {
        if let Some(name) = variable.strip_suffix(suffix) {
            // Fatal from honister on, so that no release reads it otherwise and goes on.
            return (name, operation, true);
        }
    }
    match variable.split_once(':') {
        Some((name, "append")) => (name, Operation::Append, false),
        Some((name, "prepend")) => (name, Operation::Prepend, false),
        Some((name, _)) => (name, Operation::Other, false),
        None => (variable, Operation::Assign, !variable.contains("_remove")),
    }
}

/// Python in a value of any variable may set other variables when it is evaluated.
fn python_that_sets(value: &str) -> bool {
    value.contains("${@")
        && ["setVar", "appendVar", "prependVar", "delVar", "renameVar", "exec", "eval", "__"]
            .iter()
            .any(|call| value.contains(call))
}

fn expands_more_than_the_layer_directory(value: &str) -> bool {
    value.replace("${LAYERDIR}", "").replace("${LAYERDIR_RE}", "").contains("${")
}

/// The names in `core (>= 12) other`, like BitBake's `explode_dep_versions2`, which drops commas.
fn without_versions(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut inside = false;
    for word in text.replace(',', "").split_whitespace() {
        inside |= word.starts_with('(');
        if !inside {
            names.push(word.to_owned());
        }
        inside &= !word.ends_with(')');
    }
    names
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

    #[test]
    fn reads_the_usual_file_with_lines() {
        let conf = LayerConf::parse(USUAL);
        assert!(conf.certain);
        let names: Vec<_> = conf.collections.iter().map(|c| (c.name.as_str(), c.line)).collect();
        assert_eq!(names, [("one", 6), ("two", 7)]);
        let one = conf.collection("one").unwrap();
        assert_eq!(one.depends_on(), ["core", "networking-layer", "meta-python"]);
        assert_eq!(one.depends.as_ref().unwrap().line, 11);
        assert_eq!(one.series(), ["kirkstone", "scarthgap"]);
        assert_eq!(one.compat, Some(Value { text: "kirkstone scarthgap".into(), line: 15 }));
        assert_eq!(one.priority.as_ref().unwrap().text, "6");
        assert_eq!(one.pattern.as_ref().unwrap().text, "^${LAYERDIR}/one/");
        assert_eq!(conf.collection("two").unwrap().compat, None);
    }

    #[test]
    fn operators_have_bitbakes_effect() {
        let table = [
            ("V = \"a\"\nV += \"b\"", "a b"),
            ("V += \"b\"", " b"),
            ("V = \"a\"\nV =+ \"b\"", "b a"),
            ("V = \"a\"\nV .= \"b\"", "ab"),
            ("V = \"a\"\nV =. \"b\"", "ba"),
            ("V ?= \"a\"\nV ?= \"b\"", "a"),
            ("V ??= \"a\"\nV ??= \"b\"", "b"),
            ("V ??= \"a\"\nV = \"b\"", "b"),
            // A weak default gives way to an addition.
            ("V ??= \"a\"\nV += \"b\"", " b"),
            ("V := 'a'", "a"),
            ("V_append = \" z\"\nV = \"a\"", "a z"),
            ("V_prepend = \"z \"\nV = \"a\"", "z a"),
            ("V:append = \" z\"\nV = \"a\"", "a z"),
            ("V=\"a\"", "a"),
            ("export V = \"a\"", "a"),
        ];
        for (text, wanted) in table {
            let text = format!("BBFILE_COLLECTIONS = \"x\"\n{text}").replace('V', "LAYERSERIES_COMPAT_x");
            let conf = LayerConf::parse(&text);
            let compat = conf.collections[0].compat.as_ref().map(|value| value.text.as_str());
            assert_eq!(compat, Some(wanted), "{text}");
        }
    }

    #[test]
    fn what_a_text_reader_cannot_know_makes_it_uncertain() {
        let table = [
            ("", true),
            ("FOO:append:bar = \"${BAZ}\"", true),
            ("X = \"${@os.path.join('a', 'b')}\"", true),
            ("# a \\\n# b", true),
            ("FOO[doc] = \"x\"", true),
            ("require conf/more.inc", false),
            ("include conf/more.inc", false),
            ("include_all conf/more.inc", false),
            ("unset LAYERDEPENDS_x", false),
            ("LAYERDEPENDS_x:remove = \"a\"", false),
            ("LAYERDEPENDS_x_remove = \"a\"", false),
            ("LAYERDEPENDS_x:append = \" a\"", false),
            ("LAYERDEPENDS_x:qemuall = \"a\"", false),
            ("LAYERDEPENDS_x = \"${OTHER}\"", false),
            ("LAYERDEPENDS_x = \"${@bb.utils.contains('A', 'b', 'c', '', d)}\"", false),
            ("LAYERDEPENDS_${NAME} = \"a\"", false),
            ("FOO = \"${@d.setVar('LAYERDEPENDS_x', 'a')}\"", false),
            ("python () {", false),
            ("FOO = \"unfinished", false),
            ("foo bar baz", false),
            ("# a \\\nLAYERDEPENDS_x = \"a\"", false),
            ("FOO = \"a\" \\", false),
        ];
        for (text, wanted) in table {
            assert_eq!(LayerConf::parse(text).certain, wanted, "{text}");
        }
    }

    #[test]
    fn versions_are_left_out() {
        let table: [(&str, &[&str]); 6] = [
            ("core", &["core"]),
            ("core (>= 12) b", &["core", "b"]),
            ("core (>=12)", &["core"]),
            ("a ( >= 3 ) b", &["a", "b"]),
            ("a, b", &["a", "b"]),
            ("a,b", &["ab"]),
        ];
        for (text, wanted) in table {
            assert_eq!(without_versions(text), wanted, "{text}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_uncertain() {
        let top = tempfile::tempdir().unwrap();
        fs_err::create_dir_all(top.path().join("conf")).unwrap();
        fs_err::write(top.path().join("conf/layer.conf"), b"BBFILE_COLLECTIONS = \"x\" # \xff\n").unwrap();
        assert!(!LayerConf::read(top.path()).unwrap().certain);
    }
}
