//! The structure of the sources: the top modules of a crate use each other in one direction. Between crates, the
//! compiler ensures this.
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
            let _ = writeln!(wrong, "{}", explain(&name.to_string(), &uses, &cycle));
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
        let has = manifest.lines().any(|line| line.starts_with("aws-") || line.starts_with("object_store"));
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
        let reported = explain("x", &uses, &found);
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
    for start in ["crate::", "super::"] {
        for (at, _) in text.match_indices(start) {
            let before = text[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
                continue;
            }
            for path in paths(&text[at..]) {
                let supers = path.iter().take_while(|part| *part == "super").count();
                let rest = &path[supers.max(1)..];
                let from = if path[0] == "crate" { 0 } else { place.len().saturating_sub(supers) };
                let whole: Vec<String> = place[..from].iter().chain(rest).cloned().collect();
                if !whole.is_empty() {
                    found.push(whole);
                }
            }
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

fn explain(name: &str, uses: &Uses, cycle: &[String]) -> String {
    let mut text = format!("{name}: modules at the top use each other in a circle:\n");
    for (at, module) in cycle.iter().enumerate() {
        let next = &cycle[(at + 1) % cycle.len()];
        let _ = writeln!(text, "  {module} → {next}: {}", uses[module][next]);
    }
    text + "Move what both need into a module of its own, or into a crate below."
}
