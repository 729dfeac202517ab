//! Applies the rules for single values to the manifest's keys, and reports errors with positions.

use super::manifest::UnvalidatedLayerPath;
use super::problem::{Diagnostic, KeyPath, Place, Problems};
use super::tree::{Node, Value};

/// Knows the position of every key, and collects the problems.
pub struct Validator<'a> {
    pub tree: &'a Node,
    pub problems: &'a mut Problems,
    /// The probable meanings of misspelt keys.
    pub meant: Vec<KeyPath>,
}

impl Validator<'_> {
    /// Whether the key is present: valid, invalid or misspelt.
    pub fn has(&self, path: &KeyPath) -> bool {
        self.tree.get(path).is_some() || self.meant.contains(path)
    }

    pub fn place(&self, path: &KeyPath) -> Place {
        self.tree.place(path)
    }

    /// Reports an error in the value.
    pub fn value(&mut self, path: &KeyPath, mistake: Diagnostic) {
        self.problems.add(self.tree.place(path), Some(self.tree.name(path)), mistake);
    }

    /// Reports an error about the presence of the key or its name.
    pub fn key(&mut self, path: &KeyPath, mistake: Diagnostic) {
        self.problems.add(self.tree.key_place(path), Some(self.tree.name(path)), mistake);
    }

    /// The value, if it is present and valid.
    pub fn one<T>(
        &mut self,
        path: &KeyPath,
        text: Option<&String>,
        rule: impl FnOnce(&str) -> Result<T, Diagnostic>,
    ) -> Option<T> {
        match rule(text?) {
            Ok(value) => Some(value),
            Err(mistake) => {
                self.value(path, mistake);
                None
            }
        }
    }

    /// The valid values of a list, without duplicates.
    pub fn list<T>(
        &mut self,
        path: &KeyPath,
        texts: Option<&Vec<String>>,
        mut rule: impl FnMut(&str) -> Result<T, Diagnostic>,
    ) -> Vec<T>
    where
        T: PartialEq,
    {
        let mut values = Vec::new();
        for (place, text) in self.elements(path).into_iter().zip(texts.into_iter().flatten()) {
            match rule(text) {
                Ok(value) if values.contains(&value) => {
                    self.value(&place, Diagnostic::new(format!("`{text}` is listed twice")));
                }
                Ok(value) => values.push(value),
                Err(mistake) => self.value(&place, mistake),
            }
        }
        values
    }

    /// The valid layers of a list of strings and tables, without duplicates and without disabled ones.
    pub fn layers<T>(
        &mut self,
        path: &KeyPath,
        raw: Option<&Vec<UnvalidatedLayerPath>>,
        mut rule: impl FnMut(&str) -> Result<T, Diagnostic>,
    ) -> Vec<(T, i64)>
    where
        T: PartialEq,
    {
        let mut layers: Vec<(T, i64)> = Vec::new();
        for (place, raw) in self.elements(path).into_iter().zip(raw.into_iter().flatten()) {
            let (place, text, priority) = match raw {
                UnvalidatedLayerPath::Path(text) => (place, text, 0),
                UnvalidatedLayerPath::Table(table) => {
                    let priority = table.priority.unwrap_or(0);
                    if !(-99..=99).contains(&priority) {
                        let mistake = Diagnostic::new(format!("is {priority}")).hint("use -99 to 99");
                        self.value(&place.key("priority"), mistake);
                    }
                    let Some(text) = table.path.as_ref().filter(|_| table.disabled != Some(true)) else {
                        continue;
                    };
                    (place.key("path"), text, priority)
                }
            };
            match rule(text) {
                Ok(layer) if layers.iter().any(|(other, _)| *other == layer) => {
                    self.value(&place, Diagnostic::new(format!("`{text}` is listed twice")));
                }
                Ok(layer) => layers.push((layer, priority)),
                Err(mistake) => self.value(&place, mistake),
            }
        }
        layers
    }

    /// The positions of the elements of a list of strings or tables. Elements of another type were reported and skipped
    /// before.
    pub fn elements(&self, path: &KeyPath) -> Vec<KeyPath> {
        let Some(Node { value: Value::Array(items), .. }) = self.tree.get(path) else { return Vec::new() };
        let is_text = |item: &Node| {
            let scalar = !matches!(item.value, Value::Array(_) | Value::Table(_));
            matches!(item.value, Value::String(_) | Value::Table(_)) || (item.place.is_flag() && scalar)
        };
        items
            .iter()
            .enumerate()
            .filter(|(_, item)| is_text(item))
            .map(|(index, _)| path.index(index))
            .collect()
    }

    /// Reports an empty list.
    pub fn not_empty<T>(&mut self, path: &KeyPath, texts: Option<&Vec<T>>, hint: &str) {
        let written =
            matches!(self.tree.get(path), Some(Node { value: Value::Array(items), .. }) if items.is_empty());
        if written && texts.is_some_and(Vec::is_empty) {
            self.value(path, Diagnostic::new("is empty").hint(hint));
        }
    }
}
