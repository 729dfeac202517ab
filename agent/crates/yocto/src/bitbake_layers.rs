//! Parses the output of `bitbake-layers`, and file locations in BitBake's messages.
//!
//! Formats: `lib/bblayers/query.py` and `lib/bb/cooker.py` of BitBake. Unknown lines stay in the log and give
//! no finding.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use agent_types::events::{Finding, Level, Unit};

/// Maximum number of findings; more are only counted.
const MOST_FINDINGS: usize = 5000;

/// Maximum number of pairs of layers, and of layers with one recipe. Real builds never have so many layers;
/// more are skipped.
const MOST_LAYERS: usize = 1000;

/// A longer word is not the name of a layer.
const LONGEST_NAME: usize = 255;

/// Parses one sub-command: pass it every line, then take the findings.
#[derive(Debug)]
pub struct LayersOutput {
    unit: Unit,
    checkout: PathBuf,
    kind: Kind,
    findings: Vec<Finding>,
    left_out: usize,
    /// A recipe or class of `show-overlayed`, and its layers.
    overlayed: Option<(String, Vec<String>)>,
    in_overlayed: bool,
    /// Dependencies from layer to layer, and their number.
    crossings: BTreeMap<(String, String), usize>,
    /// The level for the next indented lines, which name bbappend files without a recipe.
    dangling: Option<Level>,
    /// Whether there was a line with text.
    spoke: bool,
    /// Whether the tool printed a Python traceback.
    traceback: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Overlayed,
    CrossDepends,
    Other,
}

impl LayersOutput {
    /// A parser for the sub-command with these words, e.g. `["show-overlayed"]`. Paths below `checkout`
    /// become relative to it.
    pub fn new(words: &[String], unit: Unit, checkout: &Path) -> LayersOutput {
        let kind = match words.first().map(String::as_str) {
            // With file names the format is different.
            Some("show-overlayed") if words.len() == 1 => Kind::Overlayed,
            Some("show-cross-depends") if words.len() == 1 => Kind::CrossDepends,
            _ => Kind::Other,
        };
        LayersOutput {
            unit,
            checkout: checkout.to_path_buf(),
            kind,
            findings: Vec::new(),
            left_out: 0,
            overlayed: None,
            in_overlayed: false,
            crossings: BTreeMap::new(),
            dangling: None,
            spoke: false,
            traceback: false,
        }
    }

