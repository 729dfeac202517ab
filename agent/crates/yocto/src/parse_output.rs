//! The output of `bitbake -p`: how much it parsed, and the errors with their files and lines.
//!
//! Sources: `lib/bb/ui/knotty.py` (the summary), `lib/bb/cooker.py` (the errors) of BitBake, dunfell to master.

use std::path::PathBuf;
use std::sync::LazyLock;

use regex::Regex;

use super::bitbake_layers::locate;

/// How many errors are kept, and how much of each.
const ERRORS_KEPT: usize = 50;
const ERROR_BYTES: usize = 4096;

/// The numbers of `Parsing of 5 .bb files complete (…)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Recipe files.
    pub files: u64,
    /// Of these, taken from the parse cache.
    pub cached: u64,
    /// Recipes that are skipped in this configuration.
    pub skipped: u64,
    pub errors: u64,
}

/// An `ERROR:` line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    pub message: String,
    pub file: Option<PathBuf>,
    /// Counts from 1.
    pub line: Option<u32>,
}

/// Follows `bitbake -p` line by line.
#[derive(Debug, Default)]
pub struct ParseOutput {
    pub parsed: Option<Parsed>,
    /// Entries of the parse cache. If nothing else had to be parsed, BitBake prints nothing more.
    pub loaded: Option<u64>,
    /// The first ones.
    pub errors: Vec<ParseError>,
    /// Whether the last line that counts was an error, whose text goes on.
    in_error: bool,
}

static SUMMARY: LazyLock<Regex> = LazyLock::new(|| {
    #[allow(clippy::expect_used, reason = "the pattern is a constant, and a test uses it")]
    Regex::new(
        r"^Parsing of (\d+) \.bb files complete \((\d+) cached, \d+ parsed\)\. \d+ targets, (\d+) skipped, \d+ masked, (\d+) errors?\.",
    )
    .expect("a pattern")
});

static LOADED: LazyLock<Regex> = LazyLock::new(|| {
    #[allow(clippy::expect_used, reason = "the pattern is a constant, and a test uses it")]
    Regex::new(r"^Loaded (\d+) entries from dependency cache\.").expect("a pattern")
});

impl ParseOutput {
    /// Whether BitBake has read recipes, and reports no error.
    pub fn read_recipes(&self) -> bool {
        match (self.parsed, self.loaded) {
            (Some(parsed), _) => parsed.files > 0 && parsed.errors == 0,
            (None, loaded) => loaded.is_some_and(|entries| entries > 0),
        }
    }

    /// Reads one line, without its newline.
    pub fn line(&mut self, line: &str) {
        if let Some(found) = SUMMARY.captures(line) {
            let number = |index| found.get(index).and_then(|text| text.as_str().parse().ok()).unwrap_or(0);
            let [files, cached, skipped, errors] = [1, 2, 3, 4].map(number);
            self.parsed = Some(Parsed { files, cached, skipped, errors });
        } else if let Some(found) = LOADED.captures(line)
            && let Ok(entries) = found[1].parse()
            && self.parsed.is_none()
        {
            self.loaded = Some(entries);
        }
        if let Some(text) = line.strip_prefix("ERROR: ") {
            self.in_error = self.errors.len() < ERRORS_KEPT;
            if self.in_error {
                let (file, number) = place(text);
                let message = cut(text);
                self.errors.push(ParseError { message, file, line: number });
            }
        } else if is_new(line) {
            self.in_error = false;
        } else if self.in_error
            && let Some(last) = self.errors.last_mut()
            && last.message.len() + line.len() < ERROR_BYTES
        {
            last.message.push('\n');
            last.message.push_str(line);
            if last.file.is_none() {
                (last.file, last.line) = place(line);
            }
        }
    }
}

fn place(text: &str) -> (Option<PathBuf>, Option<u32>) {
    match locate(text) {
        Some((file, line)) => (Some(file), Some(line)),
        None => (recipe(text), None),
    }
}

