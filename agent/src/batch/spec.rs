//! The buildspec of a batch: <https://docs.aws.amazon.com/codebuild/latest/userguide/batch-build-buildspec.html>.
//!
//! All builds have the same commands; the identifier of a build selects the part to run. Every text is a double-quoted scalar with
//! escapes, so that no value of a manifest or of the command line can become YAML or shell.

use std::fmt::Write;

use crate::report::shell_word;

use super::graph::{MERGE, Node, WARM};

/// The directory for the reports of a build.
const OUT: &str = "/tmp/build-agent-out";

/// The arguments of the commands that the builds run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commands {
    /// Arguments of all commands: the manifest, `--batch ID`, `--set` …
    pub all: Vec<String>,
    /// More arguments for `warm`.
    pub warm: Vec<String>,
    /// More arguments for the cells.
    pub cell: Vec<String>,
}

/// The buildspec.
pub fn render(nodes: &[Node], commands: &Commands) -> String {
    let mut text =
        "version: 0.2\nenv:\n  shell: bash\nbatch:\n  fast-fail: false\n  build-graph:\n".to_owned();
    for node in nodes {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "    - identifier: {}", quoted(&node.id));
        if let Some(compute) = node.compute_type {
            let _ = writeln!(text, "      env:\n        compute-type: {}", quoted(compute.name()));
        }
        if !node.depends_on.is_empty() {
            let _ = writeln!(text, "      depend-on:");
            for id in &node.depends_on {
                let _ = writeln!(text, "        - {}", quoted(id));
            }
        }
        let _ = writeln!(text, "      ignore-failure: {}", node.ignore_failure);
    }
    let _ = writeln!(text, "phases:\n  build:\n    commands:\n      - {}", quoted(&script(commands)));
    text
}

/// The script of all builds. The image has `stable-path-checkout`, which gives the checkout the same path in each build.
fn script(commands: &Commands) -> String {
    let words = |more: &[String]| -> String {
        let all = commands.all.iter().chain(more);
        all.map(|word| format!(" {}", shell_word(word))).collect()
    };
    format!(
        "agent() {{\n\
         \x20 if command -v stable-path-checkout >/dev/null; then stable-path-checkout build-agent \"$@\"; else build-agent \"$@\"; fi\n\
         }}\n\
         case $CODEBUILD_BATCH_BUILD_IDENTIFIER in\n\
         \x20 {WARM}) agent batch warm{warm} --out {OUT} ;;\n\
         \x20 {MERGE}) agent merge{merge} --out {OUT} ;;\n\
         \x20 *) agent batch cell{cell} --out {OUT} --cell \"$CODEBUILD_BATCH_BUILD_IDENTIFIER\" ;;\n\
         esac\n",
        warm = words(&commands.warm),
        merge = words(&[]),
        cell = words(&commands.cell),
    )
}

/// A double-quoted scalar in ASCII. Some characters outside of it break lines in one version of YAML and not in another.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            ' '..='~' => out.push(c),
            _ => {
                let _ = match u32::from(c) {
                    code @ 0..0x100 => write!(out, "\\x{code:02x}"),
                    code @ 0x100..0x1_0000 => write!(out, "\\u{code:04x}"),
                    code => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::process::Command;

    use saphyr_parser::{Event, Parser};

    use super::super::compute::ComputeType;
    use super::*;

    fn node(id: &str, depends_on: &[&str], compute_type: Option<ComputeType>) -> Node {
        let depends_on = depends_on.iter().map(|id| (*id).to_owned()).collect();
        Node { id: id.into(), depends_on, compute_type, ignore_failure: id != MERGE }
    }

    fn scalars(text: &str) -> Vec<String> {
        Parser::new_from_str(text)
            .filter_map(|event| match event.unwrap().0 {
                Event::Scalar(value, ..) => Some(value.into_owned()),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn the_buildspec_as_codebuild_documents_it() {
        let nodes = [
            node("warm", &[], Some(ComputeType::Large)),
            node("scarthgap_a", &["warm"], None),
            node("merge", &["warm", "scarthgap_a"], Some(ComputeType::Small)),
        ];
        let commands = Commands { all: vec!["--batch".into(), "b-1".into()], ..Commands::default() };
        let text = render(&nodes, &commands);
        let graph = "batch:\n  fast-fail: false\n  build-graph:\n    - identifier: \"warm\"\n      env:\n        \
                     compute-type: \"BUILD_GENERAL1_LARGE\"\n      ignore-failure: true\n    - identifier: \"scarthgap_a\"\n      \
                     depend-on:\n        - \"warm\"\n      ignore-failure: true\n    - identifier: \"merge\"\n      env:\n        \
                     compute-type: \"BUILD_GENERAL1_SMALL\"\n      depend-on:\n        - \"warm\"\n        - \"scarthgap_a\"\n      \
                     ignore-failure: false\nphases:\n";
        assert!(text.contains(graph), "{text}");
        let script = scalars(&text).pop().unwrap();
        assert!(script.contains("\n  warm) agent batch warm --batch b-1 --out"), "{script}");
        assert!(script.contains("\n  merge) agent merge --batch b-1 --out"), "{script}");
    }

    /// No value becomes YAML, shell, or another word.
    #[test]
    fn hostile_values_stay_words() {
        let hostile = [
            "a'b",
            "$(touch x)",
            "`x`",
            "\"; echo y; \"",
            "a\nb: c\n- d",
            "\\",
            "${HOME}",
            "*",
            "# x",
            ": ",
            "é\u{2028}\u{85}🙂",
            "%YAML",
            "--set=x",
            "",
            "'",
            "a\tb",
            "\u{7f}",
            "\u{1}",
        ];
        let all: Vec<String> = hostile.iter().map(|word| (*word).to_owned()).collect();
        let text = render(&[node("warm", &[], None)], &Commands { all, ..Commands::default() });
        assert!(text.is_ascii());
        let script = scalars(&text).pop().unwrap();
        let stub = "build-agent() { printf '%s\\0' \"$@\"; }\nCODEBUILD_BATCH_BUILD_IDENTIFIER=warm\n";
        let no_path = "command() { return 1; }\n";
        let output = Command::new("bash").args(["-c", &format!("{stub}{no_path}{script}")]).output().unwrap();
        let words: Vec<&str> = std::str::from_utf8(&output.stdout).unwrap().split_terminator('\0').collect();
        assert_eq!(words[..2], ["batch", "warm"], "{output:?}");
        assert_eq!(words[2..words.len() - 2], hostile);
    }
}
