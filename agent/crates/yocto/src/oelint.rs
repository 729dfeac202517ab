//! The command line of oelint-adv, and its findings.
//!
//! The tool writes them to a file of their own: rules of the layer may print. Each is one line by [`FORMAT`]; a message
//! that has several lines goes on in the next ones.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use agent_types::events::Level;
use agent_types::release::Release;

/// The message comes last: it may hold anything.
const FORMAT: &str = "oelint\t{severity}\t{id}\t{line}\t{path}\t{msg}";

/// A finding of oelint-adv.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    pub level: Level,
    /// `oelint.vars.mispell.unknown`
    pub rule: String,
    /// Absolute.
    pub file: PathBuf,
    /// Counts from 1.
    pub line: u32,
    pub message: String,
}

/// The arguments for these files; the findings go to `report`.
pub fn arguments(release: &Release, jobs: usize, report: &Path, files: &[PathBuf]) -> Vec<OsString> {
    // The tool does not know the development branch by this name.
    let release = if release.name == "master" { "latest" } else { release.name };
    let jobs = jobs.to_string();
    let words = ["--quiet", "--release", release, "--jobs", &jobs, "--outputformat", "stdout"];
    let own = words.into_iter().chain(["--messageformat", FORMAT, "--output"]).map(OsString::from);
    own.chain([report.into()]).chain(files.iter().map(OsString::from)).collect()
}

/// Whether oelint-adv looks at such a file. Other files are read by a recipe that includes them.
pub fn is_linted(file: &Path) -> bool {
    let kind = file.extension().and_then(|kind| kind.to_str());
    matches!(kind, Some("bb" | "bbappend" | "bbclass")) || file.ends_with("conf/layer.conf")
}

/// Parses the report.
pub fn parse(report: &str) -> Vec<Remark> {
    let mut remarks: Vec<Remark> = Vec::new();
    for line in report.lines() {
        match remark(line) {
            Some(remark) => remarks.push(remark),
            None => {
                if let Some(last) = remarks.last_mut() {
                    last.message.push('\n');
                    last.message.push_str(line);
                }
            }
        }
    }
    for remark in &mut remarks {
        remark.message.truncate(without_variant(&remark.message).len());
    }
    remarks
}

fn remark(line: &str) -> Option<Remark> {
    let mut parts = line.strip_prefix("oelint\t")?.splitn(5, '\t');
    let level = match parts.next()? {
        "error" => Level::Error,
        "warning" => Level::Warning,
        "info" => Level::Info,
        _ => return None,
    };
    let rule = parts.next()?.to_owned();
    let line = parts.next()?.parse().ok()?;
    let file = PathBuf::from(parts.next()?);
    Some(Remark { level, rule, line, file, message: parts.next()?.to_owned() })
}

/// The message without ` [branch:true]`, which says how the tool evaluated conditions.
fn without_variant(message: &str) -> &str {
    let message = message.trim_end();
    match message.rfind(" [branch:") {
        Some(at) if message.ends_with(']') => &message[..at],
        _ => message,
    }
}

/// Whether the text of `.oelint.cfg` lets the tool change the files that it looks at.
pub fn fixes_files(config: &str) -> bool {
    config.lines().any(|line| {
        let Some((key, value)) = line.split_once(['=', ':']) else { return false };
        key.trim().eq_ignore_ascii_case("fix") && !matches!(value.trim(), "" | "False")
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    /// Lines as oelint-adv 9.11.2 writes them.
    #[test]
    fn parses_findings_with_messages_of_several_lines() {
        let report = "oelint\terror\toelint.var.mandatoryvar.LICENSE\t1\t/l/a_1.bb\tVariable 'LICENSE' should be set [branch:true]\n\
            oelint\twarning\toelint.spaces.lineend\t4\t/l/a:b.inc\tone\ttwo\n  three [branch:true]\n\
            oelint\tinfo\tx\t7\t/l/c.bb\t[branch:x\n\
            oelint\todd\tx\t7\t/l/c.bb\ty\n";
        let remark = |level, rule: &str, file: &str, line, message: &str| Remark {
            level,
            rule: rule.into(),
            file: file.into(),
            line,
            message: message.into(),
        };
        let wanted = [
            remark(
                Level::Error,
                "oelint.var.mandatoryvar.LICENSE",
                "/l/a_1.bb",
                1,
                "Variable 'LICENSE' should be set",
            ),
            remark(Level::Warning, "oelint.spaces.lineend", "/l/a:b.inc", 4, "one\ttwo\n  three"),
            remark(Level::Info, "x", "/l/c.bb", 7, "[branch:x\noelint\todd\tx\t7\t/l/c.bb\ty"),
        ];
        assert_eq!(parse(report), wanted);
        assert_eq!(parse("plain text\n"), []);
        assert_eq!(parse(""), []);
    }

    #[test]
    fn only_recipes_appends_classes_and_the_layers_configuration_are_linted() {
        for (file, linted) in [
            ("/l/recipes-x/a/a_1.bb", true),
            ("/l/recipes-x/a/a_%.bbappend", true),
            ("/l/classes/a.bbclass", true),
            ("/l/conf/layer.conf", true),
            ("/l/conf/machine/a.conf", false),
            ("/l/recipes-x/a/a.inc", false),
            ("/l/README.md", false),
        ] {
            assert_eq!(is_linted(Path::new(file)), linted, "{file}");
        }
    }

    #[test]
    fn a_configuration_that_changes_files_is_seen() {
        for (config, fixes) in [
            ("[oelint]\nfix = True\n", true),
            ("[oelint]\nFIX: yes", true),
            ("[oelint]\nfix = False\n", false),
            ("[oelint]\nfix=\n", false),
            ("[oelint]\nsuffix = True\n# fixed = x\n", false),
            ("", false),
        ] {
            assert_eq!(fixes_files(config), fixes, "{config:?}");
        }
    }

    #[test]
    fn the_development_branch_has_another_name() {
        let words = |release: &str| {
            let release = Release::find(release).unwrap();
            arguments(release, 2, Path::new("/r"), &["/a.bb".into()])
        };
        assert_eq!(words("scarthgap")[..4], ["--quiet", "--release", "scarthgap", "--jobs"]);
        assert_eq!(words("master")[2], "latest");
        assert_eq!(words("master")[9..], ["--output", "/r", "/a.bb"]);
    }
}
