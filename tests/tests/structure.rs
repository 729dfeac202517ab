//! The structure of the sources: the top modules of a crate, and the files of a crate, use each other in one
//! direction. Between crates, the compiler ensures this.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// Which module uses which, with one source location for each pair.
type Uses = BTreeMap<String, BTreeMap<String, String>>;

#[test]
fn top_modules_of_a_crate_have_no_cycle() {
    let crates = crates();
    assert!(crates.len() >= 8, "{crates:?}");
    let mut wrong = String::new();
    for directory in crates {
        let uses = uses(&directory);
        if let Some(cycle) = cycle(&uses) {
            let name = directory.strip_prefix(top()).unwrap_or(&directory).display();
            let _ = writeln!(wrong, "{}", explain(&name.to_string(), "modules at the top", &uses, &cycle));
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn no_cycle_between_the_files_of_a_crate() {
    let mut wrong = String::new();
    for directory in crates() {
        let uses = Files::read(&directory.join("src")).uses();
        let name = directory.strip_prefix(top()).unwrap_or(&directory).display().to_string();
        for cycle in cycles(&uses) {
            let _ = writeln!(wrong, "{}", explain(&name, "files", &uses, &cycle));
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn stages_do_not_import_report() {
    let uses = uses(&top().join("agent"));
    assert!(uses["job"].contains_key("stages"), "this test reads nothing any more: {uses:?}");
    assert_eq!(uses["stages"].get("report"), None);
}

#[test]
fn only_one_crate_depends_on_the_aws_sdk() {
    for directory in crates() {
        let manifest = fs::read_to_string(directory.join("Cargo.toml")).unwrap();
        // aws-lc-rs is a library for cryptography.
        let has = manifest.lines().any(|line| line.starts_with("aws-") && !line.starts_with("aws-lc-rs"));
        assert_eq!(has, directory.ends_with("artifacts"), "{}", directory.display());
    }
}

#[test]
fn cycles_are_found() {
    let place = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = place.path().join("src").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("lib.rs", "mod a;\npub mod b;\nmod c;\n\npub use c::{Thing, Other as Renamed};\n");
    write("a.rs", "use std::fmt;\n\nuse super::b::{self, deep::Name};\n");
    write("b/mod.rs", "mod deep;\n// crate::a is only a word here\n");
    write("b/deep.rs", "use super::super::c;\n");
    write("c.rs", "#[cfg(test)]\nmod tests {\n    use crate::a;\n}\n");
    assert_eq!(cycle(&uses(place.path())), None);

    // By a path, by a name that the crate exports, and in a group.
    for (file, text) in [
        ("c.rs", "fn x() { crate::a::y() }\n"),
        ("c/inner.rs", "use super::super::a::y;\n"),
        ("c.rs", "use crate::{Thing, a};\n"),
        ("c.rs", "use crate::{\n    b::{\n        deep::Name,\n    },\n};\n"),
    ] {
        write(file, text);
        let uses = uses(place.path());
        let found = cycle(&uses).unwrap_or_else(|| panic!("{text}: {uses:?}"));
        let reported = explain("x", "modules at the top", &uses, &found);
        assert!(
            reported.contains("c → ") && reported.contains(file) && reported.contains("b → c"),
            "{reported}"
        );
        write("c.rs", "");
        write("c/inner.rs", "");
    }
    write("b/mod.rs", "use crate::Renamed;\n");
    write("c.rs", "use super::b;\n");
    assert_eq!(cycle(&uses(place.path())).unwrap().len(), 2, "an exported name belongs to its module");
}

#[test]
fn cycles_of_files_are_found() {
    let write = |place: &Path, files: &[(&str, &str)]| {
        for (name, text) in files {
            let path = place.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    };
    let good = [
        ("lib.rs", "pub mod a;\n"),
        // What it hands on is no use of its own.
        ("a/mod.rs", "mod b;\nmod c;\nmod d;\n\npub use b::{B, Other as Name};\n\npub struct Error;\n"),
        ("a/b.rs", "use super::Error;\nuse super::d::D;\n"),
        ("a/c.rs", "use super::{B, Error};\n\n#[cfg(test)]\nmod tests {\n    use super::super::e;\n}\n"),
        ("a/d.rs", "use std::fmt;\n"),
        ("a/d/inner.rs", "use super::super::Error;\n"),
    ];
    // What makes a cycle, and between which files.
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);
    let table: [Case; 6] = [
        (&[], &[]),
        (&[("a/d.rs", "use super::c::C;\n"), ("a/c.rs", "use super::d;\n")], &["a/c.rs", "a/d.rs"]),
        (&[("a/d.rs", "use super::c;\n")], &["a/b.rs", "a/c.rs", "a/d.rs"]),
        (&[("a/d.rs", "fn x() { crate::a::Name::y() }\n")], &["a/b.rs", "a/d.rs"]),
        // Parent and child.
        (&[("a/mod.rs", "mod b;\npub struct Error;\nfn x() { b::y() }\n")], &[]),
        // A child and its parent's neighbour.
        (
            &[("a/d.rs", "use inner::X;\n"), ("a/d/inner.rs", "use super::super::b;\n")],
            &["a/b.rs", "a/d.rs", "a/d/inner.rs"],
        ),
    ];
    for (changes, wanted) in table {
        let place = tempfile::tempdir().unwrap();
        write(place.path(), &good);
        write(place.path(), changes);
        let uses = Files::read(place.path()).uses();
        let mut found = cycles(&uses).concat();
        found.sort();
        assert_eq!(found, wanted, "{changes:?}: {uses:?}");
    }
}

fn top() -> &'static Path {
    build_agent_tests::repository()
}

/// The directories of the agent's crates.
fn crates() -> Vec<PathBuf> {
    let libraries = fs::read_dir(top().join("agent/crates")).unwrap().map(|entry| entry.unwrap().path());
    let all = libraries.chain([top().join("agent")]);
    let mut crates: Vec<_> = all.filter(|directory| directory.join("src/lib.rs").is_file()).collect();
    crates.sort();
    crates
}

/// Reads which top modules of a crate use each other, without tests.
fn uses(directory: &Path) -> Uses {
    let sources = directory.join("src");
    let root = without_tests(&fs::read_to_string(sources.join("lib.rs")).unwrap());
    let modules: BTreeSet<&str> = root
        .lines()
        .filter_map(|line| line.rsplit_once("mod ")?.1.strip_suffix(';'))
        .filter(|name| name.chars().all(|c| c.is_alphanumeric() || c == '_'))
        .collect();
    // The names that the crate exports, and the module of each.
    let mut exported = BTreeMap::new();
    for (at, start) in root.match_indices("use ") {
        for path in paths(&root[at + start.len()..]) {
            if let [module, .., name] = &path[..] {
                exported.insert(name.clone(), module.clone());
            }
        }
    }
    let mut uses = Uses::new();
    for file in rust_files(&sources) {
        let relative = file.strip_prefix(&sources).unwrap().with_extension("");
        let mut place: Vec<String> = relative.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        if is_test(place.last().unwrap()) || !modules.contains(place[0].as_str()) {
            continue;
        }
        place.pop_if(|last| last == "mod");
        let text = without_tests(&fs::read_to_string(&file).unwrap());
        for path in used(&text, &place) {
            let to = exported.get(&path[0]).unwrap_or(&path[0]);
            if *to != place[0] && modules.contains(to.as_str()) {
                let seen = format!("{}.rs uses {}", relative.display(), path.join("::"));
                uses.entry(place[0].clone()).or_default().entry(to.clone()).or_insert(seen);
            }
        }
    }
    uses
}

/// The files of a crate without its tests, by their modules.
struct Files {
    files: BTreeMap<Vec<String>, File>,
}

struct File {
    /// Below `src`.
    name: String,
    text: String,
    /// The names that it imports or exports again, and the paths that they stand for.
    imports: BTreeMap<String, Vec<String>>,
}

impl Files {
    fn read(sources: &Path) -> Files {
        let mut files = BTreeMap::new();
        for path in rust_files(sources) {
            let relative = path.strip_prefix(sources).unwrap();
            let parts = relative.with_extension("");
            let mut module: Vec<String> =
                parts.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
            if module.iter().any(|part| is_test(part)) || module == ["main"] {
                continue;
            }
            module.pop_if(|last| last == "mod");
            module.pop_if(|last| last == "lib");
            let text = without_tests(&fs::read_to_string(&path).unwrap());
            let name = relative.display().to_string();
            files.insert(module, File { name, text, imports: BTreeMap::new() });
        }
        let mut files = Files { files };
        let imports: Vec<_> = files.files.iter().map(|(module, file)| files.imports(module, file)).collect();
        for (file, imports) in files.files.values_mut().zip(imports) {
            file.imports = imports;
        }
        files
    }

    /// A path as it stands in a module, from the root of the crate; `None` when it leads to another crate.
    fn absolute(&self, module: &[String], path: &[String]) -> Option<Vec<String>> {
        let supers = path.iter().take_while(|part| *part == "super").count();
        let (from, rest) = match path.first()?.as_str() {
            "crate" => (0, &path[1..]),
            "super" => (module.len().saturating_sub(supers), &path[supers..]),
            child if self.files.contains_key(&[module, &[child.to_owned()]].concat()) => (module.len(), path),
            _ => return None,
        };
        Some([&module[..from], rest].concat())
    }

    fn imports(&self, module: &[String], file: &File) -> BTreeMap<String, Vec<String>> {
        let mut imports = BTreeMap::new();
        for (_, statement) in use_statements(&file.text) {
            for mut path in paths(statement) {
                // The name comes twice after ` as other`.
                let Some(name) = path.last().cloned() else { continue };
                path.truncate(path.len() - usize::from(is_renamed(statement, &name)));
                imports.extend(self.absolute(module, &path).map(|path| (name, path)));
            }
        }
        imports
    }

    /// The module in whose file the path ends: imports on the way are followed.
    fn end(&self, path: &[String], left: usize) -> Option<Vec<String>> {
        let length = (0..=path.len()).rev().find(|length| self.files.contains_key(&path[..*length]))?;
        let (module, rest) = path.split_at(length);
        let imported = rest.first().and_then(|name| self.files[module].imports.get(name));
        match imported.filter(|_| left > 0) {
            Some(imported) => self.end(&[imported, &rest[1..]].concat(), left - 1),
            None => Some(module.to_vec()),
        }
    }

    /// Which file uses which. A module may use its own parents: they are one thing with it.
    fn uses(&self) -> Uses {
        let mut uses = Uses::new();
        for (module, file) in &self.files {
            // What is only handed on is no use.
            let mut text = file.text.clone();
            for (is_public, statement) in use_statements(&file.text) {
                if is_public && !statement.starts_with("crate") && !statement.starts_with("super") {
                    text = text.replace(statement, "");
                }
            }
            let children = self.files.keys().filter(|child| child.len() == module.len() + 1);
            let children =
                children.filter(|child| child.starts_with(module)).filter_map(|child| child.last());
            let starts = children.map(|child| format!("{child}::"));
            for start in ["crate::".to_owned(), "super::".to_owned()].into_iter().chain(starts) {
                for path in starting_with(&text, &start) {
                    let Some(path) = self.absolute(module, &path) else { continue };
                    let Some(to) = self.end(&path, 8).filter(|to| !module.starts_with(to)) else { continue };
                    let seen = format!("{} uses {}", file.name, path.join("::"));
                    let to = self.files[&to].name.clone();
                    uses.entry(file.name.clone()).or_default().entry(to).or_insert(seen);
                }
            }
        }
        uses
    }
}

/// Each `use`, without that word, and whether it is public.
fn use_statements(text: &str) -> Vec<(bool, &str)> {
    let mut statements = Vec::new();
    for (at, start) in text.match_indices("use ") {
        let line = text[..at].rsplit('\n').next().unwrap_or_default().trim();
        if line.is_empty() || line.starts_with("pub") {
            let statement = &text[at + start.len()..];
            let end = statement.find(';').unwrap_or(statement.len());
            statements.push((line.starts_with("pub"), &statement[..end]));
        }
    }
    statements
}

fn is_renamed(statement: &str, name: &str) -> bool {
    statement.split(" as ").skip(1).any(|rest| {
        let other: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        other == name
    })
}

/// All paths of a text that begin so.
fn starting_with(text: &str, start: &str) -> Vec<Vec<String>> {
    let begins = |at: usize| {
        let before = text[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$')
    };
    text.match_indices(start).filter(|(at, _)| begins(*at)).flat_map(|(at, _)| paths(&text[at..])).collect()
}

/// A cycle for each group of modules that reach each other.
fn cycles(uses: &Uses) -> Vec<Vec<String>> {
    let mut uses = uses.clone();
    let mut cycles = Vec::new();
    while let Some(found) = cycle(&uses) {
        for module in &found {
            uses.remove(module);
        }
        cycles.push(found);
    }
    cycles
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        match entry.is_dir() {
            true => files.extend(rust_files(&entry)),
            false => {
                files.extend(Some(entry).filter(|entry| entry.extension().is_some_and(|end| end == "rs")))
            }
        }
    }
    files.sort();
    files
}

/// Modules that exist only for tests, by their names in this repository.
fn is_test(name: &str) -> bool {
    name == "tests" || name.ends_with("_tests") || name == "fixture" || name == "sample"
}

/// The source without comments and without its inline test modules.
fn without_tests(source: &str) -> String {
    let mut kept = String::new();
    let mut lines = source.lines().peekable();
    while let Some(line) = lines.next() {
        let line = line.split("//").next().unwrap_or_default();
        if line.trim_start().starts_with("#[cfg(") && line.contains("test") {
            while lines.next_if(|line| line.trim_start().starts_with("#[")).is_some() {}
            if lines.peek().is_some_and(|line| line.contains("mod ") && line.ends_with('{')) {
                while lines.next().is_some_and(|line| line != "}") {}
            } else if lines.peek().is_some_and(|line| line.contains("mod ")) {
                lines.next();
            }
            continue;
        }
        kept.push_str(line);
        kept.push('\n');
    }
    kept
}

/// All paths of a text that start at the crate's root or reach it by `super`, without that prefix.
fn used(text: &str, place: &[String]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for path in ["crate::", "super::"].into_iter().flat_map(|start| starting_with(text, start)) {
        let supers = path.iter().take_while(|part| *part == "super").count();
        let rest = &path[supers.max(1)..];
        let from = if path[0] == "crate" { 0 } else { place.len().saturating_sub(supers) };
        let whole: Vec<String> = place[..from].iter().chain(rest).cloned().collect();
        if !whole.is_empty() {
            found.push(whole);
        }
    }
    found
}

/// The paths of one `use` tree, or of a path in an expression: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn paths(text: &str) -> Vec<Vec<String>> {
    tree(&mut text.chars().peekable())
}

fn tree(chars: &mut std::iter::Peekable<std::str::Chars>) -> Vec<Vec<String>> {
    let mut path = Vec::new();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.next_if_eq(&'{').is_some() {
            let mut all = Vec::new();
            loop {
                for rest in tree(chars) {
                    all.push(path.iter().chain(&rest).cloned().collect());
                }
                // Skips ` as other`, up to the next branch.
                let end = chars.find(|c| matches!(c, ',' | '}'));
                while chars.next_if(|c| c.is_whitespace()).is_some() {}
                if end != Some(',') {
                    return all;
                }
            }
        }
        let mut name = String::new();
        while let Some(c) = chars.next_if(|c| c.is_alphanumeric() || *c == '_' || *c == '*') {
            name.push(c);
        }
        if !name.is_empty() && name != "self" {
            path.push(name);
        }
        let mut colons = 0;
        while chars.next_if_eq(&':').is_some() {
            colons += 1;
        }
        if colons != 2 {
            // The name after `as` is the one that others use.
            let rest: String = chars.clone().take_while(|c| !matches!(c, ',' | '}' | ';')).collect();
            if let Some(name) = rest.trim_start().strip_prefix("as ") {
                path.push(name.trim().to_owned());
            }
            return vec![path];
        }
    }
}

/// One of the shortest cycles.
fn cycle(uses: &Uses) -> Option<Vec<String>> {
    let from = |start: &String| -> Option<Vec<String>> {
        let mut ways = vec![vec![start.clone()]];
        let mut met = BTreeSet::new();
        while !ways.is_empty() {
            let mut longer = Vec::new();
            for way in ways {
                for next in uses.get(way.last()?).into_iter().flat_map(BTreeMap::keys) {
                    if next == start {
                        return Some(way);
                    }
                    if met.insert(next.clone()) {
                        longer.push(way.iter().chain([next]).cloned().collect());
                    }
                }
            }
            ways = longer;
        }
        None
    };
    uses.keys().filter_map(from).min_by_key(Vec::len)
}

fn explain(name: &str, what: &str, uses: &Uses, cycle: &[String]) -> String {
    let mut text = format!("{name}: {what} use each other in a circle:\n");
    for (at, module) in cycle.iter().enumerate() {
        let next = &cycle[(at + 1) % cycle.len()];
        let _ = writeln!(text, "  {module} → {next}: {}", uses[module][next]);
    }
    text + "Move what both need into a module of its own, or into a crate below."
}
