//! The identifiers of cells: readable, and valid as identifiers of CodeBuild's batch builds, as names of directories and in
//! keys of a store.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use agent_types::words::hexadecimal;

use super::super::tree::{Node, Value};
use super::Setting;
use super::combine::Combination;

/// The values of these keys come first.
const FIRST: [&str; 4] = ["release", "machine", "distro", "target"];

/// Longer ones are shortened, because a cell's build directory has its name.
const LONGEST: usize = 48;

/// Nodes of a batch build that are no cells, and the end of the name of the directory that cells share in CI.
const RESERVED: [&str; 3] = ["warm", "merge", "cells"];

/// The identifiers of the combinations, in their order. An identifier depends on the cell's own values; only cells whose
/// values read alike also get a digest.
pub fn identifiers(combinations: &[Combination], axes: &[&str]) -> Vec<String> {
    let words: Vec<String> = combinations.iter().map(|one| readable(one, axes)).collect();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for word in &words {
        *counts.entry(word).or_default() += 1;
    }
    let unique = |(word, combination): (&String, &Combination)| {
        let is_unique = counts.get(word.as_str()) == Some(&1);
        let is_free = !RESERVED.contains(&word.as_str());
        match is_unique && is_free && word.len() <= LONGEST {
            true => word.clone(),
            false => with_digest(word, combination),
        }
    };
    words.iter().zip(combinations).map(unique).collect()
}

/// `scarthgap_qemux86_64`.
fn readable(combination: &Combination, axes: &[&str]) -> String {
    let names = |setting: &&Setting| {
        axes.contains(&setting.key.as_str())
            || (combination.is_added && FIRST.contains(&setting.key.as_str()))
    };
    let mut settings: Vec<&Setting> = combination.settings.iter().filter(names).collect();
    if settings.is_empty() {
        settings = combination.settings.iter().collect();
    }
    let rank = |key: &str| FIRST.iter().position(|first| *first == key).unwrap_or(FIRST.len());
    settings.sort_by(|one, other| (rank(&one.key), &one.key).cmp(&(rank(&other.key), &other.key)));
    let words: Vec<String> = settings.iter().map(|setting| word(&setting.node)).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).filter(|word| !word.is_empty()).collect();
    let id = words.join("_");
    match id.starts_with(|first: char| first.is_ascii_alphabetic()) {
        true => id,
        false => format!("cell_{id}").trim_end_matches('_').to_owned(),
    }
}

fn word(node: &Node) -> String {
    let text = match &node.value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(word).collect::<Vec<_>>().join("_"),
        _ => node.text.clone(),
    };
    let parts = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("_")
}

fn with_digest(word: &str, combination: &Combination) -> String {
    let mut values: Vec<String> =
        combination.settings.iter().map(|setting| format!("{}={}\n", setting.key, setting.value())).collect();
    values.sort();
    let digest = hexadecimal(&Sha256::digest(values.concat())[..4]);
    let most = LONGEST - digest.len() - 1;
    let start: String = word.chars().take(most).collect();
    format!("{}_{digest}", start.trim_end_matches('_'))
}
