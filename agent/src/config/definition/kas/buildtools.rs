//! `buildtools` of kas: an address made of parts, and a checksum.

use super::super::super::problem::{Diagnostic, Problems};
use super::super::super::tree::Node;
use super::super::build::{self, Table};

/// kas's own default of `base_url`.
const SERVER: &str = "https://downloads.yoctoproject.org/releases/yocto";

/// `[buildtools]`. Without `filename`, the installer is the one for this machine, as in kas.
pub fn translate(buildtools: &Node, problems: &mut Problems) -> Node {
    let text = |key: &str| buildtools.child(key).and_then(Node::as_text);
    for (key, hint) in [
        ("version", "such as \"5.0.8\""),
        ("sha256sum", "the checksum of the installer: without one, nothing that was downloaded is run"),
    ] {
        if buildtools.child(key).is_none() {
            let mistake = Diagnostic::new(format!("has no `{key}`")).hint(hint);
            problems.add(buildtools.place.clone(), Some("buildtools".into()), mistake);
        }
    }
    let version = text("version").unwrap_or_default();
    let base =
        text("base_url").map_or_else(|| format!("{SERVER}/yocto-{version}/buildtools/"), str::to_owned);
    let file = text("filename").map_or_else(|| file_name(version), str::to_owned);
    let place = ["base_url", "filename", "version"].iter().find_map(|key| buildtools.child(key));
    let place = place.map_or(&buildtools.place, |node| &node.place);
    let mut table = Table::new(&buildtools.place);
    table.add("url", build::text(address(&base, &file), place));
    table.add_some("sha256", buildtools.child("sha256sum").cloned());
    table.node()
}

/// The installer of a release for this machine.
fn file_name(version: &str) -> String {
    format!("{}-buildtools-extended-nativesdk-standalone-{version}.sh", std::env::consts::ARCH)
}

/// As kas joins them, with one `/`.
fn address(base: &str, file: &str) -> String {
    let quoted: String = file.bytes().map(quoted).collect();
    format!("{}/{quoted}", base.trim_end_matches('/'))
}

/// A byte as `urllib.parse.quote` has it.
fn quoted(byte: u8) -> String {
    match byte {
        b'/' | b'_' | b'.' | b'-' | b'~' => char::from(byte).to_string(),
        byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::super::yaml::{Syntax, parse};
    use super::*;
    use crate::config::render;

    /// The manifest's table, and the problems.
    fn of(text: &str) -> (String, String) {
        let (mut problems, mut notices) = (Problems::default(), Vec::new());
        let node = parse("kas.yml", text.as_bytes(), Syntax::Yaml, &mut problems, &mut notices).unwrap();
        let table = translate(&node, &mut problems);
        let said = if problems.is_empty() {
            String::new()
        } else {
            agent_types::error::Error::from(problems).to_string()
        };
        (render::json(&table).to_string(), said)
    }

    #[test]
    fn the_address_is_that_of_kas() {
        let arch = std::env::consts::ARCH;
        for (text, url) in [
            (
                "{version: '5.2', sha256sum: ab}",
                format!(
                    "{SERVER}/yocto-5.2/buildtools/{arch}-buildtools-extended-nativesdk-standalone-5.2.sh"
                ),
            ),
            (
                "{version: '1', sha256sum: ab, base_url: 'https://x.example/t/', filename: 'a b+c.sh'}",
                "https://x.example/t/a%20b%2Bc.sh".to_owned(),
            ),
            (
                "{version: '1', sha256sum: ab, base_url: 'https://x.example/t'}",
                format!("https://x.example/t/{arch}-buildtools-extended-nativesdk-standalone-1.sh"),
            ),
        ] {
            let (table, said) = of(text);
            assert_eq!(
                (table, said),
                (format!(r#"{{"sha256":"ab","url":"{url}"}}"#), String::new()),
                "{text}"
            );
        }
    }

    #[test]
    fn a_missing_checksum_has_its_line() {
        let (_, said) = of("\nversion: '5.2'");
        assert!(said.contains("kas.yml:2:1: buildtools: has no `sha256sum`"), "{said}");
        let (_, said) = of("sha256sum: ab");
        assert!(said.contains("has no `version`"), "{said}");
    }
}
