//! Applies the grammar of single values to the manifest's keys and reports with their places.

use super::problem::{Diagnostic, KeyPath, Place, Problems};
use super::tree::{Node, Value};

/// Knows where every key was written, and collects what is wrong.
pub struct Validator<'a> {
    pub tree: &'a Node,
    pub problems: &'a mut Problems,
    /// The keys that misspelt ones most likely mean.
    pub meant: Vec<KeyPath>,
}

impl Validator<'_> {
    /// Whether the key was written at all, be it right, wrong or misspelt.
    pub fn has(&self, path: &KeyPath) -> bool {
        self.tree.get(path).is_some() || self.meant.contains(path)
    }

    pub fn place(&self, path: &KeyPath) -> Place {
        self.tree.place(path)
    }

    /// A mistake in the value.
    pub fn value(&mut self, path: &KeyPath, mistake: Diagnostic) {
        self.problems.add(self.tree.place(path), Some(self.tree.name(path)), mistake);
    }

    /// A mistake in there being such a key, or in its name.
    pub fn key(&mut self, path: &KeyPath, mistake: Diagnostic) {
        self.problems.add(self.tree.key_place(path), Some(self.tree.name(path)), mistake);
    }

    /// The value, when it is there and right.
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

    /// The right values of a list, each once.
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

    /// Where the elements of a list of strings were written; elements of another type were reported
    /// and left out before.
    fn elements(&self, path: &KeyPath) -> Vec<KeyPath> {
        let Some(Node { value: Value::Array(items), .. }) = self.tree.get(path) else { return Vec::new() };
        let is_text = |item: &Node| {
            let scalar = !matches!(item.value, Value::Array(_) | Value::Table(_));
            matches!(item.value, Value::String(_)) || (item.place.is_flag() && scalar)
        };
        items
            .iter()
            .enumerate()
            .filter(|(_, item)| is_text(item))
            .map(|(index, _)| path.index(index))
            .collect()
    }

    /// Reports a list that is written and empty.
    pub fn not_empty(&mut self, path: &KeyPath, texts: Option<&Vec<String>>, hint: &str) {
        let written =
            matches!(self.tree.get(path), Some(Node { value: Value::Array(items), .. }) if items.is_empty());
        if written && texts.is_some_and(Vec::is_empty) {
            self.value(path, Diagnostic::new("is empty").hint(hint));
        }
    }
}