    /// Why exit status 0 is not a pass. `None`: it is one.
    pub fn contradiction(&self) -> Option<&'static str> {
        match (self.traceback, self.spoke) {
            (true, _) => Some("it printed a Python traceback"),
            (false, false) => Some("it printed nothing"),
            (false, true) => None,
        }
    }

    /// Parses one line, without its newline.
    pub fn line(&mut self, line: &str) {
        self.spoke |= !line.trim().is_empty();
        self.traceback |= line.trim_end() == "Traceback (most recent call last):";
        if self.dangling_append(line) || self.message(line) {
            return;
        }
        match self.kind {
            Kind::Overlayed => self.overlayed(line),
            Kind::CrossDepends => self.crossing(line),
            Kind::Other => {}
        }
    }

    /// Returns the findings. `passed`: the tool reported no error; then an `ERROR:` line is only text that
    /// something printed.
    pub fn finish(mut self, passed: bool) -> Vec<Finding> {
        self.close_overlayed();
        for ((from, to), count) in std::mem::take(&mut self.crossings) {
            let message = format!("`{from}` uses {count} recipes, classes or files of `{to}`");
            self.add(Level::Info, "cross-depends", message, None, None, None);
        }
        if self.left_out > 0 {
            let message = format!("{} more findings are in the log", self.left_out);
            self.findings.push(self.finding(Level::Info, "left-out", message));
        }
        for finding in self.findings.iter_mut().filter(|finding| passed && finding.level == Level::Error) {
            finding.level = Level::Warning;
        }
        self.findings
    }

    /// Parses `ERROR: …` and `WARNING: …`, also after progress on the same line.
    fn message(&mut self, line: &str) -> bool {
        let Some((level, text)) = bitbake_message(line) else { return false };
        if text.starts_with("No recipes ") && text.ends_with("available for:") {
            self.dangling = Some(level);
            return true;
        }
        if text.ends_with(": missing append for preferred version") {
            let hint = "add a bbappend for the version that is built, or one with % for all";
            self.add(level, "append-other-version", text.to_owned(), None, None, Some(hint));
            return true;
        }
        let rule = if level == Level::Error { "bitbake-error" } else { "bitbake-warning" };
        let place = locate(text);
        let (file, line) = place.map_or((None, None), |(file, line)| (Some(file), Some(line)));
        self.add(level, rule, text.to_owned(), file, line, None);
        true
    }

    /// Parses the files below `No recipes in default available for:`.
    fn dangling_append(&mut self, line: &str) -> bool {
        let Some(level) = self.dangling else { return false };
        let Some(file) = line.strip_prefix("  ").filter(|file| file.starts_with('/')) else {
            self.dangling = None;
            return false;
        };
        let file = PathBuf::from(file.trim_end());
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let hint = "fix its name and version, remove it, or add the layer that has the recipe";
        let message = format!("`{name}` has no recipe to append to");
        self.add(level, "append-dangling", message, Some(file), None, Some(hint));
        true
    }

    /// Parses `name:`, then a layer and a version on each indented line, the preferred one first.
    fn overlayed(&mut self, line: &str) {
        if line.starts_with("=== Overlayed") {
            self.close_overlayed();
            self.in_overlayed = true;
        } else if !self.in_overlayed {
            // Progress and notes come first.
        } else if let Some(item) = line.strip_prefix("  ") {
            if let Some((_, layers)) = &mut self.overlayed
                && layers.len() < MOST_LAYERS
                && item.len() <= 4 * LONGEST_NAME
            {
                layers.push(item.split_whitespace().collect::<Vec<_>>().join(" "));
            }
        } else {
            self.close_overlayed();
            self.overlayed = line.strip_suffix(':').map(|name| (name.to_owned(), Vec::new()));
        }
    }

    fn close_overlayed(&mut self) {
        let Some((name, layers)) = self.overlayed.take() else { return };
        let [preferred, others @ ..] = layers.as_slice() else { return };
        if others.is_empty() {
            return;
        }
        let message = format!("`{name}` of {preferred} hides {}", others.join(", "));
        let hint = "keep the recipe in one layer, or change it by a bbappend";
        self.add(Level::Warning, "overlayed", message, None, None, Some(hint));
    }

    /// Parses `layer/path WORD layer/path`.
    fn crossing(&mut self, line: &str) {
        const WORDS: [&str; 6] =
            [" DEPENDS ", " RDEPENDS ", " RRECOMMENDS ", " inherits ", " requires ", " includes "];
        let Some((from, to)) = WORDS.into_iter().find_map(|word| line.split_once(word)) else { return };
        if let (Some((from, _)), Some((to, _))) = (from.split_once('/'), to.split_once('/'))
            && !from.is_empty()
            && !to.is_empty()
            && !from.contains(' ')
            && from.len().max(to.len()) <= LONGEST_NAME
            && (self.crossings.len() < MOST_LAYERS
                || self.crossings.contains_key(&(from.to_owned(), to.to_owned())))
        {
            *self.crossings.entry((from.to_owned(), to.to_owned())).or_default() += 1;
        }
    }

    fn add(
        &mut self,
        level: Level,
        rule: &str,
        message: String,
        file: Option<PathBuf>,
        line: Option<u32>,
        hint: Option<&str>,
    ) {
        if self.findings.len() == MOST_FINDINGS {
            self.left_out += 1;
            return;
        }
        let file = file.map(|file| file.strip_prefix(&self.checkout).map(Path::to_path_buf).unwrap_or(file));
        let finding = self.finding(level, rule, message);
        self.findings.push(Finding { file, line, hint: hint.map(str::to_owned), ..finding });
    }

    fn finding(&self, level: Level, rule: &str, message: String) -> Finding {
        Finding {
            unit: self.unit.clone(),
            level,
            rule: rule.to_owned(),
            message,
            file: None,
            line: None,
            hint: None,
        }
    }
}

/// The level and text of an error or warning of BitBake. Progress (`Parsing recipes...`) may precede it on
/// the same line.
pub fn bitbake_message(line: &str) -> Option<(Level, &str)> {
    [("ERROR: ", Level::Error), ("WARNING: ", Level::Warning)].into_iter().find_map(|(word, level)| {
        let at = line.find(word)?;
        let before = &line[..at];
        (before.is_empty() || before.ends_with("...") || before.ends_with("done."))
            .then(|| (level, &line[at + word.len()..]))
    })
}

/// The file and line in a message of BitBake.
///
/// ```text
/// ParseError at /x/a.bb:3: unparsed line
/// /x/a.bb:3 has a lack of whitespace around the assignment
/// File: '/x/a.bb', lineno: 12, function: f
/// Variable A_append … file: /x/a.bb line: 3
/// … on line 3 of file /x/a.conf
/// ```
pub fn locate(message: &str) -> Option<(PathBuf, u32)> {
    message.lines().find_map(|line| {
        path_and_number(line)
            .or_else(|| between(line, "File: '", "', lineno: "))
            .or_else(|| between(line, " file: ", " line: "))
            .or_else(|| line_of_file(line))
    })
}

