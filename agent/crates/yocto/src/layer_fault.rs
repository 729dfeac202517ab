//! Finds the layer that made BitBake or yocto-check-layer stop, by their messages.
//!
//! Messages and tracebacks come from `lib/bb/cooker.py`, `cookerdata.py`, `data_smart.py` and `utils.py` of
//! BitBake, and from `scripts/lib/checklayer/__init__.py` of OE-Core; they are the same in all releases.
//! yocto-check-layer reads `layer.conf` itself and ends with a traceback that may name no file. Then the
//! variable or the frame identifies the layer.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use regex::Regex;

use super::bitbake_layers::locate;
use super::layer_conf::LayerConf;

/// A fault in a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerFault {
    /// Its directory; `None`, if it is an unknown one of the dependencies.
    pub layer: Option<PathBuf>,
    pub is_under_test: bool,
    pub file: Option<PathBuf>,
    /// Counts from 1.
    pub line: Option<u32>,
    /// BitBake's message.
    pub why: String,
}

/// A layer that may have the fault.
#[derive(Debug)]
struct KnownLayer {
    path: PathBuf,
    conf: LayerConf,
    is_under_test: bool,
}

/// The layers of a job.
#[derive(Debug)]
pub struct KnownLayers {
    layers: Vec<KnownLayer>,
    /// OE-Core and BitBake themselves.
    tools: Vec<PathBuf>,
}

/// The layers to search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    All,
    UnderTest,
    Dependencies,
}

/// What a message of BitBake reveals about its cause.
#[derive(Debug)]
enum Clue {
    Variable(String),
    Collection(String),
    /// A part of a value.
    Expression(String),
}

#[allow(
    clippy::expect_used,
    reason = "the patterns are constants of this file, and the tests use each of them"
)]
fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a valid pattern")
}

static PARSING_FAILED: LazyLock<Regex> =
    LazyLock::new(|| regex(r"Parsing of layer\.conf from layer: (.+) failed$"));
static EXPANDING: LazyLock<Regex> =
    LazyLock::new(|| regex(r"Failure expanding variable ([^\s,:\[]+)(?:\[:=\])?, expression was (.*)$"));
