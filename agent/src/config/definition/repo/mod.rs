//! Manifests of `repo`: they name repositories and no layers. The semantics are those of repo 2.5x (`manifest_xml.py`,
//! `docs/manifest-format.md`).

mod projects;
mod xml;

use std::path::{Path, PathBuf};

use agent_fs::untrusted;

use super::super::paths;
use super::super::problem::{Diagnostic, Place, Problems};
use super::build::{self, Table};
use super::setup::{add_layers, own_layer};
use super::{Parts, Surroundings, Tree, address};

use projects::Projects;
use xml::Element;

/// The deepest chain of includes, as in repo, the most files, and the most bytes of all files.
const DEEPEST: usize = 8;
const MOST: usize = 100;
const MOST_BYTES: usize = 1 << 20;

/// Whether the file is one of repo, by its name.
pub fn is_manifest(file: &Path) -> bool {
    file.extension().is_some_and(|end| end == "xml")
}

/// The manifest that the file means. `origin`: the address of the repository that holds it.
pub fn translate(
    file: &Path,
    tree: &Tree,
    around: &Surroundings,
    origin: Option<&str>,
    problems: &mut Problems,
) -> Parts {
    let mut reader = Reader {
        tree,
        problems,
        chain: Vec::new(),
        files: Vec::new(),
        text: Vec::new(),
        elements: Vec::new(),
    };
    let start = Place::File { file: tree.shown(file).into(), line: 1, column: 1 };
    match tree.inside(file) {
        Ok(real) => reader.file(&real, &start),
        Err(why) => reader.problems.add(start.clone(), None, Diagnostic::new(why)),
    }
    let Reader { files, text, elements, problems, .. } = reader;
    let mut parts = Parts { text, files, ..Parts::default() };
    if !problems.is_empty() {
        return parts;
    }
    let origin = origin.and_then(address::without_credentials);
    let projects = Projects::read(&elements, around, origin.as_ref(), problems);
    let place = elements.first().map_or(start, |element| element.place.clone());
    let mut manifest = Table::new(&place);
    manifest.add("version", build::integer(1, &place));
    let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    manifest.add("name", build::text(paths::sanitised(&stem), &place));
    manifest.add("repos", projects.table(around, origin.as_ref(), &mut parts.notices, problems).node());
    add_layers(&mut manifest, own_layer(around, &place), &place);
    parts.notices.push(format!(
        "{} names repositories and no layers: those that a job needs are named by --set 'repos.NAME.layers=[\"…\"]'",
        tree.shown(file)
    ));
    parts.manifest = Some(manifest.node());
    parts
}

/// Reads files with what they include, in the order of the elements.
struct Reader<'a> {
    tree: &'a Tree,
    problems: &'a mut Problems,
    /// The files that are being read, from the outermost.
    chain: Vec<PathBuf>,
    /// All files, in the checkout.
    files: Vec<PathBuf>,
    text: Vec<u8>,
    elements: Vec<Element>,
}

impl Reader<'_> {
    fn file(&mut self, file: &Path, at: &Place) {
        let shown = self.tree.shown(file);
        let fault = if self.chain.iter().any(|outer| outer == file) {
            Some(format!("`{shown}` includes itself"))
        } else if self.chain.len() >= DEEPEST {
            Some(format!("`{shown}` is included through more than {DEEPEST} files"))
        } else if self.files.len() >= MOST {
            Some(format!("includes more than {MOST} files"))
        } else if self.text.len() > MOST_BYTES {
            Some(format!("includes more than {MOST_BYTES} bytes"))
        } else {
            None
        };
        if let Some(fault) = fault {
            return self.problems.add(at.clone(), Some("include".into()), Diagnostic::new(fault));
        }
        let bytes = match untrusted::read_named(file, untrusted::PAGE) {
            Ok(bytes) => bytes,
            Err(error) => {
                let mistake = Diagnostic::new(format!("cannot read `{shown}`: {error}"));
                return self.problems.add(at.clone(), None, mistake);
            }
        };
        let top = match xml::parse(&shown, &bytes) {
            Ok(top) if top.name == "manifest" => top,
            Ok(top) => {
                let mistake = Diagnostic::new("is not a manifest of repo: it has no `manifest`");
                return self.problems.add(top.place, None, mistake);
            }
            Err((place, why)) => return self.problems.add(place, None, Diagnostic::new(why)),
        };
        self.files.push(self.tree.named(file));
        self.text.extend(bytes);
        self.text.push(b'\n');
        self.chain.push(file.to_owned());
        for element in top.children {
            match element.name.as_str() {
                "include" => self.include(&element),
                _ => self.elements.push(element),
            }
        }
        self.chain.pop();
    }

    /// Names of files are relative to the repository of the manifests.
    fn include(&mut self, element: &Element) {
        let Some(name) = element.get("name") else {
            let mistake = Diagnostic::new("has no `name`");
            return self.problems.add(element.place.clone(), Some("include".into()), mistake);
        };
        match self.tree.inside(&self.tree.top.join(name)) {
            Ok(real) => self.file(&real, &element.place),
            Err(why) => {
                self.problems.add(element.place.clone(), Some("include".into()), Diagnostic::new(why))
            }
        }
    }
}