/// Parses `/path:NUMBER`. The path has no spaces, because BitBake rejects them.
fn path_and_number(line: &str) -> Option<(PathBuf, u32)> {
    line.split(|c: char| c.is_whitespace() || matches!(c, '\'' | '"' | '(' | ')')).find_map(|word| {
        let word = word.trim_end_matches(':');
        let (path, number) = word.rsplit_once(':')?;
        // Text may follow directly after the number: `/x:3:words`.
        let (path, number) = match number.parse() {
            Ok(number) => (path, number),
            Err(_) => {
                let (path, number) = path.rsplit_once(':')?;
                (path, number.parse().ok()?)
            }
        };
        place(path, number)
    })
}

/// Parses `…before PATH middle NUMBER…`.
fn between(line: &str, before: &str, middle: &str) -> Option<(PathBuf, u32)> {
    let (_, rest) = line.split_once(before)?;
    let (path, rest) = rest.split_once(middle)?;
    place(path, leading_number(rest)?)
}

/// Parses `line NUMBER of file PATH`.
fn line_of_file(line: &str) -> Option<(PathBuf, u32)> {
    let (before, rest) = line.split_once(" of file ")?;
    let (_, number) = before.rsplit_once("line ")?;
    place(rest.split_whitespace().next()?.trim_end_matches(':'), number.parse().ok()?)
}

fn leading_number(text: &str) -> Option<u32> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