static TRIGGERED: LazyLock<Regex> = LazyLock::new(|| regex(r"which triggered exception (.*)$"));
static CODE_OF: LazyLock<Regex> = LazyLock::new(|| regex(r#"^\s*File "Var <([^>\[]+)(?:\[[^>]*)?>", line"#));
/// Errors that name a variable of a collection.
static VARIABLE: LazyLock<Regex> = LazyLock::new(|| {
    regex(concat!(
        r"^(?:Error parsing (LAYER(?:DEPENDS|RECOMMENDS)_[^\s:]+):",
        r"|invalid value for (BBFILE_PRIORITY_[^\s:]+):",
        r#"|(BBFILE_PATTERN_\S+) (?:not defined|".*" is not a valid regular expression))"#
    ))
});
/// Errors that name a collection.
static COLLECTION: LazyLock<Regex> = LazyLock::new(|| {
    regex(concat!(
        r"^(?:Layer '([^']+)' depends on (?:version|layer) ",
        r"|Layer (\S+) is not compatible with the core layer",
        r"|No core layer found to work with layer '([^']+)'",
        r"|Found duplicated BBFILE_COLLECTIONS '([^']+)')"
    ))
});
static VERSION: LazyLock<Regex> =
    LazyLock::new(|| regex(r#"(Invalid version specification in "(\(.*)" - invalid or missing operator)"#));

impl KnownLayers {
    /// `tools` are the directories of OE-Core and BitBake. Unreadable layers are skipped.
    pub fn read(under_test: &[PathBuf], others: &[PathBuf], tools: &[PathBuf]) -> KnownLayers {
        let real = |path: &Path| fs_err::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let mut layers: Vec<KnownLayer> = Vec::new();
        let all = under_test.iter().map(|path| (path, true)).chain(others.iter().map(|path| (path, false)));
        for (path, is_under_test) in all {
            let path = real(path);
            if layers.iter().all(|known| known.path != path) {
                let conf = LayerConf::read(&path).unwrap_or_default();
                layers.push(KnownLayer { path, conf, is_under_test });
            }
        }
        KnownLayers { layers, tools: tools.iter().map(|path| real(path)).collect() }
    }

    /// The layer whose `layer.conf` made BitBake stop with this output.
    pub fn fault_of_conf(&self, output: &str) -> Option<LayerFault> {
        let group = group(output);
        self.said_by_the_tool(output)
            .or_else(|| self.by_place(output))
            .or_else(|| self.by_clue(output, group))
            .or_else(|| self.by_cycle(output))
            .or_else(|| self.by_group(output, group))
    }

    /// The same, or the layer whose other files are in the traceback of a crashed tool.
    pub fn fault_of_any_file(&self, output: &str) -> Option<LayerFault> {
        self.fault_of_conf(output).or_else(|| self.by_file(output))
    }

    /// A fault at this place, if it is in a layer. A link on the way, as to a checkout, is followed.
    pub fn fault_in(&self, file: &Path, line: Option<u32>, why: &str) -> Option<LayerFault> {
        let file = fs_err::canonicalize(file).unwrap_or_else(|_| file.to_path_buf());
        let layer = self.owner(&file)?;
        Some(LayerFault { file: Some(file), line, ..layer.fault(None, why.to_owned()) })
    }

    /// Parses `RuntimeError: Parsing of layer.conf from layer: PATH failed`.
    fn said_by_the_tool(&self, output: &str) -> Option<LayerFault> {
        let (at, path) = output
            .lines()
            .enumerate()
            .filter_map(|(at, line)| Some((at, PathBuf::from(&PARSING_FAILED.captures(line)?[1]))))
            .last()?;
        let layer = self.layers.iter().find(|known| known.path == path)?;
        let before: Vec<&str> = output.lines().take(at).collect();
        let cause = before.iter().rev().find(|line| is_cause(line));
        let place = before.iter().rev().find_map(|line| layer.place_in_conf(line));
        let variable = before.iter().rev().find_map(|line| Some(CODE_OF.captures(line)?[1].to_owned()));
        let line = place.or_else(|| variable.as_deref().and_then(|name| layer.line_of(name, None)));
        let why = match (cause, &variable) {
            (Some(cause), Some(name)) if place.is_none() => {
                format!("{name} does not expand: {}", without_type(cause))
            }
            (Some(cause), _) => without_type(cause).to_owned(),
            (None, Some(name)) => format!("{name} does not expand"),
            (None, None) => "it does not parse".to_owned(),
        };
        Some(layer.fault(line, why))
    }

    /// An error that names a `layer.conf` by its path.
    fn by_place(&self, output: &str) -> Option<LayerFault> {
        errors(output).find_map(|text| {
            let (layer, line) =
                self.layers.iter().find_map(|known| Some((known, known.place_in_conf(text)?)))?;
            Some(layer.fault(Some(line), text.to_owned()))
        })
    }

    /// An error that names a variable, a collection or an expression.
    fn by_clue(&self, output: &str, group: Group) -> Option<LayerFault> {
        let code = output.lines().rev().find_map(|line| CODE_OF.captures(line));
        let code = code.map(|found| {
            let name = found[1].to_owned();
            (Clue::Variable(name.clone()), format!("{name} does not expand"))
        });
        clues(output).into_iter().chain(code).find_map(|(clue, why)| self.holder(&clue, group, &why, output))
    }

    fn holder(&self, clue: &Clue, group: Group, why: &str, output: &str) -> Option<LayerFault> {
        let mut candidates = self.in_group(group);
        match clue {
            Clue::Variable(name) => {
                let expression = expression_of(output);
                let holders: Vec<_> =
                    candidates.filter(|known| !known.conf.statements(name).is_empty()).collect();
                let has_expression =
                    |known: &&&KnownLayer| known.line_with(name, expression.as_deref()).is_some();
                let layer = holders.iter().find(has_expression).or(holders.first())?;
                Some(layer.fault(layer.line_of(name, expression.as_deref()), why.to_owned()))
            }
            Clue::Collection(name) => {
                let layer = candidates.find(|known| known.conf.collection(name).is_some())?;
                let collection = layer.conf.collection(name)?;
                let value = match why {
                    why if why.contains(" depends on ") => &collection.depends,
                    why if why.contains("is not compatible") => &collection.compat,
                    _ => &None,
                };
                let line = value.as_ref().map_or(collection.line, |value| value.line);
                Some(layer.fault(Some(line), why.to_owned()))
            }
            Clue::Expression(text) => {
                let (layer, line) =
                    candidates.find_map(|known| Some((known, known.line_of_condition(text)?)))?;
                Some(layer.fault(Some(line), why.to_owned()))
            }
        }
    }

    /// Layers with cyclic dependencies need a priority; without one, BitBake recurses until Python stops it.
    fn by_cycle(&self, output: &str) -> Option<LayerFault> {
        if !output.contains("RecursionError") || !output.contains("calc_layer_priority") {
            return None;
        }
        let layer = self.layers.iter().find(|known| self.depends_on_itself(known))?;
        let depends = layer.conf.collections.iter().find_map(|collection| collection.depends.as_ref());
        let why = "LAYERDEPENDS is cyclic, and a layer of the cycle has no BBFILE_PRIORITY".to_owned();
        Some(layer.fault(depends.map(|value| value.line), why))
    }

    fn depends_on_itself(&self, layer: &KnownLayer) -> bool {
        let mut seen: Vec<&Path> = Vec::new();
        let mut waiting = vec![layer];
        while let Some(one) = waiting.pop() {
            for wanted in one.conf.depends_on() {
                let provider = self.layers.iter().find(|known| known.conf.collection(&wanted.text).is_some());
                let Some(provider) = provider else { continue };
                if provider.path == layer.path {
                    return true;
                }
                if !seen.contains(&provider.path.as_path()) {
                    seen.push(&provider.path);
                    waiting.push(provider);
                }
            }
        }
        false
    }

    /// The frame of the tool shows whether it read the layer under test or a dependency.
    fn by_group(&self, output: &str, group: Group) -> Option<LayerFault> {
        let is_single = |known: &&KnownLayer| known.is_under_test;
        let why = output.lines().rev().find(|line| is_cause(line));
        let why = why.map_or("it cannot be evaluated", |line| without_type(line)).to_owned();
        match group {
            Group::All => None,
            Group::UnderTest => Some(self.layers.iter().find(is_single)?.fault(None, why)),
            Group::Dependencies => {
                Some(LayerFault { layer: None, is_under_test: false, file: None, line: None, why })
            }
        }
    }

    /// The last file of a layer in a traceback.
    fn by_file(&self, output: &str) -> Option<LayerFault> {
        let why = output.lines().rev().find(|line| is_cause(line)).unwrap_or("it crashed");
        output.lines().rev().find_map(|text| {
            let (file, line) = frame(text).or_else(|| locate(errors(text).next()?))?;
            let layer = self.owner(&file)?;
            Some(LayerFault { file: Some(file), line: Some(line), ..layer.fault(None, why.to_owned()) })
        })
    }

    /// The layer with the file: the deepest directory that contains it.
    fn owner(&self, file: &Path) -> Option<&KnownLayer> {
        let depth = |path: &Path| path.components().count();
        let inside = self.layers.iter().filter(|known| file.starts_with(&known.path));
        let layer = inside.max_by_key(|known| depth(&known.path))?;
        let tool = self.tools.iter().filter(|tool| file.starts_with(tool)).map(|tool| depth(tool)).max();
        // OE-Core's `meta` is in its tree; it belongs to the tools.
        let is_core = layer.conf.collection("core").is_some();
        (!is_core && tool.is_none_or(|tool| tool < depth(&layer.path))).then_some(layer)
    }

    fn in_group(&self, group: Group) -> impl Iterator<Item = &KnownLayer> {
        self.layers.iter().filter(move |known| match group {
            Group::All => true,
            Group::UnderTest => known.is_under_test,
            Group::Dependencies => !known.is_under_test,
        })
    }
}

impl KnownLayer {
    fn fault(&self, line: Option<u32>, why: String) -> LayerFault {
        LayerFault {
            layer: Some(self.path.clone()),
            is_under_test: self.is_under_test,
            file: Some(self.path.join("conf/layer.conf")),
            line,
            why,
        }
    }

    /// The line of this layer's `layer.conf` that the text names.
    fn place_in_conf(&self, text: &str) -> Option<u32> {
        let (file, line) = locate(text)?;
        (file == self.path.join("conf/layer.conf")).then_some(line)
    }

    /// The line that assigns the variable; of several, the one with the expression.
    fn line_of(&self, variable: &str, expression: Option<&str>) -> Option<u32> {
        let statements = self.conf.statements(variable);
        let python = statements.iter().find(|(_, value)| value.contains("${@"));
        let last = python.or(statements.last()).map(|(line, _)| *line);
        self.line_with(variable, expression).or(last)
    }

    /// The line whose inline Python is part of the expression that failed.
    fn line_with(&self, variable: &str, expression: Option<&str>) -> Option<u32> {
        let expression = expression?;
        let is_part = |value: &str| {
            value.match_indices("${@").any(|(at, _)| {
                let code = &value[at..];
                code.find('}').is_some_and(|end| expression.contains(&code[..=end]))
            })
        };
        let statements = self.conf.statements(variable);
        statements.iter().find(|(_, value)| is_part(value)).map(|(line, _)| *line)
    }

    /// The line of the dependencies with this version condition.
    fn line_of_condition(&self, condition: &str) -> Option<u32> {
        let word = condition.trim_start_matches('(');
        let lines = self.conf.collections.iter().flat_map(|collection| {
            ["LAYERDEPENDS", "LAYERRECOMMENDS"]
                .map(|variable| self.conf.statements(&format!("{variable}_{}", collection.name)))
                .into_iter()
                .flatten()
        });
        lines.filter(|(_, value)| value.replace(',', "").contains(word)).map(|(line, _)| *line).next()
    }
}

/// The layers that yocto-check-layer was reading when it crashed.
fn group(output: &str) -> Group {
    if !output.contains(", in _get_layer_collections") {
        Group::All
    } else if output.contains("detect_layers(args.layers") {
        Group::UnderTest
    } else {
        Group::Dependencies
    }
}

/// The clues in errors and exceptions, in their order.
fn clues(output: &str) -> Vec<(Clue, String)> {
    let mut clues = Vec::new();
    for line in output.lines() {
        let text = line.split_once("ERROR: ").map_or(line, |(_, text)| text).trim();
        if let Some(found) = EXPANDING.captures(text) {
            let exception = TRIGGERED.captures(text).map(|found| found[1].to_owned());
            let why = exception.map(|said| format!(": {said}")).unwrap_or_default();
            clues.push((Clue::Variable(found[1].to_owned()), format!("{} does not expand{why}", &found[1])));
        } else if let Some(found) = VARIABLE.captures(text) {
            let name = found.iter().skip(1).flatten().next().map(|name| name.as_str().to_owned());
            clues.extend(name.map(|name| (Clue::Variable(name), text.to_owned())));
        } else if let Some(found) = COLLECTION.captures(text) {
            let name = found.iter().skip(1).flatten().next().map(|name| name.as_str().to_owned());
            clues.extend(name.map(|name| (Clue::Collection(name), text.to_owned())));
        } else if let Some(found) = VERSION.captures(text) {
            clues.push((Clue::Expression(found[2].to_owned()), found[1].to_owned()));
        } else if text.starts_with("BBFILES_DYNAMIC entries must be of the form") {
            clues.push((Clue::Variable("BBFILES_DYNAMIC".into()), text.to_owned()));
        }
    }
    clues
}

/// The expression that could not be expanded.
fn expression_of(output: &str) -> Option<String> {
    output.lines().rev().find_map(|line| Some(EXPANDING.captures(line)?[2].to_owned()))
}

/// Errors that BitBake printed, and exceptions of a traceback.
fn errors(output: &str) -> impl Iterator<Item = &str> {
    output.lines().filter_map(|line| match line.split_once("ERROR: ") {
        Some((_, text)) => Some(text),
        None => line.contains("ParseError at ").then_some(line),
    })
}

/// Whether it is the exception line of a traceback.
fn is_cause(line: &str) -> bool {
    super::python::is_exception(line) && !line.ends_with("BBHandledException")
}

/// `bb.parse.ParseError: words` → `words`, if the words are clear without the type.
fn without_type(cause: &str) -> &str {
    match cause.split_once(": ") {
        Some((kind, words)) if kind.ends_with("ParseError") || kind.ends_with("ExpansionError") => words,
        _ => cause,
    }
}

/// Parses `File "/path/x.py", line 3, in f`.
fn frame(text: &str) -> Option<(PathBuf, u32)> {
    let (path, rest) = text.trim_start().strip_prefix("File \"")?.split_once("\", line ")?;
    let number = rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
    path.starts_with('/').then(|| (PathBuf::from(path), number))
}

#[cfg(test)]
#[path = "layer_fault_tests.rs"]
mod tests;