/// `Unable to parse /x/a_1.bb`, `ExpansionError during parsing /x/a_1.bb`: a recipe without a line.
fn recipe(text: &str) -> Option<PathBuf> {
    let words = text.split(|c: char| c.is_whitespace() || matches!(c, '\'' | '"' | '`'));
    let path = |word: &str| word.trim_end_matches([':', ',', '.']).to_owned();
    let is_metadata = |word: &String| {
        word.starts_with('/')
            && [".bb", ".bbappend", ".inc", ".bbclass", ".conf"].iter().any(|end| word.ends_with(end))
    };
    words.map(path).find(is_metadata).map(PathBuf::from)
}

/// Whether the line starts another message.
fn is_new(line: &str) -> bool {
    ["NOTE: ", "WARNING: ", "DEBUG: ", "Summary: ", "Parsing ", "Loading ", "Loaded "]
        .iter()
        .any(|start| line.starts_with(start))
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(ERROR_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(output: &str) -> ParseOutput {
        let mut parsed = ParseOutput::default();
        output.lines().for_each(|line| parsed.line(line));
        parsed
    }

    #[test]
    fn the_summary_has_the_numbers_of_recipes() {
        let output = "Loading cache...done.\nParsing recipes...done.\n\
            Parsing of 923 .bb files complete (900 cached, 23 parsed). 1564 targets, 43 skipped, 2 masked, 0 errors.\n";
        let parsed = Parsed { files: 923, cached: 900, skipped: 43, errors: 0 };
        assert_eq!(read(output).parsed, Some(parsed));
        assert!(read(output).read_recipes());
        assert_eq!(read("NOTE: nothing\nx Parsing of 1 .bb files complete").parsed, None);
    }

    #[test]
    fn a_parse_without_recipes_does_not_count() {
        let summary = |files: u64, errors: u64| {
            format!(
                "Parsing of {files} .bb files complete (0 cached, {files} parsed). 5 targets, 0 skipped, 0 masked, {errors} errors.\n"
            )
        };
        for (output, proof) in [
            (summary(5, 0), true),
            (summary(5, 1), false),
            (summary(0, 0), false),
            ("Loaded 1564 entries from dependency cache.\n".into(), true),
            ("Loaded 0 entries from dependency cache.\n".into(), false),
            (format!("Loaded 7 entries from dependency cache.\n{}", summary(8, 2)), false),
            (String::new(), false),
        ] {
            assert_eq!(read(&output).read_recipes(), proof, "{output}");
        }
    }

    #[test]
    fn an_error_has_its_place() {
        let output = "NOTE: x\n\
            ERROR: ParseError at /l/a_1.bb:3: unparsed line: 'x y'\n\
            ERROR: Unable to parse /l/b_1.bb\n\
            Traceback (most recent call last):\n  File \"/bb/x.py\", line 3, in y\n\
            WARNING: other\nnot of the error\n\
            ERROR: ExpansionError during parsing /l/c_1.bb: Failure expanding variable X\n\
            ERROR: Nothing is known\n\n\
            Summary: There were 4 ERROR messages, returning a non-zero exit code.\n";
        let read = read(output);
        let places: Vec<_> = read
            .errors
            .iter()
            .map(|error| (error.file.as_ref().map(|file| file.display().to_string()), error.line))
            .collect();
        let file = |name: &str| Some(name.to_owned());
        assert_eq!(
            places,
            [
                (file("/l/a_1.bb"), Some(3)),
                (file("/l/b_1.bb"), None),
                (file("/l/c_1.bb"), None),
                (None, None)
            ]
        );
        assert!(read.errors[1].message.ends_with("line 3, in y"), "{:?}", read.errors[1]);
        assert_eq!(read.errors[3].message, "Nothing is known\n");
    }

    #[test]
    fn errors_without_end_stay_small() {
        let long = format!("ERROR: {}\n{}", "ä".repeat(10_000), "x\n".repeat(10_000));
        let many = "ERROR: /l/x.bb:1: x\n".repeat(1000);
        let read = read(&format!("{long}{many}"));
        assert_eq!(read.errors.len(), ERRORS_KEPT);
        assert!(read.errors.iter().all(|error| error.message.len() <= ERROR_BYTES));
    }
}