/// Accepts only absolute paths, and lines that count from 1.
fn place(path: &str, number: u32) -> Option<(PathBuf, u32)> {
    (path.starts_with('/') && !path.starts_with("//") && path.len() > 1 && number > 0)
        .then(|| (PathBuf::from(path), number))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use agent_types::stage::Stage;

    fn findings(command: &str, text: &str) -> Vec<Finding> {
        let words: Vec<String> = command.split(' ').map(str::to_owned).collect();
        let mut output = LayersOutput::new(&words, Unit::new(Stage::Check, "u"), Path::new("/src"));
        text.lines().for_each(|line| output.line(line));
        output.finish(false)
    }

    fn brief(findings: &[Finding]) -> Vec<String> {
        findings.iter().map(|finding| format!("{}: {}", finding.rule, finding.message)).collect()
    }

    #[test]
    fn parses_overlayed_recipes_and_classes() {
        let text = "NOTE: Starting bitbake server...\nLoading cache...done.\n\
                    === Overlayed recipes ===\n\
                    mtd-utils:\n  meta                 2.1.6\n  meta-x               2.1.5 (skipped: why: not)\n\
                    alone:\n  meta                 1\n\
                    === Overlayed classes ===\n\
                    image.bbclass:\n  meta\n  meta-x\n\nSummary: There was 1 WARNING message.\n";
        let found = findings("show-overlayed", text);
        assert_eq!(
            brief(&found),
            [
                "overlayed: `mtd-utils` of meta 2.1.6 hides meta-x 2.1.5 (skipped: why: not)",
                "overlayed: `image.bbclass` of meta hides meta-x",
            ]
        );
        assert!(found.iter().all(|finding| finding.level == Level::Warning));
        assert_eq!(findings("show-overlayed", "No overlayed files found.\n"), []);
    }

    #[test]
    fn parses_bbappends_without_a_recipe() {
        for (head, level) in [
            ("ERROR: No recipes in default available for:", Level::Error),
            ("Parsing recipes...done.\nERROR: No recipes available for:", Level::Error),
            ("WARNING: No recipes in default available for:", Level::Warning),
        ] {
            let text = format!(
                "{head}\n  /src/meta-x/a_1.bbappend\n  /other/b_2.bbappend\nSummary: x\n  /not/this\n"
            );
            let found = findings("show-appends", &text);
            assert_eq!(
                brief(&found),
                [
                    "append-dangling: `a_1.bbappend` has no recipe to append to",
                    "append-dangling: `b_2.bbappend` has no recipe to append to",
                ]
            );
            assert!(found.iter().all(|finding| finding.level == level));
            assert_eq!(found[0].file.as_deref(), Some(Path::new("meta-x/a_1.bbappend")));
            assert_eq!(found[1].file.as_deref(), Some(Path::new("/other/b_2.bbappend")));
        }
        let found = findings("show-appends", "WARNING: zlib_1.3.bb: missing append for preferred version\n");
        assert_eq!(
            brief(&found),
            ["append-other-version: zlib_1.3.bb: missing append for preferred version"]
        );
    }

    #[test]
    fn counts_dependencies_across_layers() {
        let text = "meta-x/recipes-a/a/a_1.bb DEPENDS meta/recipes-b/b/b_1.bb\n\
                    meta-x/recipes-a/a/a_1.bb inherits meta/classes/x.bbclass\n\
                    meta/recipes-c/c.bb RDEPENDS meta-x/recipes-a/a/a_1.bb\n\
                    NOTE: nothing DEPENDS on this\n";
        assert_eq!(
            brief(&findings("show-cross-depends", text)),
            [
                "cross-depends: `meta` uses 1 recipes, classes or files of `meta-x`",
                "cross-depends: `meta-x` uses 2 recipes, classes or files of `meta`",
            ]
        );
    }

    #[test]
    fn errors_and_warnings_of_every_sub_command_are_findings() {
        let text = "Parsing recipes...ERROR: ParseError at /src/meta-x/x_1.0.bb:3: unparsed line: 'foo'\n\
                    WARNING: Layer x should set LAYERSERIES_COMPAT_x\nNOTE: fine, no ERROR: here\n";
        let found = findings("something-new -x", text);
        assert_eq!(
            brief(&found),
            [
                "bitbake-error: ParseError at /src/meta-x/x_1.0.bb:3: unparsed line: 'foo'",
                "bitbake-warning: Layer x should set LAYERSERIES_COMPAT_x",
            ]
        );
        assert_eq!((found[0].file.as_deref(), found[0].line), (Some(Path::new("meta-x/x_1.0.bb")), Some(3)));
        let flood = "WARNING: x\n".repeat(10_000);
        assert_eq!(findings("show-layers", &flood).len(), MOST_FINDINGS + 1);
    }

    #[test]
    fn pass_needs_output_and_no_traceback() {
        let said = |text: &str| {
            let words = ["show-layers".to_owned()];
            let mut output = LayersOutput::new(&words, Unit::new(Stage::Check, "u"), Path::new("/src"));
            text.lines().for_each(|line| output.line(line));
            let levels: Vec<_> = [true, false]
                .map(|passed| {
                    let mut output =
                        LayersOutput::new(&words, Unit::new(Stage::Check, "u"), Path::new("/src"));
                    text.lines().for_each(|line| output.line(line));
                    output.finish(passed).iter().any(|finding| finding.level == Level::Error)
                })
                .into();
            (output.contradiction().is_some(), levels)
        };
        for (text, contradicts, errors) in [
            ("", true, [false, false]),
            ("\n  \n", true, [false, false]),
            ("layer  path  priority\n", false, [false, false]),
            (
                "layer\nTraceback (most recent call last):\n  File \"x\"\nKeyError: 'x'\n",
                true,
                [false, false],
            ),
            ("  says Traceback (most recent call last): in a line\nlayer\n", false, [false, false]),
            // A layer may print such a line, and the tool still passes.
            ("ERROR: only printed\nlayer\n", false, [false, true]),
        ] {
            assert_eq!(said(text), (contradicts, errors.to_vec()), "{text}");
        }
    }

    #[test]
    fn locates_files_and_lines_in_messages() {
        let table = [
            ("ParseError at /a/x_1.0.bb:3: unparsed line: 'foo:1'", Some(("/a/x_1.0.bb", 3))),
            (
                "ERROR: ParseError at /a/x.bb:12: Could not inherit file classes/y.bbclass",
                Some(("/a/x.bb", 12)),
            ),
            ("/a/x.conf:7 has a lack of whitespace around the assignment: 'A=\"b\"'", Some(("/a/x.conf", 7))),
            ("/a/x.bb:7:words", Some(("/a/x.bb", 7))),
            ("one\nFile: '/a/x.bb', lineno: 12, function: f\ntwo", Some(("/a/x.bb", 12))),
            (
                "Variable A_append contains an operation file: /a/x.conf line: 5. Please",
                Some(("/a/x.conf", 5)),
            ),
            ("expression starting on line 4 of file /a/x.conf:\nfoo", Some(("/a/x.conf", 4))),
            ("ParseError in /a/x.bb: not executable", None),
            ("https://host:443/path", None),
            ("//host:1", None),
            ("a/b:3", None),
            ("/a/x.bb:0: zero", None),
            ("/a:99999999999: too large", None),
            ("/:1", None),
            ("", None),
        ];
        for (message, wanted) in table {
            let found = locate(message);
            assert_eq!(
                found.as_ref().map(|(path, line)| (path.to_str().unwrap(), *line)),
                wanted,
                "{message}"
            );
        }
    }
}
